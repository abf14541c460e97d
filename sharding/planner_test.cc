#include "sharding/planner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <optional>
#include <random>
#include <set>

#include "model/memory.h"
#include "sharding/problem.h"
#include "sharding/search.h"

namespace lanyard::sharding {
namespace {

using ::lanyard::model::Manifest;

model::Part MakePart(const std::string& name, uint64_t rows, uint64_t cols, TensorType type) {
  const auto traits = *TraitsOf(type);
  model::Part part;
  part.name = name;
  part.tensors.push_back(
      {name + ".weight", type, {cols, rows}, rows * cols / traits.elements * traits.bytes});
  part.bytes = part.tensors[0].bytes;
  return part;
}

// A small model; `sizes` are the rows of each layer's one matrix, so that layers may be unlike.
Manifest MakeModel(const std::vector<uint64_t>& sizes, uint64_t head_rows, bool tied,
                   uint32_t sliding_every = 0) {
  Manifest m;
  model::ModelShape& s = m.shape;
  s.n_layers = static_cast<uint32_t>(sizes.size());
  s.d_model = 64;
  s.n_heads = 4;
  s.n_kv_heads = 2;
  s.head_dim = 16;
  s.d_ff = 128;
  s.n_vocab = static_cast<uint32_t>(head_rows);
  s.context_length = 8192;
  s.tied_output = tied;
  s.groups.resize(sliding_every == 0 ? 1 : 2);
  if (sliding_every != 0) {
    s.groups[1].kind = model::StateKind::kSliding;
    s.groups[1].window = 64;
  }
  m.parts.push_back(MakePart("embed", head_rows, s.d_model, TensorType::kQ8_0));
  for (uint32_t i = 0; i < s.n_layers; ++i) {
    m.parts.push_back(MakePart("layer." + std::to_string(i), sizes[i], 64, TensorType::kQ8_0));
    s.groups[sliding_every != 0 && i % sliding_every != 0 ? 1 : 0].layers.push_back(i);
  }
  m.parts.push_back(MakePart("norm", 1, 64, TensorType::kF32));
  if (!tied) m.parts.push_back(MakePart("output", head_rows, s.d_model, TensorType::kQ8_0));
  return m;
}

MachineProfile Machine(const std::string& name, uint64_t memory, double speed) {
  MachineProfile m;
  m.name = name;
  m.memory_bytes = memory;
  m.speed = speed;
  return m;
}

PlanRequest Request(const Manifest& manifest, std::vector<MachineProfile> machines) {
  PlanRequest r;
  r.manifest = &manifest;
  r.machines = std::move(machines);
  r.context = 512;
  r.min_context = 32;
  r.max_rows = 16;
  return r;
}

// What planner.h says is made small.
double Cost(const Problem& problem, const std::vector<bool>& used, Picoseconds sum,
            Picoseconds slowest, int64_t rows_beside) {
  double m = 0;
  for (size_t i = 0; i < used.size(); ++i)
    m += used[i] ? 1 + problem.request().machines[i].losses : 0;
  const double time = static_cast<double>(sum + rows_beside * slowest / 8);
  return time / std::pow(0.8, m - 1);
}

// Every cut over every order of every subset of machines, by recursion: no cleverness to be wrong
// in.
class BruteForce {
 public:
  BruteForce(const Problem& problem, int64_t rows_beside, bool all)
      : p_(problem), rows_beside_(rows_beside), all_(all) {}

  std::optional<double> Best() {
    std::vector<bool> used(p_.machines(), false);
    Go(0, SIZE_MAX, used, 0, 0);
    return best_;
  }

 private:
  void Go(uint32_t begin, size_t place, std::vector<bool>& used, Picoseconds sum,
          Picoseconds slowest) {
    if (begin == p_.units()) {
      if (all_ && std::count(used.begin(), used.end(), false) > 0) return;
      const double objective = Cost(p_, used, sum, slowest, rows_beside_);
      if (!best_ || objective < *best_) best_ = objective;
      return;
    }
    for (size_t next = 0; next < p_.places().size(); ++next) {
      const size_t machine = p_.places()[next].machine;
      const bool same = place != SIZE_MAX && p_.places()[place].machine == machine;
      if (same ? next <= place : used[machine]) continue;
      const Picoseconds hop =
          place == SIZE_MAX ? 0 : p_.HopTime(p_.places()[place].machine, machine);
      used[machine] = true;
      for (uint32_t end = begin + 1; end <= p_.units(); ++end) {
        if (!p_.Fits(next, begin, end)) continue;
        const Picoseconds time = p_.StageTime(next, begin, end);
        Go(end, next, used, sum + hop + time, std::max(slowest, time));
      }
      if (!same) used[machine] = false;
    }
  }

