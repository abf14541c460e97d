#include "sharding/search.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <tuple>

namespace lanyard::sharding {
namespace {

// The most states times slots that are searched exactly: 8 unlike machines with one device each, or
// hundreds of alike ones.
constexpr uint64_t kMaxExactStates = 2048;
constexpr double kNoBound = std::numeric_limits<double>::infinity();

bool Alike(const Problem& problem, size_t a, size_t b) {
  const auto& pa = problem.places_of(a);
  const auto& pb = problem.places_of(b);
  if (pa.size() != pb.size() || problem.Charge(a) != problem.Charge(b)) return false;
  for (size_t i = 0; i < pa.size(); ++i) {
    const Place& x = problem.places()[pa[i]];
    const Place& y = problem.places()[pb[i]];
    if (x.limit_bytes != y.limit_bytes || x.base_bytes != y.base_bytes || x.speed != y.speed ||
        x.threads != y.threads || x.attends != y.attends) {
      return false;
    }
  }
  for (size_t m = 0; m < problem.machines(); ++m) {
    if (m != a && m != b && problem.HopTime(a, m) != problem.HopTime(b, m)) return false;
  }
  return true;
}

std::vector<std::vector<size_t>> ClassesOf(const Problem& problem) {
  std::vector<std::vector<size_t>> classes;
  for (size_t m = 0; m < problem.machines(); ++m) {
    const auto found = std::find_if(classes.begin(), classes.end(),
                                    [&](const auto& c) { return Alike(problem, c[0], m); });
    if (found != classes.end()) {
      found->push_back(m);
    } else {
      classes.push_back({m});
    }
  }
  return classes;
}

// One partial cut: its last stage is on `place` and ends at `end`.
struct Node {
  Picoseconds sum = 0;
  Picoseconds slowest = 0;
  int64_t charge = 0;
  double factor = 1;  // Charged(1, charge)
  uint32_t stages = 0;
  uint32_t place = 0;
  uint32_t begin = 0;
  uint32_t end = 0;
  int32_t parent = -1;
};

class Search {
 public:
  // Cuts above `bound` are not looked for.
  Search(const Problem& problem, const OrderSpace& space, int64_t rows_beside, double bound)
      : problem_(problem),
        space_(space),
        rows_beside_(rows_beside),
        width_(problem.units() + 1),
        bound_(bound) {
    fronts_.resize(size_t{space.states()} * space.slots() * width_);
    max_end_.resize(problem.places().size());
    for (size_t p = 0; p < max_end_.size(); ++p) {
      for (uint32_t u = 0; u < problem.units(); ++u) max_end_[p].push_back(problem.MaxEnd(p, u));
    }
    CountLeastMachines();
  }

  std::optional<Cut> Run() {
    Enter(Node{}, 0, -1, problem_.machines());
    for (uint32_t state = 0; state < space_.states(); ++state) {
      for (uint32_t slot = 0; slot < space_.slots(); ++slot) {
        if (problem_.request().given_up()) return std::nullopt;
        for (uint32_t end = 1; end < problem_.units(); ++end) {
          // It is a copy: the arena and this front's neighbours grow while it is walked.
          const std::vector<int32_t> front = fronts_[Index(state, slot, end)];
          for (const int32_t id : front) Extend(id, state, slot);
        }
      }
    }
    if (best_ < 0) return std::nullopt;
    return Trace(best_);
  }

 private:
  size_t Index(uint32_t state, uint32_t slot, uint32_t end) const {
    return (size_t{state} * space_.slots() + slot) * width_ + end;
  }
  double Objective(const Node& n) const { return n.factor * Time(n.sum, n.slowest); }
  double Time(Picoseconds sum, Picoseconds slowest) const {
    return static_cast<double>(StepTime(sum, slowest, rows_beside_));
  }

  void Extend(int32_t id, uint32_t state, uint32_t slot) {
    const Node node = nodes_[static_cast<size_t>(id)];
    const size_t machine = problem_.places()[node.place].machine;
    const auto& own = problem_.places_of(machine);
    const auto at = std::find(own.begin(), own.end(), node.place);
    for (auto next = at + 1; next < own.end(); ++next) {
      Stretch(node, id, *next, state, slot + static_cast<uint32_t>(next - at));
    }
    Enter(node, state, id, machine);
  }

  // The furthest that the machine of `place` comes from `end` with the places behind that one.
  uint32_t OwnReach(size_t place, uint32_t end) const {
    const auto& own = problem_.places_of(problem_.places()[place].machine);
    for (const size_t next : own) {
      if (next > place && end < problem_.units()) end = std::max(end, max_end_[next][end]);
    }
    return end;
  }

