// Attention over sixteen lanes: a lane is a position for the scores and an element for the values,
// so that the only sum across lanes is the stated tree of a page's probabilities. It follows
// attention.cc and rope.cc operation for operation.
#pragma once

#include "engine/ops/attention_kernels.h"
#include "engine/ops/cpu/math_inl.h"

namespace lanyard::ops {
namespace {

// The parts of a page as f32.
template <typename L>
struct PageLoad {
  using F = typename L::F;

  static const float* Keys(const KvLayer& kv, const uint8_t* part, float* buffer) {
    if (kv.element == KvElement::kF32) return reinterpret_cast<const float*>(part);
    const int64_t n = int64_t{kv.head_dim} * kKvPositions;
    if (kv.element == KvElement::kF16) {
      for (int64_t i = 0; i < n; i += 16) {
        L::Store(buffer + i, L::LoadF16(reinterpret_cast<const uint16_t*>(part) + i));
      }
      return buffer;
    }
    const int8_t* q = reinterpret_cast<const int8_t*>(part);
    const float* scales = reinterpret_cast<const float*>(part + n);
    const F s0 = L::Load(scales), s1 = L::Load(scales + 16);
    for (int64_t i = 0; i < n; i += 32) {
      L::Store(buffer + i, L::Mul(L::LoadI8(q + i), s0));
      L::Store(buffer + i + 16, L::Mul(L::LoadI8(q + i + 16), s1));
    }
    return buffer;
  }

  static const float* Values(const KvLayer& kv, const uint8_t* part, float* buffer) {
    if (kv.element == KvElement::kF32) return reinterpret_cast<const float*>(part);
    const int64_t n = int64_t{kv.head_dim} * kKvPositions;
    if (kv.element == KvElement::kF16) {
      for (int64_t i = 0; i < n; i += 16) {
        L::Store(buffer + i, L::LoadF16(reinterpret_cast<const uint16_t*>(part) + i));
      }
      return buffer;
    }
    const int8_t* q = reinterpret_cast<const int8_t*>(part);
    const float* scales = reinterpret_cast<const float*>(part + n);
    for (int j = 0; j < kKvPositions; ++j) {
      const int64_t row = int64_t{j} * kv.head_dim;
      const F s = L::Set(scales[j]);
      int d = 0;
      for (; d + 16 <= kv.head_dim; d += 16)
        L::Store(buffer + row + d, L::Mul(L::LoadI8(q + row + d), s));
      for (; d < kv.head_dim; ++d) buffer[row + d] = static_cast<float>(q[row + d]) * scales[j];
    }
    return buffer;
  }
};

template <typename L>
struct TileOps {
  using F = typename L::F;

  struct State {
    const AttentionTile* t;
    float *keys, *values;  // of a page, converted
    float* o;              // [queries][padded]: output of the span
    float* p;              // [queries][32]
    float *m, *l;          // of the span
    float *corr, *sum;     // of a page
    float *total_m, *total_l;
    int64_t padded;
    int queries;

    const float* Q(int i) const {
      return t->q + (i / t->n_heads) * t->q_stride + int64_t{i % t->n_heads} * t->kv.head_dim;
    }
    float* Out(int i) const {
      return t->out + (i / t->n_heads) * t->out_stride + int64_t{i % t->n_heads} * t->kv.head_dim;
    }
  };

  static State Layout(const AttentionTile& t) {
    State s;
    s.t = &t;
    s.queries = t.n_rows * t.n_heads;
    s.padded = (t.kv.head_dim + 15) / 16 * 16;
    const int64_t column = (s.queries + 15) / 16 * 16;
    float* at = t.scratch;
    s.keys = at, at += kKvPositions * s.padded;
    s.values = at, at += kKvPositions * s.padded;
    s.o = at, at += s.queries * s.padded;
    s.p = at, at += int64_t{s.queries} * kKvPositions;
    s.m = at, at += column;
    s.l = at, at += column;
    s.corr = at, at += column;
    s.total_m = at, at += column;
    s.total_l = at, at += column;
    s.sum = at;
    return s;
  }

