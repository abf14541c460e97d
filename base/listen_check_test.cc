#include "base/listen_check.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace lanyard {
namespace {

// Listens on a port of loopback that was free.
class Listener {
 public:
  Listener() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(::bind(fd_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(fd_, 1), 0);
    EXPECT_EQ(::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
  }
  ~Listener() { ::close(fd_); }
  uint16_t port() const { return port_; }

 private:
  const int fd_;
  uint16_t port_ = 0;
};

TEST(ListenCheckTest, ATakenPortNamesItsOwner) {
  const Listener listener;
  const std::string address = absl::StrCat("127.0.0.1:", listener.port());
  const absl::Status taken = CheckCanListen(address, "choose another");
  EXPECT_EQ(taken.code(), absl::StatusCode::kFailedPrecondition);
  const std::string words = Str(taken.message());
  EXPECT_NE(words.find(address), std::string::npos) << words;
  EXPECT_NE(words.find(absl::StrCat("base_test (process ", ::getpid(), ")")), std::string::npos)
      << words;
  EXPECT_NE(words.find("; choose another"), std::string::npos) << words;
}

TEST(ListenCheckTest, FreeOnceItIsLetGo) {
  uint16_t port = 0;
  {
    const Listener listener;
    port = listener.port();
  }
  EXPECT_EQ(CheckCanListen(absl::StrCat("127.0.0.1:", port), ""), absl::OkStatus());
  EXPECT_EQ(CheckCanListen("127.0.0.1:0", ""), absl::OkStatus());
  EXPECT_EQ(WhoListens(port), std::nullopt);
}

TEST(ListenCheckTest, OtherErrorsAreTheSystems) {
  const absl::Status far = CheckCanListen("192.0.2.1:1234", "x");  // a documentation address
  EXPECT_NE(far.message().find("annot assign"), absl::string_view::npos) << far;
  EXPECT_EQ(CheckCanListen("nonsense", ""), absl::OkStatus());  // the server's to refuse
}

TEST(ListenCheckTest, OwnersInWords) {
  EXPECT_EQ(DescribeOwner(std::nullopt), "another program");
  EXPECT_EQ(DescribeOwner(PortOwner{0, "", "root"}), "a program of the user root");
  EXPECT_EQ(DescribeOwner(PortOwner{7, "nginx", "root"}), "nginx (process 7)");
}

}  // namespace
}  // namespace lanyard
