// The CUDA driver API as Lanyard uses it: libcuda.so.1 is opened by dlopen, every call gives a
// Status, and every handle has an owner.
//
// A machine without a driver or a card is no error: Driver::Open says NotFound, and the worker goes
// on with its CPU. Errors: ResourceExhausted = the card's memory is full; Unavailable = the device
// is lost (a kernel faulted, the card fell off the bus, ECC, the driver died): sticky, every later
// call on that Context answers the same without asking the driver; NotFound = no driver, no card,
// no such kernel; Internal = our misuse. The text names the call and the CUresult. Threads: a
// Context and a Module may be used from any thread; a Stream, an Event, a Graph by one at a time.
// Ownership: what is made of a Context keeps it alive. Destructors wait for nothing but their own
// free (a driver's free of memory waits for the work on it). Source of the ABI: CUDA driver API
// reference, cuda.h of 11.4 to 13.0 (abi.h; checked by tests/fake_cuda/abi_test.cc).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "engine/ops/cuda/launcher.h"

namespace lanyard::cuda {

struct Api;        // abi.h: the driver's functions
struct AbiHandle;  // what CUstream, CUevent, ... point at; it is never defined

// An address in a card's memory; 0 means none.
using DeviceAddress = uint64_t;

struct DeviceInfo {
  int ordinal = 0;
  std::string name;    // "NVIDIA GeForce RTX 3060"
  std::string pci_id;  // "0000:01:00.0", lower case, as NVML and lspci spell it
  std::string uuid;    // names this very card, 32 hex digits; "" = not told
  int cc_major = 0;    // compute capability
  int cc_minor = 0;
  uint64_t total_bytes = 0;
  int sm_count = 0;
  int clock_khz = 0;  // 0 = not told
  int memory_clock_khz = 0;
  int memory_bus_bits = 0;
  int l2_bytes = 0;
  int shared_per_block_bytes = 0;  // the most that a block may opt into
  int shared_per_sm_bytes = 0;
  int registers_per_sm = 0;
  int threads_per_sm = 0;
  int copy_engines = 0;
  bool integrated = false;  // it shares the machine's memory and has no VRAM of its own

  int cc() const { return cc_major * 10 + cc_minor; }  // 8.6 -> 86, as PTX images are named
};

struct CardMemory {
  uint64_t free_bytes = 0;
  uint64_t total_bytes = 0;
};

class Driver {
 public:
  // Opens `path`, or the library that LANYARD_CUDA_LIBRARY names, or libcuda.so.1. NotFound "no
  // NVIDIA driver" where the library is missing, lacks a function that we need (which is named), or
  // sees no card.
  static absl::StatusOr<std::shared_ptr<const Driver>> Open(const std::string& path = "");
  ~Driver();

  int version() const { return version_; }  // 12040 = CUDA 12.4
  const std::vector<DeviceInfo>& devices() const { return devices_; }
  // The newest PTX ISA that this driver's JIT accepts, times ten: 75 = PTX ISA 7.5. It follows from
  // `version`.
  int ptx_isa() const;
  const Api& api() const { return *api_; }

 private:
  Driver();
  absl::Status Load(const std::string& path);
  absl::Status ListDevices();

  std::unique_ptr<Api> api_;
  void* library_ = nullptr;
  int version_ = 0;
  std::vector<DeviceInfo> devices_;
};

struct ContextOptions {
  // Waiting threads spin (a few us faster) instead of sleeping (which leaves the processor to the
  // desk).
  bool spin = false;
};

// One card: its primary context, retained. Create one for each card and share it.
class Context {
 public:
  static absl::StatusOr<std::shared_ptr<Context>> Create(std::shared_ptr<const Driver> driver,
                                                         int ordinal,
                                                         const ContextOptions& options = {});
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const DeviceInfo& device() const { return device_; }
  const Driver& driver() const { return *driver_; }

