#include "tests/fake_cuda/world.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>

namespace lanyard::fake_cuda {
namespace {

// The codes that the driver gives for what a kernel did; the text is the machine's.
int CodeOf(const absl::Status& why) {
  const std::string text = Str(why.message());
  const auto says = [&](const char* word) { return text.find(word) != std::string::npos; };
  if (says("aligned")) return cuda::abi::kMisalignedAddress;
  if (says("out of bounds") || says("outside") || says("freed") || says("use after free")) {
    return cuda::abi::kIllegalAddress;
  }
  return cuda::abi::kLaunchFailed;
}

void AppendLine(const char* variable, const std::string& text) {
  const char* path = std::getenv(variable);
  if (path == nullptr || *path == '\0') return;
  std::ofstream(path, std::ios::app) << text << "\n";
}

void MarkDone(Op& op) {
  if (op.completion != nullptr) {
    op.completion->done = true;
    op.completion->when = std::chrono::steady_clock::now();
  }
}

// Copies between two memories; unwritten bytes stay unwritten.
absl::Status CopyAcross(ptx::Memory& to_memory, uint64_t to, const ptx::Memory& from_memory,
                        uint64_t from, size_t bytes) {
  if (from_memory.IsInitialised(from, bytes))
    return to_memory.Write(to, reinterpret_cast<const void*>(from), bytes);
  if (bytes == 1) return to_memory.MarkUninitialised(to, 1);
  const size_t half = bytes / 2;
  RETURN_IF_ERROR(CopyAcross(to_memory, to, from_memory, from, half));
  return CopyAcross(to_memory, to + half, from_memory, from + half, bytes - half);
}

}  // namespace

World& World::Get() {
  static World* world = new World();  // never destroyed: clients' static objects may still call
  return *world;
}

bool World::Reset(const char* text) {
  if (text == nullptr) text = std::getenv("LANYARD_FAKE_CUDA");
  absl::StatusOr<Config> parsed = ParseConfig(text != nullptr ? text : "");
  if (!parsed.ok()) {
    std::fprintf(stderr, "%s\n", Str(parsed.status().message()).c_str());
    return false;
  }
  streams.clear();
  events.clear();
  graphs.clear();
  execs.clear();
  functions.clear();
  modules.clear();
  for (const auto& [address, bytes] : pinned) std::free(reinterpret_cast<void*>(address));
  pinned.clear();
  cards.clear();
  counters.clear();
  reports.clear();
  stats = Stats();
  config = *std::move(parsed);
  configured = true;
  random_state_ = config.seed * 0x9e3779b97f4a7c15u + 1;
  constexpr uint64_t kEager[] = {0, 0, 1, 5, 9};
  eager_tenths_ = config.order == Order::kEager ? 10 : kEager[Random(5)];
  for (int i = 0; i < config.devices; ++i) {
    auto card = std::make_unique<Card>();
    card->ordinal = i;
    card->config = config.cards[i];
    card->memory = std::make_unique<ptx::Memory>();
    ptx::MachineOptions options;
    options.seed = config.seed + i;
    options.sm = card->config.cc;
    options.check_initialised = config.checks;
    options.check_races = config.checks;
    card->machine = std::make_unique<ptx::Machine>(card->memory.get(), options);
    cards.push_back(std::move(card));
  }
  return true;
}

uint64_t World::Random(uint64_t below) {
  random_state_ += 0x9e3779b97f4a7c15u;  // splitmix64
  uint64_t z = random_state_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return below == 0 ? 0 : z % below;
}

Handle World::NewHandle() {
  next_handle_ += 0x10;  // never used again, so a stale handle is always seen
  return reinterpret_cast<Handle>(next_handle_);
}

Handle World::ContextOf(const Card& card) {
  return reinterpret_cast<Handle>(uintptr_t{0xc0de0000} + static_cast<uintptr_t>(card.ordinal));
}

Card* World::CardOfContext(Handle context) {
  for (auto& card : cards) {
    if (ContextOf(*card) == context) return card.get();
  }
  return nullptr;
}

int World::Enter(int device) {
  Card& entered = card(device);
  if (config.lose_device < 0 || config.lose_device == device) {
    ++stats.calls;
    if (stats.calls == config.lose_at) Lose(device, config.lose_code);
  }
  return entered.lost;
}

void World::Report(const std::string& text) {
  std::fprintf(stderr, "fake cuda: %s\n", text.c_str());
  AppendLine("LANYARD_FAKE_CUDA_REPORT", text);
  reports.push_back(text);
}

void World::Lose(int device, int code) {
  card(device).lost = code;
  // Whoever waits must not wait for ever; the waiting card computes with whatever is there, the
  // caller hears of the loss.
  for (auto& [handle, stream] : streams) {
    if (stream->device != device) continue;
    for (Op& op : stream->queue) {
      if (op.kind != Op::Kind::kWait) MarkDone(op);
    }
    stream->queue.clear();
  }
}

std::shared_ptr<Capture> World::CaptureOfThisThread() const {
  for (const auto& [handle, stream] : streams) {
    if (stream->capture != nullptr && stream->capture->thread == std::this_thread::get_id())
      return stream->capture;
  }
  return nullptr;
}

int World::Submit(Stream& stream, Work work) {
  if (stream.capture != nullptr) {
    if (stream.capture->invalid) return cuda::abi::kStreamCaptureInvalidated;
    stream.capture->nodes.push_back({std::move(work), stream.capture_tail});
    stream.capture_tail = {static_cast<int>(stream.capture->nodes.size()) - 1};
    return 0;
  }
  Op op;
  op.work = std::move(work);
  Push(stream, std::move(op));
  return card(stream.device).lost;
}

void World::Push(Stream& stream, Op op) {
  if (card(stream.device).lost != 0) {
    MarkDone(op);
    return;
  }
  if (stream.queue.empty()) stream.priority = Random(1000);
  stream.queue.push_back(std::move(op));
  RunSome();
}

void World::RunSome() {
  if (config.order == Order::kEager) {
    while (Step()) {
    }
    return;
  }
  while (Random(10) < eager_tenths_ && Step()) {
  }
}

bool World::Ready(const Stream& stream) const {
  if (stream.queue.empty()) return false;
  const Op& op = stream.queue.front();
  if (op.kind == Op::Kind::kWait) return op.completion->done;
  if (op.kind == Op::Kind::kGraph) return op.previous == nullptr || op.previous->done;
  return true;
}

// One piece of work of one stream. Half of the time the stream of the highest priority goes on (so
// that one runs far ahead of another), half of the time any; priorities change now and then.
bool World::Step() {
  std::vector<std::pair<Handle, Stream*>> ready;
  for (auto& [handle, stream] : streams) {
    if (Ready(*stream)) ready.emplace_back(handle, stream.get());
  }
  if (ready.empty()) return false;
  std::sort(ready.begin(), ready.end());  // the order of a hash table is not the seed's
  if (Random(8) == 0) ready[Random(ready.size())].second->priority = Random(1000);
  Stream* chosen = ready[Random(ready.size())].second;
  if (Random(2) == 0) {
    for (const auto& [handle, stream] : ready) {
      if (stream->priority > chosen->priority) chosen = stream;
    }
  }
  RunFront(*chosen);
  return true;
}

void World::RunFront(Stream& stream) {
  Op& op = stream.queue.front();
  switch (op.kind) {
    case Op::Kind::kWork: {
      const Work work = std::move(op.work);
      stream.queue.pop_front();
      Execute(work);
      return;
    }
    case Op::Kind::kRecord:
      MarkDone(op);
      break;
    case Op::Kind::kWait:
      break;
    case Op::Kind::kGraph:
      RunNode(stream, op);
      return;
  }
  stream.queue.pop_front();
}

void World::RunNode(Stream& stream, Op& op) {
  const std::shared_ptr<const Nodes> nodes = op.nodes;
  std::vector<size_t> ready;
  for (size_t i = 0; i < nodes->size(); ++i) {
    if (op.node_done[i]) continue;
    const auto& after = (*nodes)[i].after;
    if (std::all_of(after.begin(), after.end(), [&](int n) { return op.node_done[n]; }))
      ready.push_back(i);
  }
  if (!ready.empty()) {
    const size_t node = ready[Random(ready.size())];
    op.node_done[node] = true;
    op.nodes_left -= 1;
    Execute((*nodes)[node].work);  // may lose the card and clear the queue: `op` is gone then
    if (card(stream.device).lost != 0) return;
  }
  if (stream.queue.front().nodes_left == 0) {
    MarkDone(stream.queue.front());
    stream.queue.pop_front();
  }
}

void World::LetIn() {
  if (waiting.load() == 0) return;
  mutex.unlock();
  for (int i = 0; i < 1000 && waiting.load() > 0; ++i) std::this_thread::yield();
  mutex.lock();
}

void World::RunUntilDone(const Completion& completion) {
  while (!completion.done) {
    LetIn();
    if (completion.done) return;
    if (!Step()) {
      Report("a wait that nothing will end: an event's stream is stuck");
      return;
    }
  }
}

void World::RunStream(Stream& stream) {
  while (!stream.queue.empty()) {
    LetIn();
    if (stream.queue.empty()) return;
    if (!Step()) {
      Report("a stream that nothing will end: it waits for an event that is not coming");
      return;
    }
  }
}

void World::RunCard(int device) {
  for (;;) {
    LetIn();
    const auto busy = std::find_if(streams.begin(), streams.end(), [&](const auto& entry) {
      return entry.second->device == device && !entry.second->queue.empty();
    });
    if (busy == streams.end()) return;
    if (!Step()) {
      Report("a card that never ends: its streams wait for events that are not coming");
      return;
    }
  }
}

void World::Execute(const Work& work) {
  Card& on = card(work.device);
  if (on.lost != 0) return;
  ++stats.work;
  if (stats.work == config.lose_at_work) {
    Lose(work.device, config.lose_code);
    return;
  }
  absl::Status status;
  if (work.kind == WorkKind::kKernel) {
    ++stats.kernels;
    status = on.machine->Launch(*work.kernel, work.launch, std::span<const uint8_t>(work.params),
                                &counters[work.kernel->name()]);
  } else {
    status = Copy(work);
  }
  if (!status.ok()) Fault(work, status);
}

absl::Status World::Copy(const Work& work) {
  ptx::Memory& memory = *card(work.device).memory;
  switch (work.kind) {
    case WorkKind::kToDevice:
      return memory.Write(
          work.to,
          work.staged.empty() ? reinterpret_cast<const void*>(work.from) : work.staged.data(),
          work.bytes);
    case WorkKind::kToHost:
      RETURN_IF_ERROR(memory.CheckRange(work.from, work.bytes));
      if (!memory.IsInitialised(work.from, work.bytes)) {
        ++stats.uninitialised_reads;
        if (config.strict_reads)
          return memory.Read(work.from, reinterpret_cast<void*>(work.to), work.bytes);
      }
      std::memcpy(reinterpret_cast<void*>(work.to), reinterpret_cast<const void*>(work.from),
                  work.bytes);
      return absl::OkStatus();
    case WorkKind::kOnDevice:
      return memory.Copy(work.to, work.from, work.bytes);
    case WorkKind::kPeer:
      RETURN_IF_ERROR(memory.CheckRange(work.from, work.bytes));
      return CopyAcross(*card(work.to_device).memory, work.to, memory, work.from, work.bytes);
    case WorkKind::kFill:
      return memory.Set(work.to, work.value, work.bytes);
    case WorkKind::kKernel:
      break;
  }
  return Internal("no copy");
}

void World::Fault(const Work& work, const absl::Status& why) {
  constexpr const char* kWhat[] = {"kernel",           "copy to the card",   "copy to the host",
                                   "copy on the card", "copy between cards", "fill"};
  Report(absl::StrCat("cuda:", work.device, ": ", kWhat[static_cast<int>(work.kind)], ": ",
                      why.message()));
  Lose(work.device, CodeOf(why));
}

bool World::IsPinned(const void* pointer, size_t bytes) const {
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  auto after = pinned.upper_bound(address);
  if (after == pinned.begin()) return false;
  --after;
  return address + bytes <= after->first + after->second;
}

bool World::HostReadPending(uintptr_t from, size_t bytes) const {
  const auto reads = [&](const Work& work) {
    return work.kind == WorkKind::kToDevice && work.staged.empty() && work.from < from + bytes &&
           from < work.from + work.bytes;
  };
  for (const auto& [handle, stream] : streams) {
    for (const Op& op : stream->queue) {
      if (op.kind == Op::Kind::kWork && reads(op.work)) return true;
      if (op.kind != Op::Kind::kGraph) continue;
      for (const Node& node : *op.nodes) {
        if (reads(node.work)) return true;
      }
    }
  }
  return false;
}

absl::StatusOr<std::shared_ptr<const ptx::Module>> ParseCached(const std::string& ptx) {
  static auto* cache = new std::unordered_map<std::string, std::shared_ptr<const ptx::Module>>();
  const auto found = cache->find(ptx);
  if (found != cache->end()) return found->second;
  ASSIGN_OR_RETURN(std::shared_ptr<const ptx::Module> module, ptx::Module::Parse(ptx));
  cache->emplace(ptx, module);
  return module;
}

}  // namespace lanyard::fake_cuda
