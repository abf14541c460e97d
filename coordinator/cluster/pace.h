// Tells a straggler: a machine that takes longer for its stage than was predicted of it, measured
// against the other stages of the plan, since speeds are relative. It is a state machine without
// I/O or clock.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "net/control.h"
#include "sharding/planner.h"

namespace lanyard::coordinator {

struct PaceOptions {
  uint64_t frames = 200;    // that each stage has run for one judgement
  double straggles_at = 2;  // times its prediction, where the others are at 1 in the median
  double even_below = 1.3;  // a straggler that is better than this is none any more
};

// Not thread-safe.
class Pace {
 public:
  explicit Pace(PaceOptions options) : options_(options) {}

  // Another plan serves: what was measured of the one before says nothing of it.
  void OnPlan(const std::vector<sharding::PlannedStage>& stages);
  void OnHeartbeat(const std::string& machine, const net::Heartbeat& beat, TimeNs now);
  // How many times longer the machine takes than its speed promises; 1: it is no straggler.
  double Slowness(const std::string& machine) const;
  struct Verdict {
    std::string machine;
    double slowness = 1;
  };
  // What was found since the last call.
  std::vector<Verdict> TakeVerdicts() { return std::exchange(verdicts_, {}); }
  // Changes whenever another machine is a straggler.
  uint64_t revision() const { return revision_; }

 private:
  struct Stage {
    double predicted_ms = 0;  // of a machine that is no straggler
    TimeNs beat_at = 0;       // 0: no heartbeat came since the plan serves
    uint64_t frames_seen = 0;
    uint64_t frames = 0;  // since the last judgement
    double busy_ms = 0;
    double frame_ms() const { return busy_ms / static_cast<double>(frames); }
  };

  // How many times longer than predicted, with the median of the others at 1.
  double BesideOthers(const std::string& machine) const;
  bool Slowest(const Stage& stage) const;
  void Judge();

  const PaceOptions options_;
  std::map<std::string, Stage> stages_;  // by machine
  std::map<std::string, double> slow_;   // stragglers only
  std::vector<Verdict> verdicts_;
  uint64_t revision_ = 0;
};

}  // namespace lanyard::coordinator