  // The scores of R queries on a page: s_j is one fma chain over the elements.
  template <int R>
  static void Scores(const State& s, const float* keys, int first) {
    F acc[R][2];
    const float* q[R];
    for (int r = 0; r < R; ++r) {
      acc[r][0] = acc[r][1] = L::Set(0.0f);
      q[r] = s.Q(first + r);
    }
    const int hd = s.t->kv.head_dim;
    for (int d = 0; d < hd; ++d) {
      const F k0 = L::Load(keys + d * kKvPositions);
      const F k1 = L::Load(keys + d * kKvPositions + 16);
      for (int r = 0; r < R; ++r) {
        const F x = L::Set(q[r][d]);
        acc[r][0] = L::Fma(x, k0, acc[r][0]);
        acc[r][1] = L::Fma(x, k1, acc[r][1]);
      }
    }
    for (int r = 0; r < R; ++r) {
      L::Store(s.p + int64_t{first + r} * kKvPositions, acc[r][0]);
      L::Store(s.p + int64_t{first + r} * kKvPositions + 16, acc[r][1]);
    }
  }

  template <int R>
  static void ScoresUpTo(const State& s, const float* keys, int first, int n) {
    if constexpr (R == 0) {
      return;
    } else {
      if (n == R) return Scores<R>(s, keys, first);
      ScoresUpTo<R - 1>(s, keys, first, n);
    }
  }

  // The probabilities of n queries that see `seen` of the page. It updates m and l and leaves corr.
  static void Softmax(const State& s, int first, int n, PageRange seen) {
    const auto [begin, end] = seen;
    const bool partial = begin > 0 || end < kKvPositions;
    for (int i = first; i < first + n; ++i) {
      float* p = s.p + int64_t{i} * kKvPositions;
      F p0 = L::Load(p), p1 = L::Load(p + 16);
      if (partial) {
        const F minus_inf = L::Set(-__builtin_inff());
        p0 = L::Range(begin, end, p0, minus_inf);
        p1 = L::Range(begin - 16, end - 16, p1, minus_inf);
      }
      const float top = L::HMax(L::Max(p0, p1));
      const float m = top > s.m[i] ? top : s.m[i];
      s.corr[i] = s.m[i] - m;
      s.m[i] = m;
      p0 = MathOps<L>::Exp(L::Sub(p0, L::Set(m)));
      p1 = MathOps<L>::Exp(L::Sub(p1, L::Set(m)));
      if (partial) {
        p0 = L::Range(begin, end, p0, L::Set(0.0f));
        p1 = L::Range(begin - 16, end - 16, p1, L::Set(0.0f));
      }
      L::Store(p, p0);
      L::Store(p + 16, p1);
      s.sum[i] = L::Sum(L::Add(p0, p1));
    }
    for (int i = first; i < first + n; i += 16) {
      const int lanes = first + n - i < 16 ? first + n - i : 16;
      const F corr = MathOps<L>::Exp(L::LoadN(s.corr + i, lanes));
      L::StoreN(s.corr + i, corr, lanes);
      L::StoreN(s.l + i, L::Fma(L::LoadN(s.l + i, lanes), corr, L::LoadN(s.sum + i, lanes)), lanes);
    }
  }

  // The output of R queries, for V vectors of elements from d on.
  template <int R, int V>
  static void ValueChunk(const State& s, const float* values, int first, int d, PageRange seen) {
    const auto [begin, end] = seen;
    F acc[R][V];
    const float* p[R];
    for (int r = 0; r < R; ++r) {
      p[r] = s.p + int64_t{first + r} * kKvPositions;
      const F corr = L::Set(s.corr[first + r]);
      const float* o = s.o + (first + r) * s.padded + d;
      for (int v = 0; v < V; ++v) acc[r][v] = L::Mul(L::Load(o + 16 * v), corr);
    }
    const int64_t hd = s.t->kv.head_dim;
    for (int j = begin; j < end; ++j) {
      F x[V];
      for (int v = 0; v < V; ++v) x[v] = L::Load(values + j * hd + d + 16 * v);
      for (int r = 0; r < R; ++r) {
        const F w = L::Set(p[r][j]);
        for (int v = 0; v < V; ++v) acc[r][v] = L::Fma(w, x[v], acc[r][v]);
      }
    }
    for (int r = 0; r < R; ++r) {
      float* o = s.o + (first + r) * s.padded + d;
      for (int v = 0; v < V; ++v) L::Store(o + 16 * v, acc[r][v]);
    }
  }

