#include "engine/cuda/op_checks.h"

#include <utility>

#include "base/half.h"
#include "engine/cuda/op_checks_bench.h"
#include "engine/ops/quant.h"

namespace lanyard::cuda {
namespace op_checks {

Bench::Bench(std::shared_ptr<Module> module, const OpCheckOptions& options)
    : module_(std::move(module)),
      context_(module_->context()),
      options_(options),
      random_(options.seed) {}

absl::StatusOr<std::unique_ptr<Bench>> Bench::Make(std::shared_ptr<Module> module,
                                                   const OpCheckOptions& options) {
  std::unique_ptr<Bench> bench(new Bench(std::move(module), options));
  ASSIGN_OR_RETURN(bench->stream_, Stream::Create(bench->module_));
  ASSIGN_OR_RETURN(bench->begin_, Event::Create(bench->context_, true));
  ASSIGN_OR_RETURN(bench->end_, Event::Create(bench->context_, true));
  return bench;
}

Bench::~Bench() {
  for (const DeviceAddress address : taken_) context_->Free(address);
}

void Bench::Begin(std::string op, std::string variant) {
  check_ = OpCheck();
  check_.op = std::move(op);
  check_.variant = std::move(variant);
  clock_runs_ = false;
}

absl::Status Bench::End() {
  Note(stream_->Synchronize());
  for (const DeviceAddress address : std::exchange(taken_, {})) context_->Free(address);
  if (context_->lost())
    return Annotate(context_->lost_status(), absl::StrCat(check_.op, " (", check_.variant, ")"));
  if (options_.progress) options_.progress(check_);
  checks_.push_back(std::move(check_));
  return absl::OkStatus();
}

void Bench::Note(const absl::Status& status) {
  if (!status.ok() && check_.error.empty()) check_.error = Str(status.message());
}

void Bench::StartClock() {
  const absl::Status started = stream_->Record(begin_);
  Note(started);
  clock_runs_ = started.ok();
}

void Bench::Run(const absl::Status& launched) {
  Note(launched);
  if (!launched.ok() || !clock_runs_) return;
  clock_runs_ = false;
  if (!stream_->Record(end_).ok()) return;
  const absl::Status done = end_.Synchronize();
  Note(done);
  if (!done.ok()) return;
  if (const auto seconds = Event::SecondsBetween(begin_, end_); seconds.ok())
    check_.seconds += *seconds;
}

void* Bench::AllocBytes(size_t bytes) {
  const absl::StatusOr<DeviceAddress> address = context_->Allocate(bytes);
  Note(address.status());
  if (!address.ok()) return nullptr;
  taken_.push_back(*address);
  return reinterpret_cast<void*>(*address);
}

absl::Status Bench::Write(void* to, const void* from, size_t bytes) {
  if (to == nullptr) return ResourceExhausted("no memory on the card to write to");
  return stream_->CopyToDevice(reinterpret_cast<DeviceAddress>(to), from, bytes);
}

void* Bench::UploadBytes(const void* from, size_t bytes) {
  void* address = AllocBytes(bytes);
  if (address != nullptr) Note(Write(address, from, bytes));
  return address;
}

void Bench::Download(const void* from, void* to, size_t bytes) {
  if (from == nullptr || !check_.error.empty()) return;
  Note(stream_->CopyToHost(to, reinterpret_cast<DeviceAddress>(from), bytes));
  Note(stream_->Synchronize());
}

void Bench::ExpectNear(const float* address, const std::vector<float>& want, float tolerance) {
  const std::vector<float> got = Down(address, want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    check_.values += 1;
    if (std::fabs(got[i] - want[i]) <= tolerance) continue;  // false for NaN
    if (check_.different++ == 0) check_.first = Difference(i, got[i], want[i]);
  }
}

std::string Bench::Difference(size_t at, double got, double want) {
  return Str(absl::StrFormat("at %u: %a, not %a", at, got, want));
}

std::vector<float> Bench::Floats(size_t n, float scale) {
  std::vector<float> out(n);
  for (float& v : out) v = Uniform(scale);
  return out;
}

std::vector<uint8_t> Bench::Bytes(size_t n) {
  std::vector<uint8_t> out(n);
  for (uint8_t& v : out) v = static_cast<uint8_t>(random_());
  return out;
}

std::vector<uint8_t> Bench::Weights(TensorType type, size_t n) {
  const TypeTraits traits = *TraitsOf(type);
  std::vector<uint8_t> out = Bytes(n / traits.elements * traits.bytes);
  for (size_t block = 0; block < out.size(); block += traits.bytes) {
    if (type == TensorType::kF32) {
      const float v = Uniform(1);
      std::memcpy(&out[block], &v, sizeof(v));
      continue;
    }
    const size_t first = type == TensorType::kQ6_K ? 208 : 0;
    for (size_t at = first; at <= first + (ops::HasMinimum(type) ? 2 : 0); at += 2) {
      const uint16_t h = FloatToHalf(Uniform(type == TensorType::kF16 ? 1.0f : 0.03f));
      std::memcpy(&out[block + at], &h, sizeof(h));
    }
  }
  return out;
}

}  // namespace op_checks

absl::StatusOr<std::vector<OpCheck>> RunOpChecks(std::shared_ptr<Module> module,
                                                 const OpCheckOptions& options) {
  ASSIGN_OR_RETURN(auto bench, op_checks::Bench::Make(std::move(module), options));
  RETURN_IF_ERROR(op_checks::CheckRows(*bench));
  RETURN_IF_ERROR(op_checks::CheckProducts(*bench));
  RETURN_IF_ERROR(op_checks::CheckAttention(*bench));
  return bench->TakeChecks();
}

}  // namespace lanyard::cuda
