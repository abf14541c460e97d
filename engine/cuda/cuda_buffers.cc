#include "engine/cuda/cuda_buffers.h"

#include <algorithm>

#include "engine/ops/cuda/logits.h"
#include "engine/ops/cuda/matmul.h"

namespace lanyard::engine {
namespace {

namespace kernels = ops::cuda;

constexpr uint64_t kPartialBytes = uint64_t{32} << 20;
constexpr uint32_t kMaxDecodeTiles = 64;

// Places parts one after another.
class Cutter {
 public:
  uint64_t Cut(uint64_t bytes) {
    const uint64_t at = end_;
    end_ += (bytes + 255) / 256 * 256;
    return at;
  }
  uint64_t end() const { return end_; }

 private:
  uint64_t end_ = 0;
};

kernels::AttentionShape ShapeOf(const StepSizes& s) {
  return {static_cast<uint32_t>(s.n_heads), static_cast<uint32_t>(s.n_kv_heads),
          static_cast<uint32_t>(s.head_dim)};
}

// The spans of the group that sees furthest.
uint32_t MostSpans(const StepSizes& s) {
  uint32_t spans = 1;
  for (const uint32_t window : s.group_windows)
    spans = std::max(spans, kernels::MaxSpans(s.max_context, window));
  return spans;
}

uint64_t RowsBytes(bool quantised, const StepSizes& s) {
  // The groups of columns that rows are padded to grow with the rows, except in a step of fewer
  // than 8.
  int64_t widest = s.d_model;
  if (s.has_layers) widest = std::max({s.d_model, s.d_attn, s.d_ff});
  return kernels::RowsBytes(quantised, s.max_rows, widest);
}

}  // namespace

FrameLayout::FrameLayout(const StepSizes& s, int64_t rows, uint32_t decode_tiles) {
  const auto n = static_cast<uint64_t>(rows);
  const size_t n_groups = s.has_layers ? s.group_windows.size() : 0;
  const auto chunks = static_cast<uint32_t>((n + decode_tiles - 1) / decode_tiles);
  Cutter part;
  words_bytes = (kWordCounts + n_groups * (1 + chunks)) * sizeof(uint32_t);
  part.Cut(words_bytes);
  for (size_t g = 0; g < n_groups; ++g) {
    Group group;
    group.count_word = kWordCounts + static_cast<uint32_t>(g) * (1 + chunks);
    group.slots = part.Cut(n * sizeof(kernels::DeviceSlot));
    group.decode_tiles = part.Cut(n * sizeof(kernels::AttentionTile));
    group.prefill_tiles = part.Cut(n * sizeof(kernels::AttentionTile));
    groups.push_back(group);
  }
  rotations = part.Cut(s.has_layers ? n * 2 * s.n_rope_kinds * s.n_rot * sizeof(float) : 0);
  tables = part.end();
  for (size_t g = 0; g < n_groups; ++g)
    groups[g].page_table = part.Cut(s.group_blocks[g] * sizeof(uint32_t));
  bytes = part.end();
}

CudaLayout::CudaLayout(const StepSizes& s, InputForms forms) {
  const auto rows = static_cast<uint64_t>(s.max_rows);
  const uint64_t head_rows = s.samples ? std::min<uint64_t>(kHeadRows, rows) : 0;
  rows_bytes = rows * static_cast<uint64_t>(s.d_model) * sizeof(float);
  logit_bytes = static_cast<uint64_t>(s.LogitFloats()) * sizeof(float);
  chunks_bytes = head_rows * kernels::LogitChunks(static_cast<uint32_t>(s.n_vocab)) * sizeof(float);
  stats_bytes = head_rows * sizeof(kernels::RowStats);

  Cutter all;
  x = all.Cut(rows_bytes);
  h = all.Cut(rows_bytes);
  work = all.Cut(rows * static_cast<uint64_t>(s.WorkFloats()) * sizeof(float));
  logits = all.Cut(logit_bytes);
  quantised = all.Cut(forms.quantised ? RowsBytes(true, s) : 0);
  floats = all.Cut(forms.floats ? RowsBytes(false, s) : 0);
  if (s.has_layers) {
    const uint32_t spans = MostSpans(s);
    const uint64_t tile_bytes = kernels::PartialFloats(ShapeOf(s), 1, spans) * sizeof(float);
    decode_tiles = std::min<uint32_t>(kMaxDecodeTiles, static_cast<uint32_t>(rows));
    if (tile_bytes > 0) {
      decode_tiles =
          static_cast<uint32_t>(std::clamp<uint64_t>(kPartialBytes / tile_bytes, 1, decode_tiles));
    }
    partials = all.Cut(tile_bytes * decode_tiles);
  }
  wire = all.Cut(rows_bytes + rows);
  chunk_max = all.Cut(chunks_bytes);
  chunk_argmax = all.Cut(chunks_bytes);
  chunk_sums = all.Cut(chunks_bytes);
  stats = all.Cut(stats_bytes);
  head = all.Cut((1 + head_rows) * sizeof(uint32_t));

  frame_bytes = FrameLayout(s, s.max_rows, decode_tiles).bytes;
  frame = all.Cut(frame_bytes);
  bytes = all.end();
}

uint64_t CudaLayout::HostBytes() const {
  return 2 * (rows_bytes + rows_bytes / 4) + frame_bytes + logit_bytes + chunks_bytes + stats_bytes;
}

}  // namespace lanyard::engine
