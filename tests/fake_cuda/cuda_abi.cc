// The C ABI of libcuda.so.1, as far as engine/cuda/abi.h calls it: devices, contexts, memory,
// modules. Streams, events and graphs are in cuda_abi_streams.cc.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/fake_cuda/entry.h"

namespace lanyard::fake_cuda {

thread_local Handle g_current_context = nullptr;

namespace {

// The newest PTX ISA that a driver of this version compiles, times ten.
int IsaOf(int driver) {
  const int major = driver / 1000;
  const int minor = driver % 1000 / 10;
  if (major >= 13) return 90 + minor;
  if (major == 12) return 80 + (minor >= 6 ? minor - 1 : minor);
  return 70 + minor;
}

void WriteStatsAtExit() {
  const char* path = std::getenv("LANYARD_FAKE_CUDA_STATS");
  if (path == nullptr || *path == '\0') return;
  std::FILE* file = std::fopen(path, "a");
  if (file == nullptr) return;
  std::fprintf(file, "%s\n", StatsText(World::Get()).c_str());
  std::fclose(file);
}

// Once a process: as the environment says, and its figures at its end.
void SetUpOnce() {
  World& world = World::Get();
  static bool done = false;
  if (done) return;
  done = true;
  if (!world.configured) world.Reset(nullptr);
  std::atexit(WriteStatsAtExit);
}

int Attribute(const Card& card, int attribute) {
  using namespace cuda::abi;  // NOLINT: a table of its names
  switch (attribute) {
    case kClockRate:
      return 1'500'000;
    case kMultiprocessorCount:
      return card.config.sm_count;
    case kIntegrated:
      return card.config.integrated ? 1 : 0;
    case kMemoryClockRate:
      return 7'000'000;
    case kMemoryBusWidth:
      return 192;
    case kL2CacheSize:
      return 3 << 20;
    case kMaxThreadsPerMultiprocessor:
      return card.config.cc == 75 ? 1024 : 1536;
    case kAsyncEngineCount:
      return 2;
    case kComputeCapabilityMajor:
      return card.config.cc / 10;
    case kComputeCapabilityMinor:
      return card.config.cc % 10;
    case kMaxSharedPerMultiprocessor:
      return card.config.cc >= 80 ? 100 << 10 : 64 << 10;
    case kMaxRegistersPerMultiprocessor:
      return 65536;
    case kMaxSharedPerBlockOptin:
      return card.config.cc >= 80 ? 99 << 10 : card.config.cc == 75 ? 64 << 10 : 48 << 10;
    default:
      return -1;
  }
}

Card* DeviceCard(cuda::abi::Device device) {
  World& world = World::Get();
  return device >= 0 && device < static_cast<int>(world.cards.size()) ? world.cards[device].get()
                                                                      : nullptr;
}

// The caller's buffer of a JIT option, filled.
void WriteLog(const std::string& text, unsigned count, const int* options, void** values,
              int which) {
  char* buffer = nullptr;
  size_t bytes = 0;
  for (unsigned i = 0; i < count; ++i) {
    if (options[i] == which) buffer = static_cast<char*>(values[i]);
    if (options[i] == which + 1) bytes = reinterpret_cast<size_t>(values[i]);
  }
  if (buffer == nullptr || bytes == 0) return;
  std::snprintf(buffer, bytes, "%s", text.c_str());
}

int Jit(const Card& card, const char* image, std::string& log,
        std::shared_ptr<const ptx::Module>& out) {
  const World& world = World::Get();
  absl::StatusOr<std::shared_ptr<const ptx::Module>> parsed = ParseCached(image);
  if (!parsed.ok()) {
    log = absl::StrCat("ptxas fatal   : ", parsed.status().message());
    return cuda::abi::kInvalidPtx;
  }
  if ((*parsed)->ptx_version() > IsaOf(world.config.driver)) {
    log = absl::StrFormat(
        "ptxas application ptx input, line 1; fatal   : Unsupported .version %d.%d; current "
        "version is %d.%d",
        (*parsed)->ptx_version() / 10, (*parsed)->ptx_version() % 10,
        IsaOf(world.config.driver) / 10, IsaOf(world.config.driver) % 10);
    return cuda::abi::kUnsupportedPtxVersion;
  }
  if ((*parsed)->target_sm() > card.config.cc) {
    log = absl::StrCat(
        "ptxas fatal   : SM version specified by .target is higher than default SM version "
        "assumed: sm_",
        (*parsed)->target_sm(), " for a card of sm_", card.config.cc);
    return cuda::abi::kInvalidPtx;
  }
  out = *std::move(parsed);
  return 0;
}

}  // namespace

extern "C" {  // the names of namespace members too are plain C

int cuInit(unsigned flags) {
  const std::lock_guard<std::mutex> lock(World::Get().mutex);
  SetUpOnce();
  if (flags != 0) return abi::kInvalidValue;
  return World::Get().cards.empty() ? abi::kNoDevice : 0;
}

int cuDriverGetVersion(int* version) {
  *version = World::Get().config.driver;
  return 0;
}

int cuDeviceGetCount(int* count) {
  *count = static_cast<int>(World::Get().cards.size());
  return 0;
}

int cuDeviceGet(abi::Device* device, int ordinal) {
  if (DeviceCard(ordinal) == nullptr) return abi::kInvalidDevice;
  *device = ordinal;
  return 0;
}

int cuDeviceGetName(char* name, int length, abi::Device device) {
  if (DeviceCard(device) == nullptr) return abi::kInvalidDevice;
  std::snprintf(name, static_cast<size_t>(length), "Interpreted card %d", device);
  return 0;
}

int cuDeviceTotalMem_v2(size_t* bytes, abi::Device device) {
  const Card* card = DeviceCard(device);
  if (card == nullptr) return abi::kInvalidDevice;
  *bytes = card->config.memory_bytes;
  return 0;
}

int cuDeviceGetAttribute(int* value, int attribute, abi::Device device) {
  const Card* card = DeviceCard(device);
  if (card == nullptr) return abi::kInvalidDevice;
  const int known = Attribute(*card, attribute);
  if (known < 0) return abi::kInvalidValue;
  *value = known;
  return 0;
}

int cuDeviceGetPCIBusId(char* id, int length, abi::Device device) {
  if (DeviceCard(device) == nullptr) return abi::kInvalidDevice;
  std::snprintf(id, static_cast<size_t>(length), "0000:%02X:00.0", 0x0a + device);
  return 0;
}

int cuDeviceGetUuid_v2(abi::Uuid* uuid, abi::Device device) {
  if (DeviceCard(device) == nullptr) return abi::kInvalidDevice;
  *uuid = {};
  uuid->bytes[0] = 0xfa;
  uuid->bytes[15] = static_cast<unsigned char>(device);
  return 0;
}

int cuDeviceCanAccessPeer(int* can, abi::Device device, abi::Device peer) {
  if (DeviceCard(device) == nullptr || DeviceCard(peer) == nullptr) return abi::kInvalidDevice;
  *can = World::Get().config.peer && device != peer ? 1 : 0;
  return 0;
}

int cuDevicePrimaryCtxRetain(abi::Handle* context, abi::Device device) {
  Entry entry;
  Card* card = DeviceCard(device);
  if (card == nullptr) return abi::kInvalidDevice;
  if (const int result = entry.On(device); result != 0) return result;
  card->retained += 1;
  *context = World::ContextOf(*card);
  return 0;
}

int cuDevicePrimaryCtxRelease_v2(abi::Device device) {
  Entry entry;
  Card* card = DeviceCard(device);
  if (card == nullptr) return abi::kInvalidDevice;
  if (card->retained == 0) return abi::kInvalidContext;
  card->retained -= 1;
  return 0;
}

int cuDevicePrimaryCtxSetFlags_v2(abi::Device device, unsigned) {
  return DeviceCard(device) == nullptr ? abi::kInvalidDevice : 0;
}

int cuCtxSetCurrent(abi::Handle context) {
  Entry entry;
  const Card* card = entry.world().CardOfContext(context);
  if (context != nullptr && (card == nullptr || card->retained == 0)) return abi::kInvalidContext;
  g_current_context = context;
  return 0;
}

int cuCtxSynchronize() {
  Entry entry;
  if (const int result = entry.OnCurrent(); result != 0) return result;
  if (const auto capture = entry.world().CaptureOfThisThread()) {
    capture->invalid = true;
    return abi::kStreamCaptureUnsupported;
  }
  entry.world().RunCard(entry.device());
  return entry.card().lost;
}

int cuCtxEnablePeerAccess(abi::Handle peer, unsigned) {
  Entry entry;
  if (const int result = entry.OnCurrent(); result != 0) return result;
  const Card* card = entry.world().CardOfContext(peer);
  if (card == nullptr) return abi::kInvalidContext;
  if (!entry.world().config.peer) return 217;  // PEER_ACCESS_UNSUPPORTED
  return entry.card().peers.insert(card->ordinal).second ? 0 : abi::kPeerAccessAlreadyEnabled;
}

int cuMemGetInfo_v2(size_t* free, size_t* total) {
  while (World::Get().hung.load()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  Entry entry;
  if (const int result = entry.OnCurrent(); result != 0) return result;
  *free = entry.card().free_bytes();
  *total = entry.card().config.memory_bytes;
  return 0;
}

int cuMemAlloc_v2(abi::Pointer* address, size_t bytes) {
  Entry entry;
  if (const int result = entry.OnCurrent(); result != 0) return result;
  World& world = entry.world();
  if (bytes == 0) return abi::kInvalidValue;
  if (const auto capture = world.CaptureOfThisThread()) {
    capture->invalid = true;
    return abi::kStreamCaptureUnsupported;
  }
  ++world.stats.allocs;
  const bool fails =
      world.stats.allocs == world.config.fail_alloc ||
      (world.config.fail_alloc_from != 0 && world.stats.allocs >= world.config.fail_alloc_from);
  Card& card = entry.card();
  if (fails || bytes > card.free_bytes()) return abi::kOutOfMemory;
  const uint64_t at = card.memory->Alloc(bytes, absl::StrCat("cuMemAlloc #", world.stats.allocs));
  card.allocations.emplace(at, bytes);
  card.used_bytes += bytes;
  card.peak_bytes = std::max(card.peak_bytes, card.used_bytes.load());
  *address = at;
  return 0;
}

int cuMemFree_v2(abi::Pointer address) {
  Entry entry;
  if (const int result = entry.OnCurrent(); result != 0) return result;
  if (address == 0) return 0;
  Card& card = entry.card();
  const auto found = card.allocations.find(address);
  if (found == card.allocations.end()) {
    entry.world().Report(
        absl::StrCat("cuda:", card.ordinal, ": cuMemFree of an address that is no allocation's"));
    return abi::kInvalidValue;
  }
  entry.world().RunCard(card.ordinal);  // the driver waits for the card too
  if (card.lost != 0) return card.lost;
  card.used_bytes -= found->second;
  card.allocations.erase(found);
  if (const absl::Status status = card.memory->Free(address); !status.ok())
    entry.world().Report(Str(status.message()));
  return 0;
}

int cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
  Entry entry;
  if (const int result = entry.OnCurrent(); result != 0) return result;
  World& world = entry.world();
  if (bytes == 0) return abi::kInvalidValue;
  if (++world.stats.host_allocs == world.config.fail_host_alloc) return abi::kOutOfMemory;
  void* memory = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  if (memory == nullptr) return abi::kOutOfMemory;
  std::memset(memory, 0xa5, bytes);
  world.pinned.emplace(reinterpret_cast<uintptr_t>(memory), bytes);
  *pointer = memory;
  return 0;
}

int cuMemFreeHost(void* pointer) {
  Entry entry;
  World& world = entry.world();
  const auto found = world.pinned.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == world.pinned.end()) return abi::kInvalidValue;
  for (const auto& card : world.cards) world.RunCard(card->ordinal);
  world.pinned.erase(found);
  std::free(pointer);
  return 0;
}

int cuModuleLoadDataEx(abi::Handle* module, const void* image, unsigned count, int* options,
                       void** values) {
  Entry entry;
  if (const int result = entry.OnCurrent(); result != 0) return result;
  std::string log;
  auto loaded = std::make_unique<LoadedModule>();
  loaded->device = entry.device();
  const int result = Jit(entry.card(), static_cast<const char*>(image), log, loaded->module);
  if (result != 0) {
    WriteLog(log, count, options, values, abi::kJitErrorLogBuffer);
    return result;
  }
  *module = entry.world().NewHandle();
  entry.world().modules.emplace(*module, std::move(loaded));
  return 0;
}

int cuModuleUnload(abi::Handle module) {
  Entry entry;
  World& world = entry.world();
  const auto found = world.modules.find(module);
  if (found == world.modules.end()) return abi::kInvalidHandle;
  if (const int result = entry.On(found->second->device); result != 0) return result;
  world.RunCard(found->second->device);
  for (const auto& [name, function] : found->second->functions) world.functions.erase(function);
  entry.card().machine->Unload(*found->second->module);
  world.modules.erase(found);
  return entry.card().lost;
}

int cuModuleGetFunction(abi::Handle* function, abi::Handle module, const char* name) {
  Entry entry;
  World& world = entry.world();
  const auto found = world.modules.find(module);
  if (found == world.modules.end()) return abi::kInvalidHandle;
  LoadedModule& loaded = *found->second;
  if (const int result = entry.On(loaded.device); result != 0) return result;
  const auto known = loaded.functions.find(name);
  if (known != loaded.functions.end()) {
    *function = known->second;
    return 0;
  }
  const ptx::Kernel* kernel = loaded.module->Find(name);
  if (kernel == nullptr) return abi::kNotFound;
  auto made = std::make_unique<Function>();
  made->module = loaded.module;
  made->kernel = kernel;
  made->device = loaded.device;
  *function = world.NewHandle();
  world.functions.emplace(*function, std::move(made));
  loaded.functions.emplace(name, *function);
  return 0;
}

int cuFuncGetAttribute(int* value, int attribute, abi::Handle function) {
  Entry entry;
  const auto found = entry.world().functions.find(function);
  if (found == entry.world().functions.end()) return abi::kInvalidHandle;
  if (const int result = entry.On(found->second->device); result != 0) return result;
  const ptx::Kernel& kernel = *found->second->kernel;
  switch (attribute) {
    case abi::kFunctionMaxThreads:
      *value = static_cast<int>(kernel.max_threads());
      return 0;
    case abi::kFunctionSharedBytes:
      *value = static_cast<int>(kernel.static_shared_bytes());
      return 0;
    case abi::kFunctionLocalBytes:
      *value = static_cast<int>(kernel.local_bytes());
      return 0;
    case abi::kFunctionRegisters:
      *value = static_cast<int>(kernel.live_registers());
      return 0;
    default:
      return abi::kInvalidValue;
  }
}

int cuFuncSetAttribute(abi::Handle function, int attribute, int value) {
  Entry entry;
  const auto found = entry.world().functions.find(function);
  if (found == entry.world().functions.end()) return abi::kInvalidHandle;
  if (const int result = entry.On(found->second->device); result != 0) return result;
  if (attribute != abi::kFunctionMaxDynamicSharedBytes) return abi::kInvalidValue;
  const int limit = Attribute(entry.card(), abi::kMaxSharedPerBlockOptin);
  if (value < 0 || value + static_cast<int>(found->second->kernel->static_shared_bytes()) > limit) {
    return abi::kInvalidValue;
  }
  found->second->max_dynamic_shared_bytes = static_cast<uint32_t>(value);
  return 0;
}

}  // extern "C"

}  // namespace lanyard::fake_cuda
