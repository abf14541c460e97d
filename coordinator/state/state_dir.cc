#include "coordinator/state/state_dir.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace lanyard::coordinator {
namespace {

constexpr char kEpochFile[] = "epoch";
constexpr uint64_t kMaxEpoch = uint64_t{1} << 62;

absl::Status Errno(std::string_view what, const std::string& path) {
  return Unavailable("cannot ", AbslView(what), " ", path, ": ", std::strerror(errno));
}

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

}  // namespace

absl::StatusOr<StateDirectory> StateDirectory::Open(const std::string& path) {
  std::error_code ec;
  const bool made = std::filesystem::create_directories(path, ec);
  if (ec) return Unavailable("cannot make the state directory ", path, ": ", ec.message());
  if (made) ::chmod(path.c_str(), 0700);
  if (::access(path.c_str(), R_OK | W_OK | X_OK) != 0)
    return Errno("use the state directory", path);
  return StateDirectory(path);
}

std::optional<std::string> StateDirectory::Read(const std::string& name) const {
  std::ifstream in(path_ + "/" + name, std::ios::binary);
  if (!in) return std::nullopt;
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (in.bad()) return std::nullopt;
  return text;
}

absl::Status StateDirectory::Write(const std::string& name, std::string_view text) const {
  const std::string path = path_ + "/" + name;
  const std::string temporary = path + ".tmp";
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return Errno("write", temporary);
  const absl::Status written = WriteAll(fd, text, temporary);
  ::close(fd);
  if (!written.ok() || ::rename(temporary.c_str(), path.c_str()) != 0) {
    const absl::Status failed = written.ok() ? Errno("write", path) : written;
    ::unlink(temporary.c_str());
    return failed;
  }
  const int directory = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory >= 0) {
    ::fsync(directory);
    ::close(directory);
  }
  return absl::OkStatus();
}

absl::StatusOr<Epoch> StateDirectory::LastEpoch() const {
  std::error_code ec;
  if (!std::filesystem::exists(path_ + "/" + kEpochFile, ec)) return Epoch(0);
  const std::optional<std::string> text = Read(kEpochFile);
  uint64_t value = 0;
  const char* begin = text ? text->data() : nullptr;
  const char* end = text ? begin + text->size() : nullptr;
  if (text && !text->empty() && text->back() == '\n') --end;
  const auto [stopped, error] = std::from_chars(begin, end, value);
  if (!text || error != std::errc() || stopped != end || value > kMaxEpoch) {
    return absl::DataLossError(absl::StrCat(path_, "/", kEpochFile,
                                            " holds no epoch; write a number there that is ",
                                            "higher than any in the workers' logs"));
  }
  return Epoch(value);
}

absl::Status StateDirectory::SaveEpoch(Epoch epoch) const {
  return Write(kEpochFile, absl::StrCat(epoch.value, "\n"));
}

}  // namespace lanyard::coordinator
