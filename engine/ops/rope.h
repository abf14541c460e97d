// Moves queries and keys from the product to attention: per-head norm, rotation by position, scale;
// and writes keys and values into their pages. docs/numerics.md "Positions" defines it.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/ops/isa.h"
#include "engine/ops/kv_cache.h"
#include "engine/ops/thread_pool.h"

namespace lanyard::ops {

// Element pairs that are rotated together: (2i, 2i+1), or (i, i + n_rot/2).
enum class RopePairs { kInterleaved, kHalves };

// The frequencies of a model's rotation: base^(-2i / n_rot) * scale / factor[i], i < n_rot/2, in
// double.
class RopeFrequencies {
 public:
  RopeFrequencies() = default;
  // `factors` is empty or has n_rot/2 values.
  RopeFrequencies(double base, double scale, int n_rot, const std::vector<float>& factors);
  int n_rot() const { return static_cast<int>(frequencies_.size()) * 2; }
  // Makes the row of a position: y[j] = fma(x[j], cos[j], x[partner of j] * sin[j]), where sin is
  // negative for the first of a pair. cos and sin have [n_rot] each.
  void Row(uint32_t position, RopePairs pairs, float* cos, float* sin) const;

 private:
  std::vector<double> frequencies_;
};

struct QkvRows {
  // One row is [n_heads * head_dim][n_kv_heads * head_dim] twice; q is changed in place.
  float* qkv = nullptr;
  int64_t stride = 0;
  int64_t rows = 0;
  int n_heads = 0;
  const float* q_norm = nullptr;  // [head_dim], for the RMSNorm of every head; null: none
  const float* k_norm = nullptr;
  float eps = 0;
  RopePairs pairs = RopePairs::kInterleaved;
  int n_rot = 0;               // even, <= head_dim; the rest of a head is not rotated
  const float* cos = nullptr;  // [rows][n_rot]
  const float* sin = nullptr;
  float q_scale = 1;  // applied after the rotation
  KvLayer kv;
  const KvSlot* slots = nullptr;  // [rows]
};
void RotateAndStore(Isa isa, ThreadPool& pool, const QkvRows& args);

}  // namespace lanyard::ops
