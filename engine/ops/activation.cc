#include "engine/ops/activation.h"

#include <algorithm>

#include "engine/ops/row_kernels.h"

namespace lanyard::ops {

void GateMul(Isa isa, ThreadPool& pool, Activation act, float* gate_up, int64_t rows, int64_t n) {
  const RowKernels& k = RowKernelsFor(isa);
  const auto fn = act == Activation::kSilu ? k.silu_mul : k.gelu_mul;
  pool.For(rows, std::max<int64_t>(1, 8192 / std::max<int64_t>(1, n)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) fn(gate_up + r * 2 * n, gate_up + r * 2 * n + n, n);
  });
}

}  // namespace lanyard::ops
