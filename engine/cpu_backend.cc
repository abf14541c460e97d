#include "engine/cpu_backend.h"

#include <algorithm>
#include <cstring>

namespace lanyard::engine {
namespace {

class CpuMatrix final : public Matrix {
 public:
  explicit CpuMatrix(ops::PackedMatrix packed) : packed(std::move(packed)) {}
  uint64_t bytes() const override { return packed.bytes(); }
  bool wants_quantised() const override { return packed.wants_quantised(); }

  const ops::PackedMatrix packed;
};

}  // namespace

uint64_t CpuBackend::BufferBytes(const StepSizes& sizes, InputForms forms, int threads) {
  uint64_t bytes = sizes.BufferBytes();
  // Rows that enter products are int8 with a scale and sums for each block of 32, or the f32
  // values.
  const uint64_t widest =
      sizes.has_layers ? std::max({sizes.d_model, sizes.d_attn, sizes.d_ff}) : sizes.d_model;
  bytes += sizes.max_rows * ops::ActRows::RowBytes(widest, forms.quantised, forms.floats);
  if (sizes.has_layers) {
    bytes += ops::AttentionScratch::Bytes(threads, sizes.n_heads, sizes.n_kv_heads, sizes.head_dim,
                                          sizes.max_rows);
  }
  if (sizes.samples) {  // the summaries of a group of the head's rows
    bytes += std::min<uint64_t>(kHeadRows, sizes.max_rows) * ops::LogitChunks(sizes.n_vocab) *
             sizeof(float);
  }
  return bytes;
}

absl::Status CpuBackend::CheckShape(const StepSizes& sizes) {
  if (!sizes.has_layers || sizes.numerics.attention == stage::AttentionForm::kExact)
    return absl::OkStatus();
  return FailedPrecondition(
      "cpu: the processor computes attention in the exact form only, these layers are of numerics ",
      sizes.numerics.ToString(), "; use --attention exact, or cards that hold all layers");
}

absl::StatusOr<std::unique_ptr<Matrix>> CpuBackend::PackMatrix(
    TensorType type, int64_t n_out, int64_t k, const ops::PackedMatrix::Reader& read) {
  ASSIGN_OR_RETURN(ops::PackedMatrix packed, ops::PackedMatrix::Pack(isa_, type, n_out, k, read));
  memory_.weights += packed.bytes();
  return std::unique_ptr<Matrix>(std::make_unique<CpuMatrix>(std::move(packed)));
}

absl::StatusOr<Vector> CpuBackend::PutVector(std::vector<float> values) {
  const auto owner = std::make_shared<const std::vector<float>>(std::move(values));
  Vector out{owner->data(), static_cast<int64_t>(owner->size()), owner};
  memory_.weights += out.bytes();
  return out;
}

absl::StatusOr<uint8_t*> CpuBackend::MapKv(uint64_t bytes, uint32_t layer) {
  ASSIGN_OR_RETURN(Memory pages, Memory::Map(bytes, absl::StrCat("the KV pages of layer ", layer)));
  kv_.push_back(std::move(pages));
  memory_.kv += bytes;
  return kv_.back().data();
}

absl::Status CpuBackend::MakeBuffers(const StepSizes& sizes, InputForms forms) {
  RETURN_IF_ERROR(CheckShape(sizes));
  sizes_ = sizes;
  const uint64_t row_bytes = sizes.max_rows * sizeof(float);
  ASSIGN_OR_RETURN(x_, Memory::Map(row_bytes * sizes.d_model, "hidden states"));
  ASSIGN_OR_RETURN(h_, Memory::Map(row_bytes * sizes.d_model, "hidden states"));
  ASSIGN_OR_RETURN(work_, Memory::Map(row_bytes * sizes.WorkFloats(), "a step's buffers"));
  if (sizes.has_layers) {
    attention_ = ops::AttentionScratch(pool_.size(), sizes.n_heads, sizes.n_kv_heads,
                                       sizes.head_dim, sizes.max_rows);
  }
  if (sizes.samples) {
    ASSIGN_OR_RETURN(logits_, Memory::Map(sizes.LogitFloats() * sizeof(float), "logits"));
  }
  buffers_.x = x_.floats();
  buffers_.h = h_.floats();
  if (sizes.has_layers) {
    buffers_.qkv = work_.floats();
    buffers_.attn = work_.floats() + sizes.max_rows * sizes.d_qkv;
    buffers_.gate_up = work_.floats();
  }
  buffers_.logits = logits_.floats();
  memory_.buffers = BufferBytes(sizes, forms, pool_.size());
  return absl::OkStatus();
}

absl::Status CpuBackend::Begin(const Step& step) {
  step_ = &step;
  rows_ = step.rows;
  return absl::OkStatus();
}

absl::Status CpuBackend::Product(const Linear& w, const ProductRows& rows) {
  const int64_t stride = rows.x_stride == 0 ? w.k() : rows.x_stride;
  if (w.needs_quantised()) quantised_.Assign(isa_, pool_, rows.x, rows.rows, w.k(), stride, true);
  if (w.needs_floats()) floats_.Assign(isa_, pool_, rows.x, rows.rows, w.k(), stride, false);
  for (const Linear::Part& part : w.parts()) {
    const ops::PackedMatrix& packed = static_cast<const CpuMatrix&>(*part.matrix).packed;
    const ops::ActRows& acts = packed.wants_quantised() ? quantised_ : floats_;
    ops::MatMul(pool_, packed, acts, rows.out + part.offset, rows.out_stride);
  }
  return absl::OkStatus();
}

absl::Status CpuBackend::Residual(const ops::ResidualRows& args) {
  ops::Residual(isa_, pool_, args);
  return absl::OkStatus();
}

absl::Status CpuBackend::RotateAndStore(ops::QkvRows args, int rope_kind, uint32_t group) {
  args.cos = step_->cos(rope_kind);
  args.sin = step_->sin(rope_kind);
  args.slots = step_->slots(group).data();
  ops::RotateAndStore(isa_, pool_, args);
  return absl::OkStatus();
}

absl::Status CpuBackend::Attend(ops::AttentionArgs args, uint32_t group) {
  args.runs = step_->runs(group).data();
  args.n_runs = static_cast<int64_t>(step_->runs(group).size());
  ops::Attend(isa_, pool_, args, attention_);
  return absl::OkStatus();
}

absl::Status CpuBackend::GateMul(const ops::GateRows& args) {
  ops::GateMul(isa_, pool_, args);
  return absl::OkStatus();
}

absl::Status CpuBackend::TakeHidden(stage::WireType type, std::span<const uint8_t> data) {
  if (type == stage::WireType::kF32) {
    std::memcpy(buffers_.x, data.data(), data.size());
  } else {
    ops::DecodeHalfRows(isa_, pool_, data.data(), {rows_, sizes_.d_model}, buffers_.x);
  }
  return absl::OkStatus();
}

absl::Status CpuBackend::GiveHidden(stage::WireType type, std::span<uint8_t> data) {
  if (type == stage::WireType::kF32) {
    std::memcpy(data.data(), buffers_.x, data.size());
  } else {
    ops::EncodeHalfRows(isa_, pool_, buffers_.x, {rows_, sizes_.d_model}, data.data());
  }
  return absl::OkStatus();
}

absl::Status CpuBackend::SetHeadRows(std::span<const int64_t> rows) {
  head_rows_.assign(rows.begin(), rows.end());
  return absl::OkStatus();
}

absl::Status CpuBackend::NormHeadRows(const Vector& norm, float eps) {
  const size_t rows = head_rows_.size();
  for (size_t begin = 0, end; begin < rows; begin = end) {
    for (end = begin + 1; end < rows && head_rows_[end] == head_rows_[end - 1] + 1;) ++end;
    ops::ResidualRows args;
    args.x = buffers_.x + head_rows_[begin] * sizes_.d_model;
    args.norm = norm.data;
    args.out = buffers_.h + begin * sizes_.d_model;
    args.rows = static_cast<int64_t>(end - begin);
    args.n = sizes_.d_model;
    args.eps = eps;
    ops::Residual(isa_, pool_, args);
  }
  return absl::OkStatus();
}

absl::Status CpuBackend::SummariseLogits() {
  stats_.resize(std::max(stats_.size(), head_rows_.size()));
  finite_.assign(head_rows_.size(), 0);
  for (size_t i = 0; i < head_rows_.size(); ++i) {
    const float* logits = buffers_.logits + i * sizes_.n_vocab;
    finite_[i] = ops::SummariseLogits(isa_, pool_, logits, sizes_.n_vocab, &stats_[i]) ? 1 : 0;
  }
  return absl::OkStatus();
}

absl::Status CpuBackend::ReadLogits(std::span<const uint8_t> whole, std::vector<LogitRow>* out) {
  out->resize(whole.size());
  for (size_t i = 0; i < whole.size(); ++i)
    (*out)[i] = {finite_[i] != 0 ? &stats_[i] : nullptr, buffers_.logits + i * sizes_.n_vocab};
  return absl::OkStatus();
}

}  // namespace lanyard::engine
