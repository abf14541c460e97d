// The planner's problem in numbers: places that can hold a stage, units that are cut, and what a
// range of units takes on a place in bytes and in time. A place is a device or the CPU of a
// machine; units are the layers and, last, the head.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "model/memory.h"
#include "sharding/planner.h"

namespace lanyard::sharding {

struct Place {
  size_t machine = 0;
  std::string device;  // "cpu" "cuda:0"
  uint64_t limit_bytes = 0;
  uint64_t base_bytes = 0;
  double speed = 1;
  uint32_t threads = 1;
  bool attends = true;  // it computes attention in the form asked for, so it may hold layers
};

// Times are whole picoseconds, so sums are exact and do not depend on their order.
using Picoseconds = int64_t;

inline constexpr int64_t kOneMachine = 1000;  // of Problem::Charge

class Problem {
 public:
  // `request` must outlive the problem and have been checked.
  Problem(const PlanRequest& request, uint32_t context, uint32_t users,
          uint32_t frames = kFewestFrames);

  uint32_t units() const { return n_layers_ + 1; }
  uint32_t n_layers() const { return n_layers_; }
  size_t machines() const { return request_->machines.size(); }
  const std::vector<Place>& places() const { return places_; }
  // The places of a machine in the order in which they may follow each other.
  const std::vector<size_t>& places_of(size_t machine) const { return places_of_[machine]; }
  const std::vector<uint32_t>& group_blocks() const { return group_blocks_; }
  const PlanRequest& request() const { return *request_; }

  // Units [begin, end) are not empty. The stage embeds when begin is 0 and samples when end is
  // units().
  model::StageBytes Bytes(size_t place, uint32_t begin, uint32_t end) const;
  bool Fits(size_t place, uint32_t begin, uint32_t end) const;
  // The largest end that fits; `begin` when not even one unit does.
  uint32_t MaxEnd(size_t place, uint32_t begin) const;
  Picoseconds StageTime(size_t place, uint32_t begin, uint32_t end) const;
  // As how many machines it counts, in thousandths.
  int64_t Charge(size_t machine) const { return charge_[machine]; }
  // The time to hand one row's hidden state from one machine to the next.
  Picoseconds HopTime(size_t from_machine, size_t to_machine) const;
  uint64_t GgufBytes(uint32_t begin, uint32_t end) const;

  // Sets the limit of a machine's CPU place, to find out what would make the model fit.
  void set_limit(size_t place, uint64_t bytes) { places_[place].limit_bytes = bytes; }

 private:
  void AddPlaces();
  void AddUnits();

  const PlanRequest* request_;
  uint32_t n_layers_ = 0;
  std::vector<Place> places_;
  std::vector<std::vector<size_t>> places_of_;
  std::vector<uint32_t> group_blocks_;
  std::vector<uint64_t> weights_prefix_;  // bytes held by units [0, u)
  std::vector<uint64_t> kv_prefix_;
  // {0, the held bytes of the part that every stage with layers has}.
  std::vector<uint64_t> common_bytes_;
  std::vector<std::vector<Picoseconds>> time_prefix_;  // per place
  // Per place; the index has bit 0 for layers, 1 for embeds, 2 for samples.
  std::vector<std::array<uint64_t, 8>> buffers_;
  std::vector<std::vector<Picoseconds>> hop_;
  std::vector<int64_t> charge_;
};

// What is made small (see MakePlan). `rows_beside` are those of a step beside a token's own,
// `charge` is the sum of Problem::Charge.
Picoseconds StepTime(Picoseconds sum, Picoseconds slowest, int64_t rows_beside);
double Charged(double time, int64_t charge);

}  // namespace lanyard::sharding
