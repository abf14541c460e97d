#include "engine/cuda/nvml.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>

#include "engine/cuda/environment.h"
#include "engine/cuda/nvml_abi.h"

namespace lanyard::cuda {

// A function that the library lacks stays null; then that number is not told.
struct Nvml::Api {
#define LANYARD_NVML_MEMBER(member, symbol, older, parameters) int(*member) parameters = nullptr;
  LANYARD_NVML_FUNCTIONS(LANYARD_NVML_MEMBER)
#undef LANYARD_NVML_MEMBER
};

namespace {

template <typename F>
void Resolve(void* library, F& function, const char* symbol, const char* older) {
  function = reinterpret_cast<F>(dlsym(library, symbol));
  if (function == nullptr && older != nullptr)
    function = reinterpret_cast<F>(dlsym(library, older));
}

// Returns the number that a function of (device, unsigned*) tells.
template <typename F>
std::optional<int> Number(F function, nvml::Device device) {
  unsigned value = 0;
  if (function == nullptr || function(device, &value) != nvml::kSuccess) return std::nullopt;
  return static_cast<int>(value);
}

template <typename F>
std::optional<int> NumberOf(F function, nvml::Device device, int which) {
  unsigned value = 0;
  if (function == nullptr || function(device, which, &value) != nvml::kSuccess) return std::nullopt;
  return static_cast<int>(value);
}

template <typename F>
void AddProcesses(F function, nvml::Device device, bool graphics, std::vector<CardProcess>& out) {
  if (function == nullptr) return;
  std::vector<nvml::Process> processes(64);
  for (int attempt = 0; attempt < 3; ++attempt) {
    unsigned count = static_cast<unsigned>(processes.size());
    const int result = function(device, &count, processes.data());
    if (result == nvml::kInsufficientSize && count < 65536) {
      processes.resize(count + 16);
      continue;
    }
    if (result != nvml::kSuccess || count > processes.size()) return;
    for (unsigned i = 0; i < count; ++i) {
      CardProcess process;
      process.pid = processes[i].pid;
      if (processes[i].used_gpu_memory != nvml::kValueNotAvailable)
        process.bytes = processes[i].used_gpu_memory;
      process.graphics = graphics;
      out.push_back(process);
    }
    return;
  }
}

}  // namespace

std::unique_ptr<Nvml> Nvml::Open(const std::string& path) {
  std::unique_ptr<Nvml> self(new Nvml());
  void* library = dlopen(NvmlLibraryPath(path).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return self;
  auto api = std::make_unique<Api>();
#define LANYARD_NVML_RESOLVE(member, symbol, older, parameters) \
  Resolve(library, api->member, symbol, older);
  LANYARD_NVML_FUNCTIONS(LANYARD_NVML_RESOLVE)
#undef LANYARD_NVML_RESOLVE
  if (api->Init == nullptr || api->DeviceCount == nullptr || api->DeviceByIndex == nullptr ||
      api->Pci == nullptr || api->Init() != nvml::kSuccess) {
    return self;
  }
  self->library_ = library;
  self->api_ = std::move(api);
  return self;
}

Nvml::~Nvml() {
  // NVML counts Init and Shutdown; the library stays loaded as the driver's does.
  if (api_ != nullptr && api_->Shutdown != nullptr) (void)api_->Shutdown();
}

std::string Nvml::driver_version() const {
  char text[96] = "";
  if (!present() || api_->DriverVersion == nullptr ||
      api_->DriverVersion(text, sizeof(text) - 1) != nvml::kSuccess) {
    return "";
  }
  return text;
}

std::string Nvml::PciId(void* device) const {
  nvml::PciInfo pci = {};
  if (api_->Pci(device, &pci) != nvml::kSuccess) return "";
  char text[32];
  std::snprintf(text, sizeof(text), "%04x:%02x:%02x.0", pci.domain & 0xffff, pci.bus & 0xff,
                pci.device & 0xff);
  return text;
}

CardNumbers Nvml::Read(void* device) const {
  const Api& api = *api_;
  CardNumbers numbers;
  numbers.pci_id = PciId(device);
  char name[96] = "";
  if (api.Name != nullptr && api.Name(device, name, sizeof(name) - 1) == nvml::kSuccess)
    numbers.name = name;
  nvml::Memory memory = {};
  if (api.MemoryInfo != nullptr && api.MemoryInfo(device, &memory) == nvml::kSuccess) {
    numbers.total_bytes = memory.total;
    numbers.used_bytes = memory.used;
    numbers.free_bytes = memory.free;
  }
  nvml::Utilization rates = {};
  if (api.UtilizationRates != nullptr && api.UtilizationRates(device, &rates) == nvml::kSuccess) {
    numbers.gpu_percent = static_cast<int>(rates.gpu);
    numbers.memory_percent = static_cast<int>(rates.memory);
  }
  numbers.celsius = NumberOf(api.Temperature, device, nvml::kTemperatureGpu);
  if (const auto milliwatts = Number(api.PowerUsage, device)) numbers.watts = *milliwatts * 1e-3;
  if (const auto milliwatts = Number(api.PowerLimit, device))
    numbers.watts_limit = *milliwatts * 1e-3;
  numbers.sm_mhz = NumberOf(api.Clock, device, nvml::kClockSm);
  numbers.memory_mhz = NumberOf(api.Clock, device, nvml::kClockMemory);
  numbers.pcie_generation = Number(api.PcieGeneration, device);
  numbers.pcie_lanes = Number(api.PcieWidth, device);
  AddProcesses(api.ComputeProcesses, device, false, numbers.processes);
  AddProcesses(api.GraphicsProcesses, device, true, numbers.processes);
  return numbers;
}

std::vector<CardNumbers> Nvml::Cards() const {
  std::vector<CardNumbers> cards;
  unsigned count = 0;
  if (!present() || api_->DeviceCount(&count) != nvml::kSuccess) return cards;
  for (unsigned i = 0; i < count && i < 64; ++i) {
    nvml::Device device = nullptr;
    if (api_->DeviceByIndex(i, &device) == nvml::kSuccess) cards.push_back(Read(device));
  }
  return cards;
}

void* Nvml::Find(const std::string& pci_id) const {
  unsigned count = 0;
  if (!present() || pci_id.empty() || api_->DeviceCount(&count) != nvml::kSuccess) return nullptr;
  for (unsigned i = 0; i < count && i < 64; ++i) {
    nvml::Device device = nullptr;
    if (api_->DeviceByIndex(i, &device) == nvml::kSuccess && PciId(device) == pci_id) return device;
  }
  return nullptr;
}

std::optional<CardNumbers> Nvml::Card(const std::string& pci_id) const {
  void* const device = Find(pci_id);
  if (device == nullptr) return std::nullopt;
  return Read(device);
}

std::optional<uint64_t> Nvml::ProcessBytes(const std::string& pci_id, uint32_t pid) const {
  void* const device = Find(pci_id);
  if (device == nullptr) return std::nullopt;
  std::vector<CardProcess> processes;
  AddProcesses(api_->ComputeProcesses, device, false, processes);
  AddProcesses(api_->GraphicsProcesses, device, true, processes);
  std::optional<uint64_t> bytes;  // a process that computes and draws stands in both lists
  for (const CardProcess& process : processes) {
    if (process.pid == pid && process.bytes.has_value())
      bytes = std::max(bytes.value_or(0), *process.bytes);
  }
  return bytes;
}

}  // namespace lanyard::cuda
