#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace lanyard {
namespace {

absl::Status Errno(std::string_view what, const std::string& path) {
  return Unavailable("cannot ", AbslView(what), " ", path, ": ", std::strerror(errno));
}

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

absl::Status WriteAll(int fd, std::string_view text, const std::string& path) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return Errno("write", path);
    text.remove_prefix(static_cast<size_t>(n));
  }
  if (::fsync(fd) != 0) return Errno("write", path);
  return absl::OkStatus();
}

absl::Status OpenError(const std::string& path) {
  if (errno == ENOENT) return NotFound("there is no ", path);
  return Errno("read", path);
}

absl::StatusOr<std::string> ReadAll(int fd, const std::string& path, size_t max_bytes) {
  std::string out;
  char buffer[4096];
  while (true) {
    const ssize_t n = ::read(fd, buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Errno("read", path);
    if (n == 0) return out;
    out.append(buffer, static_cast<size_t>(n));
    if (out.size() > max_bytes)
      return ResourceExhausted(path, " has more than ", max_bytes, " bytes");
  }
}

}  // namespace

absl::Status MakePrivateDir(const std::string& path) {
  for (size_t at = path.find('/', 1);; at = path.find('/', at + 1)) {
    const std::string prefix = path.substr(0, at);
    if (!prefix.empty() && mkdir(prefix.c_str(), 0700) != 0 && errno != EEXIST) {
      return FailedPrecondition("cannot make the folder ", prefix, ": ", std::strerror(errno),
                                "; choose another with --state");
    }
    if (at == std::string::npos) break;
  }
  struct stat info {};
  if (stat(path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    return FailedPrecondition(path, " is not a folder; choose another with --state");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes) {
  // Without O_NONBLOCK, to open a pipe waits for its writer.
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd.get() < 0) return OpenError(path);
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return Errno("read", path);
  if (!S_ISREG(info.st_mode)) {
    return FailedPrecondition("cannot read ", path, ": it is ",
                              S_ISDIR(info.st_mode) ? "a folder" : "a pipe, a device or a socket",
                              "; a file must stand there");
  }
  return ReadAll(fd.get(), path, max_bytes);
}

absl::StatusOr<std::string> ReadSmallInput(const std::string& path, size_t max_bytes) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return OpenError(path);
  return ReadAll(fd.get(), path, max_bytes);
}

absl::Status WriteSmallFile(const std::string& path, std::string_view text, Readers readers) {
  const std::string temporary = path + ".tmp";
  absl::Status written;
  {
    // It must not go through a link, nor into a file that another user prepared.
    ::unlink(temporary.c_str());
    const Fd fd(
        ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (fd.get() < 0) return Errno("write", temporary);
    written = WriteAll(fd.get(), text, temporary);
    // Whatever the process's umask is.
    if (written.ok() && readers == Readers::kEverybody && ::fchmod(fd.get(), 0644) != 0)
      written = Errno("open to all readers", temporary);
  }
  if (written.ok() && ::rename(temporary.c_str(), path.c_str()) != 0)
    written = Errno("write", path);
  if (!written.ok()) {
    ::unlink(temporary.c_str());
    return written;
  }
  const size_t slash = path.rfind('/');
  const Fd folder(::open(slash == std::string::npos ? "." : path.substr(0, slash).c_str(),
                         O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() >= 0) ::fsync(folder.get());
  return absl::OkStatus();
}

}  // namespace lanyard
