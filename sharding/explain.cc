#include "sharding/explain.h"

#include <algorithm>
#include <functional>
#include <optional>

#include "base/size.h"

namespace lanyard::sharding {
namespace {

// "What would it take" is worked out for this many machines; more would only make the text long.
constexpr size_t kMaxAsked = 4;

std::string Ms(Picoseconds t) { return absl::StrFormat("%.2f ms", static_cast<double>(t) * 1e-9); }

bool IsFast(const PlanRequest& request) {
  return request.numerics.attention == stage::AttentionForm::kFast;
}

std::string PlaceName(const Problem& problem, size_t place) {
  const Place& p = problem.places()[place];
  const std::string& machine = problem.request().machines[p.machine].name;
  return p.device == "cpu" ? machine : absl::StrCat(machine, " ", p.device);
}

std::string Duties(const Problem& problem, const Segment& s) {
  std::string text;
  if (s.begin < problem.n_layers()) {
    const uint32_t last = std::min(s.end, problem.n_layers()) - 1;
    text = last == s.begin ? absl::StrCat("layer ", last)
                           : absl::StrCat("layers ", s.begin, "-", last);
  }
  if (s.end == problem.units()) absl::StrAppend(&text, text.empty() ? "" : " and ", "the head");
  return text;
}

std::string Sum(const Place& place, const model::StageBytes& b) {
  std::string text;
  if (place.base_bytes > 0) text = absl::StrCat(FormatSize(place.base_bytes), " program + ");
  return absl::StrCat(text, FormatSize(b.weights), " weights + ", FormatSize(b.kv), " KV + ",
                      FormatSize(b.buffers),
                      " buffers = ", FormatSize(place.base_bytes + b.total()));
}

std::string Want(uint32_t context, uint32_t users) {
  return absl::StrCat("context ", context, " for ", users, users == 1 ? " user" : " users");
}

// Names the place that one more step of KV would push over its limit by most.
std::string BindingLimit(const Problem& problem, const Cut& cut) {
  const Segment* tightest = nullptr;
  uint64_t least_slack = UINT64_MAX;
  for (const Segment& s : cut.segments) {
    const Place& p = problem.places()[s.place];
    const uint64_t slack =
        p.limit_bytes - p.base_bytes - problem.Bytes(s.place, s.begin, s.end).total();
    if (slack < least_slack) {
      least_slack = slack;
      tightest = &s;
    }
  }
  const Place& p = problem.places()[tightest->place];
  return absl::StrCat("memory of ", PlaceName(problem, tightest->place), ": ",
                      FormatSize(p.limit_bytes - least_slack), " of ", FormatSize(p.limit_bytes));
}

// The place of a machine that more memory would help: the last one that may hold layers, which is
// its CPU unless attention is fast.
std::optional<size_t> GrowingPlace(const Problem& problem, size_t machine) {
  const auto& own = problem.places_of(machine);
  for (auto it = own.rbegin(); it != own.rend(); ++it) {
    if (problem.places()[*it].attends) return *it;
  }
  return std::nullopt;
}

void ExplainLeftOut(const Problem& problem, const Cut& cut, int64_t rows_beside, Plan* plan) {
  std::vector<bool> used(problem.machines(), false);
  for (const Segment& s : cut.segments) used[problem.places()[s.place].machine] = true;
  size_t asked = 0, others = 0;
  for (size_t m = 0; m < problem.machines(); ++m) {
    if (used[m]) continue;
    const std::string& name = problem.request().machines[m].name;
    if (asked++ >= kMaxAsked) {
      ++others;
      continue;
    }
    std::vector<bool> must = used;
    must[m] = true;
    auto with = BestCut(problem, must, rows_beside);
    if (!with) {  // perhaps in the place of another
      must.assign(problem.machines(), false);
      must[m] = true;
      with = BestCut(problem, must, rows_beside);
    }
    if (with) {
      const double losses = problem.request().machines[m].losses;
      plan->why.push_back(absl::StrCat(
          name, " is left out: with it a token would take ", Ms(with->sum), " (slowest stage ",
          Ms(with->slowest), ") instead of ", Ms(cut.sum), " (", Ms(cut.slowest), ")",
          losses >= 1 ? absl::StrFormat(", and it was lost %.0f times lately", losses) : ""));
      continue;
    }
    const auto at = GrowingPlace(problem, m);
    if (!at) {
      plan->why.push_back(absl::StrCat(name, " is left out: it has no device with fast attention"));
      continue;
    }
    const Place& place = problem.places()[*at];
    uint64_t least = UINT64_MAX;
    for (uint32_t u = 0; u < problem.units(); ++u) {
      least = std::min(least, problem.Bytes(*at, u, u + 1).total());
    }
    plan->why.push_back(absl::StrCat(
        name, " is left out: no cut uses it within its memory (the smallest stage takes ",
        FormatSize(place.base_bytes + least), " of ", FormatSize(place.limit_bytes), ")"));
  }
  if (others > 0) {
    plan->why.push_back(
        absl::StrCat(others, others == 1 ? " machine more is" : " machines more are", " left out"));
  }
  if (asked > 0) {
    plan->why.push_back(absl::StrFormat(
        "a machine more must save %.0f %% of the predicted time for %u %s",
        100 * kFurtherMachineSaves, plan->users, plan->users == 1 ? "user" : "users"));
  }
}

// The least value in [low, high] for which `fits` (which is monotone) is true; nullopt when it is
// not true even for high.
std::optional<uint64_t> LeastThatFits(uint64_t low, uint64_t high,
                                      const std::function<bool(uint64_t)>& fits) {
  if (!fits(high)) return std::nullopt;
  while (low < high) {
    const uint64_t middle = low + (high - low) / 2;
    if (fits(middle)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return high;
}

bool FitsWithLimits(const PlanRequest& request, uint32_t context,
                    const std::function<uint64_t(size_t machine, uint64_t limit)>& new_limit) {
  Problem problem(request, context, 1);
  for (size_t m = 0; m < problem.machines(); ++m) {
    const auto place = GrowingPlace(problem, m);
    if (place) problem.set_limit(*place, new_limit(m, problem.places()[*place].limit_bytes));
  }
  return Feasible(problem, OrderSpace(problem, {}));
}

// The figure is rounded up, so that a user who follows the advice gets what was worked out; it has
// the form that flags take.
std::string AtLeast(uint64_t bytes) { return absl::StrCat((bytes + (1 << 20) - 1) >> 20, "MiB"); }

// "3MiB more on w2 (12MiB in all)", whichever flag or key says it here; of a card only its name,
// since its memory cannot be changed.
std::string MoreOn(const PlanRequest& request, const Problem& problem, size_t machine,
                   uint64_t extra) {
  const size_t place = *GrowingPlace(problem, machine);
  const std::string text = absl::StrCat(AtLeast(extra), " more on ", PlaceName(problem, place));
  if (problem.places()[place].device != "cpu") return text;
  return absl::StrCat(text, " (", AtLeast(request.machines[machine].memory_bytes + extra),
                      " in all)");
}

// "3MiB more on w2, or ...": what would make it fit, each alternative worked out.
std::string Remedy(const PlanRequest& request, uint32_t context, uint64_t needed) {
  const Problem problem(request, context, 1);
  std::vector<std::string> ways;
  std::optional<uint64_t> least_extra;
  size_t least_machine = 0;
  for (size_t m = 0; m < std::min(request.machines.size(), size_t{16}); ++m) {
    const auto extra = LeastThatFits(0, needed * 2, [&](uint64_t more) {
      return FitsWithLimits(request, context, [&](size_t machine, uint64_t limit) {
        return machine == m ? limit + more : limit;
      });
    });
    if (extra && (!least_extra || *extra < *least_extra)) {
      least_extra = extra;
      least_machine = m;
    }
  }
  if (least_extra) ways.push_back(MoreOn(request, problem, least_machine, *least_extra));
  if (request.machines.size() > 1 && !IsFast(request)) {
    const auto each = LeastThatFits(0, needed * 2, [&](uint64_t limit) {
      return FitsWithLimits(request, context,
                            [&](size_t, uint64_t old) { return std::max(old, limit); });
    });
    if (each) ways.push_back(absl::StrCat("at least ", AtLeast(*each), " for each worker"));
  }
  for (uint32_t shorter = context - context % 32; shorter >= 32; shorter -= 32) {
    if (shorter < context &&
        FitsWithLimits(request, shorter, [](size_t, uint64_t l) { return l; })) {
      ways.push_back(absl::StrCat("--context ", shorter));
      break;
    }
  }
  if (IsFast(request)) {
    PlanRequest exact = request;
    exact.numerics.attention = stage::AttentionForm::kExact;
    if (FitsWithLimits(exact, context, [](size_t, uint64_t l) { return l; })) {
      ways.push_back("--attention exact");
    }
  }
  std::string text;
  for (size_t i = 0; i < ways.size(); ++i) absl::StrAppend(&text, i == 0 ? "" : ", or ", ways[i]);
  return text;
}

// Explains a case where no memory would help; returns true when it did.
bool ExplainNoFastAttention(const Problem& problem, Plan* plan) {
  const PlanRequest& request = problem.request();
  if (!IsFast(request)) return false;
  const model::ModelShape& shape = request.manifest->shape;
  const absl::Status possible = stage::CheckFastAttention(
      {shape.n_heads, shape.n_kv_heads, shape.head_dim}, request.numerics.kv);
  const auto attends = [](const Place& p) { return p.attends; };
  if (!possible.ok()) {
    plan->why.push_back(Str(possible.message()));
  } else if (std::none_of(problem.places().begin(), problem.places().end(), attends)) {
    const size_t n = problem.machines();
    plan->why.push_back(absl::StrCat(
        "fast attention is computed by cards of level 80 (RTX 30 series and later) only, and none "
        "of the ",
        problem.places().size() - n, problem.places().size() == n + 1 ? " card" : " cards", " of ",
        n, n == 1 ? " machine" : " machines",
        " is one; add such a card, or use --attention exact"));
  } else {
    return false;
  }
  plan->limit = "attention: no device computes the fast form";
  return true;
}

}  // namespace

void ExplainFit(const Problem& problem, const Cut& cut, int64_t rows_beside, Plan* plan) {
  const PlanRequest& request = problem.request();
  const bool shrunk = plan->context < request.context || plan->users < request.users;
  plan->limit = shrunk ? BindingLimit(problem, cut) : "speed: every wish fits in memory";
  if (shrunk) {
    plan->why.push_back(absl::StrCat(Want(request.context, request.users), " does not fit; ",
                                     Want(plan->context, plan->users), " does"));
  }
  for (const Segment& s : cut.segments) {
    const Place& p = problem.places()[s.place];
    plan->why.push_back(absl::StrCat(PlaceName(problem, s.place), " holds ", Duties(problem, s),
                                     ": ", Sum(p, problem.Bytes(s.place, s.begin, s.end)), " of ",
                                     FormatSize(p.limit_bytes)));
  }
  plan->why.push_back(absl::StrCat(
      "predicted time of a token ", Ms(cut.sum), ", ", Ms(cut.hops), " of it on ",
      cut.segments.size() - 1, cut.segments.size() == 2 ? " hop" : " hops", ", slowest stage ",
      Ms(cut.slowest), " (a machine of speed 1 reads 10 GB of weights a second)"));
  ExplainLeftOut(problem, cut, rows_beside, plan);
}

void ExplainMisfit(const PlanRequest& request, uint32_t context, Plan* plan) {
  const Problem problem(request, context, 1);
  if (ExplainNoFastAttention(problem, plan)) return;
  const model::StageBytes whole = problem.Bytes(0, 0, problem.units());
  uint64_t room = 0, limits = 0;
  for (const Place& p : problem.places()) {
    if (!p.attends) continue;
    limits += p.limit_bytes;
    room += p.limit_bytes - std::min(p.limit_bytes, p.base_bytes);
  }
  const std::string where = IsFast(request) ? " on devices with fast attention" : "";
  plan->limit =
      absl::StrCat("memory: ", FormatSize(room), " for stages on ", request.machines.size(),
                   request.machines.size() == 1 ? " machine" : " machines", where);
  plan->why.push_back(absl::StrCat(
      "no cut fits: the model takes ", FormatSize(whole.weights), " weights + ",
      FormatSize(whole.kv), " KV (", Want(context, 1), ") + up to ", FormatSize(whole.buffers),
      " buffers on each machine, and there are ", FormatSize(room), where, " (", FormatSize(limits),
      " less the programs themselves)"));
  for (size_t m = 0; m < std::min(problem.machines(), kMaxAsked); ++m) {
    for (const size_t place : problem.places_of(m)) {
      const Place& p = problem.places()[place];
      if (!p.attends) {
        plan->why.push_back(absl::StrCat(PlaceName(problem, place),
                                         p.device == "cpu" ? "'s processor" : "",
                                         " has no fast attention and takes no layers"));
        continue;
      }
      const uint32_t end = problem.MaxEnd(place, 0);
      const uint32_t shown = std::max(end, 1u);
      const bool first_fits = end > 0;
      plan->why.push_back(absl::StrCat(
          PlaceName(problem, place), first_fits ? " could hold " : " cannot hold even ",
          Duties(problem, {place, 0, shown}), ": ", Sum(p, problem.Bytes(place, 0, shown)), " of ",
          FormatSize(p.limit_bytes)));
    }
  }
  const std::string remedy = Remedy(request, context, whole.total() + limits);
  if (!remedy.empty()) plan->why.push_back("would fit with " + remedy);
}

}  // namespace lanyard::sharding
