#include "engine/cuda/probe.h"

#include <algorithm>
#include <functional>

#include "engine/ops/cuda/launcher.h"
#include "engine/ops/cuda/probe_args.h"

namespace lanyard::cuda {
namespace {

using ops::cuda::ProbeArgs;

// Memory of the card that is given back at the end.
class Scratch {
 public:
  static absl::StatusOr<std::unique_ptr<Scratch>> Take(std::shared_ptr<Context> context,
                                                       uint64_t bytes) {
    constexpr uint64_t kLeast = 1 << 20;
    for (;; bytes /= 2) {
      if (bytes < kLeast)
        return ResourceExhausted("no 1 MiB is free on ", context->device().name, " for a probe");
      absl::StatusOr<DeviceAddress> address = context->Allocate(bytes);
      if (address.ok())
        return std::unique_ptr<Scratch>(new Scratch(std::move(context), *address, bytes));
      if (!absl::IsResourceExhausted(address.status())) return address.status();
    }
  }
  ~Scratch() { context_->Free(address_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  DeviceAddress address() const { return address_; }
  uint64_t bytes() const { return bytes_; }

 private:
  Scratch(std::shared_ptr<Context> context, DeviceAddress address, uint64_t bytes)
      : context_(std::move(context)), address_(address), bytes_(bytes) {}

  std::shared_ptr<Context> context_;
  DeviceAddress address_;
  uint64_t bytes_;
};

class Prober {
 public:
  Prober(std::shared_ptr<Module> module, const ProbeOptions& options)
      : module_(std::move(module)), context_(module_->context()), options_(options) {}

  absl::Status Prepare() {
    ASSIGN_OR_RETURN(stream_, Stream::Create(module_));
    ASSIGN_OR_RETURN(begin_, Event::Create(context_, true));
    ASSIGN_OR_RETURN(end_, Event::Create(context_, true));
    ASSIGN_OR_RETURN(data_,
                     Scratch::Take(context_, std::max<uint64_t>(options_.buffer_bytes, 1 << 20)));
    // There are enough blocks to fill the card, and a few waves, which hide the last one's tail.
    blocks_ = static_cast<uint32_t>(std::max(1, context_->device().sm_count)) * 8;
    ASSIGN_OR_RETURN(sink_, Scratch::Take(context_, std::max<uint64_t>(sink_bytes(), 1 << 20)));
    ASSIGN_OR_RETURN(
        pinned_, PinnedMemory::Allocate(context_, std::min<uint64_t>(data_->bytes(), 64 << 20)));
    return stream_->Fill(data_->address(), 0x5a, data_->bytes());
  }

  // Returns the best of the repeats, after one that is not counted (the clocks wake up).
  absl::StatusOr<double> Seconds(const std::function<absl::Status()>& work) {
    double best = 0;
    for (int i = 0; i <= std::max(1, options_.repeats); ++i) {
      RETURN_IF_ERROR(stream_->Record(begin_));
      RETURN_IF_ERROR(work());
      RETURN_IF_ERROR(stream_->Record(end_));
      RETURN_IF_ERROR(end_.Synchronize());
      ASSIGN_OR_RETURN(const double seconds, Event::SecondsBetween(begin_, end_));
      if (i > 0 && (best == 0 || seconds < best)) best = seconds;
    }
    return std::max(best, 1e-9);
  }

  absl::StatusOr<double> ReadBytesPerSecond() {
    ProbeArgs args = Arguments(0);
    args.vectors = data_->bytes() / 16;
    ASSIGN_OR_RETURN(const double read,
                     Seconds([&] { return Run("lanyard_probe_read", blocks_, args); }));
    return static_cast<double>(data_->bytes()) / read;
  }

  absl::Status Memory(CardProbe& probe) {
    ASSIGN_OR_RETURN(probe.read_bytes_per_second, ReadBytesPerSecond());
    const uint64_t half = data_->bytes() / 2;
    ASSIGN_OR_RETURN(const double copy, Seconds([&] {
                       return stream_->CopyOnDevice(data_->address() + half, data_->address(),
                                                    half);
                     }));
    probe.copy_bytes_per_second = 2.0 * static_cast<double>(half) / copy;
    const auto pcie = static_cast<double>(pinned_.size());
    ASSIGN_OR_RETURN(const double to_device, Seconds([&] {
                       return stream_->CopyToDevice(data_->address(), pinned_.data(),
                                                    pinned_.size());
                     }));
    probe.to_device_bytes_per_second = pcie / to_device;
    ASSIGN_OR_RETURN(const double to_host, Seconds([&] {
                       return stream_->CopyToHost(pinned_.data(), data_->address(), pinned_.size());
                     }));
    probe.to_host_bytes_per_second = pcie / to_host;
    return absl::OkStatus();
  }

  // `ops` counts one loop of a thread, or of a warp when `by_warp`. The result is 0 where this
  // card's kernels have no such instruction.
  absl::StatusOr<double> Rate(const char* kernel, uint32_t ops, bool by_warp) {
    if (const absl::Status found = module_->Find(kernel, 0).status(); absl::IsNotFound(found))
      return 0.0;
    const ProbeArgs args = Arguments(options_.loops);
    ASSIGN_OR_RETURN(const double seconds, Seconds([&] { return Run(kernel, blocks_, args); }));
    const double threads = static_cast<double>(blocks_) * ops::cuda::kProbeThreads;
    return threads / (by_warp ? 32 : 1) * ops * options_.loops / seconds;
  }

  absl::StatusOr<double> LaunchSeconds() {
    constexpr int kLaunches = 50;
    const ProbeArgs args = Arguments(0);
    ASSIGN_OR_RETURN(const double seconds, Seconds([&]() -> absl::Status {
                       for (int i = 0; i < kLaunches; ++i)
                         RETURN_IF_ERROR(Run("lanyard_probe_empty", 1, args));
                       return absl::OkStatus();
                     }));
    return seconds / kLaunches;
  }

 private:
  uint64_t sink_bytes() const {
    return uint64_t{blocks_} * ops::cuda::kProbeThreads * sizeof(uint32_t);
  }

  ProbeArgs Arguments(int loops) const {
    ProbeArgs args;
    args.from = reinterpret_cast<const uint8_t*>(data_->address());
    args.sink = reinterpret_cast<uint32_t*>(sink_->address());
    args.loops = static_cast<uint32_t>(loops);
    args.seed = 1;
    return args;
  }

  absl::Status Run(const char* kernel, uint32_t blocks, const ProbeArgs& args) {
    return ops::cuda::LaunchWith(*stream_, kernel, {blocks}, {ops::cuda::kProbeThreads}, args);
  }

  std::shared_ptr<Module> module_;
  std::shared_ptr<Context> context_;
  ProbeOptions options_;
  uint32_t blocks_ = 0;
  std::unique_ptr<Scratch> data_;
  std::unique_ptr<Scratch> sink_;
  PinnedMemory pinned_;
  Event begin_;
  Event end_;
  std::unique_ptr<Stream> stream_;  // the last member, so it is destroyed first
};

}  // namespace

absl::StatusOr<CardProbe> ProbeCard(std::shared_ptr<Module> module, const ProbeOptions& options) {
  if (options.least_read_bytes_per_second > 0) {
    Prober look(module, {1 << 20, 1, 1, 0});
    RETURN_IF_ERROR(look.Prepare());
    ASSIGN_OR_RETURN(const double read, look.ReadBytesPerSecond());
    if (read < options.least_read_bytes_per_second) {
      return FailedPrecondition("1 MiB of its memory at ", static_cast<int64_t>(read * 1e-6),
                                " MB/s is no card's pace");
    }
  }
  const bool ampere = module->context()->device().cc() >= 80;
  Prober prober(std::move(module), options);
  RETURN_IF_ERROR(prober.Prepare());
  CardProbe probe;
  RETURN_IF_ERROR(prober.Memory(probe));
  using namespace ops::cuda;  // NOLINT: the operations of probe_args.h
  ASSIGN_OR_RETURN(probe.int8_dp4a_ops_per_second,
                   prober.Rate("lanyard_probe_dp4a", kProbeDp4aOps, false));
  ASSIGN_OR_RETURN(probe.f32_fma_ops_per_second,
                   prober.Rate("lanyard_probe_fma", kProbeFmaOps, false));
  ASSIGN_OR_RETURN(
      probe.int8_mma_ops_per_second,
      prober.Rate("lanyard_probe_mma_s8", ampere ? kProbeMmaOps80 : kProbeMmaOps75, true));
  ASSIGN_OR_RETURN(
      probe.f16_mma_ops_per_second,
      prober.Rate("lanyard_probe_mma_f16", ampere ? kProbeHalfOps80 : kProbeHalfOps75, true));
  ASSIGN_OR_RETURN(probe.launch_seconds, prober.LaunchSeconds());
  return probe;
}

}  // namespace lanyard::cuda
