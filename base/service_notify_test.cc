#include "base/service_notify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <vector>

namespace lanyard {
namespace {

using ::testing::ElementsAre;

// What systemd's end of the socket is: bound, read without waiting.
class Supervisor {
 public:
  explicit Supervisor(const std::string& name) : name_(name) {
    fd_ = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    name.copy(at.sun_path, sizeof(at.sun_path) - 1);
    if (name[0] == '@') at.sun_path[0] = '\0';
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
    EXPECT_EQ(::bind(fd_, reinterpret_cast<const sockaddr*>(&at), size), 0);
  }
  ~Supervisor() {
    ::close(fd_);
    if (name_[0] != '@') std::filesystem::remove(name_);
  }
  std::vector<std::string> Heard() {
    std::vector<std::string> out;
    char buffer[4096];
    for (ssize_t n; (n = ::recv(fd_, buffer, sizeof(buffer), 0)) >= 0;)
      out.emplace_back(buffer, static_cast<size_t>(n));
    return out;
  }

 private:
  std::string name_;
  int fd_ = -1;
};

std::string SocketPath() { return ::testing::TempDir() + "notify_" + std::to_string(getpid()); }

TEST(ServiceNotify, SaysReadyOnceThenOnlyWhatChanges) {
  Supervisor supervisor(SocketPath());
  ServiceNotifier notifier(SocketPath(), 0);
  notifier.Ready("waiting\nfor workers");
  notifier.Ready("waiting for workers");
  notifier.Status("ready");
  notifier.Status("ready");
  notifier.Alive();
  notifier.Stopping("stopping");
  EXPECT_THAT(supervisor.Heard(), ElementsAre("READY=1\nSTATUS=waiting for workers", "STATUS=ready",
                                              "WATCHDOG=1", "STOPPING=1\nSTATUS=stopping"));
}

TEST(ServiceNotify, ReachesAnAbstractSocket) {
  const std::string name = "@lanyard_notify_" + std::to_string(getpid());
  Supervisor supervisor(name);
  ServiceNotifier(name, 0).Alive();
  EXPECT_THAT(supervisor.Heard(), ElementsAre("WATCHDOG=1"));
}

TEST(ServiceNotify, AnAbsentOrImpossibleSocketIsNoError) {
  ServiceNotifier("", kSecond).Alive();
  ServiceNotifier("/nonexistent/socket", 0).Alive();
  ServiceNotifier(std::string(300, 'x'), 0).Alive();
  EXPECT_EQ(ServiceNotifier("", kSecond).watchdog(), 0);
}

TEST(ServiceNotify, TheWatchdogIsOursOnlyWhenItNamesThisProcess) {
  ::setenv("NOTIFY_SOCKET", "/run/x", 1);
  ::setenv("WATCHDOG_USEC", "30000000", 1);
  ::unsetenv("WATCHDOG_PID");
  EXPECT_EQ(ServiceNotifier::FromEnvironment().watchdog(), 30 * kSecond);
  ::setenv("WATCHDOG_PID", std::to_string(getpid()).c_str(), 1);
  EXPECT_EQ(ServiceNotifier::FromEnvironment().watchdog(), 30 * kSecond);
  ::setenv("WATCHDOG_PID", "1", 1);
  EXPECT_EQ(ServiceNotifier::FromEnvironment().watchdog(), 0);
  ::setenv("WATCHDOG_USEC", "soon", 1);
  ::unsetenv("WATCHDOG_PID");
  EXPECT_EQ(ServiceNotifier::FromEnvironment().watchdog(), 0);
  for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC"}) ::unsetenv(name);
}

}  // namespace
}  // namespace lanyard
