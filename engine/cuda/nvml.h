// What NVML knows of the cards, by dlopen of libnvidia-ml.so.1 (LANYARD_NVML_LIBRARY overrides it)
// and with prototypes of our own. A missing or old library, or a card that does not tell, gives no
// number and is never an error. The ABI is that of NVIDIA's NVML API reference (nvml.h); PyPI's
// nvidia-ml-py shows the same layouts.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace lanyard::cuda {

struct CardProcess {
  uint32_t pid = 0;
  std::optional<uint64_t> bytes;  // of the card's memory; some drivers and WSL2 do not tell it
  bool graphics = false;          // it draws (the desktop, a CAD program); otherwise it computes
};

struct CardNumbers {
  std::string pci_id;  // "0000:01:00.0", as DeviceInfo::pci_id
  std::string name;
  std::optional<uint64_t> total_bytes;
  std::optional<uint64_t> used_bytes;  // by all programs
  std::optional<uint64_t> free_bytes;
  std::optional<int> gpu_percent;     // share of the last sampling time in which a kernel ran
  std::optional<int> memory_percent;  // share in which memory was read or written
  std::optional<int> celsius;
  std::optional<double> watts;
  std::optional<double> watts_limit;
  std::optional<int> sm_mhz;
  std::optional<int> memory_mhz;
  std::optional<int> pcie_generation;  // the present one, which falls when the card idles
  std::optional<int> pcie_lanes;
  std::vector<CardProcess> processes;
};

// Thread-safe.
class Nvml {
 public:
  // Never returns null. When `path` is empty: LANYARD_NVML_LIBRARY, or libnvidia-ml.so.1.
  static std::unique_ptr<Nvml> Open(const std::string& path = "");
  ~Nvml();

  bool present() const { return api_ != nullptr; }
  std::string driver_version() const;  // "550.54.14"; "" = not told
  std::vector<CardNumbers> Cards() const;
  // A process's share of a card's memory; nullopt where NVML does not tell, or knows the process by
  // another number (in containers).
  std::optional<uint64_t> ProcessBytes(const std::string& pci_id, uint32_t pid) const;
  // By the PCI id of a DeviceInfo; nullopt when NVML does not know it.
  std::optional<CardNumbers> Card(const std::string& pci_id) const;

 private:
  Nvml() = default;
  struct Api;
  CardNumbers Read(void* device) const;
  void* Find(const std::string& pci_id) const;  // null: not known
  std::string PciId(void* device) const;

  std::unique_ptr<Api> api_;
  void* library_ = nullptr;
};

}  // namespace lanyard::cuda
