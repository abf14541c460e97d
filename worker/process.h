// What the worker asks of its process and machine. Linux; calls to the operating system stay here.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace lanyard::worker {

// Keeps the heap small: few arenas, large blocks by mmap and given back at once. Before the first
// thread starts.
void TuneMalloc();
// Gives free heap pages back to the system.
void TrimMalloc();

uint64_t ResidentBytes();      // VmRSS
uint64_t PeakResidentBytes();  // VmHWM (ru_maxrss would inherit the parent's peak)
uint64_t OwnBytes();           // what this process takes before any layer, with a margin
uint64_t AvailableBytes();     // MemAvailable of the machine
uint64_t FreeDiskBytes(
    const std::string& folder);  // that this user may fill; 0 when the folder is not there
uint32_t FileMode(const std::string& path);  // permission bits; 0 when it is not there

int ProcessorCount();  // that this process may use

// A place for the kernels that the NVIDIA driver compiles, below `state_dir`, where it would find
// none by itself (a service without HOME): else every start compiles them anew. Before the driver
// is opened, and before the first thread starts.
void GiveDriverACache(const std::string& state_dir);

// Held until destroyed or the process ends. AlreadyExists naming the holder when another process
// has it.
class StateLock {
 public:
  static absl::StatusOr<StateLock> Take(const std::string& state_dir);
  StateLock(StateLock&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  StateLock& operator=(StateLock&& other) noexcept;
  ~StateLock();

 private:
  explicit StateLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace lanyard::worker
