// One step's rows as every device of a stage needs to know them: positions, pages, rotations. It is
// made once for a stage and filled once for a frame; the rows themselves lie with the backends
// (backend.h).
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "engine/memory.h"
#include "engine/ops/attention.h"
#include "engine/ops/rope.h"
#include "engine/ops/thread_pool.h"
#include "model/model_shape.h"
#include "stage/types.h"

namespace lanyard::engine {

// Rows of the head are computed in groups of this many, so that the logits of a long step never lie
// in memory together.
inline constexpr uint32_t kHeadRows = 16;

// One kind of rotation of a family.
struct RopeKind {
  ops::RopeFrequencies frequencies;
  ops::RopePairs pairs = ops::RopePairs::kInterleaved;
};

// The widths from which the buffers follow.
struct StepSizes {
  int64_t max_rows = 0;
  int64_t d_model = 0;
  int64_t d_qkv = 0;   // width of q, k and v side by side
  int64_t d_attn = 0;  // n_heads * head_dim
  int64_t d_ff = 0;
  int64_t n_rot = 0;
  int64_t n_rope_kinds = 0;
  int64_t n_vocab = 0;
  int n_heads = 0;
  int n_kv_heads = 0;
  int head_dim = 0;
  std::vector<uint32_t> group_blocks;   // KV blocks of each state group
  std::vector<uint32_t> group_windows;  // tokens that a row sees; 0: all
  uint32_t max_context = 0;             // tokens of one sequence
  stage::NumericsId numerics;
  bool has_layers = false;
  bool samples = false;

  int64_t WorkFloats() const;    // for one row
  int64_t LogitFloats() const;   // for a group of the head's rows
  uint64_t RopeBytes() const;    // rotations of every row
  uint64_t BufferBytes() const;  // x, h, work, logits, rotations, and the pages of every row
};

class Step {
 public:
  static StepSizes SizesOf(const model::ModelShape& shape, const stage::StageSpec& spec);
  // `sizes` of the whole stage, `ropes` of its family. The pool outlives the step. Internal where
  // the sizes are not for as many rotations.
  static absl::StatusOr<Step> Make(const StepSizes& sizes, std::vector<RopeKind> ropes,
                                   ops::ThreadPool* pool);

  // Takes the frame's runs: pages and rotations of every row. The frame outlives the step.
  void Begin(const stage::StepFrame& frame);

  int64_t rows = 0;

  // [rows][n_rot]
  const float* cos(int kind) const {
    return rope_.floats() + (2 * kind) * sizes_.max_rows * sizes_.n_rot;
  }
  const float* sin(int kind) const {
    return rope_.floats() + (2 * kind + 1) * sizes_.max_rows * sizes_.n_rot;
  }
  const std::vector<ops::KvSlot>& slots(uint32_t group) const { return slots_[group]; }
  const std::vector<ops::AttentionRun>& runs(uint32_t group) const { return runs_[group]; }
  // The number of pages that each of runs(group) points at.
  const std::vector<uint32_t>& run_blocks(uint32_t group) const { return run_blocks_[group]; }

 private:
  StepSizes sizes_;
  std::vector<RopeKind> ropes_;
  ops::ThreadPool* pool_ = nullptr;
  Memory rope_;
  std::vector<std::vector<ops::KvSlot>> slots_;  // one list for each state group
  std::vector<std::vector<ops::AttentionRun>> runs_;
  std::vector<std::vector<uint32_t>> run_blocks_;
  std::vector<uint32_t> positions_;
};

}  // namespace lanyard::engine
