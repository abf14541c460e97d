// Compares row ops on the card with engine/ops: residual and norm, the wire's rows, scale, gated
// activations, embedding, logits.
#include "engine/cuda/op_checks_bench.h"
#include "engine/ops/activation.h"
#include "engine/ops/cuda/activation.h"
#include "engine/ops/cuda/embed.h"
#include "engine/ops/cuda/logits.h"
#include "engine/ops/cuda/rows.h"
#include "engine/ops/logits.h"
#include "engine/ops/matmul.h"
#include "engine/ops/residual.h"

namespace lanyard::cuda::op_checks {
namespace {

using ops::Isa;

struct ResidualCase {
  uint32_t rows;
  uint32_t n;
  bool delta_norm;
  bool round;
};

absl::Status CheckResidual(Bench& bench, const ResidualCase& c) {
  bench.Begin("residual", absl::StrCat(c.rows, " x ", c.n, c.delta_norm ? ", delta norm" : "",
                                       c.round ? ", rounded" : ""));
  const size_t size = size_t{c.rows} * c.n;
  std::vector<float> x = bench.Floats(size, 100);
  std::vector<float> delta = bench.Floats(size, 3);
  std::vector<float> delta_norm = bench.Floats(c.n, 2);
  std::vector<float> norm = bench.Floats(c.n, 2);
  std::vector<float> out(size);
  ops::cuda::ResidualArgs args;
  args.x = bench.Upload(x);
  args.delta = bench.Upload(delta);
  args.delta_norm = c.delta_norm ? bench.Upload(delta_norm) : nullptr;
  args.norm = bench.Upload(norm);
  args.out = bench.Alloc<float>(size);
  args.n_rows = bench.Count(c.rows);
  args.max_rows = c.rows + 1;
  args.n = c.n;
  args.round_f16 = c.round;
  args.eps = 1e-5f;
  bench.StartClock();
  bench.Run(ops::cuda::Residual(bench.stream(), args));
  ops::ResidualRows rows;
  rows.x = x.data();
  rows.delta = delta.data();
  rows.delta_norm = c.delta_norm ? delta_norm.data() : nullptr;
  rows.round_f16 = c.round;
  rows.norm = norm.data();
  rows.out = out.data();
  rows.rows = c.rows;
  rows.n = c.n;
  rows.eps = 1e-5f;
  ops::Residual(Isa::kScalar, bench.pool(), rows);
  bench.Expect(args.x, x);
  bench.Expect(args.out, out);
  return bench.End();
}

absl::Status CheckWire(Bench& bench, uint32_t rows, uint32_t n) {
  bench.Begin("wire rows", absl::StrCat(rows, " x ", n));
  const std::vector<float> x = bench.Floats(size_t{rows} * n, 1e5f);
  std::vector<uint8_t> wire(rows + size_t{rows} * n * 2);
  ops::EncodeHalfRows(Isa::kScalar, bench.pool(), x.data(), {rows, n}, wire.data());
  std::vector<float> back(x.size());
  ops::DecodeHalfRows(Isa::kScalar, bench.pool(), wire.data(), {rows, n}, back.data());
  ops::cuda::HalfRowsArgs args;
  args.x = bench.Upload(x);
  args.data = bench.Alloc<uint8_t>(wire.size());
  args.not_finite = bench.Count(0);
  args.n_rows = bench.Count(rows);
  args.max_rows = rows + 1;
  args.n = n;
  bench.StartClock();
  bench.Run(ops::cuda::EncodeHalfRows(bench.stream(), args));
  bench.Expect(args.data, wire);
  bench.StartClock();
  bench.Run(ops::cuda::DecodeHalfRows(bench.stream(), args));
  bench.Expect(args.x, back);
  bench.Expect(args.not_finite, {0});
  return bench.End();
}

absl::Status CheckElements(Bench& bench, uint32_t rows, uint32_t n) {
  bench.Begin("finite and scale", absl::StrCat(rows, " x ", n));
  std::vector<float> x = bench.Floats(size_t{rows} * n, 3);
  ops::cuda::ElementsArgs args;
  args.x = bench.Upload(x);
  args.not_finite = bench.Count(0);
  args.n_rows = bench.Count(rows);
  args.max_rows = rows;
  args.n = n;
  args.scale = 25.298221f;
  bench.StartClock();
  bench.Run(ops::cuda::AllFinite(bench.stream(), args));
  bench.Expect(args.not_finite, {0});
  bench.StartClock();
  bench.Run(ops::cuda::Scale(bench.stream(), args));
  ops::Scale(Isa::kScalar, x.data(), static_cast<int64_t>(x.size()), args.scale);
  bench.Expect(args.x, x);
  return bench.End();
}

absl::Status CheckGate(Bench& bench, ops::Activation activation, uint32_t n) {
  constexpr uint32_t kRows = 3;
  bench.Begin("gate", absl::StrCat(activation == ops::Activation::kSilu ? "silu, " : "gelu, ",
                                   kRows, " x ", n));
  std::vector<float> x = bench.Floats(size_t{kRows} * 2 * n, 12);
  ops::cuda::GateArgs args;
  args.gate_up = bench.Upload(x);
  args.n_rows = bench.Count(kRows);
  args.max_rows = kRows;
  args.n = n;
  args.activation = static_cast<uint32_t>(activation);
  bench.StartClock();
  bench.Run(ops::cuda::GateMul(bench.stream(), args));
  ops::GateMul(Isa::kScalar, bench.pool(), {activation, x.data(), kRows, n});
  bench.Expect(args.gate_up, x);
  return bench.End();
}

absl::Status CheckEmbed(Bench& bench, TensorType type) {
  const TypeTraits traits = *TraitsOf(type);
  constexpr uint32_t kTableRows = 9;
  const uint32_t n = traits.elements == 256 ? 512 : 288;
  bench.Begin("embed", absl::StrCat(AbslView(traits.name), ", 3 x ", n));
  const uint64_t row_bytes = uint64_t{n} / traits.elements * traits.bytes;
  const std::vector<uint8_t> table = bench.Weights(type, size_t{kTableRows} * n);
  const std::vector<int32_t> ids = {8, 0, 3};
  std::vector<float> want(ids.size() * n);
  for (size_t r = 0; r < ids.size(); ++r) {
    ops::DequantizeRow(type, table.data() + static_cast<size_t>(ids[r]) * row_bytes, n,
                       want.data() + r * n);
  }
  ops::cuda::EmbedArgs args;
  args.table = bench.Upload(table);
  args.ids = bench.Upload(ids);
  args.x = bench.Alloc<float>(want.size());
  args.n_rows = bench.Count(3);
  args.row_bytes = row_bytes;
  args.max_rows = 3;
  args.n = n;
  args.type = static_cast<uint32_t>(type);
  bench.StartClock();
  bench.Run(ops::cuda::EmbedRows(bench.stream(), args));
  bench.Expect(args.x, want);
  return bench.End();
}

absl::Status CheckLogits(Bench& bench, uint32_t rows, uint32_t n) {
  bench.Begin("logits", absl::StrCat(rows, " x ", n));
  const std::vector<float> logits = bench.Floats(size_t{rows} * n, 9);
  const size_t chunks = size_t{rows} * ops::cuda::LogitChunks(n);
  ops::cuda::LogitsArgs args;
  args.logits = bench.Upload(logits);
  args.chunk_max = bench.Alloc<float>(chunks);
  args.chunk_argmax = bench.Alloc<uint32_t>(chunks);
  args.chunk_sums = bench.Alloc<float>(chunks);
  args.stats = bench.Alloc<ops::cuda::RowStats>(rows);
  args.n_rows = bench.Count(rows);
  args.max_rows = rows;
  args.n = n;
  bench.StartClock();
  bench.Run(ops::cuda::SummariseLogits(bench.stream(), args));
  const std::vector<ops::cuda::RowStats> got = bench.Down(args.stats, rows);
  for (uint32_t r = 0; r < rows; ++r) {
    ops::LogitStats want;
    const bool ok =
        ops::SummariseLogits(Isa::kScalar, bench.pool(), logits.data() + size_t{r} * n, n, &want);
    bench.Compare(r, got[r].ok, ok ? 1u : 0u);
    bench.Compare(r, got[r].argmax, static_cast<int32_t>(want.argmax));
    bench.Compare(r, got[r].max, want.max);
    bench.Compare(r, got[r].sum, want.sum);
    bench.Compare(r, got[r].lse, want.lse);
  }
  return bench.End();
}

}  // namespace

absl::Status CheckRows(Bench& bench) {
  std::vector<ResidualCase> residuals = {{1, 576, false, true}, {3, 37, true, false}};
  if (!bench.small()) {
    residuals.insert(residuals.end(),
                     {{1, 4096, false, true}, {64, 4096, true, true}, {2, 12004, true, true}});
  }
  for (const ResidualCase& c : residuals) RETURN_IF_ERROR(CheckResidual(bench, c));
  RETURN_IF_ERROR(CheckWire(bench, 3, bench.small() ? 65 : 4096));
  RETURN_IF_ERROR(CheckElements(bench, 2, bench.small() ? 300 : 4096));
  for (const auto activation : {ops::Activation::kSilu, ops::Activation::kGeluTanh}) {
    RETURN_IF_ERROR(CheckGate(bench, activation, bench.small() ? 77 : 14336));
  }
  for (const auto type :
       {TensorType::kF32, TensorType::kF16, TensorType::kQ4_0, TensorType::kQ4_1, TensorType::kQ5_0,
        TensorType::kQ8_0, TensorType::kQ4_K, TensorType::kQ6_K}) {
    RETURN_IF_ERROR(CheckEmbed(bench, type));
  }
  return CheckLogits(bench, 2, bench.small() ? 4100 : 151936);
}

}  // namespace lanyard::cuda::op_checks
