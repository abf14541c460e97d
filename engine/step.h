// One step's rows on their way through the layers: buffers, positions, pages. Made once a stage, filled once a frame.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "engine/memory.h"
#include "engine/ops/attention.h"
#include "engine/ops/rope.h"
#include "engine/weights.h"
#include "model/model_shape.h"
#include "stage/types.h"

namespace lanyard::engine {

// Rows of the head are computed in groups of this many, so that logits of a long step never lie in memory together.
inline constexpr uint32_t kHeadRows = 16;

// One kind of rotation of a family.
struct RopeKind {
  ops::RopeFrequencies frequencies;
  ops::RopePairs pairs = ops::RopePairs::kInterleaved;
};

// Widths that the buffers follow from.
struct StepSizes {
  int64_t max_rows = 0;
  int64_t d_model = 0;
  int64_t d_qkv = 0;       // of q, k and v side by side
  int64_t d_attn = 0;      // n_heads * head_dim
  int64_t d_ff = 0;
  int64_t n_rot = 0;
  int64_t n_rope_kinds = 0;
  int64_t n_vocab = 0;
  bool has_layers = false;
  bool samples = false;

  int64_t WorkFloats() const;   // of one row
  uint64_t BufferBytes() const; // all of Step's own buffers
};

class Step {
 public:
  static absl::StatusOr<Step> Make(const model::ModelShape& shape, const stage::StageSpec& spec,
                                   ops::Isa isa, ops::ThreadPool* pool);

  // Takes the frame's runs: pages and rotations of every row. The frame outlives the step.
  void Begin(const stage::StepFrame& frame, const std::vector<RopeKind>& ropes);

  ops::Isa isa = ops::Isa::kScalar;
  ops::ThreadPool* pool = nullptr;
  int64_t rows = 0;

  // [rows][...], row-major without gaps.
  float* x() const { return x_.floats(); }        // d_model: the residual stream
  float* h() const { return h_.floats(); }        // d_model: normalised rows, then a block's output
  float* qkv() const { return work_.floats(); }   // d_qkv
  float* attn() const { return work_.floats() + max_rows_ * sizes_.d_qkv; }  // d_attn
  float* gate_up() const { return work_.floats(); }  // 2 * d_ff; shares its memory with qkv and attn
  float* logits() const { return logits_.floats(); }  // [kHeadRows][n_vocab]

  const float* cos(int kind) const { return rope_.floats() + (2 * kind) * max_rows_ * sizes_.n_rot; }
  const float* sin(int kind) const { return rope_.floats() + (2 * kind + 1) * max_rows_ * sizes_.n_rot; }
  const ops::KvSlot* slots(uint32_t group) const { return slots_[group].data(); }
  const std::vector<ops::AttentionRun>& runs(uint32_t group) const { return runs_[group]; }

  Inputs inputs;
  ops::AttentionScratch attention;

  static StepSizes SizesOf(const model::ModelShape& shape, const stage::StageSpec& spec);

 private:
  StepSizes sizes_;
  int64_t max_rows_ = 0;
  Memory x_, h_, work_, logits_, rope_;
  std::vector<std::vector<ops::KvSlot>> slots_;         // of each state group
  std::vector<std::vector<ops::AttentionRun>> runs_;
  std::vector<uint32_t> positions_;
};

}  // namespace lanyard::engine
