#include "sharding/machines_toml.h"

#include <gtest/gtest.h>

namespace lanyard::sharding {
namespace {

TEST(MachinesToml, ReadsEverything) {
  const auto file = ParseMachinesToml(R"(
[[machine]]
name = "pc1"
memory = "8GiB"
speed = 1.5
threads = 8
base = "60MiB"
[[machine.device]]
kind = "cuda"
name = "cuda:0"
memory = "12GiB"
speed = 8
[[machine.device]]
kind = "cuda"
name = "cuda:1"
memory = "8GiB"
fast_attention = true

[[machine]]
name = "pc2"
memory = 1000000

[[link]]
a = "pc1"
b = "pc2"
rtt_us = 150
bandwidth = "2.5Gbit"
)");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->machines.size(), 2u);
  EXPECT_EQ(file->machines[0].memory_bytes, 8ull << 30);
  EXPECT_EQ(file->machines[0].base_bytes, 60ull << 20);
  EXPECT_EQ(file->machines[0].threads, 8u);
  ASSERT_EQ(file->machines[0].devices.size(), 2u);
  EXPECT_EQ(file->machines[0].devices[0].speed, 8);
  EXPECT_FALSE(file->machines[0].devices[0].fast_attention);
  EXPECT_TRUE(file->machines[0].devices[1].fast_attention);
  EXPECT_EQ(file->machines[1].memory_bytes, 1000000u);
  EXPECT_EQ(file->machines[1].speed, 1);
  ASSERT_EQ(file->links.size(), 1u);
  EXPECT_EQ(file->links[0].bandwidth_bps, 2.5e9);
  EXPECT_EQ(file->links[0].rtt_us, 150);
}

TEST(MachinesToml, RefusesWithTheLineAndASuggestion) {
  const struct {
    const char* text;
    const char* said;
  } cases[] = {
      {"", "no [[machine]]"},
      {"[[machine]]\nname='a'\nmemory='1GiB'\n[[link]]\na='a'\nb='c'\n",
       "line 6: [[link]] names c, and there is no such [[machine]]; there is a"},
      {"[[machine]]\nname='a'\nmemroy='1GiB'\n",
       "line 3: [[machine]] has no key \"memroy\"; did you mean \"memory\"?"},
      {"[[machines]]\nname='a'\n", "did you mean \"machine\"?"},
      {"[[machine]]\nname='a'\n", "needs memory"},
      {"[[machine]]\nmemory='1GiB'\n", "needs name"},
      {"[[machine]]\nname='a'\nmemory='lots'\n", "line 3: 'lots' is not a size"},
      {"[[machine]]\nname='a'\nmemory='1GiB'\nspeed=-1\n", "line 4: speed must be"},
      {"[[machine]]\nname='a'\nmemory='1GiB'\nspeed=nan\n", "line 4: speed must be"},
      {"[[machine]]\nname='a'\nmemory='1GiB'\nspeed='fast'\n", "line 4: speed must be"},
      {"[machine]\nname='a'\n", "double brackets"},
      {"[[machine]]\nname='a'\nmemory='1GiB'\n[[machine.device]]\nkind='tpu'\nname='x'\nmemory=1\n",
       "tpu"},
      {"[[machine]]\nname='a'\nmemory='1GiB'\n[[machine.device]]\nkind='cuda'\nname='x'\nmemory=1\n"
       "fast_attention='yes'\n",
       "line 8: fast_attention must be true or false"},
      {"[[machine]]\nname='a'\nmemory='1GiB'\n[[link]]\na='a'\nb='b'\nbandwidth='1GB'\n",
       "bandwidth"},
      {"[[machine]\n", "line 1"},
  };
  for (const auto& c : cases) {
    const auto file = ParseMachinesToml(c.text);
    ASSERT_FALSE(file.ok()) << c.text;
    EXPECT_NE(file.status().message().find(c.said), absl::string_view::npos)
        << c.text << " -> " << file.status();
  }
}

}  // namespace
}  // namespace lanyard::sharding
