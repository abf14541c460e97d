// Attention of single rows, exact: docs/numerics.md "Attention". A block takes up to four query
// heads of one key/value head, which share every load, and one span of 8 pages (grid.x; a row's
// spans side by side), in three phases:
//   1. a warp a page, a lane a position: the scores, each one chain of fma;
//   2. a warp a query: the pages in order: maximum, exponentials, the sum's tree;
//   3. a thread two elements of an output: the values in order.
// lanyard_attend_merge_* then adds a row's spans in ascending order; a row with one span is
// finished at once. The kernels *_rows_* walk all spans of a row in one block, for any head size
// and many rows.
#include "engine/ops/cuda/attention_args.h"
#include "engine/ops/cuda/common.cuh"
#include "engine/ops/cuda/kv.cuh"
#include "engine/ops/cuda/math.cuh"

namespace lanyard::ops::cuda {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kQueries = 4;  // for one block
// Floats before a partial's output: m, l and two unused, so that it is aligned.
constexpr uint32_t kPartialHead = 4;

struct Shared {
  float p[kQueries][kSpanPositions];  // the scores, then the probabilities
  float corr[kQueries][kSpanPages];
  float m[kQueries];
  float l[kQueries];
  float total_m[kQueries];  // of the spans before, where one block walks them all
  float total_l[kQueries];
};

// What a block works on.
struct Work {
  AttentionTile tile;
  uint32_t lo;  // first position that the row sees
  uint32_t first_span;
  uint32_t n_spans;
  uint32_t kv_head;
  uint32_t head;  // the first query head
  uint32_t n;     // query heads, <= kQueries
};

LANYARD_DEVICE Work WorkOf(const AttendArgs& a, uint32_t tile, uint32_t unit) {
  const uint32_t group = a.n_heads / a.kv.n_kv_heads;
  const uint32_t parts = (group + kQueries - 1) / kQueries;
  const uint32_t first = unit % parts * kQueries;
  Work w;
  w.tile = a.tiles[tile];
  w.lo = FirstSeen(w.tile.pos, a.window);
  w.first_span = w.lo / kSpanPositions;
  w.n_spans = w.tile.pos / kSpanPositions - w.first_span + 1;
  w.kv_head = unit / parts;
  w.head = w.kv_head * group + first;
  w.n = group - first < kQueries ? group - first : kQueries;
  return w;
}

LANYARD_DEVICE uint32_t PageOf(const AttendArgs& a, const Work& w, uint32_t block) {
  return a.page_table[w.tile.pages + block - w.tile.first];
}

LANYARD_DEVICE void LoadQueries(const AttendArgs& a, const Work& w, float* q) {
  const uint32_t hd = a.kv.head_dim;
  const float* from = a.q + w.tile.row * a.q_stride + static_cast<uint64_t>(w.head) * hd;
  for (uint32_t i = ThreadX(); i < kQueries * hd; i += kThreads)
    q[i] = i < w.n * hd ? from[i] : 0.0f;
}

// Takes elements d .. d + kStep - 1 of the scores' chains; the loads of a step are in flight
// together.
template <uint32_t kElement, uint32_t kStep>
LANYARD_DEVICE void ScoreStep(const uint8_t* keys, float scale, const float* q, uint32_t hd,
                              float* s) {
  float k[kStep];
  LANYARD_UNROLL
  for (uint32_t i = 0; i < kStep; ++i) k[i] = PartAt<kElement>(keys, i * kKvPositions, scale);
  LANYARD_UNROLL
  for (uint32_t i = 0; i < kStep; i += 4) {
    LANYARD_UNROLL
    for (uint32_t g = 0; g < kQueries; ++g) {
      const Vec4f v = *reinterpret_cast<const Vec4f*>(q + g * hd + i);
      s[g] = Fma(v.w, k[i + 3], Fma(v.z, k[i + 2], Fma(v.y, k[i + 1], Fma(v.x, k[i], s[g]))));
    }
  }
}

// Fetches the values of the page, which phase 3 needs, while the keys are worked on.
template <uint32_t kElement>
LANYARD_DEVICE void PrefetchValues(const AttendArgs& a, const uint8_t* values, PageRange seen) {
  const uint32_t row_bytes = a.kv.head_dim * kKvBytes<kElement>;
  for (uint32_t at = seen.begin * row_bytes + Lane() * 128; at < seen.end * row_bytes;
       at += kWarp * 128) {
    PrefetchL2(values + at);
  }
}

// Does phase 1 of this warp's page.
template <uint32_t kElement>
LANYARD_DEVICE void Scores(const AttendArgs& a, const Work& w, uint32_t span, const float* q,
                           Shared* shared) {
  constexpr uint32_t kBytes = kKvBytes<kElement>;
  constexpr uint32_t kStep = 16;
  const uint32_t hd = a.kv.head_dim;
  const uint32_t block = span * kSpanPages + WarpOfBlock();
  const PageRange seen = RangeOf(block, w.lo, w.tile.pos);
  const uint32_t j = Lane();
  if (seen.begin >= seen.end) return;
  PrefetchValues<kElement>(a, ValuesOf(a.kv, PageOf(a, w, block), w.kv_head), seen);
  if (j < seen.begin || j >= seen.end) return;
  const uint8_t* keys = KeysOf(a.kv, PageOf(a, w, block), w.kv_head);
  const float scale = kElement == kKvI8 ? ScalesOf(a.kv, keys)[j] : 1.0f;
  keys += j * kBytes;
  float s[kQueries] = {};
  uint32_t d = 0;
  LANYARD_NO_UNROLL
  for (; d + kStep <= hd; d += kStep) {
    ScoreStep<kElement, kStep>(keys + d * kKvPositions * kBytes, scale, q + d, hd, s);
  }
  for (; d < hd; d += 4)
    ScoreStep<kElement, 4>(keys + d * kKvPositions * kBytes, scale, q + d, hd, s);
  LANYARD_UNROLL
  for (uint32_t g = 0; g < kQueries; ++g) shared->p[g][WarpOfBlock() * kKvPositions + j] = s[g];
}

// Does phase 2 of query g, by a whole warp.
LANYARD_DEVICE void Softmax(const Work& w, uint32_t span, uint32_t g, Shared* shared) {
  const uint32_t j = Lane();
  float m = -kInfinity;
  float l = 0;
  LANYARD_NO_UNROLL
  for (uint32_t i = 0; i < kSpanPages; ++i) {
    const PageRange seen = RangeOf(span * kSpanPages + i, w.lo, w.tile.pos);
    if (seen.begin >= seen.end) continue;
    const bool sees = j >= seen.begin && j < seen.end;
    const float s = sees ? shared->p[g][i * kKvPositions + j] : -kInfinity;
    const float most = MaxOfLanes(s > m ? s : m);
    const float corr = Exp(m - most);
    const float p = sees ? Exp(s - most) : 0.0f;
    l = Fma(l, corr, SumLanes32(p));
    m = most;
    if (sees) shared->p[g][i * kKvPositions + j] = p;
    if (j == 0) shared->corr[g][i] = corr;
  }
  if (j == 0) {
    shared->m[g] = m;
    shared->l[g] = l;
  }
}

// Takes the next kStep positions of a page; the loads of a step are in flight together.
template <uint32_t kElement, uint32_t kPer, uint32_t kStep>
LANYARD_DEVICE void ValueStep(const uint8_t* values, const float* scales, uint32_t hd,
                              const float* const* p, Vec2f* o) {
  RawPair<kElement> raw[kStep];
  LANYARD_UNROLL
  for (uint32_t j = 0; j < kStep; ++j) {
    raw[j] = *reinterpret_cast<const RawPair<kElement>*>(values + j * hd * kKvBytes<kElement>);
  }
  LANYARD_UNROLL
  for (uint32_t j = 0; j < kStep; ++j) {
    const Vec2f v = raw[j].Floats(kElement == kKvI8 ? scales[j] : 1.0f);
    LANYARD_UNROLL
    for (uint32_t k = 0; k < kPer; ++k)
      o[k] = {Fma(p[k][j], v.x, o[k].x), Fma(p[k][j], v.y, o[k].y)};
  }
}

// Does phase 3 for elements e and e + 1 of kPer queries.
template <uint32_t kElement, uint32_t kPer>
LANYARD_DEVICE void Accumulate(const AttendArgs& a, const Work& w, uint32_t span, uint32_t e,
                               const uint32_t* queries, const Shared* shared, Vec2f* o) {
  constexpr uint32_t kBytes = kKvBytes<kElement>;
  constexpr uint32_t kStep = kElement == kKvF32 ? 16 : 32;
  const uint32_t hd = a.kv.head_dim;
  LANYARD_UNROLL
  for (uint32_t k = 0; k < kPer; ++k) o[k] = {0.0f, 0.0f};
  LANYARD_NO_UNROLL
  for (uint32_t i = 0; i < kSpanPages; ++i) {
    const uint32_t block = span * kSpanPages + i;
    const PageRange seen = RangeOf(block, w.lo, w.tile.pos);
    if (seen.begin >= seen.end) continue;
    const uint8_t* values = ValuesOf(a.kv, PageOf(a, w, block), w.kv_head);
    const float* scales = ScalesOf(a.kv, values);
    values += e * kBytes;
    LANYARD_UNROLL
    for (uint32_t k = 0; k < kPer; ++k) {
      const float corr = shared->corr[queries[k]][i];
      o[k] = {o[k].x * corr, o[k].y * corr};
    }
    uint32_t j = seen.begin;
    const float* p[kPer];
    LANYARD_NO_UNROLL
    while (j < seen.end) {
      LANYARD_UNROLL
      for (uint32_t k = 0; k < kPer; ++k) p[k] = &shared->p[queries[k]][i * kKvPositions + j];
      if (j + kStep <= seen.end) {
        ValueStep<kElement, kPer, kStep>(values + j * hd * kBytes, scales + j, hd, p, o);
        j += kStep;
      } else {
        ValueStep<kElement, kPer, 1>(values + j * hd * kBytes, scales + j, hd, p, o);
        ++j;
      }
    }
  }
}

LANYARD_DEVICE float* PartialOf(const AttendArgs& a, uint32_t tile, uint32_t head, uint32_t span) {
  return a.partials + ((static_cast<uint64_t>(tile) * a.n_heads + head) * a.max_spans + span) *
                          (a.kv.head_dim + kPartialHead);
}

LANYARD_DEVICE float* OutOf(const AttendArgs& a, const AttentionTile& tile, uint32_t head) {
  return a.out + tile.row * a.out_stride + static_cast<uint64_t>(head) * a.kv.head_dim;
}

// Where a span's output goes.
struct Sink {
  uint32_t tile;
  uint32_t span;  // counted from the row's first span
  bool walks;     // this block walks all spans, into `total`
  float* total;   // [kQueries][head_dim], shared memory
};

LANYARD_DEVICE void Give(const AttendArgs& a, const Work& w, const Sink& sink, uint32_t g,
                         uint32_t e, Vec2f o, const Shared& shared) {
  const float l = shared.l[g];
  const float m = shared.m[g];
  if (!sink.walks && w.n_spans > 1) {
    float* partial = PartialOf(a, sink.tile, w.head + g, sink.span);
    *reinterpret_cast<Vec2f*>(partial + kPartialHead + e) = o;
    if (e == 0) *reinterpret_cast<Vec2f*>(partial) = {m, l};
    return;
  }
  float total_l = l;
  if (sink.span > 0) {
    const float total_m = shared.total_m[g];
    const float most = m > total_m ? m : total_m;
    const float x = Exp(total_m - most);
    const float y = Exp(m - most);
    total_l = Fma(shared.total_l[g], x, l * y);
    const Vec2f t = *reinterpret_cast<const Vec2f*>(sink.total + g * a.kv.head_dim + e);
    o = {Fma(t.x, x, o.x * y), Fma(t.y, x, o.y * y)};
  }
  if (sink.span + 1 == w.n_spans) {
    *reinterpret_cast<Vec2f*>(OutOf(a, w.tile, w.head + g) + e) = {Div(o.x, total_l),
                                                                   Div(o.y, total_l)};
  } else {
    *reinterpret_cast<Vec2f*>(sink.total + g * a.kv.head_dim + e) = o;
  }
}

// A thread has a fixed pair of elements of some queries; a large head is walked in strides.
template <uint32_t kElement, uint32_t kPer>
LANYARD_DEVICE void Values(const AttendArgs& a, const Work& w, uint32_t span, const Sink& sink,
                           const Shared& shared) {
  const uint32_t pairs = a.kv.head_dim / 2;
  const uint32_t groups = pairs < kThreads ? kThreads / pairs : 1;
  const uint32_t group = pairs < kThreads ? ThreadX() / pairs : 0;
  if (group >= groups) return;
  for (uint32_t first = group; first < w.n; first += kPer * groups) {
    uint32_t queries[kPer];
    LANYARD_UNROLL
    for (uint32_t k = 0; k < kPer; ++k)
      queries[k] = first + k * groups < w.n ? first + k * groups : w.n - 1;
    for (uint32_t pair = pairs < kThreads ? ThreadX() % pairs : ThreadX(); pair < pairs;
         pair += kThreads) {
      Vec2f o[kPer];
      Accumulate<kElement, kPer>(a, w, span, 2 * pair, queries, &shared, o);
      LANYARD_UNROLL
      for (uint32_t k = 0; k < kPer; ++k) {
        if (first + k * groups < w.n) Give(a, w, sink, queries[k], 2 * pair, o[k], shared);
      }
    }
  }
}

template <uint32_t kElement>
LANYARD_DEVICE void Span(const AttendArgs& a, const Work& w, const Sink& sink, const float* q,
                         Shared* shared) {
  const uint32_t span = w.first_span + sink.span;
  Scores<kElement>(a, w, span, q, shared);
  Barrier();
  if (WarpOfBlock() < w.n) Softmax(w, span, WarpOfBlock(), shared);
  Barrier();
  const uint32_t pairs = a.kv.head_dim / 2;
  const uint32_t groups = pairs < kThreads ? kThreads / pairs : 1;
  if (w.n <= groups) {
    Values<kElement, 1>(a, w, span, sink, *shared);
  } else {
    Values<kElement, 2>(a, w, span, sink, *shared);
  }
}

// Computes one span of a row.
template <uint32_t kElement>
LANYARD_DEVICE void DecodeSpan(const AttendArgs& a, Shared* shared) {
  if (BlockZ() >= *a.n_tiles) return;
  const Work w = WorkOf(a, BlockZ(), BlockY());
  if (BlockX() >= w.n_spans) return;
  float* q = reinterpret_cast<float*>(dynamic_shared);
  LoadQueries(a, w, q);
  Barrier();
  Span<kElement>(a, w, {BlockZ(), BlockX(), false, nullptr}, q, shared);
}

// Computes all spans of a row, one after another.
template <uint32_t kElement>
LANYARD_DEVICE void DecodeRow(const AttendArgs& a, Shared* shared) {
  if (BlockX() >= *a.n_tiles) return;
  const Work w = WorkOf(a, BlockX(), BlockY());
  float* q = reinterpret_cast<float*>(dynamic_shared);
  LoadQueries(a, w, q);
  Barrier();
  LANYARD_NO_UNROLL
  for (uint32_t s = 0; s < w.n_spans; ++s) {
    Span<kElement>(a, w, {BlockX(), s, true, q + kQueries * a.kv.head_dim}, q, shared);
    Barrier();
    if (ThreadX() < w.n) {
      const uint32_t g = ThreadX();
      const float m = shared->m[g];
      if (s == 0) {
        shared->total_m[g] = m;
        shared->total_l[g] = shared->l[g];
      } else {
        const float most = m > shared->total_m[g] ? m : shared->total_m[g];
        shared->total_l[g] =
            Fma(shared->total_l[g], Exp(shared->total_m[g] - most), shared->l[g] * Exp(m - most));
        shared->total_m[g] = most;
      }
    }
    Barrier();
  }
}

}  // namespace