  void CountLeastMachines() {
    const uint32_t units = problem_.units();
    further_.assign(width_, 1);
    for (uint32_t begin = units; begin-- > 0;) {
      uint32_t reach = begin;
      for (size_t m = 0; m < problem_.machines(); ++m) {
        const size_t first = problem_.places_of(m).front();
        reach = std::max(reach, OwnReach(first, std::max(begin, max_end_[first][begin])));
      }
      further_[begin] = reach == begin ? kNoBound : further_[reach] * Charged(1, 2 * kOneMachine);
    }
  }

  // Goes on to every place of every machine that may come next.
  void Enter(const Node& node, uint32_t state, int32_t id, size_t from_machine) {
    for (const OrderSpace::Choice& choice : space_.choices(state)) {
      Node moved = node;
      if (id >= 0) moved.sum += problem_.HopTime(from_machine, choice.machine);
      moved.charge += problem_.Charge(choice.machine);
      moved.factor = Charged(1, moved.charge);
      uint32_t slot = choice.slot;
      for (const size_t place : problem_.places_of(choice.machine)) {
        Stretch(moved, id, place, choice.next, slot++);
      }
    }
  }

  // A bound that no continuation of a partial cut can go below.
  double LeastObjective(const Node& node, uint32_t state) const {
    const uint32_t units = problem_.units();
    if (node.end == units) return Objective(node);
    // The places that may follow are those of other machines, and the later ones of this machine.
    size_t fastest = space_.fastest_left(state);
    double speed = space_.speed_left(state);
    const auto& places = problem_.places();
    for (const size_t own : problem_.places_of(places[node.place].machine)) {
      if (own <= node.place) continue;
      speed += places[own].speed;
      if (fastest == SIZE_MAX || places[own].speed > places[fastest].speed) fastest = own;
    }
    if (fastest == SIZE_MAX) return kNoBound;
    const Picoseconds rest = problem_.StageTime(fastest, node.end, units);
    // The rest is shared out evenly; a picosecond is for the rounding of each unit.
    const double even = static_cast<double>(rest) * places[fastest].speed / speed;
    const Picoseconds slowest = std::max(node.slowest, static_cast<Picoseconds>(even) - width_);
    // The product may be rounded up where the objective of the whole cut is not.
    return (1 - 1e-9) * node.factor * further_[OwnReach(node.place, node.end)] *
           Time(node.sum + rest + space_.must_cost(state), slowest);
  }

  // Tries a stage on `place` from the node's end on, in every length that fits.
  void Stretch(const Node& node, int32_t parent, size_t place, uint32_t state, uint32_t slot) {
    const uint32_t begin = node.end;
    const uint32_t last = max_end_[place][begin];
    for (uint32_t end = begin + 1; end <= last; ++end) {
      const Picoseconds time = problem_.StageTime(place, begin, end);
      Node next = node;
      next.sum += time;
      next.slowest = std::max(node.slowest, time);
      ++next.stages;
      next.place = static_cast<uint32_t>(place);
      next.begin = begin;
      next.end = end;
      next.parent = parent;
      if (LeastObjective(next, state) > bound_) {
        // The objective never falls as long as the places left are no faster than this one: then
        // longer stages are no better.
        continue;
      }
      if (end < problem_.units()) {
        Insert(next, Index(state, slot, end));
      } else if (space_.final(state)) {
        Offer(next);
      }
    }
  }

  bool Dominates(const Node& a, const Node& b) const {
    if (a.charge > b.charge) return false;
    if (rows_beside_ == 0) {
      return std::tie(a.sum, a.slowest, a.stages) <= std::tie(b.sum, b.slowest, b.stages);
    }
    return a.sum <= b.sum && a.slowest <= b.slowest && a.stages <= b.stages;
  }

  static bool Same(const Node& a, const Node& b) {
    return a.sum == b.sum && a.slowest == b.slowest && a.stages == b.stages && a.charge == b.charge;
  }

  // Says of two partial cuts that are equally good whether a's places come first in input order.
  bool ComesFirst(const Node& a, const Node& b) const { return Places(a) < Places(b); }
  std::vector<uint32_t> Places(Node node) const {
    std::vector<uint32_t> places = {node.place};
    while (node.parent >= 0) {
      node = nodes_[static_cast<size_t>(node.parent)];
      places.push_back(node.place);
    }
    std::reverse(places.begin(), places.end());
    return places;
  }

  void Insert(const Node& node, size_t index) {
    std::vector<int32_t>& front = fronts_[index];
    for (const int32_t id : front) {
      const Node& other = nodes_[static_cast<size_t>(id)];
      if (Dominates(other, node) && !(Same(other, node) && ComesFirst(node, other))) return;
    }
    std::erase_if(front,
                  [&](int32_t id) { return Dominates(node, nodes_[static_cast<size_t>(id)]); });
    front.push_back(static_cast<int32_t>(nodes_.size()));
    nodes_.push_back(node);
  }

