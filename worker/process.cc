#include "worker/process.h"

#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/environment.h"

namespace lanyard::worker {
namespace {

// What gRPC and the heap come to take beside a stage, over what is resident at the start: measured
// with frames of 512 rows going through (docs/benchmarks.md).
constexpr uint64_t kOwnMarginBytes = uint64_t{8} << 20;

// "Key:   123 kB" of a /proc file, in bytes; 0 when absent.
uint64_t ProcField(const char* path, const char* key) {
  std::FILE* file = std::fopen(path, "re");
  if (file == nullptr) return 0;
  char line[256];
  unsigned long long kib = 0;
  const size_t n = std::strlen(key);
  while (std::fgets(line, sizeof(line), file) != nullptr) {
    if (std::strncmp(line, key, n) == 0 && std::sscanf(line + n, ": %llu", &kib) == 1) break;
  }
  std::fclose(file);
  return uint64_t{kib} * 1024;
}

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define LANYARD_OTHER_MALLOC 1
#endif
#endif
#ifdef LANYARD_OTHER_MALLOC
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

}  // namespace

void TuneMalloc() {
  mallopt(M_ARENA_MAX, 2);
  mallopt(M_MMAP_THRESHOLD, 1 << 20);
  mallopt(M_TRIM_THRESHOLD, 1 << 20);
  mallopt(M_TOP_PAD, 64 << 10);
}

void TrimMalloc() {
  // Under a sanitizer another allocator is used, and waking glibc's beside it breaks when this
  // thread ends.
  if constexpr (!kSanitized) malloc_trim(0);
}

uint64_t ResidentBytes() { return ProcField("/proc/self/status", "VmRSS"); }
uint64_t PeakResidentBytes() { return ProcField("/proc/self/status", "VmHWM"); }
uint64_t OwnBytes() { return PeakResidentBytes() + kOwnMarginBytes; }

uint64_t AvailableBytes() { return ProcField("/proc/meminfo", "MemAvailable"); }

uint64_t FreeDiskBytes(const std::string& folder) {
  struct statvfs fs {};
  return statvfs(folder.c_str(), &fs) == 0 ? uint64_t{fs.f_bavail} * fs.f_frsize : 0;
}

uint32_t FileMode(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 ? info.st_mode & 07777U : 0;
}

int ProcessorCount() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

void GiveDriverACache(const std::string& state_dir) {
  if (!EnvironmentOr("CUDA_CACHE_PATH", "").empty() || !EnvironmentOr("HOME", "").empty()) return;
  setenv("CUDA_CACHE_PATH", (state_dir + "/cuda-cache").c_str(), 1);
}

absl::StatusOr<StateLock> StateLock::Take(const std::string& state_dir) {
  const std::string path = state_dir + "/lock";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return FailedPrecondition("cannot open ", path, ": ", std::strerror(errno));
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    char holder[32] = {};
    const ssize_t n = pread(fd, holder, sizeof(holder) - 1, 0);
    close(fd);
    return absl::AlreadyExistsError(absl::StrCat("the state folder ", state_dir,
                                                 " is in use by process ", n > 0 ? holder : "?",
                                                 "; give each worker its own --state"));
  }
  const std::string pid = std::to_string(getpid());
  if (ftruncate(fd, 0) != 0 || pwrite(fd, pid.data(), pid.size(), 0) < 0) {
    // The lock is what counts; the number is for people, and a full disk must not stop a worker
    // here.
  }
  return StateLock(fd);
}

StateLock& StateLock::operator=(StateLock&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) close(fd_);
    fd_ = other.fd_;
    other.fd_ = -1;
  }
  return *this;
}

StateLock::~StateLock() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace lanyard::worker
