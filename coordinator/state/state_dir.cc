#include "coordinator/state/state_dir.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>

#include "base/file.h"

namespace lanyard::coordinator {
namespace {

constexpr char kEpochFile[] = "epoch";
constexpr size_t kMaxFileBytes = size_t{64} << 20;
constexpr uint64_t kMaxEpoch = uint64_t{1} << 62;

absl::Status Errno(std::string_view what, const std::string& path) {
  return Unavailable("cannot ", AbslView(what), " ", path, ": ", std::strerror(errno));
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
  absl::StatusOr<std::string> text = ReadSmallFile(path_ + "/" + name, kMaxFileBytes);
  return text.ok() ? std::optional(*std::move(text)) : std::nullopt;
}

absl::Status StateDirectory::Write(const std::string& name, std::string_view text) const {
  return WriteSmallFile(path_ + "/" + name, text);
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
