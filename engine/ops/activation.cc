#include "engine/ops/activation.h"

#include <algorithm>

#include "engine/ops/row_kernels.h"

namespace lanyard::ops {

void GateMul(Isa isa, ThreadPool& pool, const GateRows& args) {
  const RowKernels& k = RowKernelsFor(isa);
  const auto fn = args.activation == Activation::kSilu ? k.silu_mul : k.gelu_mul;
  const int64_t n = args.n;
  pool.For(args.rows, std::max<int64_t>(1, 8192 / std::max<int64_t>(1, n)),
           [&](int64_t begin, int64_t end) {
             for (int64_t r = begin; r < end; ++r)
               fn(args.gate_up + r * 2 * n, args.gate_up + r * 2 * n + n, n);
           });
}

}  // namespace lanyard::ops
