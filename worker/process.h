// What the worker asks of its process and machine. This is for Linux; calls to the operating system
// stay in this file.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace lanyard::worker {

// Keeps the heap small: few arenas, and large blocks by mmap that are given back at once. To be
// called before the first thread starts.
void TuneMalloc();
// Gives free heap pages back to the system.
void TrimMalloc();

uint64_t ResidentBytes();      // VmRSS
uint64_t PeakResidentBytes();  // VmHWM (ru_maxrss would inherit the parent's peak)
uint64_t OwnBytes();           // what this process takes before any layer, with a margin
uint64_t AvailableBytes();     // MemAvailable of the machine
uint64_t FreeDiskBytes(
    const std::string& folder);  // bytes that this user may fill; 0 when the folder does not exist
uint32_t FileMode(const std::string& path);  // permission bits; 0 when the file does not exist

int ProcessorCount();  // processors that this process may use

// Gives the NVIDIA driver a place below `state_dir` for the kernels that it compiles, where it
// would find none by itself (in a service without HOME); otherwise every start compiles them anew.
// To be called before the driver is opened and before the first thread starts.
void GiveDriverACache(const std::string& state_dir);

// The lock is held until this is destroyed or the process ends. AlreadyExists names the holder when
// another process has it.
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