  void Offer(const Node& node) {
    if (best_ >= 0) {
      const Node& best = nodes_[static_cast<size_t>(best_)];
      const double objective = Objective(node);
      const auto old_key = std::tie(best_objective_, best.slowest, best.stages);
      const auto new_key = std::tie(objective, node.slowest, node.stages);
      if (old_key < new_key || (old_key == new_key && !ComesFirst(node, best))) return;
    }
    best_ = static_cast<int32_t>(nodes_.size());
    best_objective_ = Objective(node);
    bound_ = std::min(bound_, best_objective_);
    nodes_.push_back(node);
  }

  Cut Trace(int32_t id) const {
    Cut cut;
    cut.sum = nodes_[static_cast<size_t>(id)].sum;
    cut.slowest = nodes_[static_cast<size_t>(id)].slowest;
    cut.charge = nodes_[static_cast<size_t>(id)].charge;
    cut.hops = cut.sum;
    for (; id >= 0; id = nodes_[static_cast<size_t>(id)].parent) {
      const Node& n = nodes_[static_cast<size_t>(id)];
      cut.segments.push_back({n.place, n.begin, n.end});
      cut.hops -= problem_.StageTime(n.place, n.begin, n.end);
    }
    std::reverse(cut.segments.begin(), cut.segments.end());
    return cut;
  }

  const Problem& problem_;
  const OrderSpace& space_;
  const int64_t rows_beside_;
  const uint32_t width_;
  double bound_;
  std::vector<Node> nodes_;
  std::vector<std::vector<int32_t>> fronts_;    // ids of nodes that no other node dominates
  std::vector<std::vector<uint32_t>> max_end_;  // place x begin
  // Charged(1) of the fewest machines that hold the units from `begin` on, beside those before.
  std::vector<double> further_;
  int32_t best_ = -1;
  double best_objective_ = 0;
};

}  // namespace

OrderSpace OrderSpace::Fixed(const Problem& problem, const std::vector<bool>& must) {
  OrderSpace space;
  space.exact_ = false;
  space.BuildFixed(problem, must);
  space.SumUpWhatIsLeft(problem, must);
  return space;
}

void OrderSpace::SumUpWhatIsLeft(const Problem& problem, const std::vector<bool>& must) {
  std::vector<std::vector<bool>> left(states(), std::vector<bool>(problem.machines(), false));
  fastest_left_.assign(states(), SIZE_MAX);
  speed_left_.assign(states(), 0);
  must_cost_.assign(states(), 0);
  // Every machine that must be used takes at least one unit, and the smallest unit makes the least
  // difference.
  uint32_t smallest = 0;
  for (uint32_t u = 1; u < problem.units(); ++u) {
    if (problem.StageTime(0, u, u + 1) < problem.StageTime(0, smallest, smallest + 1)) smallest = u;
  }
  std::vector<Picoseconds> least_of(problem.machines(), INT64_MAX);
  for (size_t place = 0; place < problem.places().size(); ++place) {
    Picoseconds& least = least_of[problem.places()[place].machine];
    least = std::min(least, problem.StageTime(place, smallest, smallest + 1));
  }
  for (uint32_t state = states(); state-- > 0;) {
    for (const Choice& c : choices_[state]) {
      left[state][c.machine] = true;
      for (size_t m = 0; m < problem.machines(); ++m) {
        if (left[c.next][m]) left[state][m] = true;
      }
    }
    for (size_t place = 0; place < problem.places().size(); ++place) {
      const Place& p = problem.places()[place];
      if (!left[state][p.machine]) continue;
      speed_left_[state] += p.speed;
      size_t& fastest = fastest_left_[state];
      if (fastest == SIZE_MAX || p.speed > problem.places()[fastest].speed) fastest = place;
    }
    for (size_t m = 0; m < must.size(); ++m) {
      if (!must[m] || !left[state][m]) continue;
      const Picoseconds fast = problem.StageTime(fastest_left_[state], smallest, smallest + 1);
      must_cost_[state] += least_of[m] - fast;
    }
  }
}

OrderSpace::OrderSpace(const Problem& problem, const std::vector<bool>& must) {
  const auto classes = ClassesOf(problem);
  uint64_t states = 1, slots = 0;
  for (const auto& c : classes) {
    states = std::min<uint64_t>(states * (c.size() + 1), kMaxExactStates * 2);
    slots += problem.places_of(c[0]).size();
  }
  exact_ = states * slots <= kMaxExactStates;
  if (exact_) {
    BuildExact(problem, classes, must);
  } else {
    BuildFixed(problem, must);
  }
  SumUpWhatIsLeft(problem, must);
}

void OrderSpace::BuildExact(const Problem& problem, const std::vector<std::vector<size_t>>& classes,
                            const std::vector<bool>& must) {
  std::vector<uint32_t> radix, slot, least;
  uint32_t n_states = 1;
  for (const auto& members : classes) {
    radix.push_back(n_states);
    slot.push_back(slots_);
    n_states *= static_cast<uint32_t>(members.size()) + 1;
    slots_ += static_cast<uint32_t>(problem.places_of(members[0]).size());
    // The members are used in order, so the last one that must be used brings the others.
    uint32_t needed = 0;
    for (uint32_t i = 0; i < members.size(); ++i) {
      if (!must.empty() && must[members[i]]) needed = i + 1;
    }
    least.push_back(needed);
  }
  choices_.resize(n_states);
  final_.assign(n_states, true);
  for (uint32_t state = 0; state < n_states; ++state) {
    for (size_t c = 0; c < classes.size(); ++c) {
      const auto size = static_cast<uint32_t>(classes[c].size());
      const uint32_t used = state / radix[c] % (size + 1);
      if (used < size) choices_[state].push_back({classes[c][used], state + radix[c], slot[c]});
      if (used < least[c]) final_[state] = false;
    }
  }
}

void OrderSpace::BuildFixed(const Problem& problem, const std::vector<bool>& must) {
  const auto speed = [&](size_t m) {
    double best = 0;
    for (const size_t p : problem.places_of(m)) best = std::max(best, problem.places()[p].speed);
    return best;
  };
  std::vector<size_t> order(problem.machines());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return speed(a) > speed(b); });
  const auto n = static_cast<uint32_t>(order.size());
  choices_.resize(n + 1);
  final_.assign(n + 1, true);
  // In state s the machines before order[s] have been used or passed over.
  for (uint32_t s = 0; s <= n; ++s) {
    for (uint32_t i = s; i < n; ++i) {
      choices_[s].push_back({order[i], i + 1, 0});
      slots_ = std::max(slots_, static_cast<uint32_t>(problem.places_of(order[i]).size()));
      if (!must.empty() && must[order[i]]) {
        final_[s] = false;
        break;
      }
    }
  }
}