LANYARD_KERNEL __launch_bounds__(kThreads, 2) lanyard_attend_decode_f32(AttendArgs a) {
  __shared__ Shared shared;
  DecodeSpan<kKvF32>(a, &shared);
}
LANYARD_KERNEL __launch_bounds__(kThreads, 2) lanyard_attend_decode_f16(AttendArgs a) {
  __shared__ Shared shared;
  DecodeSpan<kKvF16>(a, &shared);
}
LANYARD_KERNEL __launch_bounds__(kThreads, 2) lanyard_attend_decode_q8(AttendArgs a) {
  __shared__ Shared shared;
  DecodeSpan<kKvI8>(a, &shared);
}
LANYARD_KERNEL __launch_bounds__(kThreads, 2) lanyard_attend_rows_f32(AttendArgs a) {
  __shared__ Shared shared;
  DecodeRow<kKvF32>(a, &shared);
}
LANYARD_KERNEL __launch_bounds__(kThreads, 2) lanyard_attend_rows_f16(AttendArgs a) {
  __shared__ Shared shared;
  DecodeRow<kKvF16>(a, &shared);
}
LANYARD_KERNEL __launch_bounds__(kThreads, 2) lanyard_attend_rows_q8(AttendArgs a) {
  __shared__ Shared shared;
  DecodeRow<kKvI8>(a, &shared);
}