  const Problem& p_;
  const int64_t rows_beside_;
  const bool all_;
  std::optional<double> best_;
};

struct Instance {
  Manifest manifest;
  PlanRequest request;
};

// Small enough for BruteForce, tight enough that about half do not fit at first.
std::unique_ptr<Instance> RandomInstance(uint64_t seed) {
  std::mt19937_64 rng(seed);
  const auto pick = [&](uint64_t low, uint64_t high) { return low + rng() % (high - low + 1); };
  auto out = std::make_unique<Instance>();
  std::vector<uint64_t> sizes(pick(1, 6));
  for (auto& s : sizes) s = 16 * pick(8, 40);
  out->manifest =
      MakeModel(sizes, 16 * pick(4, 60), pick(0, 1) != 0, static_cast<uint32_t>(pick(0, 2)));
  std::vector<MachineProfile> machines(pick(1, 4));
  const bool alike = pick(0, 2) == 0;
  for (size_t i = 0; i < machines.size(); ++i) {
    if (alike && i > 0) {
      machines[i] = machines[0];
    } else {
      machines[i] = Machine("", 1024 * pick(100, 700), 0.25 * static_cast<double>(pick(1, 12)));
      machines[i].base_bytes = 1024 * pick(0, 40);
      if (seed % 4 == 0) machines[i].losses = 0.5 * static_cast<double>(seed / 4 % 3 + i % 2);
      if (pick(0, 3) == 0) {
        machines[i].devices.push_back(
            {"cuda", "cuda:0", 1024 * pick(60, 400), static_cast<double>(pick(2, 9))});
      }
    }
    machines[i].name = "m" + std::to_string(i);
  }
  out->request = Request(out->manifest, machines);
  out->request.context = static_cast<uint32_t>(pick(32, 600));
  out->request.users = static_cast<uint32_t>(pick(1, 5));
  if (seed % 3 == 0) out->request.users *= 16;
  out->request.require_all = pick(0, 3) == 0;
  for (size_t a = 0; a < machines.size(); ++a) {
    for (size_t b = a + 1; b < machines.size() && !alike; ++b) {
      if (pick(0, 1) == 0) continue;
      out->request.links.push_back(
          {machines[a].name, machines[b].name, static_cast<double>(pick(0, 400)), 1e8});
    }
  }
  return out;
}

int64_t RowsBeside(const PlanRequest& r) {
  const int64_t rows = int64_t{r.users} - 1;
  return r.require_all ? std::max<int64_t>(rows, 8) : rows;
}

double ObjectiveOf(const Problem& problem, const Plan& plan, int64_t rows_beside) {
  Picoseconds sum = 0, slowest = 0;
  std::vector<bool> used(problem.machines(), false);
  size_t before = SIZE_MAX;
  for (const PlannedStage& s : plan.stages) {
    size_t place = 0;
    while (problem.places()[place].device != s.device ||
           problem.request().machines[problem.places()[place].machine].name != s.machine) {
      ++place;
    }
    const Picoseconds time =
        problem.StageTime(place, s.layers.begin, s.samples ? problem.units() : s.layers.end);
    sum += time;
    slowest = std::max(slowest, time);
    const size_t machine = problem.places()[place].machine;
    if (before != SIZE_MAX) sum += problem.HopTime(before, machine);
    before = machine;
    used[machine] = true;
  }
  return Cost(problem, used, sum, slowest, rows_beside);
}

// Fast attention for heads that have it, and cards that have it or not.
void MakeFast(Instance& instance, uint64_t seed) {
  instance.manifest.shape.head_dim = 64;
  instance.request.numerics.attention = stage::AttentionForm::kFast;
  std::mt19937_64 rng(seed);
  for (MachineProfile& m : instance.request.machines) {
    const auto card = [&](const char* name) {
      return DeviceProfile{"cuda", name, m.memory_bytes / (1 + rng() % 3),
                           1.0 + static_cast<double>(rng() % 8), rng() % 4 != 0};
    };
    if (m.devices.empty() && rng() % 2 != 0) m.devices.push_back(card("cuda:0"));
    for (DeviceProfile& d : m.devices) d.fast_attention = rng() % 4 != 0;
    if (rng() % 4 == 0) m.devices.push_back(card("cuda:9"));
  }
}

TEST(Planner, FastEqualsBruteForce) {
  int fitting = 0, mixed = 0;
  for (uint64_t seed = 5000; seed < 5300; ++seed) {
    SCOPED_TRACE(seed);
    const auto instance = RandomInstance(seed);
    MakeFast(*instance, seed);
    PlanRequest& request = instance->request;
    request.require_all = false;
    const auto plan = MakePlan(request);
    ASSERT_TRUE(plan.ok()) << plan.status();
    if (!plan->fits) {
      const Problem least(request, std::min(request.min_context, request.context), 1);
      EXPECT_FALSE(BruteForce(least, 0, false).Best().has_value());
      continue;
    }
    ++fitting;
    const Problem problem(request, plan->context, plan->users);
    const int64_t rows = RowsBeside(request);
    EXPECT_DOUBLE_EQ(ObjectiveOf(problem, *plan, rows), *BruteForce(problem, rows, false).Best());
    for (const PlannedStage& s : plan->stages) {
      bool fast = false;
      for (const MachineProfile& m : request.machines) {
        for (const DeviceProfile& d : m.devices) {
          fast = fast || (m.name == s.machine && d.name == s.device && d.fast_attention);
        }
      }
      EXPECT_TRUE(fast || s.layers.size() == 0) << s.machine << " " << s.device;
      mixed += fast ? 0 : 1;
    }
  }
  EXPECT_GT(fitting, 60);
  EXPECT_LT(fitting, 280);
  EXPECT_GT(mixed, 3);
}

TEST(Planner, EqualsBruteForce) {
  int fitting = 0, shrunk = 0, all = 0;
  std::set<double> machines_used;
  for (uint64_t seed = 0; seed < 600; ++seed) {
    SCOPED_TRACE(seed);
    const auto instance = RandomInstance(seed);
    const PlanRequest& request = instance->request;
    const auto plan = MakePlan(request);
    ASSERT_TRUE(plan.ok()) << plan.status();
    if (!plan->fits) {
      const Problem least(request, std::min(request.min_context, request.context), 1);
      EXPECT_FALSE(BruteForce(least, 0, false).Best().has_value());
      continue;
    }
    ++fitting;
    shrunk += plan->context < request.context || plan->users < request.users ? 1 : 0;
    const Problem problem(request, plan->context, plan->users);
    const int64_t rows = RowsBeside(request);
    std::optional<double> best;
    if (request.require_all) best = BruteForce(problem, rows, true).Best();
    all += best.has_value() ? 1 : 0;
    if (!best) best = BruteForce(problem, rows, false).Best();
    ASSERT_TRUE(best.has_value());
    EXPECT_DOUBLE_EQ(ObjectiveOf(problem, *plan, rows), *best);
    machines_used.insert(plan->charge);
    // One user more, or one block of context more, must not fit: the load is the largest.
    if (plan->users < request.users) {
      EXPECT_FALSE(BruteForce(Problem(request, plan->context, plan->users + 1), 0, false).Best());
    }
    if (plan->context < request.context) {
      const uint32_t more = std::min(plan->context + 32, request.context);
      EXPECT_FALSE(BruteForce(Problem(request, more, 1), 0, false).Best());
    }
  }
  // The instances are of use only while they are mixed.
  EXPECT_GT(fitting, 200);
  EXPECT_LT(fitting, 590);
  EXPECT_GT(shrunk, 50);
  EXPECT_GT(all, 30);
  EXPECT_GT(machines_used.size(), 6u);
}

TEST(Planner, KeepsLimitsAndCoversEveryLayerOnce) {
  for (uint64_t seed = 1000; seed < 1400; ++seed) {
    SCOPED_TRACE(seed);
    const auto instance = RandomInstance(seed);
    const auto plan = MakePlan(instance->request);
    ASSERT_TRUE(plan.ok());
    EXPECT_FALSE(plan->limit.empty());
    EXPECT_FALSE(plan->why.empty());
    if (!plan->fits) continue;
    uint32_t next = 0;
    for (size_t i = 0; i < plan->stages.size(); ++i) {
      const PlannedStage& s = plan->stages[i];
      EXPECT_EQ(s.layers.begin, next);
      EXPECT_LE(s.layers.begin, s.layers.end);
      next = s.layers.end;
      EXPECT_EQ(s.embeds, i == 0);
      EXPECT_EQ(s.samples, i + 1 == plan->stages.size());
      if (s.layers.size() == 0) {
        EXPECT_TRUE(s.samples) << "only the head stands alone";
      }
      EXPECT_LE(s.base_bytes + s.weights_bytes + s.kv_bytes + s.buffer_bytes, s.limit_bytes);
      // The same figures as the memory model gives for the stage's parts.
      model::StageDuty duty{s.layers.begin, s.layers.end, s.embeds, s.samples, plan->group_blocks};
      EXPECT_EQ(s.weights_bytes, model::WeightsBytes(instance->manifest, duty));
      duty.kv_head_bytes = model::KvHeadBytes("f16", instance->manifest.shape.head_dim);
      EXPECT_EQ(s.kv_bytes, model::KvBytes(instance->manifest.shape, duty));
    }
    EXPECT_EQ(next, instance->manifest.shape.n_layers);
    const auto again = MakePlan(instance->request);
    EXPECT_EQ(again->why, plan->why);
    EXPECT_EQ(again->stages.size(), plan->stages.size());
  }
}

TEST(Planner, MoreMemoryNeverFitsLess) {
  for (uint64_t seed = 2000; seed < 2200; ++seed) {
    SCOPED_TRACE(seed);
    const auto instance = RandomInstance(seed);
    const auto before = MakePlan(instance->request);
    PlanRequest more = instance->request;
    more.machines[seed % more.machines.size()].memory_bytes += 50000;
    const auto after = MakePlan(more);
    ASSERT_TRUE(before.ok() && after.ok());
    EXPECT_GE(after->fits, before->fits);
    EXPECT_GE(after->context, before->context);
    if (before->context == after->context) {
      EXPECT_GE(after->users, before->users);
    }
  }
}

// The advice is worked out, so following it must help, and a MiB less must not.
TEST(Planner, TheRemedyHelps) {
  const Manifest model = MakeModel(std::vector<uint64_t>(8, 64000), 64000, true);
  PlanRequest request = Request(model, {Machine("w1", 20 << 20, 1), Machine("w2", 9 << 20, 1)});
  const auto plan = MakePlan(request);
  ASSERT_TRUE(plan.ok());
  ASSERT_FALSE(plan->fits);
  const std::string& remedy = plan->why.back();
  unsigned more = 0, to = 0, each = 0;
  char name[8] = {};
  ASSERT_EQ(std::sscanf(remedy.c_str(),
                        "would fit with %uMiB more on %7s (%uMiB in all), or at least %uMiB", &more,
                        name, &to, &each),
            4)
      << remedy;
  const auto fits = [&](uint64_t w1, uint64_t w2) {
    request.machines[0].memory_bytes = w1;
    request.machines[1].memory_bytes = w2;
    return MakePlan(request)->fits;
  };
  const uint64_t mib = 1 << 20;
  ASSERT_STREQ(name, "w1");
  EXPECT_TRUE(fits(to * mib, 9 * mib));
  EXPECT_FALSE(fits((to - 1) * mib, 9 * mib));
  EXPECT_EQ(to, 20 + more);
  EXPECT_TRUE(fits(std::max<uint64_t>(each, 20) * mib, std::max<uint64_t>(each, 9) * mib));
  EXPECT_FALSE(fits(std::max<uint64_t>(each - 1, 20) * mib, std::max<uint64_t>(each - 1, 9) * mib));
}

TEST(Planner, ThreeLikeWorkersAllHoldLayers) {
  const Manifest model = MakeModel(std::vector<uint64_t>(30, 640), 2000, true);
  PlanRequest request = Request(
      model, {Machine("w1", 1 << 30, 1), Machine("w2", 1 << 30, 1), Machine("w3", 1 << 30, 1)});
  request.require_all = true;
  const auto plan = MakePlan(request);
  ASSERT_TRUE(plan.ok());
  ASSERT_EQ(plan->stages.size(), 3u);
  for (const PlannedStage& s : plan->stages) EXPECT_GE(s.layers.size(), 5u);
  EXPECT_EQ(plan->stages[0].machine, "w1");
  EXPECT_EQ(plan->stages[2].machine, "w3");

  // With one user, and without require_all, hops only cost.
  request.require_all = false;
  EXPECT_EQ(MakePlan(request)->stages.size(), 1u);
}

// Real workers differ in a few bytes of free memory; that must not shuffle them.
TEST(Planner, EquallyGoodOrdersFollowTheInput) {
  const Manifest model = MakeModel(std::vector<uint64_t>(30, 640), 2000, true);
  PlanRequest request = Request(model, {});
  for (int i = 0; i < 4; ++i) {
    request.machines.push_back(
        Machine("w" + std::to_string(i), (1 << 30) + static_cast<uint64_t>(i * 7919 % 5), 1));
  }
  for (const uint32_t users : {1u, 8u}) {
    request.users = users;
    request.require_all = true;
    const auto plan = MakePlan(request);
    ASSERT_EQ(plan->stages.size(), 4u);
    for (int i = 0; i < 4; ++i)
      EXPECT_EQ(plan->stages[static_cast<size_t>(i)].machine, "w" + std::to_string(i));
  }
}

TEST(Planner, TheFastMachineGetsMore) {
  const Manifest model = MakeModel(std::vector<uint64_t>(24, 6400), 400, true);
  PlanRequest request = Request(model, {Machine("slow", 1 << 30, 1), Machine("fast", 1 << 30, 3)});
  request.users = 8;
  request.require_all = true;
  request.links = {{"slow", "fast", 1, 1e12}};
  const auto plan = MakePlan(request);
  ASSERT_TRUE(plan.ok());
  for (const PlannedStage& s : plan->stages) {
    EXPECT_EQ(s.machine == "fast", s.layers.size() > 12) << s.machine << " " << s.layers.size();
  }
}

TEST(Planner, ACardComesBeforeItsCpu) {
  const Manifest model = MakeModel(std::vector<uint64_t>(10, 1600), 400, true);
  PlanRequest request = Request(model, {Machine("pc1", 1 << 30, 1)});
  request.machines[0].devices.push_back({"cuda", "cuda:0", 800 << 10, 8});
  const auto plan = MakePlan(request);
  ASSERT_TRUE(plan.ok() && plan->fits);
  ASSERT_EQ(plan->stages.size(), 2u);
  EXPECT_EQ(plan->stages[0].device, "cuda:0");
  EXPECT_EQ(plan->stages[1].device, "cpu");
  EXPECT_GT(plan->stages[0].layers.size(), 2u);

  // A worker with a card is one stage all the same.
  request.one_stage_a_machine = true;
  const auto merged = MakePlan(request);
  ASSERT_TRUE(merged.ok() && merged->fits);
  ASSERT_EQ(merged->stages.size(), 1u);
  const PlannedStage& one = merged->stages[0];
  EXPECT_EQ(one.device, "cuda:0+cpu");
  EXPECT_EQ(one.layers, (stage::LayerRange{0, 10}));
  EXPECT_TRUE(one.embeds && one.samples);
  EXPECT_EQ(one.weights_bytes, plan->stages[0].weights_bytes + plan->stages[1].weights_bytes);
}

std::string AllOf(const std::vector<std::string>& why) {
  std::string text;
  for (const std::string& w : why) text += w + "\n";
  return text;
}

// A pool of a PC without a card and one with: 10 layers of 100 KiB and what they need.
PlanRequest FastRequest(const Manifest& manifest, uint64_t card_bytes, bool fast) {
  PlanRequest request =
      Request(manifest, {Machine("office", 1 << 30, 1), Machine("cad", 1 << 30, 1)});
  request.machines[1].devices.push_back({"cuda", "cuda:0", card_bytes, 8, fast});
  request.numerics.attention = stage::AttentionForm::kFast;
  request.require_all = true;
  request.one_stage_a_machine = true;
  return request;
}

Manifest ModelOfHeads(uint32_t head_dim) {
  Manifest model = MakeModel(std::vector<uint64_t>(10, 1600), 400, true);
  model.shape.head_dim = head_dim;
  return model;
}

TEST(Planner, FastAttentionGoesToCardsThatHaveIt) {
  const Manifest model = ModelOfHeads(64);
  const auto plan = MakePlan(FastRequest(model, 64 << 20, true));
  ASSERT_TRUE(plan.ok() && plan->fits);
  ASSERT_EQ(plan->stages.size(), 1u);
  EXPECT_EQ(plan->stages[0].machine, "cad");
  EXPECT_EQ(plan->stages[0].device, "cuda:0");
  EXPECT_EQ(plan->stages[0].layers, (stage::LayerRange{0, 10}));
  EXPECT_NE(AllOf(plan->why).find("office is left out: "), std::string::npos) << AllOf(plan->why);

  // Without the card's help for the head its processor takes it: there is no attention in it.
  PlanRequest tight = FastRequest(model, 0, true);
  tight.min_context = tight.context;
  const Problem problem(tight, tight.context, tight.users);
  const size_t card = problem.places_of(1)[0];
  tight.machines[1].devices[0].memory_bytes = problem.Bytes(card, 0, 10).total();
  ASSERT_LT(tight.machines[1].devices[0].memory_bytes, problem.Bytes(card, 0, 11).total());
  const auto head = MakePlan(tight);
  ASSERT_TRUE(head.ok());
  ASSERT_TRUE(head->fits) << AllOf(head->why);
  ASSERT_EQ(head->stages.size(), 1u);
  EXPECT_EQ(head->stages[0].device, "cuda:0+cpu");
}

TEST(Planner, FastAttentionThatNoDeviceHasSaysSo) {
  const auto why = [](const PlanRequest& request) {
    const auto plan = MakePlan(request);
    EXPECT_TRUE(plan.ok() && !plan->fits);
    EXPECT_EQ(plan->limit, "attention: no device computes the fast form");
    return AllOf(plan->why);
  };
  const Manifest model = ModelOfHeads(64);
  EXPECT_NE(
      why(FastRequest(model, 64 << 20, false)).find("none of the 1 card of 2 machines is one"),
      std::string::npos);
  const Manifest odd = ModelOfHeads(96);
  EXPECT_NE(why(FastRequest(odd, 64 << 20, true)).find("this model's have 96"), std::string::npos);
  PlanRequest floats = FastRequest(model, 64 << 20, true);
  floats.numerics.kv = stage::KvType::kF32;
  EXPECT_NE(why(floats).find("use --kv f16"), std::string::npos);
}

TEST(Planner, FastAttentionThatDoesNotFitShowsTheArithmetic) {
  const Manifest model = ModelOfHeads(64);
  PlanRequest request = FastRequest(model, 400 << 10, true);
  const auto plan = MakePlan(request);
  ASSERT_TRUE(plan.ok());
  ASSERT_FALSE(plan->fits);
  const std::string why = AllOf(plan->why);
  EXPECT_NE(plan->limit.find("on devices with fast attention"), std::string::npos) << plan->limit;
  EXPECT_NE(why.find("office's processor has no fast attention and takes no layers"),
            std::string::npos)
      << why;
  EXPECT_NE(why.find("cad cuda:0 could hold "), std::string::npos) << why;
  unsigned more = 0;
  char rest[64] = {};
  ASSERT_EQ(std::sscanf(plan->why.back().c_str(),
                        "would fit with %uMiB more on cad cuda:0, or %63[^\n]", &more, rest),
            2)
      << plan->why.back();
  EXPECT_NE(std::string(rest).find("--attention exact"), std::string::npos) << rest;
  request.machines[1].devices[0].memory_bytes += uint64_t{more} << 20;
  EXPECT_TRUE(MakePlan(request)->fits);
  request.numerics.attention = stage::AttentionForm::kExact;
  request.machines[1].devices[0].memory_bytes = 400 << 10;
  EXPECT_TRUE(MakePlan(request)->fits);
}

// Alike but for fast attention is not alike.
TEST(Planner, FastAttentionTellsLikeMachinesApart) {
  const Manifest model = ModelOfHeads(64);
  PlanRequest request = Request(model, {Machine("a", 1 << 30, 1), Machine("b", 1 << 30, 1)});
  for (size_t i = 0; i < 2; ++i) {
    request.machines[i].devices.push_back({"cuda", "cuda:0", 64 << 20, 8, i == 1});
  }
  request.numerics.attention = stage::AttentionForm::kFast;
  const auto plan = MakePlan(request);
  ASSERT_TRUE(plan.ok());
  ASSERT_TRUE(plan->fits) << AllOf(plan->why);
  ASSERT_EQ(plan->stages.size(), 1u);
  EXPECT_EQ(plan->stages[0].machine, "b");
}

constexpr uint64_t kGiB = uint64_t{1} << 30;

// The weights and the KV of a model of 8 or 70 billion parameters in about 4.5 bits, whose layers'
// matrices are one here.
Manifest ModelOfBillions(uint32_t layers, uint64_t rows, uint32_t d_model) {
  Manifest model = MakeModel({}, 128256, false);
  model::ModelShape& s = model.shape;
  s.n_layers = layers;
  s.n_heads = d_model / 128;
  s.n_kv_heads = 8;
  s.head_dim = 128;
  s.d_model = d_model;
  s.groups.resize(1);
  model.parts.clear();
  model.parts.push_back(MakePart("embed", 128256, d_model, TensorType::kQ4_0));
  for (uint32_t i = 0; i < layers; ++i) {
    model.parts.push_back(MakePart("layer." + std::to_string(i), rows, d_model, TensorType::kQ4_0));
    s.groups[0].layers.push_back(i);
  }
  model.parts.push_back(MakePart("norm", 1, d_model, TensorType::kF32));
  model.parts.push_back(MakePart("output", 128256, d_model, TensorType::kQ4_0));
  return model;
}
Manifest Model8B() { return ModelOfBillions(32, 53248, 4096); }
Manifest Model70B() { return ModelOfBillions(80, 104448, 8192); }

PlanRequest OfficeRequest(const Manifest& manifest, size_t n, uint64_t memory) {
  PlanRequest request = Request(manifest, {});
  for (size_t i = 0; i < n; ++i)
    request.machines.push_back(Machine("pc" + std::to_string(i), memory, 1));
  request.context = 4096;
  request.users = kDefaultUsers;
  request.max_rows = stage::kStepFrameRows;
  return request;
}

std::set<std::string> MachinesOf(const Plan& plan) {
  std::set<std::string> out;
  for (const PlannedStage& stage : plan.stages) out.insert(stage.machine);
  return out;
}

TEST(Planner, WhatOneMachineHoldsIsNotCutOverTwelve) {
  const Manifest model = Model8B();
  const auto plan = MakePlan(OfficeRequest(model, 12, 16 * kGiB));
  ASSERT_TRUE(plan.ok() && plan->fits);
  EXPECT_EQ(plan->users, kDefaultUsers);
  EXPECT_EQ(MachinesOf(*plan), std::set<std::string>{"pc0"});
  const std::string why = AllOf(plan->why);
  EXPECT_NE(why.find("pc1 is left out: with it a token would take "), std::string::npos) << why;
  EXPECT_NE(why.find("7 machines more are left out"), std::string::npos) << why;
  EXPECT_NE(why.find("must save 20 % of the predicted time for 4 users"), std::string::npos) << why;
}

// Also where no two of them are alike, as in an office.
TEST(Planner, WhatFourMachinesHoldGetsFour) {
  const Manifest model = Model70B();
  PlanRequest request = OfficeRequest(model, 48, 12 * kGiB);
  for (const bool unlike : {false, true}) {
    SCOPED_TRACE(unlike);
    for (size_t i = 0; unlike && i < request.machines.size(); ++i) {
      request.machines[i].speed = 1 + 0.002 * static_cast<double>(i * 7 % 48);
      request.machines[i].memory_bytes += i * 31 % 48 << 20;
    }
    const auto plan = MakePlan(request);
    ASSERT_TRUE(plan.ok() && plan->fits);
    EXPECT_EQ(plan->users, kDefaultUsers);
    EXPECT_EQ(MachinesOf(*plan).size(), 4u);
  }
}

// The KV of twenty users is not in one machine.
TEST(Planner, KvThatOneMachineDoesNotHoldIsCut) {
  const Manifest model = Model8B();
  PlanRequest request = OfficeRequest(model, 12, 16 * kGiB);
  request.users = 20;
  const auto one = MakePlan(OfficeRequest(model, 1, 16 * kGiB));
  ASSERT_TRUE(one.ok() && one->fits);
  const auto plan = MakePlan(request);
  ASSERT_TRUE(plan.ok() && plan->fits);
  EXPECT_EQ(plan->users, 20u);
  EXPECT_EQ(MachinesOf(*plan).size(), 2u);
}

TEST(Planner, FastMachinesTogetherBeatASlowOneAlone) {
  const Manifest model = Model8B();
  PlanRequest request = OfficeRequest(model, 4, 16 * kGiB);
  for (size_t i = 1; i < 4; ++i) {
    // Cards that hold a third of it each.
    request.machines[i].memory_bytes = kGiB / 2;
    request.machines[i].devices.push_back({"cuda", "cuda:0", 3 * kGiB, 30});
  }
  const auto plan = MakePlan(request);
  ASSERT_TRUE(plan.ok() && plan->fits);
  EXPECT_EQ(MachinesOf(*plan), (std::set<std::string>{"pc1", "pc2", "pc3"}));

  // A card that holds all of it wins over three.
  request.machines[2].devices[0].memory_bytes = 12 * kGiB;
  EXPECT_EQ(MachinesOf(*MakePlan(request)), (std::set<std::string>{"pc2"}));
}

// What further users compute is worth sharing, and the more of them the more machines.
TEST(Planner, ManyUsersAreWorthMoreMachines) {
  const Manifest model = Model8B();
  size_t before = 0;
  for (const uint32_t users : {4u, 16u, 64u}) {
    PlanRequest request = OfficeRequest(model, 12, 64 * kGiB);
    request.users = users;
    const auto plan = MakePlan(request);
    ASSERT_TRUE(plan.ok() && plan->fits);
    EXPECT_EQ(plan->users, users);
    EXPECT_GT(MachinesOf(*plan).size(), before) << users;
    before = MachinesOf(*plan).size();
  }
  EXPECT_LE(before, 4u);
}

TEST(Planner, AStragglerLosesLayersToTheOthers) {
  const Manifest model = Model8B();
  PlanRequest request = OfficeRequest(model, 3, 16 * kGiB);
  request.require_all = true;
  const auto layers = [&] {
    std::map<std::string, uint32_t> out;
    const auto plan = MakePlan(request);
    for (const PlannedStage& stage : plan->stages) {
      out[stage.machine] += stage.layers.size();
      EXPECT_EQ(stage.slowness, stage.machine == "pc1" ? request.machines[1].slowness : 1);
    }
    return out;
  };
  const auto even = layers();
  request.machines[1].slowness = 3;
  const auto uneven = layers();
  EXPECT_LT(uneven.at("pc1") * 2, even.at("pc1"));
  EXPECT_GT(uneven.at("pc0"), even.at("pc0"));
}

TEST(Planner, OneThatWasLostLatelyIsPassedOver) {
  const Manifest model = Model8B();
  PlanRequest request = OfficeRequest(model, 3, 16 * kGiB);
  request.machines[0].losses = 1;
  request.machines[0].speed = 1.1;
  const auto plan = MakePlan(request);
  ASSERT_TRUE(plan.ok() && plan->fits);
  EXPECT_EQ(MachinesOf(*plan), std::set<std::string>{"pc1"});
  EXPECT_NE(AllOf(plan->why).find("and it was lost 1 times lately"), std::string::npos);
  // But not by one that is so much slower.
  request.machines[0].speed = 1.4;
  EXPECT_EQ(MachinesOf(*MakePlan(request)), std::set<std::string>{"pc0"});
}

TEST(Planner, ManyUnlikeMachinesAreStillPlanned) {
  const Manifest model = MakeModel(std::vector<uint64_t>(60, 1600), 400, true);
  std::vector<MachineProfile> machines;
  for (int i = 0; i < 24; ++i) {
    machines.push_back(
        Machine("m" + std::to_string(i), static_cast<uint64_t>(1000 + 37 * i) << 10, 1 + 0.1 * i));
  }
  PlanRequest request = Request(model, machines);
  request.users = 4;
  const auto plan = MakePlan(request);
  ASSERT_TRUE(plan.ok());
  EXPECT_TRUE(plan->fits);
  EXPECT_TRUE(std::any_of(plan->why.begin(), plan->why.end(), [](const std::string& w) {
    return w.find("order is fixed") != std::string::npos;
  }));
}

TEST(Planner, RefusesNonsenseByName) {
  const Manifest model = MakeModel({64}, 64, true);
  const auto error = [&](auto change) {
    PlanRequest request = Request(model, {Machine("w1", 1 << 30, 1), Machine("w2", 1 << 30, 1)});
    change(request);
    const auto plan = MakePlan(request);
    EXPECT_FALSE(plan.ok());
    return std::string(plan.status().message());
  };
  EXPECT_NE(error([](PlanRequest& r) { r.machines.clear(); }).find("no machine"),
            std::string::npos);
  EXPECT_NE(error([](PlanRequest& r) { r.context = 0; }).find("context 0"), std::string::npos);
  EXPECT_NE(error([](PlanRequest& r) { r.users = 0; }).find("users 0"), std::string::npos);
  EXPECT_NE(error([](PlanRequest& r) { r.machines[1].name = "w1"; }).find("two machines"),
            std::string::npos);
  EXPECT_NE(error([](PlanRequest& r) { r.machines[1].speed = 0; }).find("w2"), std::string::npos);
  EXPECT_NE(error([](PlanRequest& r) { r.machines[1].slowness = 0; }).find("w2"),
            std::string::npos);
  EXPECT_NE(error([](PlanRequest& r) {
              r.links.push_back({"w1", "pc9"});
            }).find("pc9"),
            std::string::npos);
  EXPECT_NE(error([](PlanRequest& r) { r.manifest = nullptr; }).find("no model"),
            std::string::npos);
}

TEST(GroupBlocks, SlidingGroupsHoldTheirWindowOnly) {
  const Manifest model = MakeModel({64, 64}, 64, true, 2);
  EXPECT_EQ(GroupBlocks(model.shape, 4096, 1, 32), (std::vector<uint32_t>{128, 6}));
  EXPECT_EQ(GroupBlocks(model.shape, 4096, 3, 32), (std::vector<uint32_t>{384, 14}));
  EXPECT_EQ(GroupBlocks(model.shape, 33, 1, 512), (std::vector<uint32_t>{2, 2}));
  EXPECT_EQ(GroupBlocks(model.shape, 4096, 1, 32, 9), (std::vector<uint32_t>{128, 13}));
}

TEST(Planner, SlidingGroupsHaveRoomForAFrameInEachStage) {
  const Manifest model = MakeModel(std::vector<uint64_t>(8, 64), 64, true, 2);
  PlanRequest request = Request(model, {});
  for (const char* name : {"a", "b", "c", "d"})
    request.machines.push_back(Machine(name, 1 << 20, 1));
  request.max_rows = 32;
  request.require_all = true;
  const auto roomy = MakePlan(request);
  ASSERT_TRUE(roomy.ok() && roomy->fits);
  ASSERT_EQ(roomy->stages.size(), 4u);
  EXPECT_EQ(roomy->group_blocks, GroupBlocks(model.shape, 512, roomy->users, 32, 5));

  // Memory that is needed otherwise is not given to them.
  uint64_t most = 0;
  for (const PlannedStage& stage : roomy->stages)
    most = std::max(most, stage.weights_bytes + stage.kv_bytes + stage.buffer_bytes);
  for (MachineProfile& machine : request.machines) machine.memory_bytes = most - 1;
  const auto tight = MakePlan(request);
  ASSERT_TRUE(tight.ok() && tight->fits);
  EXPECT_EQ(tight->context, 512u);
  ASSERT_EQ(tight->stages.size(), 4u);
  EXPECT_EQ(tight->group_blocks, GroupBlocks(model.shape, 512, tight->users, 32, 4));
}

}  // namespace
}  // namespace lanyard::sharding
