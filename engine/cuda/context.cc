#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "base/mutex.h"
#include "engine/cuda/abi.h"
#include "engine/cuda/driver.h"
#include "engine/ops/cuda/ptx_image.h"

namespace lanyard::cuda {

struct Context::Loss {
  mutable Mutex mutex;
  std::string text ABSL_GUARDED_BY(mutex);
};

Context::Context(std::shared_ptr<const Driver> driver, int ordinal)
    : driver_(std::move(driver)), loss_(std::make_unique<Loss>()) {
  for (const DeviceInfo& info : driver_->devices()) {
    if (info.ordinal == ordinal) device_ = info;
  }
}

absl::StatusOr<std::shared_ptr<Context>> Context::Create(std::shared_ptr<const Driver> driver,
                                                         int ordinal,
                                                         const ContextOptions& options) {
  const auto& devices = driver->devices();
  if (std::none_of(devices.begin(), devices.end(),
                   [&](const DeviceInfo& d) { return d.ordinal == ordinal; })) {
    return NotFound("no card cuda:", ordinal, "; the driver sees ", devices.size());
  }
  std::shared_ptr<Context> context(new Context(std::move(driver), ordinal));
  const Api& api = context->api();
  RETURN_IF_ERROR(context->Check(api.DeviceGet(&context->device_handle_, ordinal), "cuDeviceGet"));
  const unsigned flags = options.spin ? abi::kContextSpin : abi::kContextBlockingSync;
  // Old drivers refuse this while another part of the process uses the card; then it stays as it
  // is.
  (void)api.PrimaryCtxSetFlags(context->device_handle_, flags);
  AbiHandle* handle = nullptr;
  RETURN_IF_ERROR(context->Check(api.PrimaryCtxRetain(&handle, context->device_handle_),
                                 "cuDevicePrimaryCtxRetain"));
  context->handle_ = handle;
  RETURN_IF_ERROR(context->Use());
  return context;
}

Context::~Context() {
  if (handle_ != nullptr) (void)api().PrimaryCtxRelease(device_handle_);
}

absl::Status Context::lost_status() const {
  if (!lost()) return absl::OkStatus();
  MutexLock lock(&loss_->mutex);
  return absl::UnavailableError(loss_->text);
}

absl::Status Context::Use() {
  if (lost()) return lost_status();
  return Check(api().CtxSetCurrent(handle_), "cuCtxSetCurrent");
}

absl::Status Context::Check(int result, const char* call) {
  if (result == abi::kSuccess) return absl::OkStatus();
  std::string text = absl::StrCat("cuda:", device_.ordinal, " (", device_.name, "): ", call,
                                  " said ", ResultName(result));
  if (IsDeviceLost(result)) {
    MutexLock lock(&loss_->mutex);
    if (!lost_.load(std::memory_order_relaxed)) {
      loss_->text = absl::StrCat("lost ", text, "; restart the worker, and see dmesg for an Xid");
      lost_.store(true, std::memory_order_release);
    }
    return absl::UnavailableError(loss_->text);
  }
  switch (result) {
    case abi::kOutOfMemory:
      return absl::ResourceExhaustedError(text);
    case abi::kNotFound:
    case abi::kNoDevice:
      return absl::NotFoundError(text);
    case abi::kInvalidImage:
    case abi::kInvalidPtx:
    case abi::kNoBinaryForGpu:
      return absl::InvalidArgumentError(text);
    case abi::kUnsupportedPtxVersion:
    case abi::kJitCompilerNotFound:
    case abi::kJitCompilationDisabled:
      return FailedPrecondition(text, "; a newer NVIDIA driver is needed to compile the kernels");
    default:
      return absl::InternalError(text);
  }
}

absl::StatusOr<CardMemory> Context::Memory() {
  RETURN_IF_ERROR(Use());
  size_t free = 0;
  size_t total = 0;
  RETURN_IF_ERROR(Check(api().MemGetInfo(&free, &total), "cuMemGetInfo"));
  return CardMemory{free, total};
}

absl::StatusOr<DeviceAddress> Context::Allocate(uint64_t bytes) {
  RETURN_IF_ERROR(Use());
  abi::Pointer address = 0;
  RETURN_IF_ERROR(Check(api().MemAlloc(&address, std::max<uint64_t>(bytes, 1)), "cuMemAlloc"));
  return DeviceAddress{address};
}

void Context::Free(DeviceAddress address) {
  // A lost device's memory is gone with its context.
  if (address == 0 || !Use().ok()) return;
  (void)Check(api().MemFree(address), "cuMemFree");
}

absl::Status Context::Synchronize() {
  RETURN_IF_ERROR(Use());
  return Check(api().CtxSynchronize(), "cuCtxSynchronize");
}

absl::StatusOr<bool> Context::EnablePeer(Context& peer) {
  if (&peer == this || peer.device_handle_ == device_handle_) return true;
  RETURN_IF_ERROR(Use());
  int can = 0;
  RETURN_IF_ERROR(Check(api().DeviceCanAccessPeer(&can, device_handle_, peer.device_handle_),
                        "cuDeviceCanAccessPeer"));
  if (can == 0) return false;
  const int result = api().CtxEnablePeerAccess(peer.handle_, 0);
  if (result == abi::kPeerAccessAlreadyEnabled) return true;
  RETURN_IF_ERROR(Check(result, "cuCtxEnablePeerAccess"));
  return true;
}

struct Module::Cache {
  struct Function {
    AbiHandle* handle = nullptr;
    uint32_t dynamic_shared_bytes = 48 << 10;  // a block may have this much without asking for more
  };
  Mutex mutex;
  absl::flat_hash_map<std::string, Function> functions ABSL_GUARDED_BY(mutex);
};

Module::Module(std::shared_ptr<Context> context)
    : context_(std::move(context)), cache_(std::make_unique<Cache>()) {}

Module::~Module() {
  for (AbiHandle* module : modules_) {
    if (context_->Use().ok()) (void)context_->api().ModuleUnload(module);
  }
}

absl::StatusOr<std::shared_ptr<Module>> Module::Load(std::shared_ptr<Context> context,
                                                     std::span<const std::string_view> ptx) {
  std::shared_ptr<Module> module(new Module(context));
  RETURN_IF_ERROR(context->Use());
  for (const std::string_view image : ptx) {
    const std::string text(image);  // the driver needs a terminating zero
    std::string errors(16 << 10, '\0');
    std::string infos(4 << 10, '\0');
    int options[] = {abi::kJitErrorLogBuffer, abi::kJitErrorLogBufferBytes, abi::kJitInfoLogBuffer,
                     abi::kJitInfoLogBufferBytes};
    void* values[] = {errors.data(), reinterpret_cast<void*>(errors.size() - 1), infos.data(),
                      reinterpret_cast<void*>(infos.size() - 1)};
    AbiHandle* handle = nullptr;
    const int result = context->api().ModuleLoadDataEx(&handle, text.c_str(), 4, options, values);
    if (absl::Status status = context->Check(result, "cuModuleLoadDataEx"); !status.ok()) {
      const std::string log = errors.c_str();
      if (log.empty()) return status;
      return absl::Status(status.code(), absl::StrCat(status.message(), "\n", log));
    }
    context->NoteGrowth();
    module->modules_.push_back(handle);
  }
  return module;
}

absl::StatusOr<int> Module::LevelFor(const DeviceInfo& card) {
  const std::span<const int> levels = ops::cuda::PtxLevels();
  if (levels.empty())
    return FailedPrecondition("this binary was built without CUDA kernels (no clang, no nvcc)");
  const int level = ChoosePtxLevel(card.cc(), levels);
  if (level == 0) {
    return FailedPrecondition(card.name, " has compute capability ", card.cc_major, ".",
                              card.cc_minor, "; this binary's kernels need ", levels[0] / 10, ".",
                              levels[0] % 10, " or newer");
  }
  return level;
}

absl::StatusOr<std::shared_ptr<Module>> Module::LoadShipped(std::shared_ptr<Context> context) {
  ASSIGN_OR_RETURN(const int level, LevelFor(context->device()));
  std::vector<std::string_view> images;
  for (const ops::cuda::PtxFile& file : ops::cuda::PtxImages(level)) images.push_back(file.text);
  ASSIGN_OR_RETURN(std::shared_ptr<Module> module, Load(std::move(context), images));
  module->level_ = level;
  return module;
}

absl::StatusOr<AbiHandle*> Module::Find(std::string_view kernel, uint32_t shared_bytes) {
  MutexLock lock(&cache_->mutex);
  auto found = cache_->functions.find(AbslView(kernel));
  if (found == cache_->functions.end()) {
    RETURN_IF_ERROR(context_->Use());
    const std::string name(kernel);
    AbiHandle* handle = nullptr;
    for (AbiHandle* module : modules_) {
      const int result = context_->api().ModuleGetFunction(&handle, module, name.c_str());
      if (result == abi::kSuccess) break;
      handle = nullptr;
      if (result != abi::kNotFound) RETURN_IF_ERROR(context_->Check(result, "cuModuleGetFunction"));
    }
    if (handle == nullptr)
      return NotFound("no kernel ", name, " in the ", modules_.size(), " loaded images");
    context_->NoteGrowth();
    found = cache_->functions.emplace(name, Cache::Function{handle}).first;
  }
  Cache::Function& function = found->second;
  if (shared_bytes > function.dynamic_shared_bytes) {
    RETURN_IF_ERROR(context_->Use());
    RETURN_IF_ERROR(context_->Check(
        context_->api().FuncSetAttribute(function.handle, abi::kFunctionMaxDynamicSharedBytes,
                                         static_cast<int>(shared_bytes)),
        "cuFuncSetAttribute"));
    function.dynamic_shared_bytes = shared_bytes;
  }
  return function.handle;
}

absl::StatusOr<KernelInfo> Module::Info(std::string_view kernel) {
  ASSIGN_OR_RETURN(AbiHandle * function, Find(kernel, 0));
  RETURN_IF_ERROR(context_->Use());
  KernelInfo info;
  const std::pair<int, int*> wanted[] = {{abi::kFunctionRegisters, &info.registers},
                                         {abi::kFunctionLocalBytes, &info.local_bytes},
                                         {abi::kFunctionSharedBytes, &info.shared_bytes},
                                         {abi::kFunctionMaxThreads, &info.max_threads}};
  for (const auto& [attribute, value] : wanted) {
    RETURN_IF_ERROR(context_->Check(context_->api().FuncGetAttribute(value, attribute, function),
                                    "cuFuncGetAttribute"));
  }
  return info;
}

absl::StatusOr<PinnedMemory> PinnedMemory::Allocate(std::shared_ptr<Context> context,
                                                    size_t bytes) {
  RETURN_IF_ERROR(context->Use());
  void* pointer = nullptr;
  RETURN_IF_ERROR(context->Check(
      context->api().MemHostAlloc(&pointer, std::max<size_t>(bytes, 1), abi::kHostAllocPortable),
      "cuMemHostAlloc"));
  PinnedMemory memory;
  memory.context_ = std::move(context);
  memory.data_ = static_cast<uint8_t*>(pointer);
  memory.size_ = bytes;
  return memory;
}

PinnedMemory::PinnedMemory(PinnedMemory&& other) noexcept { *this = std::move(other); }

PinnedMemory& PinnedMemory::operator=(PinnedMemory&& other) noexcept {
  if (this == &other) return *this;
  Reset();
  context_ = std::move(other.context_);
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, 0);
  return *this;
}

void PinnedMemory::Reset() {
  if (data_ == nullptr) return;
  // Host memory is ours even when the device is lost.
  (void)context_->api().CtxSetCurrent(context_->handle());
  (void)context_->api().MemFreeHost(data_);
  data_ = nullptr;
  size_ = 0;
  context_.reset();
}

}  // namespace lanyard::cuda
