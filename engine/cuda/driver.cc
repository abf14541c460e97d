#include "engine/cuda/driver.h"

#include <dlfcn.h>

#include <algorithm>
#include <cctype>

#include "engine/cuda/abi.h"
#include "engine/cuda/environment.h"

namespace lanyard::cuda {
namespace {

struct Named {
  int result;
  const char* name;  // without the prefix CUDA_ERROR_
};

// These are from cuda.h of CUDA 13.0. An older driver never returns a newer code.
constexpr Named kNames[] = {
    {1, "INVALID_VALUE"},
    {2, "OUT_OF_MEMORY"},
    {3, "NOT_INITIALIZED"},
    {4, "DEINITIALIZED"},
    {34, "STUB_LIBRARY"},
    {36, "CALL_REQUIRES_NEWER_DRIVER"},
    {46, "DEVICE_UNAVAILABLE"},
    {100, "NO_DEVICE"},
    {101, "INVALID_DEVICE"},
    {102, "DEVICE_NOT_LICENSED"},
    {200, "INVALID_IMAGE"},
    {201, "INVALID_CONTEXT"},
    {205, "MAP_FAILED"},
    {206, "UNMAP_FAILED"},
    {209, "NO_BINARY_FOR_GPU"},
    {214, "ECC_UNCORRECTABLE"},
    {215, "UNSUPPORTED_LIMIT"},
    {216, "CONTEXT_ALREADY_IN_USE"},
    {217, "PEER_ACCESS_UNSUPPORTED"},
    {218, "INVALID_PTX"},
    {219, "INVALID_GRAPHICS_CONTEXT"},
    {220, "NVLINK_UNCORRECTABLE"},
    {221, "JIT_COMPILER_NOT_FOUND"},
    {222, "UNSUPPORTED_PTX_VERSION"},
    {223, "JIT_COMPILATION_DISABLED"},
    {226, "CONTAINED"},
    {300, "INVALID_SOURCE"},
    {301, "FILE_NOT_FOUND"},
    {302, "SHARED_OBJECT_SYMBOL_NOT_FOUND"},
    {303, "SHARED_OBJECT_INIT_FAILED"},
    {304, "OPERATING_SYSTEM"},
    {400, "INVALID_HANDLE"},
    {401, "ILLEGAL_STATE"},
    {500, "NOT_FOUND"},
    {600, "NOT_READY"},
    {700, "ILLEGAL_ADDRESS"},
    {701, "LAUNCH_OUT_OF_RESOURCES"},
    {702, "LAUNCH_TIMEOUT"},
    {704, "PEER_ACCESS_ALREADY_ENABLED"},
    {705, "PEER_ACCESS_NOT_ENABLED"},
    {708, "PRIMARY_CONTEXT_ACTIVE"},
    {709, "CONTEXT_IS_DESTROYED"},
    {710, "ASSERT"},
    {711, "TOO_MANY_PEERS"},
    {712, "HOST_MEMORY_ALREADY_REGISTERED"},
    {713, "HOST_MEMORY_NOT_REGISTERED"},
    {714, "HARDWARE_STACK_ERROR"},
    {715, "ILLEGAL_INSTRUCTION"},
    {716, "MISALIGNED_ADDRESS"},
    {717, "INVALID_ADDRESS_SPACE"},
    {718, "INVALID_PC"},
    {719, "LAUNCH_FAILED"},
    {721, "TENSOR_MEMORY_LEAK"},
    {800, "NOT_PERMITTED"},
    {801, "NOT_SUPPORTED"},
    {802, "SYSTEM_NOT_READY"},
    {803, "SYSTEM_DRIVER_MISMATCH"},
    {804, "COMPAT_NOT_SUPPORTED_ON_DEVICE"},
    {805, "MPS_CONNECTION_FAILED"},
    {806, "MPS_RPC_FAILURE"},
    {807, "MPS_SERVER_NOT_READY"},
    {810, "MPS_CLIENT_TERMINATED"},
    {900, "STREAM_CAPTURE_UNSUPPORTED"},
    {901, "STREAM_CAPTURE_INVALIDATED"},
    {902, "STREAM_CAPTURE_MERGE"},
    {903, "STREAM_CAPTURE_UNMATCHED"},
    {904, "STREAM_CAPTURE_UNJOINED"},
    {905, "STREAM_CAPTURE_ISOLATION"},
    {906, "STREAM_CAPTURE_IMPLICIT"},
    {907, "CAPTURED_EVENT"},
    {908, "STREAM_CAPTURE_WRONG_THREAD"},
    {909, "TIMEOUT"},
    {910, "GRAPH_EXEC_UPDATE_FAILURE"},
    {911, "EXTERNAL_DEVICE"},
    {999, "UNKNOWN"},
};

absl::Status DriverFailure(int result, const char* call) {
  return NotFound("no NVIDIA driver that answers: ", call, " said ", ResultName(result),
                  "; see nvidia-smi, or run on the CPU");
}

}  // namespace

std::string ResultName(int result) {
  if (result == 0) return "CUDA_SUCCESS";
  for (const Named& named : kNames) {
    if (named.result == result) return absl::StrCat("CUDA_ERROR_", named.name);
  }
  return absl::StrCat("CUDA_ERROR ", result);
}

bool IsDeviceLost(int result) {
  switch (result) {
    case abi::kDeinitialized:
    case abi::kDeviceUnavailable:
    case abi::kEccUncorrectable:
    case abi::kNvlinkUncorrectable:
    case abi::kContained:
    case abi::kIllegalAddress:
    case abi::kLaunchTimeout:
    case abi::kContextIsDestroyed:
    case abi::kAssert:
    case abi::kHardwareStackError:
    case abi::kIllegalInstruction:
    case abi::kMisalignedAddress:
    case abi::kInvalidAddressSpace:
    case abi::kInvalidPc:
    case abi::kLaunchFailed:
    case abi::kTensorMemoryLeak:
    case abi::kExternalDevice:
    case abi::kUnknown:
      return true;
    default:
      return false;
  }
}

Driver::Driver() : api_(std::make_unique<Api>()) {}

// The library stays open: what a driver leaves behind (threads, exit handlers) must not lose its
// code.
Driver::~Driver() = default;

absl::StatusOr<std::shared_ptr<const Driver>> Driver::Open(const std::string& path) {
  std::shared_ptr<Driver> driver(new Driver());
  RETURN_IF_ERROR(driver->Load(CudaLibraryPath(path)));
  if (const int result = driver->api_->Init(0); result != 0) return DriverFailure(result, "cuInit");
  if (const int result = driver->api_->DriverGetVersion(&driver->version_); result != 0) {
    return DriverFailure(result, "cuDriverGetVersion");
  }
  RETURN_IF_ERROR(driver->ListDevices());
  return std::shared_ptr<const Driver>(std::move(driver));
}

absl::Status Driver::Load(const std::string& path) {
  library_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library_ == nullptr) {
    const char* why = dlerror();
    return NotFound("no NVIDIA driver: ", why != nullptr ? why : path.c_str());
  }
  const char* missing = nullptr;
#define LANYARD_CUDA_RESOLVE(member, symbol, parameters)                            \
  api_->member = reinterpret_cast<decltype(api_->member)>(dlsym(library_, symbol)); \
  if (api_->member == nullptr) missing = symbol;
  LANYARD_CUDA_FUNCTIONS(LANYARD_CUDA_RESOLVE)
#undef LANYARD_CUDA_RESOLVE
  if (missing != nullptr) {
    return NotFound("no NVIDIA driver that is new enough: ", path, " has no ", missing,
                    "; Lanyard needs R470 (CUDA 11.4) or newer");
  }
  return absl::OkStatus();
}

