#include "engine/cuda/cuda_device.h"

#include <algorithm>

#include "base/log.h"
#include "base/size.h"
#include "engine/cuda/cuda_backend.h"
#include "engine/cuda/cuda_buffers.h"
#include "engine/ops/cuda/attention.h"
#include "engine/ops/cuda/matmul.h"

namespace lanyard::engine {
namespace {

constexpr uint64_t kNearlyFullBytes = uint64_t{96} << 20;
constexpr uint64_t kMuchBytes = uint64_t{64} << 20;

uint64_t RoundUp(uint64_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

absl::StatusOr<std::shared_ptr<CudaDevice>> CudaDevice::Open(std::shared_ptr<const cuda::Driver> driver,
                                                             const CudaDeviceOptions& options) {
  std::shared_ptr<CudaDevice> out(new CudaDevice());
  out->name_ = absl::StrCat("cuda:", options.ordinal);
  ASSIGN_OR_RETURN(out->context_, cuda::Context::Create(std::move(driver), options.ordinal));
  ASSIGN_OR_RETURN(out->module_, cuda::Module::LoadShipped(out->context_));
  out->limit_bytes_ = options.budget_bytes;
  cuda::PoolOptions pool;
  pool.budget_bytes = options.budget_bytes;
  ASSIGN_OR_RETURN(out->pool_, cuda::MemoryPool::Create(cuda::BlocksOf(out->context_), pool));
  out->Watch();
  return out;
}

void CudaDevice::Watch() {
  const auto card = pool_->Card();
  if (!card.ok()) return;  // a lost card says so where it is used
  const uint64_t held_bytes = pool_->usage().held_bytes;
  const uint64_t taken_bytes = card->total_bytes - std::min(card->total_bytes, card->free_bytes);
  const uint64_t others_bytes = taken_bytes - std::min(taken_bytes, held_bytes);
  if (held_bytes == 0) {
    others_bytes_ = others_bytes;
    const uint64_t budget = limit_bytes_ > 0 ? std::min(limit_bytes_, card->free_bytes)
                                             : cuda::DefaultBudget(*card, 0, cuda::PoolOptions().reserve_bytes);
    if (budget != pool_->usage().budget_bytes) pool_->Shrink(budget);
    return;
  }
  if (card->free_bytes >= kNearlyFullBytes || others_bytes < others_bytes_ + kMuchBytes) return;
  const uint64_t give_bytes = std::min(held_bytes, others_bytes - others_bytes_);
  const cuda::ShrinkReport report = pool_->Shrink(held_bytes - give_bytes);
  others_bytes_ = others_bytes;
  LogWarning(name_, ": other programs took ", FormatSize(give_bytes), " of the card; stages give up as much, ",
             FormatSize(report.budget_bytes), " are left to them");
}

uint64_t CudaDevice::FreeBytes() const {
  if (context_->lost()) return 0;
  pool_->Trim();
  const cuda::PoolUsage usage = pool_->usage();
  // Each of weights, pages and buffers is a block of its own, rounded up.
  const uint64_t taken = usage.held_bytes + 3 * cuda::PoolOptions().granule_bytes;
  return usage.budget_bytes > taken ? usage.budget_bytes - taken : 0;
}

uint64_t CudaDevice::MatrixBytes(TensorType type, int64_t n_out, int64_t k) const {
  return RoundUp(ops::cuda::MatrixBytes(type, n_out, k));
}

uint64_t CudaDevice::VectorBytes(int64_t n) const { return RoundUp(static_cast<uint64_t>(n) * sizeof(float)); }

uint64_t CudaDevice::BufferBytes(const StepSizes& sizes, InputForms forms) const {
  return CudaLayout(sizes, forms).bytes;
}

uint64_t CudaDevice::HostBytes(const StepSizes& sizes) const {
  return CudaLayout(sizes, {}).HostBytes() + sizes.RopeBytes();
}

absl::Status CudaDevice::CheckShape(const StepSizes& s) const {
  if (!s.has_layers) return absl::OkStatus();
  const ops::cuda::AttentionShape shape{static_cast<uint32_t>(s.n_heads), static_cast<uint32_t>(s.n_kv_heads),
                                        static_cast<uint32_t>(s.head_dim)};
  const absl::Status status = ops::cuda::CheckAttentionShape(shape);
  return status.ok() ? status : Unimplemented(name_, ": ", status.message());
}

absl::StatusOr<std::unique_ptr<Backend>> CudaDevice::MakeBackend() {
  if (context_->lost()) return context_->lost_status();
  return CudaBackend::Make(name_, module_, pool_);
}

}  // namespace lanyard::engine
