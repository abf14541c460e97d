// Attention on f16 tensor cores, under a numerics id of its own: docs/numerics.md "Attention, fast
// form". Spans, pages, softmax and merge are those of the exact form; the two products take halves
// and sum in f32 as the card's mma does. A row's result still depends on nothing but its own tokens
// and the card's architecture: a row of an mma does not see its neighbours.
//
// A block of four warps takes up to 32 queries (rows x the query heads of one key/value head).
// lanyard_attend_fast_* walks all spans of a tile; lanyard_attend_fast_split_* takes one span of a
// single row (grid.z), lanyard_attend_merge adds them.
#include "engine/ops/cuda/attention_args.h"
#include "engine/ops/cuda/common.cuh"
#include "engine/ops/cuda/kv.cuh"
#include "engine/ops/cuda/math.cuh"

#if LANYARD_PTX_LEVEL >= 80
namespace lanyard::ops::cuda {
namespace {

constexpr uint32_t kThreads = 128;
constexpr uint32_t kQueries = 32;
constexpr uint32_t kPad = 8;  // halves behind a row, so that eight rows lie in different banks
constexpr uint32_t kPageRow = kKvPositions + kPad;  // halves
constexpr uint32_t kScoreRow = kKvPositions + 4;    // floats
constexpr uint32_t kPartialHead = 4;                // as in attention_decode.cu

constexpr uint32_t kSpanGoesOn = 0;
constexpr uint32_t kSpanIsFirst = 1;
constexpr uint32_t kSpanIsMerged = 2;

template <uint32_t kHd>
struct Shared {
  alignas(16) uint16_t q[kQueries * (kHd + kPad)];           // [query][d]
  alignas(16) uint16_t keys[kHd * kPageRow];                 // [d][position]
  alignas(16) uint16_t values[kKvPositions * (kHd + kPad)];  // [position][d]
  alignas(16) uint16_t p[kQueries * kPageRow];               // [query][position]
  alignas(16) float s[kQueries * kScoreRow];                 // [query][position]
  float corr[kQueries];
  float m[kQueries];
  float l[kQueries];
  float total_m[kQueries];
  float total_l[kQueries];
  float a[kQueries];
  float b[kQueries];
  uint32_t ends[kQueries];
  uint32_t
      bad[2];  // bit j: the values of position j are not all finite; for this page and for the next
};

static_assert(sizeof(Shared<64>) == FastAttentionSharedBytes(64) &&
              sizeof(Shared<256>) == FastAttentionSharedBytes(256));

LANYARD_DEVICE uint32_t SharedAddress(const void* p) {
  uint64_t address;
  asm("cvta.to.shared.u64 %0, %1;" : "=l"(address) : "l"(p));
  return static_cast<uint32_t>(address);
}

// Loads four 8 x 8 matrices of halves; lane l gives the address of row l % 8 of matrix l / 8.
LANYARD_DEVICE void LoadMatrices(const uint16_t* row, uint32_t out[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(SharedAddress(row))
               : "memory");
}
LANYARD_DEVICE void LoadMatricesTransposed(const uint16_t* row, uint32_t out[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(SharedAddress(row))
               : "memory");
}

// Computes d += a b, where a is 16 x 16 and b 16 x 8. Lane (g, t) holds columns 2t and 2t + 1 of
// rows g and g + 8 of d.
LANYARD_DEVICE void Multiply(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, "
      "%9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

LANYARD_DEVICE uint32_t TwoHalves(float low, float high) {
  return FloatToHalf(low) | static_cast<uint32_t>(FloatToHalf(high)) << 16;
}

template <uint32_t kHd>
LANYARD_DEVICE void LoadQueries(const AttendArgs& a, const Tile& t, Shared<kHd>* shared) {
  for (uint32_t i = ThreadX() * 4; i < kQueries * kHd; i += kThreads * 4) {
    const uint32_t query = i / kHd;
    const uint32_t d = i % kHd;
    Vec4f v = {0.0f, 0.0f, 0.0f, 0.0f};
    if (query < t.n) {
      const uint64_t row = t.rows.row + query / t.group;
      v = *reinterpret_cast<const Vec4f*>(a.q + row * a.q_stride +
                                          (t.kv_head * t.group + query % t.group) * kHd + d);
    }
    *reinterpret_cast<Vec2i*>(shared->q + query * (kHd + kPad) + d) = {
        static_cast<int32_t>(TwoHalves(v.x, v.y)), static_cast<int32_t>(TwoHalves(v.z, v.w))};
  }
}

// Loads four neighbouring elements of a part as halves; a position that is not seen gives 0.
template <uint32_t kElement>
LANYARD_DEVICE Vec2i FourHalves(const uint8_t* part, uint32_t index, Vec4f scale, uint32_t seen) {
  if constexpr (kElement == kKvF16) {
    if (seen == 0xf) return *reinterpret_cast<const Vec2i*>(part + index * 2);
  }
  float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  const float scales[4] = {scale.x, scale.y, scale.z, scale.w};
  LANYARD_UNROLL
  for (uint32_t k = 0; k < 4; ++k) {
    if (seen >> k & 1u) v[k] = PartAt<kElement>(part, index + k, scales[k]);
  }
  return {static_cast<int32_t>(TwoHalves(v[0], v[1])), static_cast<int32_t>(TwoHalves(v[2], v[3]))};
}

LANYARD_DEVICE bool HasNotFinite(uint32_t halves) {
  return (halves & 0x7c00u) == 0x7c00u || (halves & 0x7c000000u) == 0x7c000000u;
}

// Loads the page's keys and values. Values that are not finite become 0 and their position is
// marked: 0 * NaN in a product would reach queries that do not see the position.
template <uint32_t kHd, uint32_t kElement>
LANYARD_DEVICE void StagePage(const AttendArgs& a, const Tile& t, uint32_t block,
                              Shared<kHd>* shared) {
  const uint32_t page = a.page_table[t.rows.pages + block - t.rows.first];
  const uint8_t* keys = KeysOf(a.kv, page, t.kv_head);
  const uint8_t* values = ValuesOf(a.kv, page, t.kv_head);
  const PageRange seen = RangeOf(block, t.lo, t.hi);
  const uint32_t below_end = seen.end < 32 ? (1u << seen.end) - 1 : 0xffffffffu;
  const uint32_t mask = below_end >> seen.begin << seen.begin;
  for (uint32_t i = ThreadX() * 4; i < kHd * kKvPositions; i += kThreads * 4) {
    const uint32_t j = i % kKvPositions;
    Vec4f scale = {1.0f, 1.0f, 1.0f, 1.0f};
    if constexpr (kElement == kKvI8) {
      const float* scales = ScalesOf(a.kv, keys) + j;
      scale = {mask >> j & 1u ? scales[0] : 0.0f, mask >> j & 2u ? scales[1] : 0.0f,
               mask >> j & 4u ? scales[2] : 0.0f, mask >> j & 8u ? scales[3] : 0.0f};
    }
    *reinterpret_cast<Vec2i*>(shared->keys + i / kKvPositions * kPageRow + j) =
        FourHalves<kElement>(keys, i, scale, mask >> j & 0xfu);
  }
  for (uint32_t i = ThreadX() * 4; i < kHd * kKvPositions; i += kThreads * 4) {
    const uint32_t j = i / kHd;
    const bool sees = (mask >> j & 1u) != 0;
    const float scale = kElement == kKvI8 && sees ? ScalesOf(a.kv, values)[j] : 1.0f;
    Vec2i v = FourHalves<kElement>(values, i, {scale, scale, scale, scale}, sees ? 0xfu : 0u);
    if (HasNotFinite(static_cast<uint32_t>(v.x)) || HasNotFinite(static_cast<uint32_t>(v.y))) {
      v = {0, 0};
      asm volatile("red.shared.or.b32 [%0], %1;"
                   :
                   : "r"(SharedAddress(&shared->bad[block % 2])), "r"(1u << j)
                   : "memory");
    }
    *reinterpret_cast<Vec2i*>(shared->values + j * (kHd + kPad) + i % kHd) = v;
  }
}

// Warp w has queries 16 (w % 2) .. + 15 and positions 16 (w / 2) .. + 15.
template <uint32_t kHd>
LANYARD_DEVICE void Scores(Shared<kHd>* shared) {
  const uint32_t lane = Lane();
  const uint32_t query = WarpOfBlock() % 2 * 16;
  const uint32_t position = WarpOfBlock() / 2 * 16;
  float s[2][4] = {};
  LANYARD_UNROLL_BY(4)
  for (uint32_t d = 0; d < kHd; d += 16) {
    uint32_t q[4], k[4];
    LoadMatrices(shared->q + (query + lane % 16) * (kHd + kPad) + d + lane / 16 * 8, q);
    LoadMatricesTransposed(shared->keys + (d + lane % 16) * kPageRow + position + lane / 16 * 8, k);
    Multiply(s[0], q, k[0], k[1]);
    Multiply(s[1], q, k[2], k[3]);
  }
  LANYARD_UNROLL
  for (uint32_t i = 0; i < 2; ++i) {
    float* at = shared->s + (query + lane / 4) * kScoreRow + position + i * 8 + lane % 4 * 2;
    *reinterpret_cast<Vec2f*>(at) = {s[i][0], s[i][1]};
    *reinterpret_cast<Vec2f*>(at + 8 * kScoreRow) = {s[i][2], s[i][3]};
  }
}

// Says how the span of a query that ends with this page enters its total.
template <uint32_t kHd>
LANYARD_DEVICE void FinishSpan(uint32_t span, uint32_t lo, uint32_t pos, uint32_t query,
                               Shared<kHd>* shared) {
  const float m = shared->m[query];
  const float l = shared->l[query];
  if (span < lo / kSpanPositions || span > pos / kSpanPositions) {
    shared->ends[query] = kSpanGoesOn;
  } else if (span == lo / kSpanPositions) {
    shared->ends[query] = kSpanIsFirst;
    shared->total_m[query] = m;
    shared->total_l[query] = l;
  } else {
    shared->ends[query] = kSpanIsMerged;
    const float total_m = shared->total_m[query];
    const float both = m > total_m ? m : total_m;
    shared->a[query] = Exp(total_m - both);
    shared->b[query] = Exp(m - both);
    shared->total_l[query] = Fma(shared->total_l[query], shared->a[query], l * shared->b[query]);
    shared->total_m[query] = both;
  }
}

// Does the page's step of one query, by a warp, as in attention_prefill.cu.
template <uint32_t kHd, bool kWalks>
LANYARD_DEVICE void SoftmaxStep(const AttendArgs& a, const Tile& t, uint32_t block, uint32_t query,
                                Shared<kHd>* shared) {
  const uint32_t j = Lane();
  const uint32_t pos = t.rows.pos + (query < t.n ? query / t.group : 0);
  const uint32_t lo = FirstSeen(pos, a.window);
  const PageRange seen = RangeOf(block, lo, pos);
  const bool any = query < t.n && seen.begin < seen.end;
  const bool span_begins = block == t.lo / kKvPositions || block % kSpanPages == 0;
  const float m = span_begins ? -kInfinity : shared->m[query];
  const float l = span_begins ? 0.0f : shared->l[query];
  const bool sees = any && j >= seen.begin && j < seen.end;
  const float s = shared->s[query * kScoreRow + j];
  const float most = MaxOfLanes(sees && s > m ? s : m);
  const float p = sees ? Exp(s - most) : 0.0f;
  // A NaN would reach the whole row of the product, which is what it does here, too.
  const float sum =
      SumLanes32(sees && (shared->bad[block % 2] >> j & 1u) ? FloatOf(0x7fc00000u) : p);
  shared->p[query * kPageRow + j] = FloatToHalf(p);
  WarpBarrier();  // every lane has read m and l before the first one writes them
  if (j != 0) return;
  const float new_m = any ? most : m;
  const float corr = any ? Exp(m - most) : 1.0f;
  const float new_l = any ? Fma(l, corr, sum) : l;
  shared->corr[query] = corr;
  shared->m[query] = new_m;
  shared->l[query] = new_l;
  const bool span_ends = block % kSpanPages == kSpanPages - 1 || block == t.hi / kKvPositions;
  if (kWalks && span_ends) {
    if (query < t.n) {
      FinishSpan<kHd>(block / kSpanPages, lo, pos, query, shared);
    } else {
      shared->ends[query] = kSpanGoesOn;
    }
  }
}

// Warp w has queries 16 (w % 2) .. + 15 and half of the elements: tile i of 8 starts at (w / 2) kHd
// / 2 + 8 i.
template <uint32_t kHd>
struct Outputs {
  float o[kHd / 16][4];
};

template <uint32_t kHd>
LANYARD_DEVICE void Values(const Shared<kHd>& shared, Outputs<kHd>* out) {
  const uint32_t lane = Lane();
  const uint32_t query = WarpOfBlock() % 2 * 16;
  const uint32_t element = WarpOfBlock() / 2 * (kHd / 2);
  const float corr0 = shared.corr[query + lane / 4];
  const float corr1 = shared.corr[query + lane / 4 + 8];
  LANYARD_UNROLL
  for (uint32_t i = 0; i < kHd / 16; ++i) {
    out->o[i][0] = out->o[i][0] * corr0;
    out->o[i][1] = out->o[i][1] * corr0;
    out->o[i][2] = out->o[i][2] * corr1;
    out->o[i][3] = out->o[i][3] * corr1;
  }
  LANYARD_NO_UNROLL
  for (uint32_t j = 0; j < kKvPositions; j += 16) {
    uint32_t p[4];
    LoadMatrices(shared.p + (query + lane % 16) * kPageRow + j + lane / 16 * 8, p);
    LANYARD_UNROLL
    for (uint32_t i = 0; i < kHd / 16; i += 2) {
      uint32_t v[4];
      LoadMatricesTransposed(
          shared.values + (j + lane % 16) * (kHd + kPad) + element + i * 8 + lane / 16 * 8, v);
      Multiply(out->o[i], p, v[0], v[1]);
      Multiply(out->o[i + 1], p, v[2], v[3]);
    }
  }
}

// At a span's end it enters the totals and starts again from 0. Adding +0 makes a zero's sign the
// same in every way of computing.
template <uint32_t kHd>
LANYARD_DEVICE void EndSpan(const Shared<kHd>& shared, Outputs<kHd>* span, Outputs<kHd>* total) {
  LANYARD_UNROLL
  for (uint32_t half = 0; half < 2; ++half) {
    const uint32_t query = WarpOfBlock() % 2 * 16 + Lane() / 4 + half * 8;
    const uint32_t ends = shared.ends[query];
    const float x = ends == kSpanIsMerged ? shared.a[query] : 0.0f;
    const float y = ends == kSpanIsMerged ? shared.b[query] : 0.0f;
    LANYARD_UNROLL
    for (uint32_t i = 0; i < kHd / 16; ++i) {
      LANYARD_UNROLL
      for (uint32_t k = 2 * half; k < 2 * half + 2; ++k) {
        const float o = span->o[i][k] + 0.0f;
        if (ends == kSpanIsFirst) total->o[i][k] = o;
        if (ends == kSpanIsMerged) total->o[i][k] = Fma(total->o[i][k], x, o * y);
        span->o[i][k] = 0.0f;
      }
    }
  }
}

// The lane's two elements of tile i, of the query g or g + 8 of its warp (half 0 or 1).
template <uint32_t kHd>
LANYARD_DEVICE Vec2f PairOf(const Outputs<kHd>& out, uint32_t i, uint32_t half) {
  return {out.o[i][2 * half], out.o[i][2 * half + 1]};
}

// Walks pages blocks.begin .. blocks.end - 1 of a tile. With kWalks it goes over spans, into
// `total`; otherwise it stays in one span. It ends behind a barrier.
template <uint32_t kHd, uint32_t kElement, bool kWalks>
LANYARD_DEVICE void Walk(const AttendArgs& a, const Tile& t, PageRange blocks, Shared<kHd>* shared,
                         Outputs<kHd>* span, Outputs<kHd>* total) {
  if (ThreadX() < 2) shared->bad[ThreadX()] = 0;
  LoadQueries<kHd>(a, t, shared);
  Barrier();
  LANYARD_NO_UNROLL
  for (uint32_t block = blocks.begin; block < blocks.end; ++block) {
    StagePage<kHd, kElement>(a, t, block, shared);
    Barrier();
    Scores<kHd>(shared);
    Barrier();
    for (uint32_t query = WarpOfBlock(); query < kQueries; query += kThreads / kWarp) {
      SoftmaxStep<kHd, kWalks>(a, t, block, query, shared);
    }
    Barrier();
    if (ThreadX() == 0) shared->bad[block % 2] = 0;  // for the page after the next
    Values<kHd>(*shared, span);
    if (kWalks && (block % kSpanPages == kSpanPages - 1 || block + 1 == blocks.end))
      EndSpan<kHd>(*shared, span, total);
    Barrier();
  }
}

template <uint32_t kHd, uint32_t kElement>
LANYARD_DEVICE void FastTile(const AttendArgs& a, Shared<kHd>* shared) {
  const uint32_t n_tiles = *a.n_tiles;
  if (BlockX() >= n_tiles) return;
  // The last rows of a run see the most positions.
  const Tile t = TileOf(a, n_tiles - 1 - BlockX());
  Outputs<kHd> span = {};
  Outputs<kHd> total = {};
  Walk<kHd, kElement, true>(a, t, {t.lo / kKvPositions, t.hi / kKvPositions + 1}, shared, &span,
                            &total);
  LANYARD_UNROLL
  for (uint32_t half = 0; half < 2; ++half) {
    const uint32_t query = WarpOfBlock() % 2 * 16 + Lane() / 4 + half * 8;
    if (query >= t.n) continue;
    const float l = shared->total_l[query];
    const uint64_t row = t.rows.row + query / t.group;
    float* out = a.out + row * a.out_stride + (t.kv_head * t.group + query % t.group) * kHd +
                 WarpOfBlock() / 2 * (kHd / 2) + Lane() % 4 * 2;
    LANYARD_UNROLL
    for (uint32_t i = 0; i < kHd / 16; ++i) {
      const Vec2f o = PairOf<kHd>(total, i, half);
      *reinterpret_cast<Vec2f*>(out + 8 * i) = {Div(o.x, l), Div(o.y, l)};
    }
  }
}

// Computes one span of a row: its result, or a partial where the row has more spans.
template <uint32_t kHd, uint32_t kElement>
LANYARD_DEVICE void FastSpan(const AttendArgs& a, Shared<kHd>* shared) {
  if (BlockX() >= *a.n_tiles) return;
  Tile t = TileOf(a, BlockX());
  const uint32_t first_span = t.lo / kSpanPositions;
  const uint32_t n_spans = t.hi / kSpanPositions - first_span + 1;
  if (BlockZ() >= n_spans) return;
  const uint32_t begin = (first_span + BlockZ()) * kSpanPositions;
  const uint32_t last = t.hi / kKvPositions;
  if (begin > t.lo) t.lo = begin;
  const uint32_t end =
      begin / kKvPositions + kSpanPages < last + 1 ? begin / kKvPositions + kSpanPages : last + 1;
  Outputs<kHd> span = {};
  Walk<kHd, kElement, false>(a, t, {t.lo / kKvPositions, end}, shared, &span, nullptr);
  LANYARD_UNROLL
  for (uint32_t half = 0; half < 2; ++half) {
    const uint32_t query = WarpOfBlock() % 2 * 16 + Lane() / 4 + half * 8;
    if (query >= t.n) continue;
    const uint32_t head = t.kv_head * t.group + query;
    const uint32_t element = WarpOfBlock() / 2 * (kHd / 2) + Lane() % 4 * 2;
    const float l = shared->l[query];
    float* partial =
        a.partials +
        ((static_cast<uint64_t>(BlockX()) * a.n_heads + head) * a.max_spans + BlockZ()) *
            (kHd + kPartialHead);
    if (n_spans > 1 && element == 0) *reinterpret_cast<Vec2f*>(partial) = {shared->m[query], l};
    float* out = n_spans > 1 ? partial + kPartialHead + element
                             : a.out + t.rows.row * a.out_stride +
                                   static_cast<uint64_t>(head) * kHd + element;
    LANYARD_UNROLL
    for (uint32_t i = 0; i < kHd / 16; ++i) {
      Vec2f o = PairOf<kHd>(span, i, half);
      o = {o.x + 0.0f, o.y + 0.0f};
      if (n_spans == 1) o = {Div(o.x, l), Div(o.y, l)};
      *reinterpret_cast<Vec2f*>(out + 8 * i) = o;
    }
  }
}

}  // namespace

// blocks: at least this many fit in a multiprocessor, by registers.
#define LANYARD_FAST(hd, name, element, blocks)                              \
  LANYARD_KERNEL __launch_bounds__(kThreads, blocks)                         \
      lanyard_attend_fast_##name##_##hd(AttendArgs a) {                      \
    FastTile<hd, element>(a, reinterpret_cast<Shared<hd>*>(dynamic_shared)); \
  }                                                                          \
  LANYARD_KERNEL __launch_bounds__(kThreads, blocks)                         \
      lanyard_attend_fast_split_##name##_##hd(AttendArgs a) {                \
    FastSpan<hd, element>(a, reinterpret_cast<Shared<hd>*>(dynamic_shared)); \
  }
LANYARD_FAST(64, f16, kKvF16, 4)
LANYARD_FAST(64, q8, kKvI8, 4)
LANYARD_FAST(128, f16, kKvF16, 3)
LANYARD_FAST(128, q8, kKvI8, 3)
LANYARD_FAST(256, f16, kKvF16, 1)
LANYARD_FAST(256, q8, kKvI8, 1)

}  // namespace lanyard::ops::cuda
#endif
