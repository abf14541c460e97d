#include "engine/cuda/cuda_device.h"

#include <unistd.h>

#include <algorithm>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "engine/cuda/cuda_backend.h"
#include "engine/cuda/cuda_buffers.h"
#include "engine/ops/cuda/attention.h"
#include "engine/ops/cuda/matmul.h"
#include "engine/placement.h"

namespace lanyard::engine {
namespace {

constexpr uint64_t kNearlyFullBytes = uint64_t{96} << 20;
constexpr uint64_t kMuchBytes = uint64_t{64} << 20;

uint64_t Aligned(uint64_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

absl::StatusOr<std::shared_ptr<CudaDevice>> CudaDevice::Open(
    std::shared_ptr<const cuda::Driver> driver, const CudaDeviceOptions& options) {
  for (const cuda::DeviceInfo& info : driver->devices()) {
    // This comes before the driver makes a context of some hundred MiB for nothing.
    if (info.ordinal == options.ordinal) RETURN_IF_ERROR(cuda::Module::LevelFor(info).status());
  }
  std::shared_ptr<CudaDevice> out(new CudaDevice());
  out->name_ = absl::StrCat("cuda:", options.ordinal);
  const TimeNs begin = MonotonicNow();
  ASSIGN_OR_RETURN(out->context_, cuda::Context::Create(std::move(driver), options.ordinal));
  ASSIGN_OR_RETURN(out->module_, cuda::Module::LoadShipped(out->context_));
  out->load_seconds_ = static_cast<double>(MonotonicNow() - begin) * 1e-9;
  out->limit_bytes_ = options.budget_bytes;
  out->reserve_bytes_ = options.reserve_bytes;
  out->nvml_ = cuda::Nvml::Open();
  cuda::PoolOptions pool;
  pool.budget_bytes = options.budget_bytes;
  pool.reserve_bytes = options.reserve_bytes;
  ASSIGN_OR_RETURN(out->pool_, cuda::MemoryPool::Create(cuda::BlocksOf(out->context_), pool));
  out->Watch();
  return out;
}

std::optional<CudaDevice::Look> CudaDevice::LookAtCard() const {
  constexpr int kAttempts = 3;
  for (int i = 0; i < kAttempts; ++i) {
    const cuda::PoolUsage before = pool_->usage();
    const uint64_t growths = context_->growths();
    const auto card = pool_->Card();
    if (!card.ok()) return std::nullopt;  // a lost card reports it where it is used
    const std::optional<uint64_t> own =
        nvml_->ProcessBytes(info().pci_id, static_cast<uint32_t>(getpid()));
    const cuda::PoolUsage after = pool_->usage();
    if (before.changing || after.changing || before.changes != after.changes ||
        growths != context_->growths())
      continue;
    Look look;
    look.card = *card;
    look.held_bytes = after.held_bytes;
    look.own_told = own.has_value();
    look.growths = growths;
    const uint64_t taken_bytes = card->total_bytes - std::min(card->total_bytes, card->free_bytes);
    look.others_bytes =
        taken_bytes - std::min(taken_bytes, std::max(own.value_or(0), look.held_bytes));
    return look;
  }
  return std::nullopt;
}

void CudaDevice::Watch() {
  const std::optional<Look> look = LookAtCard();
  if (!look.has_value()) return;
  if (look->held_bytes == 0) {
    calm_ = *look;
    uint64_t budget = cuda::DefaultBudget(look->card, 0, reserve_bytes_);
    if (limit_bytes_ > 0) budget = std::min(budget, limit_bytes_);
    if (budget != pool_->usage().budget_bytes) pool_->Shrink(budget);
    return;
  }
  // Where NVML does not tell how much is ours, growth since the last look is taken for our own
  // whenever there was any of our own.
  const bool comparable =
      look->own_told == calm_.own_told && (look->own_told || look->growths == calm_.growths);
  if (!comparable) {
    calm_ = *look;
  } else if (look->card.free_bytes < kNearlyFullBytes &&
             look->others_bytes >= calm_.others_bytes + kMuchBytes) {
    TakeFromStages(*look);
  }
}

void CudaDevice::TakeFromStages(const Look& look) {
  const uint64_t give_bytes = std::min(look.held_bytes, look.others_bytes - calm_.others_bytes);
  const cuda::ShrinkReport report = pool_->Shrink(look.held_bytes - give_bytes);
  calm_ = look;
  LogWarning(name_, ": other programs took ", FormatSize(give_bytes),
             " of the card; stages give up as much, ", FormatSize(report.budget_bytes),
             " are left to them");
}

std::string CudaDevice::driver_version() const {
  const std::string told = nvml_->driver_version();
  return told.empty() ? absl::StrCat("cuda-", context_->driver().version()) : told;
}

uint64_t CudaDevice::FreeBytes() const {
  if (context_->lost()) return 0;
  pool_->Trim();
  const cuda::PoolUsage usage = pool_->usage();
  // Weights, pages and buffers are a block each, rounded up.
  const uint64_t taken = usage.held_bytes + 3 * cuda::PoolOptions().granule_bytes;
  return usage.budget_bytes > taken ? usage.budget_bytes - taken : 0;
}

uint64_t CudaDevice::MatrixBytes(TensorType type, int64_t n_out, int64_t k) const {
  return Aligned(ops::cuda::MatrixBytes(type, n_out, k));
}

uint64_t CudaDevice::VectorBytes(int64_t n) const {
  return Aligned(static_cast<uint64_t>(n) * sizeof(float));
}

uint64_t CudaDevice::BufferBytes(const StepSizes& sizes, InputForms forms) const {
  return CudaLayout(sizes, forms).bytes;
}

uint64_t CudaDevice::HostBytes(const StepSizes& sizes) const {
  return CudaLayout(sizes, {}).HostBytes() + sizes.RopeBytes();
}

absl::Status CudaDevice::CheckShape(const StepSizes& s) const {
  if (!s.has_layers) return absl::OkStatus();
  const ops::cuda::AttentionShape shape{static_cast<uint32_t>(s.n_heads),
                                        static_cast<uint32_t>(s.n_kv_heads),
                                        static_cast<uint32_t>(s.head_dim)};
  const absl::Status status = ops::cuda::CheckAttentionShape(shape);
  if (!status.ok()) return Unimplemented(name_, ": ", status.message());
  return s.numerics.attention == stage::AttentionForm::kFast
             ? CheckFastAttention(shape, s.numerics.kv)
             : absl::OkStatus();
}

absl::Status CudaDevice::CheckFastAttention(const ops::cuda::AttentionShape& shape,
                                            stage::KvType kv) const {
  if (!fast_attention()) {
    return FailedPrecondition(name_, " (", info().name, ") has kernels of level ", module_->level(),
                              ", fast attention needs level ", ops::cuda::kFastAttentionLevel,
                              " (RTX 30 series and later); use --attention exact, or other cards");
  }
  RETURN_IF_ERROR(Annotate(
      stage::CheckFastAttention({shape.n_heads, shape.n_kv_heads, shape.head_dim}, kv), name_));
  if (!ops::cuda::HasFastAttention(shape, KvElementOf(kv), module_->level())) {
    return Internal(name_, ": no kernel for fast attention that there should be");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Backend>> CudaDevice::MakeBackend() {
  if (context_->lost()) return context_->lost_status();
  return CudaBackend::Make(name_, module_, pool_);
}

}  // namespace lanyard::engine