  absl::StatusOr<CardMemory> Memory();
  // Takes raw memory of the card, 256-byte aligned. Stages take theirs from a MemoryPool
  // (memory_pool.h).
  absl::StatusOr<DeviceAddress> Allocate(uint64_t bytes);
  void Free(DeviceAddress address);
  // Waits for all work on this card.
  absl::Status Synchronize();
  // Lets kernels and copies of this card reach the peer's memory. A card that cannot gives false
  // and not Unavailable; then copies go through the host (Stream::CopyPeer does either).
  absl::StatusOr<bool> EnablePeer(Context& peer);

  // True from the moment on when a call said that the device is lost; `lost_status` says which call
  // and why.
  bool lost() const { return lost_.load(std::memory_order_acquire); }
  absl::Status lost_status() const;

  // Counts how often something was made of this context that takes the card's memory beside
  // Allocate (streams, graphs, kernels at their first use). The driver does not say how much it
  // takes.
  uint64_t growths() const { return growths_.load(std::memory_order_acquire); }
  void NoteGrowth() { growths_.fetch_add(1, std::memory_order_acq_rel); }

  // For this file's classes: makes the context current on this thread; returns the lost status if
  // it is lost.
  absl::Status Use();
  // Turns a result into a Status and remembers a loss. OK for 0.
  absl::Status Check(int result, const char* call);
  const Api& api() const { return driver_->api(); }
  AbiHandle* handle() const { return handle_; }

 private:
  Context(std::shared_ptr<const Driver> driver, int ordinal);

  std::shared_ptr<const Driver> driver_;
  DeviceInfo device_;
  int device_handle_ = 0;
  AbiHandle* handle_ = nullptr;
  std::atomic<bool> lost_{false};
  std::atomic<uint64_t> growths_{0};
  struct Loss;
  std::unique_ptr<Loss> loss_;
};

struct KernelInfo {
  int registers = 0;
  int local_bytes = 0;   // a thread's spills and stack
  int shared_bytes = 0;  // static
  int max_threads = 0;   // threads of a block
};

// Kernels that are JIT-compiled from PTX for one card. Immutable after Load; lookups are cached.
class Module {
 public:
  // Loads every image of `ptx`. InvalidArgument holds the JIT's log when one does not compile for
  // this card.
  static absl::StatusOr<std::shared_ptr<Module>> Load(std::shared_ptr<Context> context,
                                                      std::span<const std::string_view> ptx);
  // The level (61, 75, 80) whose kernels a card gets; it needs no driver. FailedPrecondition when
  // the binary was built without kernels, or has none for so old a card.
  static absl::StatusOr<int> LevelFor(const DeviceInfo& card);
  // Loads the kernels of this binary (ptx_image.h), of the highest level that the card has.
  static absl::StatusOr<std::shared_ptr<Module>> LoadShipped(std::shared_ptr<Context> context);
  ~Module();
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  // NotFound when no image has the kernel.
  absl::StatusOr<AbiHandle*> Find(std::string_view kernel, uint32_t shared_bytes);
  absl::StatusOr<KernelInfo> Info(std::string_view kernel);
  const std::shared_ptr<Context>& context() const { return context_; }
  // Level of the shipped kernels: 61, 75, 80; 0 after a plain Load.
  int level() const { return level_; }

 private:
  explicit Module(std::shared_ptr<Context> context);

  std::shared_ptr<Context> context_;
  std::vector<AbiHandle*> modules_;
  int level_ = 0;
  struct Cache;
  std::unique_ptr<Cache> cache_;
};

// The largest of `levels` (61, 75, 80 ...) that a card of compute capability `cc` runs; 0 when
// there is none.
int ChoosePtxLevel(int cc, std::span<const int> levels);

// Page-locked host memory, 256-byte aligned. Copies to and from it are truly asynchronous, so it
// must not be read, reused or freed before an Event (or Synchronize) says that they are done.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  static absl::StatusOr<PinnedMemory> Allocate(std::shared_ptr<Context> context, size_t bytes);
  ~PinnedMemory() { Reset(); }
  PinnedMemory(PinnedMemory&& other) noexcept;
  PinnedMemory& operator=(PinnedMemory&& other) noexcept;

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  void Reset();