  static void ValueTail(const State& s, const float* values, int query, int d, PageRange seen) {
    const int64_t hd = s.t->kv.head_dim;
    const int lanes = static_cast<int>(hd - d);
    float* o = s.o + query * s.padded + d;
    const float* p = s.p + int64_t{query} * kKvPositions;
    F acc = L::Mul(L::LoadN(o, lanes), L::Set(s.corr[query]));
    for (int j = seen.begin; j < seen.end; ++j) {
      acc = L::Fma(L::Set(p[j]), L::LoadN(values + j * hd + d, lanes), acc);
    }
    L::StoreN(o, acc, lanes);
  }

  template <int R>
  static void Values(const State& s, const float* values, int first, PageRange seen) {
    const int hd = s.t->kv.head_dim;
    int d = 0;
    for (; d + 16 * L::kValueVecs <= hd; d += 16 * L::kValueVecs) {
      ValueChunk<R, L::kValueVecs>(s, values, first, d, seen);
    }
    for (; d + 16 <= hd; d += 16) ValueChunk<R, 1>(s, values, first, d, seen);
    if (d < hd) {
      for (int r = 0; r < R; ++r) ValueTail(s, values, first + r, d, seen);
    }
  }

  template <int R>
  static void ValuesUpTo(const State& s, const float* values, int first, int n, PageRange seen) {
    if constexpr (R == 0) {
      return;
    } else {
      if (n == R) return Values<R>(s, values, first, seen);
      ValuesUpTo<R - 1>(s, values, first, n, seen);
    }
  }

  // Queries [first, first + n), which see `seen` of a page.
  struct Queries {
    int first, n;
  };
  static void Group(const State& s, const float* keys, const float* values, Queries queries,
                    PageRange seen) {
    const auto [first, n] = queries;
    int i = 0;
    for (; i + L::kScoreRows <= n; i += L::kScoreRows) Scores<L::kScoreRows>(s, keys, first + i);
    ScoresUpTo<L::kScoreRows - 1>(s, keys, first + i, n - i);
    Softmax(s, first, n, seen);
    for (i = 0; i + L::kValueRows <= n; i += L::kValueRows) {
      Values<L::kValueRows>(s, values, first + i, seen);
    }
    ValuesUpTo<L::kValueRows - 1>(s, values, first + i, n - i, seen);
  }

  static void Page(const State& s, uint32_t block) {
    const AttentionTile& t = *s.t;
    const uint32_t page = t.pages[block - t.first];
    const float* keys = PageLoad<L>::Keys(t.kv, t.kv.Keys(page, t.kv_head), s.keys);
    const float* values = PageLoad<L>::Values(t.kv, t.kv.Values(page, t.kv_head), s.values);
    const int64_t start = int64_t{block} * kKvPositions;
    int row = 0;
    while (row < t.n_rows) {
      const PageRange seen = Seen(t, row, start);
      int next = row + 1;
      while (next < t.n_rows && Seen(t, next, start) == seen) ++next;
      if (seen.begin < seen.end)
        Group(s, keys, values, {row * t.n_heads, (next - row) * t.n_heads}, seen);
      row = next;
    }
  }

  // The part of the page at position `start` that a row sees.
  static PageRange Seen(const AttentionTile& t, int row, int64_t start) {
    const uint32_t pos = t.pos + static_cast<uint32_t>(row);
    const int64_t lo = int64_t{FirstSeen(pos, t.window)} - start;
    const int64_t hi = int64_t{pos} + 1 - start;
    return {static_cast<int>(lo < 0              ? 0
                             : lo > kKvPositions ? kKvPositions
                                                 : lo),
            static_cast<int>(hi < 0              ? 0
                             : hi > kKvPositions ? kKvPositions
                                                 : hi)};
  }

  static void StartSpan(const State& s) {
    for (int i = 0; i < s.queries; ++i) {
      s.m[i] = -__builtin_inff();
      s.l[i] = 0.0f;
    }
    const F zero = L::Set(0.0f);
    for (int64_t i = 0; i < s.queries * s.padded; i += 16) L::Store(s.o + i, zero);
  }

