#include <utility>

#include "engine/cuda/abi.h"
#include "engine/cuda/driver.h"

namespace lanyard::cuda {

absl::StatusOr<Event> Event::Create(std::shared_ptr<Context> context, bool timing) {
  RETURN_IF_ERROR(context->Use());
  const unsigned flags = abi::kEventBlockingSync | (timing ? 0 : abi::kEventDisableTiming);
  AbiHandle* handle = nullptr;
  RETURN_IF_ERROR(context->Check(context->api().EventCreate(&handle, flags), "cuEventCreate"));
  Event event;
  event.context_ = std::move(context);
  event.handle_ = handle;
  return event;
}

Event::Event(Event&& other) noexcept { *this = std::move(other); }

Event& Event::operator=(Event&& other) noexcept {
  if (this == &other) return *this;
  Reset();
  context_ = std::move(other.context_);
  handle_ = std::exchange(other.handle_, nullptr);
  return *this;
}

void Event::Reset() {
  if (handle_ != nullptr && context_->Use().ok()) (void)context_->api().EventDestroy(handle_);
  handle_ = nullptr;
  context_.reset();
}

absl::Status Event::Synchronize() {
  if (handle_ == nullptr) return Internal("an event that was never created was waited for");
  RETURN_IF_ERROR(context_->Use());
  return context_->Check(context_->api().EventSynchronize(handle_), "cuEventSynchronize");
}

absl::StatusOr<bool> Event::Done() {
  if (handle_ == nullptr) return Internal("an event that was never created was asked");
  RETURN_IF_ERROR(context_->Use());
  const int result = context_->api().EventQuery(handle_);
  if (result == abi::kNotReady) return false;
  RETURN_IF_ERROR(context_->Check(result, "cuEventQuery"));
  return true;
}

absl::StatusOr<double> Event::SecondsBetween(const Event& begin, const Event& end) {
  if (begin.handle_ == nullptr || end.handle_ == nullptr)
    return Internal("an event that was never created was asked");
  RETURN_IF_ERROR(begin.context_->Use());
  float milliseconds = 0;
  RETURN_IF_ERROR(begin.context_->Check(
      begin.context_->api().EventElapsedTime(&milliseconds, begin.handle_, end.handle_),
      "cuEventElapsedTime"));
  return milliseconds * 1e-3;
}

Graph::Graph(Graph&& other) noexcept { *this = std::move(other); }

Graph& Graph::operator=(Graph&& other) noexcept {
  if (this == &other) return *this;
  Reset();
  context_ = std::move(other.context_);
  exec_ = std::exchange(other.exec_, nullptr);
  return *this;
}

void Graph::Reset() {
  if (exec_ != nullptr && context_->Use().ok()) (void)context_->api().GraphExecDestroy(exec_);
  exec_ = nullptr;
  context_.reset();
}

Stream::Stream(std::shared_ptr<Module> module)
    : context_(module->context()), module_(std::move(module)) {}

absl::StatusOr<std::unique_ptr<Stream>> Stream::Create(std::shared_ptr<Module> module) {
  std::unique_ptr<Stream> stream(new Stream(std::move(module)));
  Context& context = *stream->context_;
  RETURN_IF_ERROR(context.Use());
  RETURN_IF_ERROR(context.Check(
      context.api().StreamCreate(&stream->handle_, abi::kStreamNonBlocking), "cuStreamCreate"));
  context.NoteGrowth();
  return stream;
}

Stream::~Stream() {
  if (handle_ != nullptr && context_->Use().ok()) (void)context_->api().StreamDestroy(handle_);
}

absl::Status Stream::Launch(std::string_view kernel, ops::cuda::Grid grid, ops::cuda::Grid block,
                            uint32_t shared_bytes, const void* args, size_t args_bytes) {
  ASSIGN_OR_RETURN(AbiHandle * function, module_->Find(kernel, shared_bytes));
  RETURN_IF_ERROR(context_->Use());
  void* extra[] = {abi::kLaunchParamBufferPointer, const_cast<void*>(args),
                   abi::kLaunchParamBufferSize, &args_bytes, abi::kLaunchParamEnd};
  const int result =
      context_->api().LaunchKernel(function, grid.x, grid.y, grid.z, block.x, block.y, block.z,
                                   shared_bytes, handle_, nullptr, extra);
  if (result == abi::kSuccess) return absl::OkStatus();
  return Annotate(
      context_->Check(result, "cuLaunchKernel"),
      absl::StrFormat("kernel %s, grid %ux%ux%u, block %ux%ux%u, %u bytes shared", kernel, grid.x,
                      grid.y, grid.z, block.x, block.y, block.z, shared_bytes));
}

absl::Status Stream::CopyToDevice(DeviceAddress to, const void* host, size_t bytes) {
  if (bytes == 0) return absl::OkStatus();
  RETURN_IF_ERROR(context_->Use());
  return context_->Check(context_->api().MemcpyHtoDAsync(to, host, bytes, handle_),
                         "cuMemcpyHtoDAsync");
}

absl::Status Stream::CopyToHost(void* host, DeviceAddress from, size_t bytes) {
  if (bytes == 0) return absl::OkStatus();
  RETURN_IF_ERROR(context_->Use());
  return context_->Check(context_->api().MemcpyDtoHAsync(host, from, bytes, handle_),
                         "cuMemcpyDtoHAsync");
}

absl::Status Stream::CopyOnDevice(DeviceAddress to, DeviceAddress from, size_t bytes) {
  if (bytes == 0) return absl::OkStatus();
  RETURN_IF_ERROR(context_->Use());
  return context_->Check(context_->api().MemcpyDtoDAsync(to, from, bytes, handle_),
                         "cuMemcpyDtoDAsync");
}

absl::Status Stream::CopyPeer(Context& to_context, DeviceAddress to, DeviceAddress from,
                              size_t bytes) {
  if (bytes == 0) return absl::OkStatus();
  if (to_context.lost()) return to_context.lost_status();
  RETURN_IF_ERROR(context_->Use());
  return context_->Check(context_->api().MemcpyPeerAsync(to, to_context.handle(), from,
                                                         context_->handle(), bytes, handle_),
                         "cuMemcpyPeerAsync");
}

absl::Status Stream::Fill(DeviceAddress to, uint8_t value, size_t bytes) {
  if (bytes == 0) return absl::OkStatus();
  RETURN_IF_ERROR(context_->Use());
  return context_->Check(context_->api().MemsetD8Async(to, value, bytes, handle_),
                         "cuMemsetD8Async");
}

absl::Status Stream::Record(Event& event) {
  RETURN_IF_ERROR(context_->Use());
  return context_->Check(context_->api().EventRecord(event.handle(), handle_), "cuEventRecord");
}

absl::Status Stream::Wait(const Event& event) {
  RETURN_IF_ERROR(context_->Use());
  return context_->Check(context_->api().StreamWaitEvent(handle_, event.handle(), 0),
                         "cuStreamWaitEvent");
}

absl::Status Stream::Synchronize() {
  RETURN_IF_ERROR(context_->Use());
  return context_->Check(context_->api().StreamSynchronize(handle_), "cuStreamSynchronize");
}

absl::StatusOr<bool> Stream::Idle() {
  RETURN_IF_ERROR(context_->Use());
  const int result = context_->api().StreamQuery(handle_);
  if (result == abi::kNotReady) return false;
  RETURN_IF_ERROR(context_->Check(result, "cuStreamQuery"));
  return true;
}

absl::Status Stream::BeginCapture() {
  RETURN_IF_ERROR(context_->Use());
  return context_->Check(context_->api().StreamBeginCapture(handle_, abi::kCaptureThreadLocal),
                         "cuStreamBeginCapture");
}

absl::StatusOr<Graph> Stream::EndCapture() {
  Graph graph;
  RETURN_IF_ERROR(EndCaptureInto(graph));
  return graph;
}

absl::Status Stream::EndCaptureInto(Graph& graph) {
  const Api& api = context_->api();
  RETURN_IF_ERROR(context_->Use());
  AbiHandle* recorded = nullptr;
  RETURN_IF_ERROR(context_->Check(api.StreamEndCapture(handle_, &recorded), "cuStreamEndCapture"));
  if (recorded == nullptr) return Internal("the capture recorded nothing");
  if (graph.exec_ != nullptr) {
    AbiHandle* error_node = nullptr;
    int update_result = 0;
    const int result = api.GraphExecUpdate(graph.exec_, recorded, &error_node, &update_result);
    if (result == abi::kSuccess) {
      return context_->Check(api.GraphDestroy(recorded), "cuGraphDestroy");
    }
    if (result != abi::kGraphExecUpdateFailure) {
      absl::Status status = context_->Check(result, "cuGraphExecUpdate");
      if (!context_->lost()) (void)api.GraphDestroy(recorded);
      return status;
    }
    graph.Reset();
  }
  AbiHandle* exec = nullptr;
  const absl::Status status =
      context_->Check(api.GraphInstantiate(&exec, recorded, 0), "cuGraphInstantiateWithFlags");
  if (!context_->lost()) (void)api.GraphDestroy(recorded);
  RETURN_IF_ERROR(status);
  context_->NoteGrowth();
  graph.context_ = context_;
  graph.exec_ = exec;
  return absl::OkStatus();
}

absl::Status Stream::Launch(Graph& graph) {
  if (!graph.valid()) return Internal("a graph that was never captured was launched");
  RETURN_IF_ERROR(context_->Use());
  return context_->Check(context_->api().GraphLaunch(graph.exec_, handle_), "cuGraphLaunch");
}

}  // namespace lanyard::cuda
