// The simulator's checker is worth something only if it sees bugs: each of these is planted in a
// copy of the product's sources (bugs.py), and must be found. sim_test.cc has those of the wire.
#include "tests/sim/planted/planted.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "tests/sim/world.h"

namespace lanyard::sim {
namespace {

constexpr uint64_t kLives = 400;

std::string& Present() {
  static std::string name;
  return name;
}

const char* const kBugs[] = {
#include "planted_names.inc"
};

// The first life in which something is seen; 0: none.
uint64_t FirstSeen(const std::string& name, std::string* what) {
  Plant(name);
  for (uint64_t seed = 1; seed <= kLives; ++seed) {
    const Report report = World(OptionsFor(seed)).Run();
    if (report.violations.empty()) continue;
    *what = report.violations.front();
    return seed;
  }
  return 0;
}

class PlantedBug : public ::testing::TestWithParam<const char*> {
 protected:
  void TearDown() override { Plant(""); }
};

TEST_P(PlantedBug, IsFound) {
  std::string what;
  const uint64_t seed = FirstSeen(GetParam(), &what);
  ASSERT_NE(seed, 0u) << "the planted bug '" << GetParam() << "' was not seen in " << kLives
                      << " lives";
  std::printf("%s: seed %lu %s\n", GetParam(), seed, what.c_str());
}

INSTANTIATE_TEST_SUITE_P(Bugs, PlantedBug, ::testing::ValuesIn(kBugs),
                         [](const auto& info) { return std::string(info.param); });

// The copies differ from the product by the bugs alone.
TEST(NoPlantedBug, IsARightPool) {
  std::string what;
  EXPECT_EQ(FirstSeen("", &what), 0u) << what;
}

}  // namespace

void Plant(std::string_view name) { Present() = name; }
bool Planted(std::string_view name) { return Present() == name; }

}  // namespace lanyard::sim