  // out[d] = fn(d, lanes)
  template <typename Fn>
  static void Each(float* out, int n, const Fn& fn) {
    int d = 0;
    for (; d + 16 <= n; d += 16) L::Store(out + d, fn(d, 16));
    if (d < n) L::StoreN(out + d, fn(d, n - d), n - d);
  }
  static F Get(const float* x, int lanes) { return lanes == 16 ? L::Load(x) : L::LoadN(x, lanes); }

  static void EndSpan(const State& s, uint32_t span) {
    const AttentionTile& t = *s.t;
    const int hd = t.kv.head_dim;
    constexpr uint32_t kSpan = kSpanPages * kKvPositions;
    for (int i = 0; i < s.queries; ++i) {
      const uint32_t pos = t.pos + static_cast<uint32_t>(i / t.n_heads);
      const uint32_t first = FirstSeen(pos, t.window) / kSpan;
      if (span < first || span > pos / kSpan) continue;
      const float* o = s.o + i * s.padded;
      float* out = s.Out(i);
      if (span == first) {
        s.total_m[i] = s.m[i];
        s.total_l[i] = s.l[i];
        Each(out, hd, [&](int d, int n) { return Get(o + d, n); });
        continue;
      }
      const float m = s.m[i] > s.total_m[i] ? s.m[i] : s.total_m[i];
      const F a = MathOps<L>::Exp(L::Set(s.total_m[i] - m));
      const F b = MathOps<L>::Exp(L::Set(s.m[i] - m));
      // One lane of each of these is the sum of the row.
      const F l = L::Fma(L::Set(s.total_l[i]), a, L::Mul(L::Set(s.l[i]), b));
      L::StoreN(s.total_l + i, l, 1);
      Each(out, hd,
           [&](int d, int n) { return L::Fma(Get(out + d, n), a, L::Mul(Get(o + d, n), b)); });
      s.total_m[i] = m;
    }
  }

  static void Tile(const AttentionTile& t) {
    const State s = Layout(t);
    const uint32_t last = t.pos + static_cast<uint32_t>(t.n_rows) - 1;
    const uint32_t first_block = FirstSeen(t.pos, t.window) / kKvPositions;
    const uint32_t last_block = last / kKvPositions;
    StartSpan(s);
    for (uint32_t block = first_block; block <= last_block; ++block) {
      Page(s, block);
      if (block == last_block || (block + 1) % kSpanPages == 0) {
        EndSpan(s, block / kSpanPages);
        if (block != last_block) StartSpan(s);
      }
    }
    for (int i = 0; i < s.queries; ++i) {
      float* out = s.Out(i);
      const F l = L::Set(s.total_l[i]);
      Each(out, t.kv.head_dim, [&](int d, int n) { return L::Div(Get(out + d, n), l); });
    }
  }
};

template <typename L>
struct RopeOps {
  using F = typename L::F;

  static F Get(const float* x, int lanes) { return lanes == 16 ? L::Load(x) : L::LoadN(x, lanes); }
  static void Put(float* x, F v, int lanes) {
    if (lanes == 16) {
      L::Store(x, v);
    } else {
      L::StoreN(x, v, lanes);
    }
  }
  static int Lanes(int i, int n) { return n - i < 16 ? n - i : 16; }

  static void Norm(float* x, const float* weight, int n, float eps) {
    F sum = L::Set(0.0f);
    for (int i = 0; i < n; i += 16) {
      const F v = Get(x + i, Lanes(i, n));
      sum = L::Fma(v, v, sum);
    }
    const F scale = L::Set(1.0f / __builtin_sqrtf(L::Sum(sum) / static_cast<float>(n) + eps));
    for (int i = 0; i < n; i += 16) {
      const int m = Lanes(i, n);
      Put(x + i, L::Mul(L::Mul(Get(x + i, m), scale), Get(weight + i, m)), m);
    }
  }

