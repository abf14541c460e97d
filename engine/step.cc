#include "engine/step.h"

#include <algorithm>

namespace lanyard::engine {

int64_t StepSizes::WorkFloats() const {
  return has_layers ? std::max(d_qkv + d_attn, 2 * d_ff) : 0;
}

uint64_t StepSizes::BufferBytes() const {
  uint64_t row = 2 * d_model + WorkFloats();
  if (has_layers) row += 2 * n_rope_kinds * n_rot;
  uint64_t floats = row * max_rows;
  if (samples) floats += std::min<uint64_t>(kHeadRows, max_rows) * n_vocab;
  return floats * sizeof(float);
}

StepSizes Step::SizesOf(const model::ModelShape& shape, const stage::StageSpec& spec) {
  StepSizes s;
  s.max_rows = std::min<uint32_t>(spec.max_rows, stage::kMaxFrameRows);
  s.d_model = shape.d_model;
  s.d_attn = int64_t{shape.n_heads} * shape.head_dim;
  s.d_qkv = s.d_attn + 2 * int64_t{shape.n_kv_heads} * shape.head_dim;
  s.d_ff = shape.d_ff;
  s.n_rot = shape.n_rot;
  s.n_rope_kinds = shape.family == model::Family::kGemma3 ? 2 : 1;
  s.n_vocab = shape.n_vocab;
  s.has_layers = spec.layers.size() > 0;
  s.samples = spec.samples;
  return s;
}

absl::StatusOr<Step> Step::Make(const model::ModelShape& shape, const stage::StageSpec& spec, ops::Isa isa,
                                ops::ThreadPool* pool) {
  Step s;
  s.isa = isa;
  s.pool = pool;
  s.sizes_ = SizesOf(shape, spec);
  s.max_rows_ = s.sizes_.max_rows;
  const uint64_t row_bytes = s.max_rows_ * sizeof(float);
  ASSIGN_OR_RETURN(s.x_, Memory::Map(row_bytes * s.sizes_.d_model, "hidden states"));
  ASSIGN_OR_RETURN(s.h_, Memory::Map(row_bytes * s.sizes_.d_model, "hidden states"));
  ASSIGN_OR_RETURN(s.work_, Memory::Map(row_bytes * s.sizes_.WorkFloats(), "a step's buffers"));
  if (s.sizes_.has_layers) {
    ASSIGN_OR_RETURN(s.rope_, Memory::Map(row_bytes * 2 * s.sizes_.n_rope_kinds * s.sizes_.n_rot, "rotations"));
    s.attention = ops::AttentionScratch(pool->size(), shape.n_heads, shape.n_kv_heads, shape.head_dim, s.max_rows_);
  }
  if (spec.samples) {
    const uint64_t logit_rows = std::min<uint64_t>(kHeadRows, s.max_rows_);
    ASSIGN_OR_RETURN(s.logits_, Memory::Map(logit_rows * shape.n_vocab * sizeof(float), "logits"));
  }
  s.slots_.resize(shape.groups.size());
  s.runs_.resize(shape.groups.size());
  for (auto& slots : s.slots_) slots.reserve(s.max_rows_);
  for (auto& runs : s.runs_) runs.reserve(s.max_rows_);
  s.positions_.reserve(s.max_rows_);
  return s;
}

void Step::Begin(const stage::StepFrame& frame, const std::vector<RopeKind>& ropes) {
  rows = 0;
  positions_.clear();
  for (auto& slots : slots_) slots.clear();
  for (auto& runs : runs_) runs.clear();
  for (const stage::SeqRun& run : frame.batch.runs) {
    for (size_t g = 0; g < slots_.size(); ++g) {
      const stage::BlockTable& table = run.tables[g];
      runs_[g].push_back({rows, run.pos, run.n_rows, table.blocks.data(), table.first});
      for (uint32_t i = 0; i < run.n_rows; ++i) {
        const uint32_t pos = run.pos + i;
        slots_[g].push_back({table.blocks[pos / stage::kKvBlockTokens - table.first], pos % stage::kKvBlockTokens});
      }
    }
    for (uint32_t i = 0; i < run.n_rows; ++i) positions_.push_back(run.pos + i);
    rows += run.n_rows;
  }
  if (!sizes_.has_layers) return;
  const int64_t n_rot = sizes_.n_rot;
  pool->For(rows, std::max<int64_t>(1, 1024 / std::max<int64_t>(1, n_rot)), [&](int64_t begin, int64_t end) {
    for (size_t kind = 0; kind < ropes.size(); ++kind) {
      float* c = rope_.floats() + (2 * kind) * max_rows_ * n_rot;
      float* s = c + max_rows_ * n_rot;
      for (int64_t r = begin; r < end; ++r) {
        ropes[kind].frequencies.Row(positions_[r], ropes[kind].pairs, c + r * n_rot, s + r * n_rot);
      }
    }
  });
}

}  // namespace lanyard::engine
