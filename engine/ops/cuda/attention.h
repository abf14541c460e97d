// Exact attention on a device: the twin of engine/ops/attention.h, with the same bits.
// docs/numerics.md "Attention".
//
// A frame's runs are dealt by PlanAttention to two lists of tiles: single rows for AttendDecode
// (each split over its spans, so that one row of a long sequence fills the card) and tiles of
// several rows for AttendPrefill. Both write their own rows of `out`; a frame that has no tile of a
// kind needs no launch of it. Everything but addresses and maxima lies in device memory
// (attention_args.h), so a graph captured with AttendDecode(max_tiles, max_spans) serves every
// frame within these.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "engine/ops/attention.h"
#include "engine/ops/cuda/attention_args.h"
#include "engine/ops/cuda/launcher.h"

namespace lanyard::ops::cuda {

struct AttentionShape {
  uint32_t n_heads = 0;
  uint32_t n_kv_heads = 0;
  uint32_t head_dim = 0;
};

// The lists to upload for one state group. Vectors keep their memory between frames.
struct AttentionPlan {
  std::vector<AttentionTile> decode;
  std::vector<AttentionTile> prefill;
  std::vector<uint32_t> page_table;
};
// `page_counts[i]` is the number of pages that runs[i].pages has.
void PlanAttention(std::span<const AttentionRun> runs, std::span<const uint32_t> page_counts,
                   const AttentionShape& shape, AttentionPlan* plan);

// OK if the kernels can compute these heads: head_dim is a multiple of 4 and at most 1024.
absl::Status CheckAttentionShape(const AttentionShape& shape);

// The rows of a tile of AttendPrefill. It is 1 where the shape has no kernel for several rows
// (head_dim is none of 64, 128, 256, or there are more than 16 query heads a key/value head); such
// rows are computed one by one.
uint32_t PrefillTileRows(const AttentionShape& shape);

// The spans that a row at a position below `context` can touch, with a window (0: none).
uint32_t MaxSpans(uint32_t context, uint32_t window);

// The number of floats of AttendArgs::partials.
uint64_t PartialFloats(const AttentionShape& shape, uint32_t max_tiles, uint32_t max_spans);

// Computes tiles of one row each, in two launches (one where max_spans is 1). The caller must not
// pass a row that touches more than max_spans.
absl::Status AttendDecode(Launcher& launcher, const AttendArgs& args);

// Computes tiles of up to PrefillTileRows rows, in one launch; it needs no partials.
absl::Status AttendPrefill(Launcher& launcher, const AttendArgs& args);

// --- The fast form: both products run on f16 tensor cores, under another numerics id
// (docs/numerics.md "Attention, fast form"). The lists, partials and rules are the same as above.
// The results are near those of the exact form, and equal whichever of these functions computed
// them.

inline constexpr int kFastAttentionLevel = 80;
// True where the fast form exists: PTX level 80, head_dim 64, 128 or 256, f16 or q8 keys and
// values, at most 32 query heads a key/value head.
bool HasFastAttention(const AttentionShape& shape, KvElement element, int level);
absl::Status AttendFastDecode(Launcher& launcher, const AttendArgs& args);
absl::Status AttendFastPrefill(Launcher& launcher, const AttendArgs& args);

}  // namespace lanyard::ops::cuda