// Adds a row's spans in ascending order; grid.x is a head, grid.y a row, and a thread takes an
// element.
LANYARD_KERNEL __launch_bounds__(128) lanyard_attend_merge(AttendArgs a) {
  if (BlockY() >= *a.n_tiles) return;
  const AttentionTile tile = a.tiles[BlockY()];
  const uint32_t first = FirstSeen(tile.pos, a.window) / kSpanPositions;
  const uint32_t n_spans = tile.pos / kSpanPositions - first + 1;
  if (n_spans == 1) return;
  float* out = OutOf(a, tile, BlockX());
  for (uint32_t d = ThreadX(); d < a.kv.head_dim; d += 128) {
    const float* partial = PartialOf(a, BlockY(), BlockX(), 0);
    float m = partial[0];
    float l = partial[1];
    float o = partial[kPartialHead + d];
    for (uint32_t s = 1; s < n_spans; ++s) {
      partial = PartialOf(a, BlockY(), BlockX(), s);
      const float most = partial[0] > m ? partial[0] : m;
      const float x = Exp(m - most);
      const float y = Exp(partial[0] - most);
      l = Fma(l, x, partial[1] * y);
      o = Fma(o, x, partial[kPartialHead + d] * y);
      m = most;
    }
    out[d] = Div(o, l);
  }
}

}  // namespace lanyard::ops::cuda