  static void Rotate(float* x, const QkvRows& args, const float* cos, const float* sin) {
    if (args.pairs == RopePairs::kInterleaved) {
      for (int i = 0; i < args.n_rot; i += 16) {
        const int m = Lanes(i, args.n_rot);
        const F v = Get(x + i, m);
        Put(x + i, L::Fma(v, Get(cos + i, m), L::Mul(L::SwapPairs(v), Get(sin + i, m))), m);
      }
      return;
    }
    const int half = args.n_rot / 2;
    for (int i = 0; i < half; i += 16) {
      const int m = Lanes(i, half);
      const F a = Get(x + i, m), b = Get(x + half + i, m);
      Put(x + i, L::Fma(a, Get(cos + i, m), L::Mul(b, Get(sin + i, m))), m);
      Put(x + half + i, L::Fma(b, Get(cos + half + i, m), L::Mul(a, Get(sin + half + i, m))), m);
    }
  }

  static void StorePart(const PartRow& row, const float* x) {
    const auto [element, part, n, step, offset, slot] = row;
    if (element == KvElement::kF32) {
      float* to = reinterpret_cast<float*>(part) + offset;
      for (int i = 0; i < n; ++i) to[i * step] = x[i];
    } else if (element == KvElement::kF16) {
      uint16_t* to = reinterpret_cast<uint16_t*>(part) + offset;
      for (int i = 0; i < n; i += 16) {
        const int m = Lanes(i, n);
        uint16_t halves[16];
        L::StoreF16(halves, Get(x + i, m));
        for (int j = 0; j < m; ++j) to[(i + j) * step] = halves[j];
      }
    } else {
      StoreInt8(row, x);
    }
  }

  static void StoreInt8(const PartRow& row, const float* x) {
    const auto [element, part, n, step, offset, slot] = row;
    F max = L::Set(0.0f);
    for (int i = 0; i < n; i += 16) max = L::Max(L::Abs(Get(x + i, Lanes(i, n))), max);
    const float amax = L::HMax(max);
    const float inverse = amax > 0 ? 127.0f / amax : 0.0f;
    int8_t* to = reinterpret_cast<int8_t*>(part) + offset;
    for (int i = 0; i < n; i += 16) {
      const int m = Lanes(i, n);
      float rounded[16];
      L::Store(rounded, L::Add(L::Mul(Get(x + i, m), L::Set(inverse)), L::Set(kExpMagic)));
      for (int j = 0; j < m; ++j) {
        to[(i + j) * step] = static_cast<int8_t>(BitsOf(rounded[j]) - BitsOf(kExpMagic));
      }
    }
    reinterpret_cast<float*>(part + int64_t{n} * kKvPositions)[slot] = amax / 127.0f;
  }

  static void RotateAndStore(const QkvRows& args, int64_t begin, int64_t end) {
    const int hd = args.kv.head_dim;
    for (int64_t r = begin; r < end; ++r) {
      float* row = args.qkv + r * args.stride;
      const float* cos = args.cos + r * args.n_rot;
      const float* sin = args.sin + r * args.n_rot;
      const F scale = L::Set(args.q_scale);
      for (int h = 0; h < args.n_heads; ++h) {
        float* q = row + int64_t{h} * hd;
        if (args.q_norm != nullptr) Norm(q, args.q_norm, hd, args.eps);
        Rotate(q, args, cos, sin);
        for (int i = 0; i < hd; i += 16)
          Put(q + i, L::Mul(Get(q + i, Lanes(i, hd)), scale), Lanes(i, hd));
      }
      const KvSlot slot = args.slots[r];
      const int s = static_cast<int>(slot.slot);
      for (int h = 0; h < args.kv.n_kv_heads; ++h) {
        float* k = row + int64_t{args.n_heads + h} * hd;
        const float* v = row + int64_t{args.n_heads + args.kv.n_kv_heads + h} * hd;
        if (args.k_norm != nullptr) Norm(k, args.k_norm, hd, args.eps);
        Rotate(k, args, cos, sin);
        StorePart({args.kv.element, args.kv.Keys(slot.page, h), hd, kKvPositions, s, s}, k);
        StorePart({args.kv.element, args.kv.Values(slot.page, h), hd, 1, int64_t{s} * hd, s}, v);
      }
    }
  }
};

template <typename L>
constexpr AttentionKernels AttentionTable() {
  return {TileOps<L>::Tile, RopeOps<L>::RotateAndStore};
}

}  // namespace
}  // namespace lanyard::ops
