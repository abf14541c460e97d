// Finds the best cut of a Problem by dynamic programming over (machines used so far, last place,
// units covered).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "sharding/problem.h"

namespace lanyard::sharding {

struct Segment {
  size_t place = 0;
  uint32_t begin = 0;  // units
  uint32_t end = 0;
};

struct Cut {
  std::vector<Segment> segments;
  Picoseconds sum = 0;  // time of all stages and hops
  Picoseconds hops = 0;
  Picoseconds slowest = 0;  // time of the slowest stage
  int64_t charge = 0;       // sum of Problem::Charge over its machines
  double Objective(int64_t rows_beside) const {
    return Charged(static_cast<double>(StepTime(sum, slowest, rows_beside)), charge);
  }
};

// Which machines may follow which, as a graph of states. In the exact form a state is how many
// machines of each class of alike machines have been used, in input order (alike machines are
// interchangeable). With too many unlike machines their order is fixed, fastest first.
class OrderSpace {
 public:
  struct Choice {
    size_t machine = 0;
    uint32_t next = 0;  // the next state
    uint32_t slot = 0;  // of the machine's first place
  };

  // `must` has one flag a machine for those that have to be used; empty: none.
  OrderSpace(const Problem& problem, const std::vector<bool>& must);
  // The machines come fastest first, whatever their number: a quick first answer that bounds the
  // exact search.
  static OrderSpace Fixed(const Problem& problem, const std::vector<bool>& must);

  bool exact() const { return exact_; }
  // They ascend along every choice.
  uint32_t states() const { return static_cast<uint32_t>(choices_.size()); }
  uint32_t slots() const { return slots_; }
  const std::vector<Choice>& choices(uint32_t state) const { return choices_[state]; }
  bool final(uint32_t state) const { return final_[state]; }
  // Among the places of machines that may still follow in this state: the fastest (SIZE_MAX: none),
  // and the sum of their speeds.
  size_t fastest_left(uint32_t state) const { return fastest_left_[state]; }
  double speed_left(uint32_t state) const { return speed_left_[state]; }
  // The least extra cost of the machines that must still be used, compared with the fastest place
  // doing everything.
  Picoseconds must_cost(uint32_t state) const { return must_cost_[state]; }

 private:
  OrderSpace() = default;
  void BuildExact(const Problem& problem, const std::vector<std::vector<size_t>>& classes,
                  const std::vector<bool>& must);
  void BuildFixed(const Problem& problem, const std::vector<bool>& must);
  void SumUpWhatIsLeft(const Problem& problem, const std::vector<bool>& must);

  bool exact_ = true;
  uint32_t slots_ = 0;
  std::vector<std::vector<Choice>> choices_;
  std::vector<bool> final_;
  std::vector<size_t> fastest_left_;
  std::vector<double> speed_left_;
  std::vector<Picoseconds> must_cost_;
};

// Says whether any cut keeps every limit; for a space without `must`.
bool Feasible(const Problem& problem, const OrderSpace& space);
// The best cut, or nullopt when none keeps the limits. `must` is that of OrderSpace.
std::optional<Cut> BestCut(const Problem& problem, const std::vector<bool>& must,
                           int64_t rows_beside);

}  // namespace lanyard::sharding
