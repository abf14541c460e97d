// Queries and keys on their way from the product to attention: per-head norm, rotation by position,
// scale; keys and values into their pages. docs/numerics.md "Positions".
#pragma once

#include <cstdint>
#include <vector>

#include "engine/ops/isa.h"
#include "engine/ops/kv_cache.h"
#include "engine/ops/thread_pool.h"

namespace lanyard::ops {

// Element pairs that are rotated together: (2i, 2i+1), or (i, i + n_rot/2).
enum class RopePairs { kInterleaved, kHalves };

// Frequencies of a model's rotation: base^(-2i / n_rot) * scale / factor[i], i < n_rot/2, in
// double.
class RopeFrequencies {
 public:
  RopeFrequencies() = default;
  // `factors` is empty or has n_rot/2 values.
  RopeFrequencies(double base, double scale, int n_rot, const std::vector<float>& factors);
  int n_rot() const { return static_cast<int>(frequencies_.size()) * 2; }
  // The row of a position: y[j] = fma(x[j], cos[j], x[partner of j] * sin[j]), sin negative for the
  // first of a pair. cos, sin: [n_rot] each.
  void Row(uint32_t position, RopePairs pairs, float* cos, float* sin) const;

 private:
  std::vector<double> frequencies_;
};

struct QkvRows {
  float* qkv =
      nullptr;  // row: [n_heads * head_dim][n_kv_heads * head_dim] twice; q is changed in place
  int64_t stride = 0;
  int64_t rows = 0;
  int n_heads = 0;
  const float* q_norm = nullptr;  // [head_dim], RMSNorm of every head; null: none
  const float* k_norm = nullptr;
  float eps = 0;
  RopePairs pairs = RopePairs::kInterleaved;
  int n_rot = 0;               // even, <= head_dim; the rest of a head is not rotated
  const float* cos = nullptr;  // [rows][n_rot]
  const float* sin = nullptr;
  float q_scale = 1;  // after the rotation
  KvLayer kv;
  const KvSlot* slots = nullptr;  // [rows]
};
void RotateAndStore(Isa isa, ThreadPool& pool, const QkvRows& args);

}  // namespace lanyard::ops
