#include "engine/ops/rope.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "engine/ops/attention_kernels.h"
#include "engine/ops/math.h"

namespace lanyard::ops {

RopeFrequencies::RopeFrequencies(double base, double scale, int n_rot,
                                 const std::vector<float>& factors) {
  const double log_base = LogDouble(base);
  for (int i = 0; i < n_rot / 2; ++i) {
    const double frequency = ExpDouble(-2.0 * i / n_rot * log_base) * scale;
    frequencies_.push_back(factors.empty() ? frequency
                                           : frequency / static_cast<double>(factors[i]));
  }
}

void RopeFrequencies::Row(uint32_t position, RopePairs pairs, float* cos, float* sin) const {
  const int half = static_cast<int>(frequencies_.size());
  for (int i = 0; i < half; ++i) {
    double s, c;
    SinCosDouble(static_cast<double>(position) * frequencies_[i], &s, &c);
    const int a = pairs == RopePairs::kInterleaved ? 2 * i : i;
    const int b = pairs == RopePairs::kInterleaved ? 2 * i + 1 : i + half;
    cos[a] = cos[b] = static_cast<float>(c);
    sin[a] = -static_cast<float>(s);
    sin[b] = static_cast<float>(s);
  }
}

void RotateAndStore(Isa isa, ThreadPool& pool, const QkvRows& args) {
  const AttentionKernels& k = AttentionKernelsFor(isa);
  const int64_t row_elements = int64_t{args.n_heads + args.kv.n_kv_heads * 2} * args.kv.head_dim;
  pool.For(args.rows, std::max<int64_t>(1, 8192 / std::max<int64_t>(1, row_elements)),
           [&](int64_t begin, int64_t end) { k.rotate_and_store(args, begin, end); });
}

namespace {

constexpr int kNormLanes = 16;

void NormHead(float* x, const float* weight, int n, float eps) {
  float lanes[kNormLanes] = {};
  for (int i = 0; i < n; ++i) lanes[i % kNormLanes] = Fma(x[i], x[i], lanes[i % kNormLanes]);
  for (int step = kNormLanes / 2; step >= 1; step /= 2) {
    for (int i = 0; i < step; ++i) lanes[i] = lanes[i] + lanes[i + step];
  }
  const float scale = 1.0f / std::sqrt(lanes[0] / static_cast<float>(n) + eps);
  for (int i = 0; i < n; ++i) x[i] = x[i] * scale * weight[i];
}

void RotateHead(float* x, const QkvRows& args, const float* cos, const float* sin) {
  const int half = args.n_rot / 2;
  for (int i = 0; i < half; ++i) {
    const int a = args.pairs == RopePairs::kInterleaved ? 2 * i : i;
    const int b = args.pairs == RopePairs::kInterleaved ? 2 * i + 1 : i + half;
    const float xa = x[a];
    const float xb = x[b];
    x[a] = Fma(xa, cos[a], xb * sin[a]);
    x[b] = Fma(xb, cos[b], xa * sin[b]);
  }
}

void StorePart(const PartRow& row, const float* x) {
  const auto [element, part, n, step, offset, slot] = row;
  if (element == KvElement::kF32) {
    for (int i = 0; i < n; ++i) reinterpret_cast<float*>(part)[i * step + offset] = x[i];
    return;
  }
  if (element == KvElement::kF16) {
    for (int i = 0; i < n; ++i) {
      reinterpret_cast<uint16_t*>(part)[i * step + offset] = FloatToHalf(x[i]);
    }
    return;
  }
  float amax = 0;
  for (int i = 0; i < n; ++i) {
    const float a = std::fabs(x[i]);
    amax = a > amax ? a : amax;
  }
  const float inverse = amax > 0 ? 127.0f / amax : 0.0f;
  for (int i = 0; i < n; ++i) {
    // Adding 1.5 * 2^23 rounds to the nearest integer, ties to even; its low bits are that integer.
    const float rounded = x[i] * inverse + kExpMagic;
    reinterpret_cast<int8_t*>(part)[i * step + offset] =
        static_cast<int8_t>(BitsOf(rounded) - BitsOf(kExpMagic));
  }
  reinterpret_cast<float*>(part + int64_t{n} * kKvPositions)[slot] = amax / 127.0f;
}

}  // namespace

// This is the scalar reference.
void RotateAndStoreScalar(const QkvRows& args, int64_t begin, int64_t end) {
  const int hd = args.kv.head_dim;
  for (int64_t r = begin; r < end; ++r) {
    float* row = args.qkv + r * args.stride;
    const float* cos = args.cos + r * args.n_rot;
    const float* sin = args.sin + r * args.n_rot;
    for (int h = 0; h < args.n_heads; ++h) {
      float* q = row + int64_t{h} * hd;
      if (args.q_norm != nullptr) NormHead(q, args.q_norm, hd, args.eps);
      RotateHead(q, args, cos, sin);
      for (int i = 0; i < hd; ++i) q[i] = q[i] * args.q_scale;
    }
    const KvSlot slot = args.slots[r];
    for (int h = 0; h < args.kv.n_kv_heads; ++h) {
      float* k = row + int64_t{args.n_heads + h} * hd;
      const float* v = row + int64_t{args.n_heads + args.kv.n_kv_heads + h} * hd;
      if (args.k_norm != nullptr) NormHead(k, args.k_norm, hd, args.eps);
      RotateHead(k, args, cos, sin);
      const int s = static_cast<int>(slot.slot);
      StorePart({args.kv.element, args.kv.Keys(slot.page, h), hd, kKvPositions, s, s}, k);
      StorePart({args.kv.element, args.kv.Values(slot.page, h), hd, 1, int64_t{s} * hd, s}, v);
    }
  }
}

}  // namespace lanyard::ops
