// The part of NVML's C ABI that nvml.cc calls, with prototypes of our own and without nvml.h. The
// structures are laid out as in NVIDIA's NVML API reference and PyPI's nvidia-ml-py (pynvml.py).
#pragma once

#include <cstdint>

namespace lanyard::cuda::nvml {

using Device = void*;

inline constexpr int kSuccess = 0;
inline constexpr int kInsufficientSize = 7;
inline constexpr uint64_t kValueNotAvailable = ~uint64_t{0};
inline constexpr int kTemperatureGpu = 0;
inline constexpr int kClockSm = 1;
inline constexpr int kClockMemory = 2;

struct PciInfo {  // nvmlPciInfo_t
  char bus_id_legacy[16];
  unsigned domain;
  unsigned bus;
  unsigned device;
  unsigned pci_device_id;
  unsigned pci_subsystem_id;
  char bus_id[32];
};
static_assert(sizeof(PciInfo) == 68);

struct Memory {  // nvmlMemory_t
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};

struct Utilization {  // nvmlUtilization_t, percent
  unsigned gpu;
  unsigned memory;
};

struct Process {  // nvmlProcessInfo_v2_t
  unsigned pid;
  unsigned long long used_gpu_memory;
  unsigned gpu_instance_id;
  unsigned compute_instance_id;
};
static_assert(sizeof(Process) == 24);

// X(member, "exported symbol", "older symbol" or nullptr, (parameters)): every function returns an
// nvmlReturn_t.
#define LANYARD_NVML_FUNCTIONS(X)                                                                 \
  X(Init, "nvmlInit_v2", nullptr, ())                                                             \
  X(Shutdown, "nvmlShutdown", nullptr, ())                                                        \
  X(DriverVersion, "nvmlSystemGetDriverVersion", nullptr, (char* text, unsigned length))          \
  X(DeviceCount, "nvmlDeviceGetCount_v2", nullptr, (unsigned* count))                             \
  X(DeviceByIndex, "nvmlDeviceGetHandleByIndex_v2", nullptr,                                      \
    (unsigned index, nvml::Device* device))                                                       \
  X(Pci, "nvmlDeviceGetPciInfo_v3", nullptr, (nvml::Device device, nvml::PciInfo * info))         \
  X(Name, "nvmlDeviceGetName", nullptr, (nvml::Device device, char* text, unsigned length))       \
  X(MemoryInfo, "nvmlDeviceGetMemoryInfo", nullptr, (nvml::Device device, nvml::Memory * memory)) \
  X(UtilizationRates, "nvmlDeviceGetUtilizationRates", nullptr,                                   \
    (nvml::Device device, nvml::Utilization * rates))                                             \
  X(Temperature, "nvmlDeviceGetTemperature", nullptr,                                             \
    (nvml::Device device, int sensor, unsigned* celsius))                                         \
  X(PowerUsage, "nvmlDeviceGetPowerUsage", nullptr, (nvml::Device device, unsigned* milliwatts))  \
  X(PowerLimit, "nvmlDeviceGetEnforcedPowerLimit", nullptr,                                       \
    (nvml::Device device, unsigned* milliwatts))                                                  \
  X(Clock, "nvmlDeviceGetClockInfo", nullptr, (nvml::Device device, int clock, unsigned* mhz))    \
  X(PcieGeneration, "nvmlDeviceGetCurrPcieLinkGeneration", nullptr,                               \
    (nvml::Device device, unsigned* generation))                                                  \
  X(PcieWidth, "nvmlDeviceGetCurrPcieLinkWidth", nullptr, (nvml::Device device, unsigned* lanes)) \
  X(ComputeProcesses, "nvmlDeviceGetComputeRunningProcesses_v3",                                  \
    "nvmlDeviceGetComputeRunningProcesses_v2",                                                    \
    (nvml::Device device, unsigned* count, nvml::Process* processes))                             \
  X(GraphicsProcesses, "nvmlDeviceGetGraphicsRunningProcesses_v3",                                \
    "nvmlDeviceGetGraphicsRunningProcesses_v2",                                                   \
    (nvml::Device device, unsigned* count, nvml::Process* processes))

}  // namespace lanyard::cuda::nvml
