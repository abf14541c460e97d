#include "web/places.h"

#include <gtest/gtest.h>

namespace lanyard::web {
namespace {

Session* Numbered(uintptr_t number) { return reinterpret_cast<Session*>(number); }

TEST(GuestsTest, WhoHasTheMostMakesRoomFirst) {
  Guests guests;
  EXPECT_EQ(guests.OldestOfMost(), nullptr);
  EXPECT_EQ(guests.OldestOf("a"), nullptr);
  const Guests::Place first = guests.Add("a", Numbered(1));
  guests.Add("b", Numbered(2));
  EXPECT_EQ(guests.OldestOfMost(), Numbered(1));  // as many of each: the oldest of all
  guests.Add("b", Numbered(3));
  EXPECT_EQ(guests.OldestOfMost(), Numbered(2));
  EXPECT_EQ(guests.CountOf("b"), 2u);
  EXPECT_EQ(guests.OldestOf("a"), Numbered(1));
  guests.Remove(first);
  EXPECT_EQ(guests.CountOf("a"), 0u);
  EXPECT_EQ(guests.OldestOf("a"), nullptr);
  EXPECT_EQ(guests.OldestOfMost(), Numbered(2));
}

TEST(SharesTest, NobodyHasMoreThanHalf) {
  Shares shares(100);
  for (int i = 0; i < 50; ++i) ASSERT_EQ(shares.Enter("a"), Shares::Verdict::kEntered);
  EXPECT_EQ(shares.Enter("a"), Shares::Verdict::kShareIsFull);
  for (int i = 0; i < 49; ++i) ASSERT_EQ(shares.Enter("b"), Shares::Verdict::kEntered);
  EXPECT_EQ(shares.Enter("c"), Shares::Verdict::kEntered);
  EXPECT_EQ(shares.Enter("d"), Shares::Verdict::kAllIsFull);
  shares.Leave("a");
  EXPECT_EQ(shares.Enter("d"), Shares::Verdict::kEntered);
}

TEST(SharesTest, OfFewPlacesOneMayHaveAll) {
  Shares shares(3);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(shares.Enter("a"), Shares::Verdict::kEntered);
  EXPECT_EQ(shares.Enter("a"), Shares::Verdict::kAllIsFull);
  EXPECT_EQ(Shares(20).most_of_one(), 16u);
}

}  // namespace
}  // namespace lanyard::web
