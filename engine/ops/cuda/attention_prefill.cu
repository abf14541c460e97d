// Attention of many rows of one sequence, exact: docs/numerics.md "Attention". A block takes up to
// 32 queries (rows x the query heads of one key/value head) of a tile and walks the pages that they
// see: a product of queries and keys, the softmax's step, a product of probabilities and values,
// spans merged as they end. All chains are those of the definition: a thread holds a tile of scores
// whose chains go over d, then a tile of outputs whose chains go over the positions. Threads: kHd
// (64, 128 or 256).
#include "engine/ops/cuda/attention_args.h"
#include "engine/ops/cuda/common.cuh"
#include "engine/ops/cuda/kv.cuh"
#include "engine/ops/cuda/math.cuh"

namespace lanyard::ops::cuda {
namespace {

constexpr uint32_t kQueries = 32;
// Elements of a page's keys or values that are staged at one time.
constexpr uint32_t kStage = 2048;
constexpr uint32_t kRow = kQueries + 4;

// How a query's finished span enters its total.
constexpr uint32_t kSpanGoesOn = 0;
constexpr uint32_t kSpanIsFirst = 1;
constexpr uint32_t kSpanIsMerged = 2;

template <uint32_t kHd>
struct Shared {
  alignas(16) float q[kHd * kQueries];       // [d][query]
  alignas(16) float stage[kStage];           // keys [d][position] or values [position][d]
  alignas(16) float p[kKvPositions * kRow];  // [position][query]: scores, then probabilities
  float corr[kQueries];
  float m[kQueries];
  float l[kQueries];
  float total_m[kQueries];
  float total_l[kQueries];
  float a[kQueries];  // factors of the total and of the span when they are merged
  float b[kQueries];
  uint32_t seen[kQueries];  // bit j: position j of the page is seen
  uint32_t ends[kQueries];  // kSpanGoesOn, ...
};

// One page of a tile.
struct Page {
  uint32_t block;
  PageRange seen;  // seen by any row
  bool all;        // every row sees every position
  const uint8_t* keys;
  const uint8_t* values;
};

template <uint32_t kHd>
LANYARD_DEVICE void LoadQueries(const AttendArgs& a, const Tile& t, Shared<kHd>* shared) {
  for (uint32_t i = ThreadX(); i < kQueries * kHd / 4; i += kHd) {
    const uint32_t query = i % kQueries;
    const uint32_t d = i / kQueries * 4;
    Vec4f v = {0.0f, 0.0f, 0.0f, 0.0f};
    if (query < t.n) {
      const uint64_t row = t.rows.row + query / t.group;
      v = *reinterpret_cast<const Vec4f*>(a.q + row * a.q_stride +
                                          (t.kv_head * t.group + query % t.group) * kHd + d);
    }
    shared->q[d * kQueries + query] = v.x;
    shared->q[(d + 1) * kQueries + query] = v.y;
    shared->q[(d + 2) * kQueries + query] = v.z;
    shared->q[(d + 3) * kQueries + query] = v.w;
  }
}

// Loads keys d0 .. d0 + 63 of every position that is seen, and 0 for the others, which may never
// have been written.
template <uint32_t kHd, uint32_t kElement>
LANYARD_DEVICE void StageKeys(const AttendArgs& a, const Page& page, uint32_t d0, float* stage) {
  const float* scales = ScalesOf(a.kv, page.keys);
  for (uint32_t i = ThreadX() * 4; i < kStage; i += kHd * 4) {
    const uint32_t j = i % kKvPositions;
    const uint32_t index = d0 * kKvPositions + i;
    Vec4f v = {0.0f, 0.0f, 0.0f, 0.0f};
    if (j >= page.seen.begin && j + 4 <= page.seen.end) {
      Vec4f scale = {1.0f, 1.0f, 1.0f, 1.0f};
      if constexpr (kElement == kKvI8) scale = *reinterpret_cast<const Vec4f*>(scales + j);
      v = QuadAt<kElement>(page.keys, index, scale);
    } else {
      float each[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      LANYARD_UNROLL
      for (uint32_t k = 0; k < 4; ++k) {
        if (j + k >= page.seen.begin && j + k < page.seen.end) {
          each[k] =
              PartAt<kElement>(page.keys, index + k, kElement == kKvI8 ? scales[j + k] : 1.0f);
        }
      }
      v = {each[0], each[1], each[2], each[3]};
    }
    *reinterpret_cast<Vec4f*>(stage + i) = v;
  }
}

// Loads the values of positions j0 .. j0 + kStage / kHd - 1.
template <uint32_t kHd, uint32_t kElement>
LANYARD_DEVICE void StageValues(const AttendArgs& a, const Page& page, uint32_t j0, float* stage) {
  const float* scales = ScalesOf(a.kv, page.values);
  for (uint32_t i = ThreadX() * 4; i < kStage; i += kHd * 4) {
    const uint32_t j = j0 + i / kHd;
    Vec4f v = {0.0f, 0.0f, 0.0f, 0.0f};
    if (j >= page.seen.begin && j < page.seen.end) {
      const float scale = kElement == kKvI8 ? scales[j] : 1.0f;
      v = QuadAt<kElement>(page.values, j0 * kHd + i, {scale, scale, scale, scale});
    }
    *reinterpret_cast<Vec4f*>(stage + i) = v;
  }
}

// Neighbouring positions of one element, which are loaded at once.
template <uint32_t kPos>
struct alignas(kPos * 4) Keys {
  float k[kPos];
};

// Computes the scores of the page: thread (x, y) has positions x * kPos .. and queries y * 4 .. y *
// 4 + 3.
template <uint32_t kHd, uint32_t kElement>
LANYARD_DEVICE void Scores(const AttendArgs& a, const Page& page, Shared<kHd>* shared) {
  constexpr uint32_t kPos = 256 / kHd;
  const uint32_t j = ThreadX() % (kKvPositions / kPos) * kPos;
  const uint32_t query = ThreadX() / (kKvPositions / kPos) * 4;
  float s[4][kPos] = {};
  for (uint32_t d0 = 0; d0 < kHd; d0 += kStage / kKvPositions) {
    StageKeys<kHd, kElement>(a, page, d0, shared->stage);
    Barrier();
    LANYARD_UNROLL_BY(8)
    for (uint32_t d = 0; d < kStage / kKvPositions; ++d) {
      const Vec4f q = *reinterpret_cast<const Vec4f*>(shared->q + (d0 + d) * kQueries + query);
      const Keys<kPos> keys =
          *reinterpret_cast<const Keys<kPos>*>(shared->stage + d * kKvPositions + j);
      LANYARD_UNROLL
      for (uint32_t k = 0; k < kPos; ++k) {
        s[0][k] = Fma(q.x, keys.k[k], s[0][k]);
        s[1][k] = Fma(q.y, keys.k[k], s[1][k]);
        s[2][k] = Fma(q.z, keys.k[k], s[2][k]);
        s[3][k] = Fma(q.w, keys.k[k], s[3][k]);
      }
    }
    Barrier();
  }
  LANYARD_UNROLL
  for (uint32_t k = 0; k < kPos; ++k) {
    *reinterpret_cast<Vec4f*>(shared->p + (j + k) * kRow + query) = {s[0][k], s[1][k], s[2][k],
                                                                     s[3][k]};
  }
}

// Does the page's step of one query, by a warp; at a span's end it also says how the span enters
// the total.
template <uint32_t kHd>
LANYARD_DEVICE void SoftmaxStep(const AttendArgs& a, const Tile& t, const Page& page,
                                uint32_t query, Shared<kHd>* shared) {
  const uint32_t j = Lane();
  const uint32_t pos = t.rows.pos + (query < t.n ? query / t.group : 0);
  const uint32_t lo = FirstSeen(pos, a.window);
  const PageRange seen = RangeOf(page.block, lo, pos);
  const bool any = query < t.n && seen.begin < seen.end;
  const uint32_t first_block = t.lo / kKvPositions;
  const bool span_begins = page.block == first_block || page.block % kSpanPages == 0;
  const float m = span_begins ? -kInfinity : shared->m[query];
  const float l = span_begins ? 0.0f : shared->l[query];
  const bool sees = any && j >= seen.begin && j < seen.end;
  const float s = shared->p[j * kRow + query];
  const float most = MaxOfLanes(sees && s > m ? s : m);
  const float p = sees ? Exp(s - most) : 0.0f;
  const float sum = SumLanes32(p);
  shared->p[j * kRow + query] = p;
  WarpBarrier();  // every lane has read m and l before the first one writes them
  if (j != 0) return;
  const float corr = any ? Exp(m - most) : 1.0f;
  const float new_l = any ? Fma(l, corr, sum) : l;
  const float new_m = any ? most : m;
  const uint32_t below_end = seen.end < 32 ? (1u << seen.end) - 1 : 0xffffffffu;
  shared->corr[query] = corr;
  shared->seen[query] = any ? below_end >> seen.begin << seen.begin : 0;
  shared->m[query] = new_m;
  shared->l[query] = new_l;
  const uint32_t span = page.block / kSpanPages;
  const bool span_ends =
      page.block % kSpanPages == kSpanPages - 1 || page.block == t.hi / kKvPositions;
  uint32_t ends = kSpanGoesOn;
  if (span_ends && query < t.n && lo / kSpanPositions <= span && span <= pos / kSpanPositions) {
    if (span == lo / kSpanPositions) {
      ends = kSpanIsFirst;
      shared->total_m[query] = new_m;
      shared->total_l[query] = new_l;
    } else {
      ends = kSpanIsMerged;
      const float total_m = shared->total_m[query];
      const float both = new_m > total_m ? new_m : total_m;
      const float x = Exp(total_m - both);
      const float y = Exp(new_m - both);
      shared->a[query] = x;
      shared->b[query] = y;
      shared->total_l[query] = Fma(shared->total_l[query], x, new_l * y);
      shared->total_m[query] = both;
    }
  }
  shared->ends[query] = ends;
}

// The outputs of a thread: queries y * 8 .. y * 8 + 7, elements x * 4 .. x * 4 + 3.
struct Outputs {
  float o[8][4];
};

// Adds one position's value times the probabilities of the thread's queries. With kMasked this is
// only for queries that see it, and the others must not be touched: 0 * NaN is NaN, and -0 + 0 is
// +0.
template <bool kMasked>
LANYARD_DEVICE void AddPosition(const float* value, const float* of_queries, const uint32_t* seen,
                                uint32_t j, Outputs* out) {
  const Vec4f v = *reinterpret_cast<const Vec4f*>(value);
  const Vec4f p0 = *reinterpret_cast<const Vec4f*>(of_queries);
  const Vec4f p1 = *reinterpret_cast<const Vec4f*>(of_queries + 4);
  const float p[8] = {p0.x, p0.y, p0.z, p0.w, p1.x, p1.y, p1.z, p1.w};
  LANYARD_UNROLL
  for (uint32_t i = 0; i < 8; ++i) {
    if (kMasked && (seen[i] >> j & 1u) == 0) continue;
    out->o[i][0] = Fma(p[i], v.x, out->o[i][0]);
    out->o[i][1] = Fma(p[i], v.y, out->o[i][1]);
    out->o[i][2] = Fma(p[i], v.z, out->o[i][2]);
    out->o[i][3] = Fma(p[i], v.w, out->o[i][3]);
  }
}

template <uint32_t kHd, uint32_t kElement>
LANYARD_DEVICE void Values(const AttendArgs& a, const Page& page, Shared<kHd>* shared,
                           Outputs* out) {
  constexpr uint32_t kStagePositions = kStage / kHd;
  const uint32_t e = ThreadX() % (kHd / 4) * 4;
  const uint32_t query = ThreadX() / (kHd / 4) * 8;
  LANYARD_UNROLL
  for (uint32_t i = 0; i < 8; ++i) {
    const float corr = shared->corr[query + i];
    LANYARD_UNROLL
    for (uint32_t k = 0; k < 4; ++k) out->o[i][k] = out->o[i][k] * corr;
  }
  LANYARD_NO_UNROLL
  for (uint32_t j0 = 0; j0 < kKvPositions; j0 += kStagePositions) {
    Barrier();
    StageValues<kHd, kElement>(a, page, j0, shared->stage);
    Barrier();
    const float* values = shared->stage + e;
    const float* p = shared->p + j0 * kRow + query;
    if (page.all) {
      LANYARD_UNROLL_BY(4)
      for (uint32_t j = 0; j < kStagePositions; ++j)
        AddPosition<false>(values + j * kHd, p + j * kRow, nullptr, j0 + j, out);
    } else {
      LANYARD_NO_UNROLL
      for (uint32_t j = 0; j < kStagePositions; ++j) {
        AddPosition<true>(values + j * kHd, p + j * kRow, shared->seen + query, j0 + j, out);
      }
    }
  }
}

// At a span's end it enters the totals, and the next one starts from 0.
template <uint32_t kHd>
LANYARD_DEVICE void EndSpan(const Shared<kHd>& shared, Outputs* span, Outputs* total) {
  const uint32_t query = ThreadX() / (kHd / 4) * 8;
  LANYARD_UNROLL
  for (uint32_t i = 0; i < 8; ++i) {
    const uint32_t ends = shared.ends[query + i];
    if (ends == kSpanIsFirst) {
      LANYARD_UNROLL
      for (uint32_t k = 0; k < 4; ++k) total->o[i][k] = span->o[i][k];
    } else if (ends == kSpanIsMerged) {
      const float x = shared.a[query + i];
      const float y = shared.b[query + i];
      LANYARD_UNROLL
      for (uint32_t k = 0; k < 4; ++k) total->o[i][k] = Fma(total->o[i][k], x, span->o[i][k] * y);
    }
    LANYARD_UNROLL
    for (uint32_t k = 0; k < 4; ++k) span->o[i][k] = 0.0f;
  }
}

template <uint32_t kHd>
LANYARD_DEVICE void StoreOutputs(const AttendArgs& a, const Tile& t, const Shared<kHd>& shared,
                                 const Outputs& total) {
  const uint32_t e = ThreadX() % (kHd / 4) * 4;
  const uint32_t first = ThreadX() / (kHd / 4) * 8;
  LANYARD_UNROLL
  for (uint32_t i = 0; i < 8; ++i) {
    const uint32_t query = first + i;
    if (query >= t.n) continue;
    const float l = shared.total_l[query];
    const uint64_t row = t.rows.row + query / t.group;
    float* out = a.out + row * a.out_stride + (t.kv_head * t.group + query % t.group) * kHd + e;
    *reinterpret_cast<Vec4f*>(out) = {Div(total.o[i][0], l), Div(total.o[i][1], l),
                                      Div(total.o[i][2], l), Div(total.o[i][3], l)};
  }
}

template <uint32_t kHd, uint32_t kElement>
LANYARD_DEVICE void Prefill(const AttendArgs& a, Shared<kHd>* shared) {
  const uint32_t n_tiles = *a.n_tiles;
  if (BlockX() >= n_tiles) return;
  // The last rows of a run see the most positions.
  const Tile t = TileOf(a, n_tiles - 1 - BlockX());
  LoadQueries<kHd>(a, t, shared);
  Outputs span = {};
  Outputs total = {};
  const uint32_t last = t.hi / kKvPositions;
  LANYARD_NO_UNROLL
  for (uint32_t block = t.lo / kKvPositions; block <= last; ++block) {
    Page page;
    page.block = block;
    page.seen = RangeOf(block, t.lo, t.hi);
    page.all = block * kKvPositions + kKvPositions - 1 <= t.rows.pos &&
               FirstSeen(t.hi, a.window) <= block * kKvPositions;
    const uint32_t at = a.page_table[t.rows.pages + block - t.rows.first];
    page.keys = KeysOf(a.kv, at, t.kv_head);
    page.values = ValuesOf(a.kv, at, t.kv_head);
    Scores<kHd, kElement>(a, page, shared);
    Barrier();
    for (uint32_t query = WarpOfBlock(); query < kQueries; query += kHd / kWarp)
      SoftmaxStep<kHd>(a, t, page, query, shared);
    Barrier();
    Values<kHd, kElement>(a, page, shared, &span);
    if (block % kSpanPages == kSpanPages - 1 || block == last) EndSpan<kHd>(*shared, &span, &total);
    Barrier();
  }
  StoreOutputs<kHd>(a, t, *shared, total);
}

}  // namespace

#define LANYARD_PREFILL(hd, name, element)                                                  \
  LANYARD_KERNEL __launch_bounds__(hd) lanyard_attend_prefill_##name##_##hd(AttendArgs a) { \
    __shared__ Shared<hd> shared;                                                           \
    Prefill<hd, element>(a, &shared);                                                       \
  }
LANYARD_PREFILL(64, f32, kKvF32)
LANYARD_PREFILL(64, f16, kKvF16)
LANYARD_PREFILL(64, q8, kKvI8)
LANYARD_PREFILL(128, f32, kKvF32)
LANYARD_PREFILL(128, f16, kKvF16)
LANYARD_PREFILL(128, q8, kKvI8)
LANYARD_PREFILL(256, f32, kKvF32)
LANYARD_PREFILL(256, f16, kKvF16)
LANYARD_PREFILL(256, q8, kKvI8)

}  // namespace lanyard::ops::cuda
