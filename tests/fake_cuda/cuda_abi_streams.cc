// The C ABI of libcuda.so.1: launches, copies, streams, events, captures and graphs.
#include <algorithm>
#include <cstring>

#include "tests/fake_cuda/entry.h"

namespace lanyard::fake_cuda {
namespace {

Stream* FindStream(World& world, Handle handle) {
  const auto found = world.streams.find(handle);
  return found == world.streams.end() ? nullptr : found->second.get();
}

Event* FindEvent(World& world, Handle handle) {
  const auto found = world.events.find(handle);
  return found == world.events.end() ? nullptr : found->second.get();
}

// The range is in a live allocation of the card, now. (It is checked again when the work runs.)
bool InCard(World& world, int device, uint64_t address, size_t bytes) {
  const absl::Status status = world.card(device).memory->CheckRange(address, bytes);
  if (status.ok()) return true;
  world.Report(absl::StrCat("cuda:", device, ": a copy's range: ", status.message()));
  return false;
}

// cuLaunchKernel's `extra`: one buffer with all parameters.
bool ReadExtra(void** extra, const void*& buffer, size_t& bytes) {
  if (extra == nullptr) return false;
  bool sized = false;
  for (; extra[0] != abi::kLaunchParamEnd; extra += 2) {
    if (extra[0] == abi::kLaunchParamBufferPointer) buffer = extra[1];
    if (extra[0] == abi::kLaunchParamBufferSize) {
      bytes = *static_cast<size_t*>(extra[1]);
      sized = true;
    }
  }
  return buffer != nullptr && sized;
}

// What the driver refuses at the call.
int CheckLaunch(const Function& function, const ptx::LaunchConfig& launch, size_t param_bytes) {
  const uint64_t threads = launch.block.Count();
  if (launch.grid.Count() == 0 || threads == 0) return abi::kInvalidValue;
  if (launch.grid.x > 0x7fffffffu || launch.grid.y > 65535 || launch.grid.z > 65535)
    return abi::kInvalidValue;
  if (launch.block.x > 1024 || launch.block.y > 1024 || launch.block.z > 64 || threads > 1024) {
    return abi::kInvalidValue;
  }
  if (threads > function.kernel->max_threads()) return abi::kLaunchOutOfResources;
  const uint64_t limit = std::max<uint64_t>(
      48 << 10, function.max_dynamic_shared_bytes + function.kernel->static_shared_bytes());
  if (launch.shared_bytes + function.kernel->static_shared_bytes() > limit)
    return abi::kInvalidValue;
  if (param_bytes != function.kernel->param_bytes()) return abi::kInvalidValue;
  return 0;
}

bool SameShape(const Nodes& a, const Nodes& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].work.kind != b[i].work.kind || a[i].work.device != b[i].work.device ||
        a[i].after != b[i].after)
      return false;
  }
  return true;
}

// Whether every node comes before the end of the origin: nothing of a joined stream is left
// dangling.
bool Joined(const Nodes& nodes, const std::vector<int>& tail) {
  std::vector<bool> seen(nodes.size(), false);
  std::vector<int> todo = tail;
  while (!todo.empty()) {
    const int node = todo.back();
    todo.pop_back();
    if (seen[node]) continue;
    seen[node] = true;
    todo.insert(todo.end(), nodes[node].after.begin(), nodes[node].after.end());
  }
  return std::all_of(seen.begin(), seen.end(), [](bool s) { return s; });
}

void Unite(std::vector<int>& tail, const std::vector<int>& more) {
  for (const int node : more) {
    if (std::find(tail.begin(), tail.end(), node) == tail.end()) tail.push_back(node);
  }
}

// A wait in a capture: the stream joins the event's capture.
int CaptureWait(Stream& stream, const Event& event) {
  if (event.capture == nullptr) {
    stream.capture->invalid = true;
    return 905;  // STREAM_CAPTURE_ISOLATION: a wait for work outside
  }
  if (stream.capture == nullptr) {
    stream.capture = event.capture;
    stream.capture_tail = event.capture_tail;
    return 0;
  }
  if (stream.capture != event.capture) {
    stream.capture->invalid = true;
    return 902;  // STREAM_CAPTURE_MERGE
  }
  Unite(stream.capture_tail, event.capture_tail);
  return 0;
}

int RefuseInCapture(Stream& stream) {
  if (stream.capture == nullptr) return 0;
  stream.capture->invalid = true;
  return abi::kStreamCaptureUnsupported;
}

}  // namespace