  std::shared_ptr<Context> context_;
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

class Event {
 public:
  Event() = default;
  static absl::StatusOr<Event> Create(std::shared_ptr<Context> context, bool timing = false);
  ~Event() { Reset(); }
  Event(Event&& other) noexcept;
  Event& operator=(Event&& other) noexcept;

  absl::Status
  // The thread sleeps until the recorded work is done; it returns at once if none was recorded.
  Synchronize();
  absl::StatusOr<bool> Done();
  // The time between two timing events that are done.
  static absl::StatusOr<double> SecondsBetween(const Event& begin, const Event& end);
  AbiHandle* handle() const { return handle_; }

 private:
  void Reset();

  std::shared_ptr<Context> context_;
  AbiHandle* handle_ = nullptr;
};

// What a stream's capture recorded, ready to be launched as one.
class Graph {
 public:
  Graph() = default;
  ~Graph() { Reset(); }
  Graph(Graph&& other) noexcept;
  Graph& operator=(Graph&& other) noexcept;
  bool valid() const { return exec_ != nullptr; }

 private:
  friend class Stream;
  void Reset();

  std::shared_ptr<Context> context_;
  AbiHandle* exec_ = nullptr;
};

// Runs work in order, beside other streams. Every call but Synchronize returns at once; an error of
// the work itself comes with a later call, as the driver reports it.
class Stream : public ops::cuda::Launcher {
 public:
  // Launch finds its kernels in `module`.
  static absl::StatusOr<std::unique_ptr<Stream>> Create(std::shared_ptr<Module> module);
  ~Stream() override;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  absl::Status Launch(std::string_view kernel, ops::cuda::Grid grid, ops::cuda::Grid block,
                      uint32_t shared_bytes, const void* args, size_t args_bytes) override;

  // `host` should be PinnedMemory: with other memory the driver copies before it returns (to the
  // device) or waits (from it).
  absl::Status CopyToDevice(DeviceAddress to, const void* host, size_t bytes);
  absl::Status CopyToHost(void* host, DeviceAddress from, size_t bytes);
  absl::Status CopyOnDevice(DeviceAddress to, DeviceAddress from, size_t bytes);
  // Copies from this stream's card to another's, through the host where the cards cannot reach each
  // other.
  absl::Status CopyPeer(Context& to_context, DeviceAddress to, DeviceAddress from, size_t bytes);
  absl::Status Fill(DeviceAddress to, uint8_t value, size_t bytes);

  absl::Status Record(Event& event);
  // Later work of this stream starts after the work that `event` recorded (on any card's stream).
  absl::Status Wait(const Event& event);
  absl::Status Synchronize();
  absl::StatusOr<bool> Idle();

  // Between the two calls, work is recorded and does not run. Streams that Wait on an event of this
  // one join the capture, and must be waited for before End. Nothing may be allocated or
  // synchronised in between.
  absl::Status BeginCapture();
  absl::StatusOr<Graph> EndCapture();
  // EndCapture into an existing graph: when the launches are the same with other arguments, it is
  // an update (some us); another shape is instantiated anew.
  absl::Status EndCaptureInto(Graph& graph);
  absl::Status Launch(Graph& graph);

  const std::shared_ptr<Context>& context() const { return context_; }
  Module& module() const { return *module_; }
  AbiHandle* handle() const { return handle_; }

 private:
  explicit Stream(std::shared_ptr<Module> module);

  std::shared_ptr<Context> context_;
  std::shared_ptr<Module> module_;
  AbiHandle* handle_ = nullptr;
};

// The name of a CUresult: "CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA_ERROR 1234" when unknown.
std::string ResultName(int result);
// Says whether a CUresult means that the device is lost to this process.
bool IsDeviceLost(int result);

}  // namespace lanyard::cuda
