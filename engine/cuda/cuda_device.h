// A card as the engine's device: context, kernels and a pool of its memory, shared by the stages of this process.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/cuda/driver.h"
#include "engine/cuda/memory_pool.h"
#include "engine/device.h"

namespace lanyard::engine {

struct CudaDeviceOptions {
  int ordinal = 0;
  uint64_t budget_bytes = 0;  // for stages; 0: what is free, less a reserve for the desktop
};

class CudaDevice final : public Device {
 public:
  // Compiles the kernels for the card. NotFound: no such card; FailedPrecondition: no kernels for it in this binary.
  static absl::StatusOr<std::shared_ptr<CudaDevice>> Open(std::shared_ptr<const cuda::Driver> driver,
                                                          const CudaDeviceOptions& options);

  const std::string& name() const override { return name_; }
  const cuda::DeviceInfo& info() const { return context_->device(); }
  const std::shared_ptr<cuda::Module>& module() const { return module_; }
  cuda::MemoryPool& pool() { return *pool_; }
  bool lost() const override { return context_->lost(); }

  // Looks at the card again, to be called now and then by one thread. While no stage is there the budget follows what is
  // free. When other programs took memory since then and the card is nearly full, stages give back as much: pages first, then
  // layers (LocalStage::lost).
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

  std::string name_;
  uint64_t limit_bytes_ = 0;   // as asked for; 0: none
  uint64_t others_bytes_ = 0;  // of other programs when Watch last found no stage
  std::shared_ptr<cuda::Context> context_;
  std::shared_ptr<cuda::Module> module_;
  std::shared_ptr<cuda::MemoryPool> pool_;
};

}  // namespace lanyard::engine
