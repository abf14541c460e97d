#include "apps/service_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <vector>

namespace lanyard::apps {
namespace {

using ::testing::Contains;
using ::testing::Not;

class ServiceLoop : public ::testing::Test {
 protected:
  void SetUp() override {
    fd_ = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    path_.copy(at.sun_path, sizeof(at.sun_path) - 1);
    ASSERT_EQ(::bind(fd_, reinterpret_cast<const sockaddr*>(&at), sizeof(at)), 0);
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGUSR1);
    sigset_t old;
    pthread_sigmask(SIG_BLOCK, &signals_, &old);
    end_ = MonotonicNow() + 900 * kMillisecond;
  }
  void TearDown() override {
    ::close(fd_);
    std::filesystem::remove(path_);
  }
  std::vector<std::string> Heard() {
    std::vector<std::string> out;
    char buffer[512];
    for (ssize_t n; (n = ::recv(fd_, buffer, sizeof(buffer), 0)) >= 0;)
      out.emplace_back(buffer, static_cast<size_t>(n));
    return out;
  }
  ServiceWatch Watch(std::function<TimeNs()> last_turn) {
    return {[] { return "serving"; }, std::move(last_turn),
            [this] { return MonotonicNow() > end_; }};
  }

  const std::string path_ = ::testing::TempDir() + "loop_" + std::to_string(getpid());
  sigset_t signals_;
  int fd_ = -1;
  TimeNs end_ = 0;
};

TEST_F(ServiceLoop, ALoopThatTurnsGivesSignsOfLife) {
  ServiceNotifier notifier(path_, kSecond);
  EXPECT_EQ(WaitForEnd(signals_, Watch(MonotonicNow), &notifier), 0);
  const auto heard = Heard();
  ASSERT_FALSE(heard.empty());
  EXPECT_EQ(heard[0], "READY=1\nSTATUS=serving");
  EXPECT_GE(std::count(heard.begin(), heard.end(), "WATCHDOG=1"), 2);
}

TEST_F(ServiceLoop, AStuckLoopGivesNoneThoughTheProcessLives) {
  ServiceNotifier notifier(path_, kSecond);
  WaitForEnd(signals_, Watch([] { return TimeNs{5}; }), &notifier);
  const auto heard = Heard();
  EXPECT_LE(std::count(heard.begin(), heard.end(), "WATCHDOG=1"), 1);  // its first turn counts
}

TEST_F(ServiceLoop, WithoutAWatchdogNoneAreSent) {
  ServiceNotifier notifier(path_, 0);
  WaitForEnd(signals_, Watch(MonotonicNow), &notifier);
  EXPECT_THAT(Heard(), Not(Contains("WATCHDOG=1")));
}

TEST_F(ServiceLoop, ASignalEndsIt) {
  ServiceNotifier notifier("", 0);
  pthread_kill(pthread_self(), SIGUSR1);
  EXPECT_EQ(WaitForEnd(signals_, Watch(MonotonicNow), &notifier), SIGUSR1);
}

TEST_F(ServiceLoop, DrainingEndsWhenIdleOrInTimeOrAtASecondSignal) {
  ServiceNotifier notifier("", 0);
  const ServiceWatch watch = Watch(MonotonicNow);
  int looks = 0;
  EXPECT_TRUE(Drain(
      signals_, watch, kSecond, [&] { return ++looks == 3; }, &notifier));
  EXPECT_FALSE(Drain(
      signals_, watch, 150 * kMillisecond, [] { return false; }, &notifier));
  pthread_kill(pthread_self(), SIGUSR1);
  const TimeNs before = MonotonicNow();
  EXPECT_FALSE(Drain(
      signals_, watch, 60 * kSecond, [] { return false; }, &notifier));
  EXPECT_LT(MonotonicNow() - before, 10 * kSecond);
}

}  // namespace
}  // namespace lanyard::apps