bool Feasible(const Problem& problem, const OrderSpace& space) {
  // What a place needs grows with its range, so it is never worse to cover as many units as
  // possible with the machines used so far.
  const uint32_t units = problem.units();
  std::vector<uint32_t> reach(size_t{space.states()} * space.slots(), 0);
  std::vector<size_t> holder(reach.size(), SIZE_MAX);  // the place that reached it
  const auto offer = [&](size_t place, uint32_t from, uint32_t state, uint32_t slot) {
    const uint32_t end = from < units ? problem.MaxEnd(place, from) : from;
    const size_t index = size_t{state} * space.slots() + slot;
    if (end > from && end > reach[index]) {
      reach[index] = end;
      holder[index] = place;
    }
    return end >= units && end > from && space.final(state);
  };
  const auto enter = [&](uint32_t state, uint32_t from) {
    for (const OrderSpace::Choice& c : space.choices(state)) {
      uint32_t slot = c.slot;
      for (const size_t place : problem.places_of(c.machine)) {
        if (offer(place, from, c.next, slot++)) return true;
      }
    }
    return false;
  };
  if (enter(0, 0)) return true;
  for (uint32_t state = 0; state < space.states(); ++state) {
    for (uint32_t slot = 0; slot < space.slots(); ++slot) {
      const size_t index = size_t{state} * space.slots() + slot;
      if (holder[index] == SIZE_MAX) continue;
      const auto& own = problem.places_of(problem.places()[holder[index]].machine);
      const auto at = std::find(own.begin(), own.end(), holder[index]);
      for (auto next = at + 1; next < own.end(); ++next) {
        if (offer(*next, reach[index], state, slot + static_cast<uint32_t>(next - at))) return true;
      }
      if (enter(state, reach[index])) return true;
    }
  }
  return false;
}

std::optional<Cut> BestCut(const Problem& problem, const std::vector<bool>& must,
                           int64_t rows_beside) {
  const std::optional<Cut> quick =
      Search(problem, OrderSpace::Fixed(problem, must), rows_beside, kNoBound).Run();
  const OrderSpace space(problem, must);
  if (!space.exact()) return quick;
  const double bound = quick ? quick->Objective(rows_beside) : kNoBound;
  // None is better where a machine that must be used may be used alone, but not in the exact form
  // after the others of its class.
  const std::optional<Cut> exact = Search(problem, space, rows_beside, bound).Run();
  return exact ? exact : quick;
}

}  // namespace lanyard::sharding
