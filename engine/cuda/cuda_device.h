// A card as the engine's device: context, kernels and a pool of its memory, which the stages of
// this process share.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/cuda/driver.h"
#include "engine/cuda/memory_pool.h"
#include "engine/cuda/nvml.h"
#include "engine/device.h"
#include "engine/ops/cuda/attention.h"

namespace lanyard::engine {

struct CudaDeviceOptions {
  int ordinal = 0;
  // The most that stages may take; 0: all that is free, less the reserve.
  uint64_t budget_bytes = 0;
  // Left to the desktop beyond what it uses now.
  uint64_t reserve_bytes = cuda::PoolOptions().reserve_bytes;
};

class CudaDevice final : public Device {
 public:
  // Compiles the kernels for the card. NotFound: there is no such card. FailedPrecondition: this
  // binary has no kernels for it.
  static absl::StatusOr<std::shared_ptr<CudaDevice>> Open(
      std::shared_ptr<const cuda::Driver> driver, const CudaDeviceOptions& options);

  const std::string& name() const override { return name_; }
  const cuda::DeviceInfo& info() const { return context_->device(); }
  bool fast_attention() const { return module_->level() >= ops::cuda::kFastAttentionLevel; }
  const std::shared_ptr<cuda::Module>& module() const { return module_; }
  cuda::MemoryPool& pool() { return *pool_; }
  bool lost() const override { return context_->lost(); }
  // For example "580.65.06", or the CUDA version of the driver where NVML is absent.
  std::string driver_version() const;
  // How long the driver took to make the kernels ready.
  double load_seconds() const { return load_seconds_; }

  // Looks at the card again. One thread is to call this now and then; the driver may keep it
  // waiting. While there is no stage, the budget follows the free memory. When other programs have
  // taken memory since then and the card is nearly full, stages give back as much: pages first,
  // then layers (LocalStage::lost). A moment in which blocks come or go is not judged.
  void Watch();

  uint64_t FreeBytes() const override;
  uint64_t BudgetBytes() const override { return pool_->usage().budget_bytes; }
  uint64_t MatrixBytes(TensorType type, int64_t n_out, int64_t k) const override;
  uint64_t VectorBytes(int64_t n) const override;
  uint64_t BufferBytes(const StepSizes& sizes, InputForms forms) const override;
  uint64_t HostBytes(const StepSizes& sizes) const override;
  absl::Status CheckShape(const StepSizes& sizes) const override;
  absl::StatusOr<std::unique_ptr<Backend>> MakeBackend() override;

 private:
  CudaDevice() = default;
  absl::Status CheckFastAttention(const ops::cuda::AttentionShape& shape, stage::KvType kv) const;

  // The figures of the card and of the pool at one moment.
  struct Look {
    cuda::CardMemory card;
    uint64_t held_bytes = 0;
    uint64_t others_bytes = 0;  // taken by other programs
    // NVML knows which part is ours; otherwise what the driver took for us counts among the
    // others'.
    bool own_told = false;
    uint64_t growths = 0;
  };
  // nullopt when the card does not answer, or when blocks came or went each time.
  std::optional<Look> LookAtCard() const;
  void TakeFromStages(const Look& look);

  std::string name_;
  uint64_t limit_bytes_ = 0;  // the limit that was asked for; 0: none
  uint64_t reserve_bytes_ = 0;
  double load_seconds_ = 0;
  Look calm_;  // its others_bytes are taken as theirs by right
  std::unique_ptr<cuda::Nvml> nvml_;
  std::shared_ptr<cuda::Context> context_;
  std::shared_ptr<cuda::Module> module_;
  std::shared_ptr<cuda::MemoryPool> pool_;
};

}  // namespace lanyard::engine
