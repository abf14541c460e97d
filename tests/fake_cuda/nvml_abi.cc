// libfakenvml.so: NVML for the cards of LANYARD_FAKE_CUDA. Memory in use is what libfakecuda.so of
// the same process says, and what "others" takes. LANYARD_FAKE_NVML: "silent" = every number is
// refused, as old cards and WSL2 do; "own" = the process that computes is this one.
#include "engine/cuda/nvml_abi.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/fake_cuda/config.h"

namespace {

using lanyard::cuda::nvml::Device;
using lanyard::fake_cuda::CardConfig;
using lanyard::fake_cuda::Config;
namespace nvml = lanyard::cuda::nvml;

constexpr int kUninitialized = 1;
constexpr int kInvalidArgument = 2;
constexpr int kNotSupported = 3;

int g_initialised = 0;
Config g_config;

bool Mode(const char* name) {
  const char* text = std::getenv("LANYARD_FAKE_NVML");
  return text != nullptr && std::strcmp(text, name) == 0;
}

// Handles are 1, 2, ...
int IndexOf(Device device) { return static_cast<int>(reinterpret_cast<uintptr_t>(device)) - 1; }

int Check(Device device) {
  if (g_initialised == 0) return kUninitialized;
  const int index = IndexOf(device);
  if (index < 0 || index >= g_config.devices) return kInvalidArgument;
  return Mode("silent") ? kNotSupported : 0;
}

uint64_t UsedHere(int index) {
  const char* path = std::getenv("LANYARD_CUDA_LIBRARY");
  if (path == nullptr) return 0;
  void* library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) return 0;
  using UsedFn = uint64_t (*)(int);
  const auto used = reinterpret_cast<UsedFn>(dlsym(library, "lanyard_fake_cuda_used"));
  const uint64_t bytes = used != nullptr ? used(index) : 0;
  dlclose(library);
  return bytes;
}

int Tell(Device device, unsigned value, unsigned* out) {
  const int result = Check(device);
  if (result == 0) *out = value;
  return result;
}

int Processes(Device device, unsigned* count, nvml::Process* processes, nvml::Process one) {
  const int result = Check(device);
  if (result != 0) return result;
  if (*count < 1 || processes == nullptr) {
    *count = 1;
    return nvml::kInsufficientSize;
  }
  *count = 1;
  processes[0] = one;
  return 0;
}

}  // namespace

extern "C" {

int nvmlInit_v2() {
  const char* text = std::getenv("LANYARD_FAKE_CUDA");
  auto config = lanyard::fake_cuda::ParseConfig(text != nullptr ? text : "");
  if (!config.ok()) return 9;  // DRIVER_NOT_LOADED
  g_config = *std::move(config);
  ++g_initialised;
  return 0;
}

int nvmlShutdown() {
  if (g_initialised == 0) return kUninitialized;
  --g_initialised;
  return 0;
}

int nvmlSystemGetDriverVersion(char* text, unsigned length) {
  std::snprintf(text, length, "580.0.fake");
  return 0;
}

int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = static_cast<unsigned>(g_config.devices);
  return g_initialised == 0 ? kUninitialized : 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device* device) {
  if (index >= static_cast<unsigned>(g_config.devices)) return kInvalidArgument;
  *device = reinterpret_cast<Device>(uintptr_t{index} + 1);
  return 0;
}

int nvmlDeviceGetPciInfo_v3(Device device, nvml::PciInfo* info) {
  const int index = IndexOf(device);
  if (index < 0 || index >= g_config.devices) return kInvalidArgument;
  *info = {};
  info->bus = 0x0a + static_cast<unsigned>(index);
  std::snprintf(info->bus_id, sizeof(info->bus_id), "00000000:%02X:00.0", info->bus);
  return 0;
}

int nvmlDeviceGetName(Device device, char* text, unsigned length) {
  std::snprintf(text, length, "Interpreted card %d", IndexOf(device));
  return 0;
}

int nvmlDeviceGetMemoryInfo(Device device, nvml::Memory* memory) {
  const int result = Check(device);
  if (result != 0) return result;
  const CardConfig& card = g_config.cards[static_cast<size_t>(IndexOf(device))];
  memory->total = card.memory_bytes;
  memory->used =
      std::min<uint64_t>(card.others_bytes + UsedHere(IndexOf(device)), card.memory_bytes);
  memory->free = memory->total - memory->used;
  return 0;
}

int nvmlDeviceGetUtilizationRates(Device device, nvml::Utilization* rates) {
  const int result = Check(device);
  if (result == 0) *rates = {37, 12};
  return result;
}

int nvmlDeviceGetTemperature(Device device, int, unsigned* celsius) {
  return Tell(device, 51, celsius);
}
int nvmlDeviceGetPowerUsage(Device device, unsigned* milliwatts) {
  return Tell(device, 64'500, milliwatts);
}
int nvmlDeviceGetEnforcedPowerLimit(Device device, unsigned* milliwatts) {
  return Tell(device, 170'000, milliwatts);
}
int nvmlDeviceGetClockInfo(Device device, int clock, unsigned* mhz) {
  return Tell(device, clock == nvml::kClockSm ? 1777 : 7501, mhz);
}
int nvmlDeviceGetCurrPcieLinkGeneration(Device device, unsigned* generation) {
  return Tell(device, 4, generation);
}
int nvmlDeviceGetCurrPcieLinkWidth(Device device, unsigned* lanes) {
  return Tell(device, 16, lanes);
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device device, unsigned* count,
                                            nvml::Process* processes) {
  const unsigned pid = Mode("own") ? static_cast<unsigned>(getpid()) : 4242;
  return Processes(device, count, processes, {pid, UsedHere(IndexOf(device)), 0, 0});
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(Device device, unsigned* count,
                                             nvml::Process* processes) {
  return Processes(device, count, processes, {1717, nvml::kValueNotAvailable, 0, 0});
}

}  // extern "C"