absl::Status Driver::ListDevices() {
  int count = 0;
  if (const int result = api_->DeviceGetCount(&count); result != 0) {
    return DriverFailure(result, "cuDeviceGetCount");
  }
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    abi::Device device = 0;
    if (api_->DeviceGet(&device, ordinal) != 0)
      continue;  // A card that does not answer counts as absent.
    DeviceInfo info;
    info.ordinal = ordinal;
    char text[256] = "";
    if (api_->DeviceGetName(text, sizeof(text) - 1, device) == 0) info.name = text;
    char pci[32] = "";
    if (api_->DeviceGetPciBusId(pci, sizeof(pci) - 1, device) == 0) info.pci_id = pci;
    std::transform(info.pci_id.begin(), info.pci_id.end(), info.pci_id.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (abi::Uuid uuid = {}; api_->DeviceGetUuid(&uuid, device) == 0) {
      for (const unsigned char byte : uuid.bytes) info.uuid += absl::StrFormat("%02x", byte);
    }
    size_t total = 0;
    if (api_->DeviceTotalMem(&total, device) != 0) continue;
    info.total_bytes = total;
    const auto attribute = [&](int which) {
      int value = 0;
      return api_->DeviceGetAttribute(&value, which, device) == 0 ? value : 0;
    };
    info.cc_major = attribute(abi::kComputeCapabilityMajor);
    info.cc_minor = attribute(abi::kComputeCapabilityMinor);
    info.sm_count = attribute(abi::kMultiprocessorCount);
    info.clock_khz = attribute(abi::kClockRate);
    info.memory_clock_khz = attribute(abi::kMemoryClockRate);
    info.memory_bus_bits = attribute(abi::kMemoryBusWidth);
    info.l2_bytes = attribute(abi::kL2CacheSize);
    info.shared_per_block_bytes = attribute(abi::kMaxSharedPerBlockOptin);
    info.shared_per_sm_bytes = attribute(abi::kMaxSharedPerMultiprocessor);
    info.registers_per_sm = attribute(abi::kMaxRegistersPerMultiprocessor);
    info.threads_per_sm = attribute(abi::kMaxThreadsPerMultiprocessor);
    info.copy_engines = attribute(abi::kAsyncEngineCount);
    info.integrated = attribute(abi::kIntegrated) != 0;
    devices_.push_back(std::move(info));
  }
  if (devices_.empty()) return NotFound("the NVIDIA driver sees no card");
  return absl::OkStatus();
}

int Driver::ptx_isa() const {
  const int major = version_ / 1000;
  const int minor = version_ % 1000 / 10;
  if (major >= 13) return 90 + minor;
  if (major == 12)
    return 80 + (minor >= 6 ? minor - 1 : minor);  // CUDA 12.5 and 12.6 both brought 8.5
  if (major == 11) return 70 + minor;
  if (major == 10) return 63 + std::min(minor, 2);
  return 60;
}

int ChoosePtxLevel(int cc, std::span<const int> levels) {
  int best = 0;
  for (const int level : levels) {
    if (level <= cc && level > best) best = level;
  }
  return best;
}

}  // namespace lanyard::cuda
