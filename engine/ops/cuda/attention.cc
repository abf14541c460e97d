#include "engine/ops/cuda/attention.h"

#include <algorithm>
#include <string>

namespace lanyard::ops::cuda {
namespace {

constexpr uint32_t kRowThreads = 256;   // for the kernels of single rows
constexpr uint32_t kDecodeQueries = 4;  // for one block, of one key/value head
constexpr uint32_t kPrefillQueries = 32;
constexpr uint32_t kFastThreads = 128;
constexpr uint32_t kPartialHead = 4;
constexpr uint32_t kMaxHeadDim = 1024;
constexpr uint32_t kSpanPositions = kSpanPages * kKvPositions;

absl::Status Check(const AttendArgs& args) {
  if (args.kv.base == nullptr || args.q == nullptr || args.out == nullptr ||
      args.tiles == nullptr || args.n_tiles == nullptr || args.page_table == nullptr) {
    return InvalidArgument(
        "attention: pages, q, out, tiles, n_tiles and page_table must be device addresses");
  }
  if (args.max_tiles == 0)
    return InvalidArgument("attention: max_tiles is 0; a launch has at least one tile");
  if (args.kv.element > static_cast<uint32_t>(KvElement::kI8)) {
    return InvalidArgument("attention: no key/value type ", args.kv.element);
  }
  return CheckAttentionShape({args.n_heads, args.kv.n_kv_heads, args.kv.head_dim});
}

const char* ElementName(uint32_t element) {
  switch (static_cast<KvElement>(element)) {
    case KvElement::kF32:
      return "f32";
    case KvElement::kF16:
      return "f16";
    case KvElement::kI8:
      break;
  }
  return "q8";
}

// The caller must make sure that the launcher's card has PTX of level 80; otherwise the kernel is
// not found.
absl::Status CheckFast(const AttendArgs& args) {
  RETURN_IF_ERROR(Check(args));
  if (HasFastAttention({args.n_heads, args.kv.n_kv_heads, args.kv.head_dim},
                       static_cast<KvElement>(args.kv.element), kFastAttentionLevel)) {
    return absl::OkStatus();
  }
  return InvalidArgument("attention: no fast kernel for heads of ", args.kv.head_dim, ", ",
                         args.n_heads, " over ", args.kv.n_kv_heads, ", in ",
                         ElementName(args.kv.element));
}

std::string FastKernel(const char* way, const AttendArgs& args) {
  return std::string("lanyard_attend_fast_") + way + ElementName(args.kv.element) + "_" +
         std::to_string(args.kv.head_dim);
}

// The blocks that the query heads of the key/value heads need, at kDecodeQueries a block.
uint32_t DecodeUnits(const AttendArgs& args) {
  const uint32_t group = args.n_heads / args.kv.n_kv_heads;
  return args.kv.n_kv_heads * ((group + kDecodeQueries - 1) / kDecodeQueries);
}

}  // namespace

absl::Status CheckAttentionShape(const AttentionShape& shape) {
  if (shape.n_heads == 0 || shape.n_kv_heads == 0 || shape.n_heads % shape.n_kv_heads != 0) {
    return InvalidArgument("attention: ", shape.n_heads, " heads are no multiple of ",
                           shape.n_kv_heads, " key/value heads");
  }
  if (shape.head_dim == 0 || shape.head_dim % 4 != 0 || shape.head_dim > kMaxHeadDim) {
    return InvalidArgument("attention: head size ", shape.head_dim,
                           "; kernels are for multiples of 4 up to ", kMaxHeadDim);
  }
  return absl::OkStatus();
}

uint32_t PrefillTileRows(const AttentionShape& shape) {
  const uint32_t group = shape.n_heads / std::max<uint32_t>(1, shape.n_kv_heads);
  const bool has_kernel = shape.head_dim == 64 || shape.head_dim == 128 || shape.head_dim == 256;
  return has_kernel && group >= 1 && group <= kPrefillQueries ? kPrefillQueries / group : 1;
}

void PlanAttention(std::span<const AttentionRun> runs, std::span<const uint32_t> page_counts,
                   const AttentionShape& shape, AttentionPlan* plan) {
  plan->decode.clear();
  plan->prefill.clear();
  plan->page_table.clear();
  const uint32_t tile_rows = PrefillTileRows(shape);
  for (size_t i = 0; i < runs.size(); ++i) {
    const AttentionRun& run = runs[i];
    const uint32_t pages = static_cast<uint32_t>(plan->page_table.size());
    plan->page_table.insert(plan->page_table.end(), run.pages, run.pages + page_counts[i]);
    // Few rows are faster side by side than in a tile that is mostly empty.
    const bool single = run.n_rows <= 2;
    const uint32_t step = single ? 1 : tile_rows;
    for (uint32_t row = 0; row < run.n_rows; row += step) {
      const AttentionTile tile{static_cast<uint32_t>(run.row) + row,
                               std::min(step, run.n_rows - row), run.pos + row, pages, run.first};
      (single ? plan->decode : plan->prefill).push_back(tile);
    }
  }
}

uint32_t MaxSpans(uint32_t context, uint32_t window) {
  const uint32_t all = (context + kSpanPositions - 1) / kSpanPositions;
  if (window == 0) return std::max<uint32_t>(1, all);
  // The `window` positions need not begin at a span's start.
  return std::max<uint32_t>(1, std::min(all, (window + kSpanPositions - 2) / kSpanPositions + 1));
}

uint64_t PartialFloats(const AttentionShape& shape, uint32_t max_tiles, uint32_t max_spans) {
  return max_spans <= 1
             ? 0
             : uint64_t{max_tiles} * shape.n_heads * max_spans * (shape.head_dim + kPartialHead);
}

absl::Status AttendDecode(Launcher& launcher, const AttendArgs& args) {
  RETURN_IF_ERROR(Check(args));
  if (args.max_spans == 0 || (args.max_spans > 1 && args.partials == nullptr)) {
    return InvalidArgument("attention: ", args.max_spans,
                           " spans need max_spans >= 1, and partials for more than one");
  }
  const std::string kernel = std::string("lanyard_attend_decode_") + ElementName(args.kv.element);
  const uint32_t shared_bytes = kDecodeQueries * args.kv.head_dim * sizeof(float);
  RETURN_IF_ERROR(LaunchWith(launcher, kernel, {args.max_spans, DecodeUnits(args), args.max_tiles},
                             {kRowThreads}, args, shared_bytes));
  if (args.max_spans == 1) return absl::OkStatus();
  return LaunchWith(launcher, "lanyard_attend_merge", {args.n_heads, args.max_tiles}, {128}, args);
}

absl::Status AttendPrefill(Launcher& launcher, const AttendArgs& args) {
  RETURN_IF_ERROR(Check(args));
  if (PrefillTileRows({args.n_heads, args.kv.n_kv_heads, args.kv.head_dim}) == 1) {
    const std::string kernel = std::string("lanyard_attend_rows_") + ElementName(args.kv.element);
    const uint32_t shared_bytes = 2 * kDecodeQueries * args.kv.head_dim * sizeof(float);
    return LaunchWith(launcher, kernel, {args.max_tiles, DecodeUnits(args)}, {kRowThreads}, args,
                      shared_bytes);
  }
  const uint32_t hd = args.kv.head_dim;
  const std::string kernel = std::string("lanyard_attend_prefill_") + ElementName(args.kv.element) +
                             "_" + std::to_string(hd);
  return LaunchWith(launcher, kernel, {args.max_tiles, args.kv.n_kv_heads}, {hd}, args);
}

bool HasFastAttention(const AttentionShape& shape, KvElement element, int level) {
  const bool has_kernel = shape.head_dim == 64 || shape.head_dim == 128 || shape.head_dim == 256;
  return level >= kFastAttentionLevel && has_kernel && element != KvElement::kF32 &&
         CheckAttentionShape(shape).ok() && shape.n_heads / shape.n_kv_heads <= kPrefillQueries;
}

absl::Status AttendFastDecode(Launcher& launcher, const AttendArgs& args) {
  RETURN_IF_ERROR(CheckFast(args));
  if (args.max_spans == 0 || (args.max_spans > 1 && args.partials == nullptr)) {
    return InvalidArgument("attention: ", args.max_spans,
                           " spans need max_spans >= 1, and partials for more than one");
  }
  RETURN_IF_ERROR(LaunchWith(launcher, FastKernel("split_", args),
                             {args.max_tiles, args.kv.n_kv_heads, args.max_spans}, {kFastThreads},
                             args, FastAttentionSharedBytes(args.kv.head_dim)));
  if (args.max_spans == 1) return absl::OkStatus();
  return LaunchWith(launcher, "lanyard_attend_merge", {args.n_heads, args.max_tiles}, {128}, args);
}

absl::Status AttendFastPrefill(Launcher& launcher, const AttendArgs& args) {
  RETURN_IF_ERROR(CheckFast(args));
  return LaunchWith(launcher, FastKernel("", args), {args.max_tiles, args.kv.n_kv_heads},
                    {kFastThreads}, args, FastAttentionSharedBytes(args.kv.head_dim));
}

}  // namespace lanyard::ops::cuda
