// The row operations between two products: they add a layer's output to the residual stream, round
// it to the wire's type at a layer's end, and normalise it for the next product. docs/numerics.md
// "Rows" has the lanes. Rows do not touch each other.
#pragma once

#include <cstdint>

#include "engine/ops/isa.h"
#include "engine/ops/thread_pool.h"

namespace lanyard::ops {

// For each row, in this order; the steps with a null pointer or false are left out:
//   delta_norm: d = delta * (1 / sqrt(mean(delta^2) + eps)) * delta_norm, else d = delta
//   delta:      x = x + d
//   round_f16:  x = half(x / 2^e) * 2^e, e = HalfRowExponent(max |x|)   (base/half.h)
//   norm:       out = x * (1 / sqrt(mean(x^2) + eps)) * norm
// Sums of squares: element i goes to partial i mod 16 by fma, then lanes i and i+8, i+4, i+2, i+1
// are added.
struct ResidualRows {
  float* x = nullptr;                 // [rows][n]
  const float* delta = nullptr;       // [rows][n]
  const float* delta_norm = nullptr;  // [n]
  bool round_f16 = false;
  const float* norm = nullptr;  // [n]
  float* out = nullptr;         // [rows][n]; may be `delta`
  int64_t rows = 0;
  int64_t n = 0;
  float eps = 0;
};
void Residual(Isa isa, ThreadPool& pool, const ResidualRows& args);

// Rows of a hidden frame of half type: exponents[rows], halves[rows][n] (bytes, unaligned). Decode
// returns false when any value is not finite.
struct RowShape {
  int64_t rows = 0;
  int64_t n = 0;
};
void EncodeHalfRows(Isa isa, ThreadPool& pool, const float* x, RowShape shape, uint8_t* data);
bool DecodeHalfRows(Isa isa, ThreadPool& pool, const uint8_t* data, RowShape shape, float* x);

// True when every element of [n] is finite.
bool AllFinite(Isa isa, const float* x, int64_t n);

// Makes x[i] = x[i] * scale for n elements.
void Scale(Isa isa, float* x, int64_t n, float scale);

}  // namespace lanyard::ops
