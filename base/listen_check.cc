#include "base/listen_check.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pwd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace lanyard {
namespace {

namespace fs = std::filesystem;

struct Listener {
  std::string socket;  // "socket:[INODE]", as the links in /proc/PID/fd read
  uid_t user = 0;
};

// proc_net_tcp(5): sl, local_address, rem_address, st, queues, timer, retrnsmt, uid, timeout,
// inode.
std::optional<Listener> FindListener(const char* table, uint16_t port) {
  std::ifstream in(table);
  const std::string want = absl::StrFormat(":%04X", static_cast<unsigned>(port));
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string sl, local, remote, state, queues, timer, retransmits, timeout, inode;
    uid_t user = 0;
    words >> sl >> local >> remote >> state >> queues >> timer >> retransmits >> user >> timeout >>
        inode;
    if (words && state == "0A" && local.ends_with(want))
      return Listener{"socket:[" + inode + "]", user};
  }
  return std::nullopt;
}

bool HoldsSocket(const fs::path& process, const std::string& socket) {
  std::error_code ec;
  for (const auto& fd : fs::directory_iterator(process / "fd", ec)) {
    std::error_code gone;
    if (fs::read_symlink(fd.path(), gone) == socket) return true;
  }
  return false;
}

std::string UserName(uid_t user) {
  const passwd* const entry = ::getpwuid(user);
  return entry != nullptr ? entry->pw_name : std::to_string(user);
}

}  // namespace

std::optional<PortOwner> WhoListens(uint16_t port) {
  std::optional<Listener> listener = FindListener("/proc/net/tcp", port);
  if (!listener.has_value()) listener = FindListener("/proc/net/tcp6", port);
  if (!listener.has_value()) return std::nullopt;
  PortOwner out;
  out.user = UserName(listener->user);
  std::error_code ec;
  for (const auto& process : fs::directory_iterator("/proc", ec)) {
    const std::string name = process.path().filename().string();
    pid_t pid = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (error != std::errc() || end != name.data() + name.size()) continue;
    if (!HoldsSocket(process.path(), listener->socket)) continue;
    out.pid = pid;
    out.program = fs::read_symlink(process.path() / "exe", ec).filename().string();
    break;
  }
  return out;
}

std::string DescribeOwner(const std::optional<PortOwner>& owner) {
  if (!owner.has_value()) return "another program";
  if (owner->pid == 0) return "a program of the user " + owner->user;
  return absl::StrCat(owner->program, " (process ", owner->pid, ")");
}

absl::Status CheckCanListen(const std::string& address, const std::string& instead) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return absl::OkStatus();
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  const std::string port = address.substr(colon + 1);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (::getaddrinfo(host.empty() ? nullptr : host.c_str(), port.c_str(), &hints, &found) != 0)
    return absl::OkStatus();
  const int fd = ::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  const int off = 0;
  int error = fd < 0 ? errno : 0;
  if (fd >= 0) {
    // As the servers do: a port whose last connections linger is free.
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (found->ai_family == AF_INET6)
      ::setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    if (::bind(fd, found->ai_addr, found->ai_addrlen) != 0 || ::listen(fd, 1) != 0) error = errno;
    ::close(fd);
  }
  ::freeaddrinfo(found);
  if (error == 0) return absl::OkStatus();
  std::string who;
  uint16_t number = 0;
  if (error == EADDRINUSE &&
      std::from_chars(port.data(), port.data() + port.size(), number).ec == std::errc()) {
    who = absl::StrCat(" by ", DescribeOwner(WhoListens(number)));
  }
  return FailedPrecondition("cannot listen on ", address, ": ", std::strerror(error), who, "; ",
                            instead);
}

}  // namespace lanyard
