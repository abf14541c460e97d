// Thousands of lives from seeds. A failing one prints the line that replays it; LANYARD_SIM_SEEDS=N
// runs more of them.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "tests/sim/world.h"

namespace lanyard::sim {
namespace {

uint64_t FromEnv(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

void Add(const Report& report, Report* sum) {
  sum->requests += report.requests;
  sum->finished += report.finished;
  sum->failed += report.failed;
  sum->overflowed += report.overflowed;
  sum->overdue += report.overdue;
  sum->cancelled += report.cancelled;
  sum->refused += report.refused;
  sum->tokens += report.tokens;
  sum->cached += report.cached;
  sum->preemptions += report.preemptions;
  sum->epochs += report.epochs;
  sum->improvements += report.improvements;
  sum->taken += report.taken;
  sum->moves += report.moves;
  sum->ignored_results += report.ignored_results;
  sum->faults += report.faults;
  sum->sessions += report.sessions;
}

TEST(Sim, EveryRequestEndsWithTheRightTokensOrATypedError) {
  const uint64_t first = FromEnv("LANYARD_SIM_FIRST", 1);
  const uint64_t n = FromEnv("LANYARD_SIM_SEEDS", 2000);
  Report sum;
  int failures = 0;
  for (uint64_t seed = first; seed < first + n && failures < 5; ++seed) {
    const Report report = World(OptionsFor(seed)).Run();
    Add(report, &sum);
    if (report.violations.empty()) continue;
    ++failures;
    ADD_FAILURE() << "seed " << seed << " " << report.violations.front()
                  << "\n  replay: LANYARD_SIM_FIRST=" << seed
                  << " LANYARD_SIM_SEEDS=1 sim_test --gtest_filter=Sim.Every*";
  }
  std::printf(
      "%lu lives: %lu requests, %lu finished, %lu failed (%lu overflowed, %lu overdue), %lu "
      "cancelled, %lu "
      "refused; %lu tokens, %lu of prompts known, %lu preemptions, %lu epochs, %lu better plans "
      "(%lu loaded beside another), %lu drains, %lu results ignored, %lu faults, %lu sessions\n",
      n, sum.requests, sum.finished, sum.failed, sum.overflowed, sum.overdue, sum.cancelled,
      sum.refused, sum.tokens, sum.cached, sum.preemptions, sum.epochs, sum.improvements, sum.taken,
      sum.moves, sum.ignored_results, sum.faults, sum.sessions);
  if (n >= 100 && failures == 0) {  // the storm reaches every corner
    EXPECT_GT(sum.finished, n);
    EXPECT_GT(sum.failed, n / 10);
    EXPECT_GT(sum.overflowed, n / 10);
    EXPECT_GT(sum.overdue, n / 10);
    EXPECT_GT(sum.preemptions, n / 10);
    EXPECT_GT(sum.cached, n * 32);
    EXPECT_GT(sum.epochs, n + n / 4);
    EXPECT_GT(sum.improvements, n / 100);
    EXPECT_GT(sum.taken, n / 20);
    EXPECT_LT(sum.taken, sum.improvements);
    EXPECT_GT(sum.moves, n / 10);
    EXPECT_GT(sum.ignored_results, n / 100);
  }
}

TEST(Sim, ASeedIsALife) {
  for (const uint64_t seed : {3, 7, 12}) {
    const Report a = World(OptionsFor(seed)).Run();
    const Report b = World(OptionsFor(seed)).Run();
    EXPECT_EQ(a.tokens, b.tokens);
    EXPECT_EQ(a.ignored_results, b.ignored_results);
  }
}

// The checker is worth something only if it sees bugs: each of these is planted on the wire and
// must be found. planted/bugs.py has those of the product's sources.
struct PlantedBug {
  const char* name;
  WorldOptions options;
};
void PrintTo(const PlantedBug& bug, std::ostream* os) { *os << bug.name; }

class Planted : public ::testing::TestWithParam<PlantedBug> {};

TEST_P(Planted, IsFound) {
  for (uint64_t seed = 1; seed <= 400; ++seed) {
    WorldOptions options = OptionsFor(seed);
    options.swap_blocks = GetParam().options.swap_blocks;
    options.foreign_hidden = GetParam().options.foreign_hidden;
    const Report report = World(options).Run();
    if (!report.violations.empty()) {
      std::printf("%s: seed %lu %s\n", GetParam().name, seed, report.violations.front().c_str());
      return;
    }
  }
  FAIL() << "the planted bug '" << GetParam().name << "' was not seen in 400 lives";
}

template <typename F>
PlantedBug Bug(const char* name, F plant) {
  WorldOptions options;
  plant(options);
  return {name, options};
}

INSTANTIATE_TEST_SUITE_P(
    Bugs, Planted,
    ::testing::Values(Bug("SwapBlocks", [](WorldOptions& o) { o.swap_blocks = true; }),
                      Bug("ForeignHidden", [](WorldOptions& o) { o.foreign_hidden = true; })),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace lanyard::sim
