#include "web/large_bodies.h"

#include <gtest/gtest.h>

#include <vector>

namespace lanyard::web {
namespace {

class LargeBodiesTest : public ::testing::Test {
 protected:
  uint64_t Ask(const std::string& caller) {
    return gate_.Ask(caller, [this, name = caller] { entered_.push_back(name); });
  }
  using Names = std::vector<std::string>;
  LargeBodies gate_{2, 3};
  Names entered_;
};

TEST_F(LargeBodiesTest, FewAtATimeInTheirOrder) {
  const uint64_t a = Ask("a"), b = Ask("b"), c = Ask("c");
  Ask("d");
  EXPECT_EQ(entered_, (Names{"a", "b"}));
  EXPECT_EQ(gate_.waiting(), 2u);
  gate_.Leave(c);  // gives up waiting
  gate_.Leave(c);
  gate_.Leave(b);
  EXPECT_EQ(entered_, (Names{"a", "b", "d"}));
  gate_.Leave(a);
  EXPECT_EQ(gate_.waiting(), 0u);
}

TEST_F(LargeBodiesTest, OneCallerHasOnePlaceAndKeepsNobodyElseOut) {
  const uint64_t first = Ask("a");
  Ask("a");
  Ask("a");
  EXPECT_EQ(entered_, (Names{"a"}));
  Ask("b");
  EXPECT_EQ(entered_, (Names{"a", "b"}));
  gate_.Leave(first);
  EXPECT_EQ(entered_, (Names{"a", "b", "a"}));
}

TEST_F(LargeBodiesTest, AFullQueueRefuses) {
  Ask("a");
  for (int i = 0; i < 3; ++i) EXPECT_NE(Ask("a"), 0u);
  EXPECT_EQ(Ask("a"), 0u);
  EXPECT_EQ(gate_.waiting(), 3u);
}

}  // namespace
}  // namespace lanyard::web
