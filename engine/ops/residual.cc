#include "engine/ops/residual.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/half.h"
#include "engine/ops/math.h"
#include "engine/ops/row_kernels.h"

namespace lanyard::ops {
namespace {

// Rows that one thread takes at a time: about 20 us of work, so that a short step stays on the
// caller's thread.
int64_t Grain(int64_t n) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, n)); }

}  // namespace

const RowKernels& RowKernelsFor(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return kRowKernelsAvx512;
    case Isa::kAvx2:
      return kRowKernelsAvx2;
    case Isa::kScalar:
      break;
  }
  return kRowKernelsScalar;
}

void Residual(Isa isa, ThreadPool& pool, const ResidualRows& args) {
  const RowKernels& k = RowKernelsFor(isa);
  pool.For(args.rows, Grain(args.n),
           [&](int64_t begin, int64_t end) { k.residual(args, begin, end); });
}

void EncodeHalfRows(Isa isa, ThreadPool& pool, const float* x, RowShape shape, uint8_t* data) {
  const auto [rows, n] = shape;
  const RowKernels& k = RowKernelsFor(isa);
  // The halves start after `rows` bytes, so possibly at an odd address, and the kernels store
  // unaligned.
  pool.For(rows, Grain(n), [&, rows = rows, n = n](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      uint16_t* halves = reinterpret_cast<uint16_t*>(data + rows + r * n * 2);
      data[r] = static_cast<uint8_t>(static_cast<int8_t>(k.encode_half(x + r * n, n, halves)));
    }
  });
}

bool DecodeHalfRows(Isa isa, ThreadPool& pool, const uint8_t* data, RowShape shape, float* x) {
  const auto [rows, n] = shape;
  const RowKernels& k = RowKernelsFor(isa);
  std::atomic<bool> finite{true};
  pool.For(rows, Grain(n), [&, rows = rows, n = n](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const uint16_t* halves = reinterpret_cast<const uint16_t*>(data + rows + r * n * 2);
      if (!k.decode_half(halves, static_cast<int8_t>(data[r]), n, x + r * n)) finite.store(false);
    }
  });
  return finite.load();
}

bool AllFinite(Isa isa, const float* x, int64_t n) { return RowKernelsFor(isa).all_finite(x, n); }

void Scale(Isa isa, float* x, int64_t n, float scale) { RowKernelsFor(isa).scale(x, n, scale); }

}  // namespace lanyard::ops
