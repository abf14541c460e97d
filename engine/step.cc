#include "engine/step.h"

#include <algorithm>

namespace lanyard::engine {
namespace {

// What the coordinator calls a block is a page here: tables and slots are passed on as they are.
static_assert(stage::kKvBlockTokens == ops::kKvPositions);

// A row's slot, run and count of pages in one state group (Step::Make reserves one a row).
constexpr uint64_t kGroupRowBytes =
    sizeof(ops::KvSlot) + sizeof(ops::AttentionRun) + sizeof(uint32_t);

}  // namespace

int64_t StepSizes::WorkFloats() const {
  return has_layers ? std::max(d_qkv + d_attn, 2 * d_ff) : 0;
}

int64_t StepSizes::LogitFloats() const {
  return samples ? std::min<int64_t>(kHeadRows, max_rows) * n_vocab : 0;
}

uint64_t StepSizes::RopeBytes() const {
  return has_layers ? static_cast<uint64_t>(max_rows * 2 * n_rope_kinds * n_rot) * sizeof(float)
                    : 0;
}

uint64_t StepSizes::BufferBytes() const {
  const int64_t floats = (2 * d_model + WorkFloats()) * max_rows + LogitFloats();
  const uint64_t row_bytes = group_windows.size() * kGroupRowBytes + sizeof(uint32_t);
  return static_cast<uint64_t>(floats) * sizeof(float) + RopeBytes() + max_rows * row_bytes;
}

StepSizes Step::SizesOf(const model::ModelShape& shape, const stage::StageSpec& spec) {
  StepSizes s;
  s.max_rows = std::min<uint32_t>(spec.max_rows, stage::kMaxFrameRows);
  s.d_model = shape.d_model;
  s.d_attn = int64_t{shape.n_heads} * shape.head_dim;
  s.d_qkv = s.d_attn + 2 * int64_t{shape.n_kv_heads} * shape.head_dim;
  s.d_ff = shape.d_ff;
  s.n_rot = shape.n_rot;
  s.n_rope_kinds = model::RopeKinds(shape);
  s.n_vocab = shape.n_vocab;
  s.n_heads = static_cast<int>(shape.n_heads);
  s.n_kv_heads = static_cast<int>(shape.n_kv_heads);
  s.head_dim = static_cast<int>(shape.head_dim);
  s.group_blocks = spec.group_blocks;
  for (const model::StateGroup& group : shape.groups) s.group_windows.push_back(group.window);
  s.max_context = spec.max_context;
  s.numerics = spec.numerics;
  s.has_layers = spec.layers.size() > 0;
  s.samples = spec.samples;
  return s;
}

absl::StatusOr<Step> Step::Make(const StepSizes& sizes, std::vector<RopeKind> ropes,
                                ops::ThreadPool* pool) {
  // Begin fills as many as there are, into memory for as many as the sizes say.
  if (sizes.has_layers && ropes.size() != static_cast<size_t>(sizes.n_rope_kinds)) {
    return Internal("the model's family has ", ropes.size(), " rotations, its shape says ",
                    sizes.n_rope_kinds, "; model::RopeKinds and the family's file must agree");
  }
  Step s;
  s.ropes_ = std::move(ropes);
  s.pool_ = pool;
  s.sizes_ = sizes;
  ASSIGN_OR_RETURN(s.rope_, Memory::Map(sizes.RopeBytes(), "rotations"));
  s.slots_.resize(sizes.group_windows.size());
  s.runs_.resize(sizes.group_windows.size());
  s.run_blocks_.resize(sizes.group_windows.size());
  for (auto& slots : s.slots_) slots.reserve(sizes.max_rows);
  for (auto& runs : s.runs_) runs.reserve(sizes.max_rows);
  for (auto& blocks : s.run_blocks_) blocks.reserve(sizes.max_rows);
  s.positions_.reserve(sizes.max_rows);
  return s;
}

void Step::Begin(const stage::StepFrame& frame) {
  rows = 0;
  positions_.clear();
  for (auto& slots : slots_) slots.clear();
  for (auto& runs : runs_) runs.clear();
  for (auto& blocks : run_blocks_) blocks.clear();
  for (const stage::SeqRun& run : frame.batch.runs) {
    for (size_t g = 0; g < slots_.size(); ++g) {
      const stage::BlockTable& table = run.tables[g];
      runs_[g].push_back({rows, run.pos, run.n_rows, table.blocks.data(), table.first});
      run_blocks_[g].push_back(static_cast<uint32_t>(table.blocks.size()));
      for (uint32_t i = 0; i < run.n_rows; ++i) {
        const uint32_t pos = run.pos + i;
        slots_[g].push_back(
            {table.blocks[pos / stage::kKvBlockTokens - table.first], pos % stage::kKvBlockTokens});
      }
    }
    for (uint32_t i = 0; i < run.n_rows; ++i) positions_.push_back(run.pos + i);
    rows += run.n_rows;
  }
  if (!sizes_.has_layers) return;
  const int64_t n_rot = sizes_.n_rot;
  pool_->For(rows, std::max<int64_t>(1, 1024 / std::max<int64_t>(1, n_rot)),
             [&](int64_t begin, int64_t end) {
               for (size_t kind = 0; kind < ropes_.size(); ++kind) {
                 float* c = rope_.floats() + (2 * kind) * sizes_.max_rows * n_rot;
                 float* s = c + sizes_.max_rows * n_rot;
                 for (int64_t r = begin; r < end; ++r) {
                   ropes_[kind].frequencies.Row(positions_[r], ropes_[kind].pairs, c + r * n_rot,
                                                s + r * n_rot);
                 }
               }
             });
}

}  // namespace lanyard::engine
