// Small files that the coordinator keeps between its lives, the last epoch among them; what has
// rows lies in the Store beside them (store.h).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/ids.h"
#include "base/status.h"

namespace lanyard::coordinator {

// Not thread-safe.
class StateDirectory {
 public:
  // Makes the directory (mode 0700). An error such as PermissionDenied names the path and the
  // errno.
  static absl::StatusOr<StateDirectory> Open(const std::string& path);

  // nullopt when there is no such file, or when it cannot be read.
  std::optional<std::string> Read(const std::string& name) const;
  // Writes all of the text or nothing, also through a loss of power.
  absl::Status Write(const std::string& name, std::string_view text) const;

  // The highest epoch that a coordinator ever used with this directory. A file that makes no sense
  // gives an error: if we went on from 1, workers would refuse everything.
  absl::StatusOr<Epoch> LastEpoch() const;
  absl::Status SaveEpoch(Epoch epoch) const;

  const std::string& path() const { return path_; }

 private:
  explicit StateDirectory(std::string path) : path_(std::move(path)) {}

  std::string path_;
};

}  // namespace lanyard::coordinator
