// The coordinator's side of `lanyard doctor`. It asks the workers one after another, so that
// measurements do not disturb each other. It is a state machine without I/O or clock.
#pragma once

#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "coordinator/cluster/membership.h"
#include "coordinator/serve/generator.h"
#include "net/control.h"

namespace lanyard::coordinator {

struct DiagnoserOptions {
  TimeNs answer_within = 12 * kSecond;  // limit for one worker
  TimeNs all_within = 60 * kSecond;
  // A pool of at most this many machines measures every pair. In a larger one each machine measures
  // the next 4 and the last 2 by name.
  size_t all_pairs_up_to = 8;
};

// Not thread-safe.
class Diagnoser {
 public:
  using Done = std::function<void(absl::StatusOr<PoolDiagnosis>)>;
  struct Ask {
    net::LinkId link;
    net::DiagnoseRequest request;
  };

  explicit Diagnoser(DiagnoserOptions options = {}) : options_(options) {}

  bool busy() const { return done_ != nullptr; }
  // `done` is called for a refusal too. See Generator::Diagnose.
  void Start(const std::map<std::string, Member>& members, const std::string& only, Done done,
             TimeNs now);
  // Says which worker to ask now. `unix_ms` is the wall clock's time, for the comparison of clocks.
  std::optional<Ask> Next(TimeNs now, int64_t unix_ms);
  void OnDiagnosis(net::LinkId link, const net::Diagnosis& diagnosis, int64_t unix_ms);
  void OnGone(net::LinkId link);
  // Gives up on a worker that took too long, and hands the result out when all have been asked.
  void OnTick(TimeNs now, int64_t unix_ms);
  void Abort(const absl::Status& why);

 private:
  struct Patient {
    std::string name;
    net::LinkId link;
    std::vector<net::DiagnoseTarget> targets;
  };
  void EndCurrent(const std::string& error);
  void FinishIfDone(int64_t unix_ms);

  const DiagnoserOptions options_;
  Done done_;
  PoolDiagnosis result_;
  std::deque<Patient> waiting_;
  std::optional<Patient> current_;
  uint64_t id_ = 0;  // id of the request to `current_`
  TimeNs asked_at_ = 0;
  int64_t asked_unix_ms_ = 0;
  TimeNs ends_at_ = 0;
};

}  // namespace lanyard::coordinator
