// What stands behind libfakecuda.so: cards with memory of their own, streams as queues that run
// late and in a random order of those that are legal, events, captures and graphs; kernels run on
// tests/ptx's machine.
//
// Work runs only when a thread waits (or now and then before, as the seed decides), so that a
// missing event wait, or a pinned buffer that is reused or read too early, shows as a wrong result
// for some seed. What a card's checks find is printed, kept, and loses the card, as the driver
// does. Everything happens under World's mutex, which every call takes (entry.h). A thread that
// waits for work lets others in after each piece of it, so that a heartbeat that asks for free
// memory does not wait for a whole step.
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "engine/cuda/abi.h"
#include "tests/fake_cuda/config.h"
#include "tests/ptx/machine.h"

namespace lanyard::fake_cuda {

using cuda::abi::Handle;

struct Completion {
  bool done = false;
  std::chrono::steady_clock::time_point when;
};
using CompletionPtr = std::shared_ptr<Completion>;

enum class WorkKind { kKernel, kToDevice, kToHost, kOnDevice, kPeer, kFill };

// What a stream does, or a node of a graph.
struct Work {
  WorkKind kind = WorkKind::kKernel;
  int device = 0;  // device of the stream; copies between cards read this one's memory
  std::shared_ptr<const ptx::Module> module;  // keeps the kernel alive
  const ptx::Kernel* kernel = nullptr;
  ptx::LaunchConfig launch;
  std::vector<uint8_t> params;
  uint64_t to = 0;
  uint64_t from = 0;
  size_t bytes = 0;
  uint8_t value = 0;
  int to_device = 0;
  std::vector<uint8_t> staged;  // a copy from pageable memory reads its bytes at the call
};

struct Node {
  Work work;
  std::vector<int> after;  // indices of the nodes before it
};
using Nodes = std::vector<Node>;

struct Op {
  enum class Kind { kWork, kRecord, kWait, kGraph } kind = Kind::kWork;
  Work work;
  CompletionPtr completion;  // a record fulfils it, a wait needs it, a graph fulfils it at its end
  // Of a graph: the last launch of the same exec, which it must not overlap.
  CompletionPtr previous;
  std::shared_ptr<const Nodes> nodes;
  std::vector<bool> node_done;
  size_t nodes_left = 0;
};

struct Capture {
  Handle origin = nullptr;
  std::thread::id thread;
  bool invalid = false;
  Nodes nodes;
};

struct Stream {
  int device = 0;
  std::deque<Op> queue;
  uint64_t priority = 0;
  std::shared_ptr<Capture> capture;
  std::vector<int> capture_tail;  // the next node of this stream comes after these
};

struct Event {
  int device = 0;
  bool timing = false;
  CompletionPtr completion;  // that of the last record
  std::shared_ptr<Capture> capture;
  std::vector<int> capture_tail;
};

struct Graph {
  int device = 0;
  std::shared_ptr<const Nodes> nodes;
  CompletionPtr last_launch;  // that of an exec's last launch
};

struct Function {
  std::shared_ptr<const ptx::Module> module;
  const ptx::Kernel* kernel = nullptr;
  int device = 0;
  uint32_t max_dynamic_shared_bytes = 0;
};

struct LoadedModule {
  int device = 0;
  std::shared_ptr<const ptx::Module> module;
  std::map<std::string, Handle> functions;
};

struct Card {
  int ordinal = 0;
  CardConfig config;
  int retained = 0;
  int lost = 0;                         // the CUresult that every call gets; 0: not lost
  std::set<int> peers;                  // cards whose memory this one may reach
  std::atomic<uint64_t> used_bytes{0};  // NVML reads it without the mutex
  uint64_t peak_bytes = 0;
  std::map<uint64_t, uint64_t> allocations;
  std::unique_ptr<ptx::Memory> memory;
  std::unique_ptr<ptx::Machine> machine;  // declared after the memory, so it is destroyed first

  uint64_t free_bytes() const {
    const uint64_t taken = used_bytes + config.others_bytes;
    return taken < config.memory_bytes ? config.memory_bytes - taken : 0;
  }
};

struct Stats {
  uint64_t calls = 0;  // the calls that lose_at counts
  uint64_t allocs = 0;
  uint64_t host_allocs = 0;
  uint64_t work = 0;  // kernels, copies, fills that ran
  uint64_t kernels = 0;
  uint64_t graphs = 0;
  uint64_t peer_copies = 0;
  uint64_t uninitialised_reads = 0;  // copies to the host of unwritten bytes
};

class World {
 public:
  static World& Get();

  std::mutex mutex;
  std::atomic<int> waiting{
      0};  // calls that wait for the mutex: long runs let them in between pieces of work
  bool configured = false;  // set by Reset
  // The driver does not answer: cuMemGetInfo waits as long as this is set.
  std::atomic<bool> hung{false};
  Config config;
  std::vector<std::unique_ptr<Card>> cards;
  std::unordered_map<Handle, std::unique_ptr<Stream>> streams;
  std::unordered_map<Handle, std::unique_ptr<Event>> events;
  std::unordered_map<Handle, std::unique_ptr<Graph>> graphs;
  std::unordered_map<Handle, std::unique_ptr<Graph>> execs;
  std::unordered_map<Handle, std::unique_ptr<LoadedModule>> modules;
  std::unordered_map<Handle, std::unique_ptr<Function>> functions;
  std::map<uintptr_t, size_t> pinned;
  Stats stats;
  std::map<std::string, ptx::Counters> counters;  // by kernel
  std::vector<std::string> reports;

  // Forgets everything and starts anew; false when the text is no configuration (printed).
  bool Reset(const char* text);
  // Counts a call that reaches a card, and loses the card if it is time. Returns the CUresult to
  // return at once, or 0.
  int Enter(int device);
  Card& card(int device) { return *cards[device]; }
  Card* CardOfContext(Handle context);
  static Handle ContextOf(const Card& card);

  // Queues work, or records it as a node where the stream captures. Returns a CUresult.
  int Submit(Stream& stream, Work work);
  void Push(Stream& stream, Op op);
  // Run until the completion is fulfilled, the stream is empty, the card is idle, or everything is.
  void RunUntilDone(const Completion& completion);
  void RunStream(Stream& stream);
  void RunCard(int device);
  void RunSome();  // runs a little now and then, as the seed decides
  void RunOne() { Step(); }

  bool IsPinned(const void* pointer, size_t bytes) const;
  // Says whether queued work still reads these host bytes.
  bool HostReadPending(uintptr_t from, size_t bytes) const;
  std::shared_ptr<Capture> CaptureOfThisThread() const;

  void Report(const std::string& text);
  void Lose(int device, int code);
  uint64_t Random(uint64_t below);
  Handle NewHandle();

 private:
  void LetIn();
  bool Step();
  bool Ready(const Stream& stream) const;
  void RunFront(Stream& stream);
  void RunNode(Stream& stream, Op& op);
  void Execute(const Work& work);
  absl::Status Copy(const Work& work);
  void Fault(const Work& work, const absl::Status& why);

  uint64_t random_state_ = 1;
  uint64_t eager_tenths_ = 0;
  uintptr_t next_handle_ = 0x10;
};

// PTX that was parsed before is not parsed again.
absl::StatusOr<std::shared_ptr<const ptx::Module>> ParseCached(const std::string& ptx);

}  // namespace lanyard::fake_cuda
