#include "worker/card_watch.h"

#include <atomic>

#include "worker/testing_util.h"

namespace lanyard::worker {
namespace {

using testing::WaitFor;

TEST(CardWatch, LooksAtOnceNowAndThenAndWhenAsked) {
  auto looks = std::make_shared<std::atomic<int>>(0);
  {
    CardWatch often([looks] { ++*looks; }, 5 * kMillisecond);
    EXPECT_TRUE(WaitFor([&] { return *looks >= 5; }));
  }
  const int after = *looks;
  *looks = 0;
  CardWatch seldom([looks] { ++*looks; }, 3600 * kSecond);
  ASSERT_TRUE(WaitFor([&] { return *looks == 1; }));
  const uint64_t ticket = seldom.LookSoon();
  EXPECT_TRUE(WaitFor([&] { return seldom.Looked(ticket); }));
  EXPECT_GE(*looks, 2);
  EXPECT_FALSE(seldom.Looked(ticket + 1));
  EXPECT_GE(after, 5);
}

TEST(CardWatch, ADriverThatDoesNotAnswerKeepsNobody) {
  struct Hung {
    std::atomic<bool> on{true};
    std::atomic<bool> entered{false};
    std::atomic<bool> left{false};
  };
  const auto hung = std::make_shared<Hung>();
  const TimeNs begin = MonotonicNow();
  {
    CardWatch watch(
        [hung] {
          hung->entered = true;
          while (hung->on) std::this_thread::sleep_for(std::chrono::milliseconds(1));
          hung->left = true;
        },
        kMillisecond);
    ASSERT_TRUE(WaitFor([&] { return hung->entered.load(); }));
    const uint64_t ticket = watch.LookSoon();
    EXPECT_FALSE(watch.Looked(ticket));
    EXPECT_TRUE(WaitFor([&] { return watch.busy_for(MonotonicNow()) > 20 * kMillisecond; }));
  }
  EXPECT_FALSE(hung->left);
  EXPECT_LT(MonotonicNow() - begin, 3 * kSecond);
  hung->on = false;
  EXPECT_TRUE(WaitFor([&] { return hung->left.load(); }));
}

}  // namespace
}  // namespace lanyard::worker
