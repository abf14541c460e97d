#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>

namespace lanyard {
namespace {

absl::Status Errno(std::string_view what, const std::string& path) {
  return FileError(what, path, errno);
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

// "a folder", of what is neither a file nor absent.
const char* KindOf(mode_t mode) {
  return S_ISDIR(mode)                    ? "a folder"
         : S_ISFIFO(mode)                 ? "a pipe"
         : S_ISCHR(mode) || S_ISBLK(mode) ? "a device"
         : S_ISSOCK(mode)                 ? "a socket"
                                          : "something else";
}

// A rename would put a file in its place. A link is followed as far as the question goes; it is the
// link itself that is replaced.
absl::Status CheckReplaceable(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0 || S_ISREG(info.st_mode)) return absl::OkStatus();
  return FailedPrecondition(path, " is ", KindOf(info.st_mode), " and no file; name another");
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
    if (n < 0 && errno == EISDIR) return FailedPrecondition(path, " is a folder, and not a file");
    if (n < 0) return Errno("read", path);
    if (n == 0) return out;
    out.append(buffer, static_cast<size_t>(n));
    if (out.size() > max_bytes)
      return ResourceExhausted(path, " has more than ", max_bytes, " bytes");
  }
}

}  // namespace

absl::Status FileError(std::string_view what, const std::string& path, int error) {
  const std::string text =
      absl::StrCat("cannot ", AbslView(what), " ", path, ": ", std::strerror(error));
  switch (error) {
    case ENOENT:
      return NotFound(text);
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(text);
    case EISDIR:
    case ENOTDIR:
    case ELOOP:
    case ENAMETOOLONG:
      return FailedPrecondition(text);
    default:
      return Unavailable(text);
  }
}

absl::Status MakePrivateDir(const std::string& path) {
  for (size_t at = path.find('/', 1);; at = path.find('/', at + 1)) {
    const std::string prefix = path.substr(0, at);
    if (!prefix.empty() && mkdir(prefix.c_str(), 0700) != 0 && errno != EEXIST) {
      return FailedPrecondition("cannot make the folder ", prefix, ": ", std::strerror(errno),
                                "; choose another");
    }
    if (at == std::string::npos) break;
  }
  struct stat info {};
  if (stat(path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    return FailedPrecondition(path, " is not a folder; choose another");
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
    return FailedPrecondition(path, " is ", KindOf(info.st_mode), ", and not a file");
  }
  return ReadAll(fd.get(), path, max_bytes);
}

absl::StatusOr<std::string> ReadStandardInput() {
  return ReadAll(STDIN_FILENO, "standard input", std::numeric_limits<size_t>::max());
}

absl::StatusOr<std::string> ReadSmallInput(const std::string& path, size_t max_bytes) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return OpenError(path);
  return ReadAll(fd.get(), path, max_bytes);
}

absl::Status WriteSmallFile(const std::string& path, std::string_view text, Readers readers) {
  RETURN_IF_ERROR(CheckReplaceable(path));
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
