#include "base/output.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace lanyard {
namespace {

// Of the first write that failed and was noticed.
int& FirstError() {
  static int error = 0;
  return error;
}

}  // namespace

void HoldStandardStreams() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
    // The lowest free number is this one. Reading fails where it is for writing only, and the other
    // way about.
    (void)::open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
  }
}

absl::Status FlushOutput() {
  errno = 0;
  const bool written = std::fflush(stdout) == 0;
  if (!written && FirstError() == 0) FirstError() = errno;
  if (written && std::ferror(stdout) == 0) return absl::OkStatus();
  const int error = FirstError();
  return Internal("cannot write to standard output",
                  error == 0 ? "" : absl::StrCat(": ", std::strerror(error)));
}

absl::Status WriteOutput(std::string_view text) {
  errno = 0;
  const bool taken = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if (!taken && FirstError() == 0) FirstError() = errno;
  return FlushOutput();
}

int EndOfOutput(int code) {
  const absl::Status written = FlushOutput();
  if (written.ok() || code != kOk) return code;
  std::fprintf(stderr, "error: %s\n", Str(written.message()).c_str());
  return kFailed;
}

}  // namespace lanyard