extern "C" {  // the names of namespace members too are plain C

int cuLaunchKernel(abi::Handle function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                   abi::Handle stream_handle, void** params, void** extra) {
  Entry entry;
  World& world = entry.world();
  Stream* stream = FindStream(world, stream_handle);
  const auto found = world.functions.find(function);
  if (stream == nullptr || found == world.functions.end()) return abi::kInvalidHandle;
  if (const int result = entry.On(stream->device); result != 0) return result;
  const Function& called = *found->second;
  if (called.device != stream->device) return abi::kInvalidHandle;
  const void* buffer = nullptr;
  size_t bytes = 0;
  if (params != nullptr || !ReadExtra(extra, buffer, bytes)) return abi::kInvalidValue;
  Work work;
  work.kind = WorkKind::kKernel;
  work.device = stream->device;
  work.module = called.module;
  work.kernel = called.kernel;
  work.launch.grid = {grid_x, grid_y, grid_z};
  work.launch.block = {block_x, block_y, block_z};
  work.launch.shared_bytes = shared_bytes;
  work.launch.max_dynamic_shared_bytes = called.max_dynamic_shared_bytes;
  if (const int result = CheckLaunch(called, work.launch, bytes); result != 0) {
    world.Report(Str(absl::StrFormat(
        "launch of %s refused: grid %ux%ux%u, block %ux%ux%u, shared %u + %u bytes, %u of %u bytes "
        "of arguments",
        called.kernel->name(), grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes,
        called.kernel->static_shared_bytes(), bytes, called.kernel->param_bytes())));
    return result;
  }
  work.params.assign(static_cast<const uint8_t*>(buffer),
                     static_cast<const uint8_t*>(buffer) + bytes);
  return world.Submit(*stream, std::move(work));
}

int cuMemcpyHtoDAsync_v2(abi::Pointer to, const void* from, size_t bytes,
                         abi::Handle stream_handle) {
  Entry entry;
  World& world = entry.world();
  Stream* stream = FindStream(world, stream_handle);
  if (stream == nullptr) return abi::kInvalidHandle;
  if (const int result = entry.On(stream->device); result != 0) return result;
  if (!InCard(world, stream->device, to, bytes)) return abi::kInvalidValue;
  Work work;
  work.kind = WorkKind::kToDevice;
  work.device = stream->device;
  work.to = to;
  work.from = reinterpret_cast<uint64_t>(from);
  work.bytes = bytes;
  if (!world.IsPinned(from, bytes)) {
    if (const int result = RefuseInCapture(*stream); result != 0) return result;
    work.staged.assign(static_cast<const uint8_t*>(from),
                       static_cast<const uint8_t*>(from) + bytes);
  }
  return world.Submit(*stream, std::move(work));
}

int cuMemcpyDtoHAsync_v2(void* to, abi::Pointer from, size_t bytes, abi::Handle stream_handle) {
  Entry entry;
  World& world = entry.world();
  Stream* stream = FindStream(world, stream_handle);
  if (stream == nullptr) return abi::kInvalidHandle;
  if (const int result = entry.On(stream->device); result != 0) return result;
  if (!InCard(world, stream->device, from, bytes)) return abi::kInvalidValue;
  const bool pinned = world.IsPinned(to, bytes);
  if (!pinned) {
    if (const int result = RefuseInCapture(*stream); result != 0) return result;
  }
  Work work;
  work.kind = WorkKind::kToHost;
  work.device = stream->device;
  work.to = reinterpret_cast<uint64_t>(to);
  work.from = from;
  work.bytes = bytes;
  // A read before the copy is done must see neither old nor new bytes.
  if (stream->capture == nullptr &&
      !world.HostReadPending(reinterpret_cast<uintptr_t>(to), bytes)) {
    std::memset(to, 0xe7, bytes);
  }
  const int result = world.Submit(*stream, std::move(work));
  if (result != 0 || pinned) return result;
  world.RunStream(*stream);
  return world.card(stream->device).lost;
}

int cuMemcpyDtoDAsync_v2(abi::Pointer to, abi::Pointer from, size_t bytes,
                         abi::Handle stream_handle) {
  Entry entry;
  World& world = entry.world();
  Stream* stream = FindStream(world, stream_handle);
  if (stream == nullptr) return abi::kInvalidHandle;
  if (const int result = entry.On(stream->device); result != 0) return result;
  if (!InCard(world, stream->device, to, bytes) || !InCard(world, stream->device, from, bytes)) {
    return abi::kInvalidValue;
  }
  Work work;
  work.kind = WorkKind::kOnDevice;
  work.device = stream->device;
  work.to = to;
  work.from = from;
  work.bytes = bytes;
  return world.Submit(*stream, std::move(work));
}

int cuMemcpyPeerAsync(abi::Pointer to, abi::Handle to_context, abi::Pointer from,
                      abi::Handle from_context, size_t bytes, abi::Handle stream_handle) {
  Entry entry;
  World& world = entry.world();
  Stream* stream = FindStream(world, stream_handle);
  if (stream == nullptr) return abi::kInvalidHandle;
  if (const int result = entry.On(stream->device); result != 0) return result;
  const Card* to_card = world.CardOfContext(to_context);
  const Card* from_card = world.CardOfContext(from_context);
  if (to_card == nullptr || from_card == nullptr) return abi::kInvalidContext;
  if (to_card->lost != 0) return to_card->lost;
  if (!InCard(world, to_card->ordinal, to, bytes) ||
      !InCard(world, from_card->ordinal, from, bytes)) {
    return abi::kInvalidValue;
  }
  Work work;
  ++entry.world().stats.peer_copies;
  work.kind = WorkKind::kPeer;
  work.device = from_card->ordinal;
  work.to_device = to_card->ordinal;
  work.to = to;
  work.from = from;
  work.bytes = bytes;
  return world.Submit(*stream, std::move(work));
}

int cuMemsetD8Async(abi::Pointer to, unsigned char value, size_t bytes, abi::Handle stream_handle) {
  Entry entry;
  World& world = entry.world();
  Stream* stream = FindStream(world, stream_handle);
  if (stream == nullptr) return abi::kInvalidHandle;
  if (const int result = entry.On(stream->device); result != 0) return result;
  if (!InCard(world, stream->device, to, bytes)) return abi::kInvalidValue;
  Work work;
  work.kind = WorkKind::kFill;
  work.device = stream->device;
  work.to = to;
  work.value = value;
  work.bytes = bytes;
  return world.Submit(*stream, std::move(work));
}

int cuStreamCreate(abi::Handle* stream, unsigned) {
  Entry entry;
  if (const int result = entry.OnCurrent(); result != 0) return result;
  auto made = std::make_unique<Stream>();
  made->device = entry.device();
  *stream = entry.world().NewHandle();
  entry.world().streams.emplace(*stream, std::move(made));
  return 0;
}

int cuStreamDestroy_v2(abi::Handle handle) {
  Entry entry;
  World& world = entry.world();
  Stream* stream = FindStream(world, handle);
  if (stream == nullptr) return abi::kInvalidHandle;
  const int device = stream->device;
  if (const int result = entry.On(device); result != 0) return result;
  world.RunStream(*stream);  // the driver lets it end by itself
  world.streams.erase(handle);
  return world.card(device).lost;
}

int cuStreamSynchronize(abi::Handle handle) {
  Entry entry;
  World& world = entry.world();
  Stream* stream = FindStream(world, handle);
  if (stream == nullptr) return abi::kInvalidHandle;
  if (const int result = entry.On(stream->device); result != 0) return result;
  if (const int result = RefuseInCapture(*stream); result != 0) return result;
  world.RunStream(*stream);
  return world.card(stream->device).lost;
}

int cuStreamQuery(abi::Handle handle) {
  Entry entry;
  World& world = entry.world();
  Stream* stream = FindStream(world, handle);
  if (stream == nullptr) return abi::kInvalidHandle;
  if (const int result = entry.On(stream->device); result != 0) return result;
  if (const int result = RefuseInCapture(*stream); result != 0) return result;
  world.RunSome();
  world.RunOne();  // so that a caller that polls sees it end
  if (world.card(stream->device).lost != 0) return world.card(stream->device).lost;
  return stream->queue.empty() ? 0 : abi::kNotReady;
}

int cuStreamWaitEvent(abi::Handle handle, abi::Handle event_handle, unsigned) {
  Entry entry;
  World& world = entry.world();
  Stream* stream = FindStream(world, handle);
  const Event* event = FindEvent(world, event_handle);
  if (stream == nullptr || event == nullptr) return abi::kInvalidHandle;
  if (const int result = entry.On(stream->device); result != 0) return result;
  if (stream->capture != nullptr || event->capture != nullptr) {
    return CaptureWait(*stream, *event);
  }
  if (event->completion == nullptr) return 0;
  Op op;
  op.kind = Op::Kind::kWait;
  op.completion = event->completion;
  world.Push(*stream, std::move(op));
  return world.card(stream->device).lost;
}

int cuStreamBeginCapture_v2(abi::Handle handle, int) {
  Entry entry;
  World& world = entry.world();
  Stream* stream = FindStream(world, handle);
  if (stream == nullptr) return abi::kInvalidHandle;
  if (const int result = entry.On(stream->device); result != 0) return result;
  if (stream->capture != nullptr) return 401;  // ILLEGAL_STATE
  stream->capture = std::make_shared<Capture>();
  stream->capture->origin = handle;
  stream->capture->thread = std::this_thread::get_id();
  stream->capture_tail.clear();
  return 0;
}

int cuStreamEndCapture(abi::Handle handle, abi::Handle* graph) {
  Entry entry;
  World& world = entry.world();
  Stream* stream = FindStream(world, handle);
  if (stream == nullptr) return abi::kInvalidHandle;
  if (const int result = entry.On(stream->device); result != 0) return result;
  const std::shared_ptr<Capture> capture = stream->capture;
  if (capture == nullptr || capture->origin != handle) return abi::kStreamCaptureUnmatched;
  const std::vector<int> tail = stream->capture_tail;
  for (auto& [other_handle, other] : world.streams) {
    if (other->capture == capture) other->capture = nullptr;
  }
  for (auto& [event_handle, event] : world.events) {
    if (event->capture == capture) event->capture = nullptr;
  }
  if (capture->invalid) return abi::kStreamCaptureInvalidated;
  if (!Joined(capture->nodes, tail)) return abi::kStreamCaptureUnjoined;
  auto made = std::make_unique<Graph>();
  made->device = stream->device;
  made->nodes = std::make_shared<const Nodes>(std::move(capture->nodes));
  *graph = world.NewHandle();
  world.graphs.emplace(*graph, std::move(made));
  return 0;
}

int cuEventCreate(abi::Handle* event, unsigned flags) {
  Entry entry;
  if (const int result = entry.OnCurrent(); result != 0) return result;
  auto made = std::make_unique<Event>();
  made->device = entry.device();
  made->timing = (flags & abi::kEventDisableTiming) == 0;
  *event = entry.world().NewHandle();
  entry.world().events.emplace(*event, std::move(made));
  return 0;
}

int cuEventDestroy_v2(abi::Handle handle) {
  Entry entry;
  Event* event = FindEvent(entry.world(), handle);
  if (event == nullptr) return abi::kInvalidHandle;
  if (const int result = entry.On(event->device); result != 0) return result;
  entry.world().events.erase(handle);
  return 0;
}

int cuEventRecord(abi::Handle handle, abi::Handle stream_handle) {
  Entry entry;
  World& world = entry.world();
  Event* event = FindEvent(world, handle);
  Stream* stream = FindStream(world, stream_handle);
  if (stream == nullptr || event == nullptr) return abi::kInvalidHandle;
  if (const int result = entry.On(stream->device); result != 0) return result;
  if (event->device != stream->device) return abi::kInvalidHandle;
  if (stream->capture != nullptr) {
    event->capture = stream->capture;
    event->capture_tail = stream->capture_tail;
    return 0;
  }
  event->capture = nullptr;
  event->completion = std::make_shared<Completion>();
  Op op;
  op.kind = Op::Kind::kRecord;
  op.completion = event->completion;
  world.Push(*stream, std::move(op));
  return world.card(stream->device).lost;
}

int cuEventQuery(abi::Handle handle) {
  Entry entry;
  World& world = entry.world();
  const Event* event = FindEvent(world, handle);
  if (event == nullptr) return abi::kInvalidHandle;
  if (const int result = entry.On(event->device); result != 0) return result;
  if (event->capture != nullptr) return 907;  // CAPTURED_EVENT
  world.RunSome();
  world.RunOne();
  if (world.card(event->device).lost != 0) return world.card(event->device).lost;
  return event->completion == nullptr || event->completion->done ? 0 : abi::kNotReady;
}

int cuEventSynchronize(abi::Handle handle) {
  Entry entry;
  World& world = entry.world();
  const Event* event = FindEvent(world, handle);
  if (event == nullptr) return abi::kInvalidHandle;
  if (const int result = entry.On(event->device); result != 0) return result;
  if (event->capture != nullptr) return 907;  // CAPTURED_EVENT
  if (event->completion != nullptr) {
    const CompletionPtr completion = event->completion;
    world.RunUntilDone(*completion);
  }
  return world.card(event->device).lost;
}

int cuEventElapsedTime(float* milliseconds, abi::Handle begin_handle, abi::Handle end_handle) {
  Entry entry;
  World& world = entry.world();
  const Event* begin = FindEvent(world, begin_handle);
  const Event* end = FindEvent(world, end_handle);
  if (begin == nullptr || end == nullptr || !begin->timing || !end->timing)
    return abi::kInvalidHandle;
  if (const int result = entry.On(begin->device); result != 0) return result;
  if (begin->completion == nullptr || end->completion == nullptr) return abi::kInvalidHandle;
  if (!begin->completion->done || !end->completion->done) return abi::kNotReady;
  *milliseconds =
      std::chrono::duration<float, std::milli>(end->completion->when - begin->completion->when)
          .count();
  return 0;
}

int cuGraphInstantiateWithFlags(abi::Handle* exec, abi::Handle graph, unsigned long long) {
  Entry entry;
  World& world = entry.world();
  const auto found = world.graphs.find(graph);
  if (found == world.graphs.end()) return abi::kInvalidHandle;
  if (const int result = entry.On(found->second->device); result != 0) return result;
  auto made = std::make_unique<Graph>();
  made->device = found->second->device;
  made->nodes = found->second->nodes;
  Card& card = world.card(made->device);
  if (card.config.graph_bytes > card.free_bytes()) return abi::kOutOfMemory;
  card.used_bytes += card.config.graph_bytes;
  *exec = world.NewHandle();
  world.execs.emplace(*exec, std::move(made));
  return 0;
}

int cuGraphExecUpdate(abi::Handle exec, abi::Handle graph, abi::Handle* error_node,
                      int* update_result) {
  Entry entry;
  World& world = entry.world();
  const auto to = world.execs.find(exec);
  const auto from = world.graphs.find(graph);
  if (to == world.execs.end() || from == world.graphs.end()) return abi::kInvalidHandle;
  if (const int result = entry.On(to->second->device); result != 0) return result;
  if (error_node != nullptr) *error_node = nullptr;
  const bool same = SameShape(*to->second->nodes, *from->second->nodes);
  if (update_result != nullptr) *update_result = same ? 0 : 2;  // TOPOLOGY_CHANGED
  if (!same) return abi::kGraphExecUpdateFailure;
  to->second->nodes = from->second->nodes;
  return 0;
}

int cuGraphLaunch(abi::Handle exec, abi::Handle stream_handle) {
  Entry entry;
  World& world = entry.world();
  const auto found = world.execs.find(exec);
  Stream* stream = FindStream(world, stream_handle);
  if (found == world.execs.end() || stream == nullptr) return abi::kInvalidHandle;
  if (const int result = entry.On(stream->device); result != 0) return result;
  if (const int result = RefuseInCapture(*stream); result != 0) return result;
  ++world.stats.graphs;
  Op op;
  op.kind = Op::Kind::kGraph;
  op.nodes = found->second->nodes;
  op.node_done.assign(op.nodes->size(), false);
  op.nodes_left = op.nodes->size();
  op.previous = found->second->last_launch;
  op.completion = std::make_shared<Completion>();
  found->second->last_launch = op.completion;
  world.Push(*stream, std::move(op));
  return world.card(stream->device).lost;
}

int cuGraphDestroy(abi::Handle graph) {
  Entry entry;
  const auto found = entry.world().graphs.find(graph);
  if (found == entry.world().graphs.end()) return abi::kInvalidHandle;
  entry.world().graphs.erase(found);
  return 0;
}

int cuGraphExecDestroy(abi::Handle exec) {
  Entry entry;
  const auto found = entry.world().execs.find(exec);
  if (found == entry.world().execs.end()) return abi::kInvalidHandle;
  if (const int result = entry.On(found->second->device); result != 0) return result;
  Card& card = entry.world().card(found->second->device);
  card.used_bytes -= card.config.graph_bytes;
  entry.world().execs.erase(found);
  return 0;
}

}  // extern "C"

}  // namespace lanyard::fake_cuda
