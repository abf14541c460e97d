// Compares matrix products on the card with engine/ops/matmul.h: every weight type, one row to
// many, odd and even shapes.
#include "engine/cuda/op_checks_bench.h"
#include "engine/ops/cuda/matmul.h"
#include "engine/ops/matmul.h"
#include "engine/ops/quant.h"

namespace lanyard::cuda::op_checks {
namespace {

using ops::Isa;

struct Shape {
  int64_t rows;
  int64_t n_out;
  int64_t k;
};

absl::Status CopyPart(const std::vector<uint8_t>& from, uint64_t offset, std::span<uint8_t> to) {
  std::memcpy(to.data(), from.data() + offset, to.size());
  return absl::OkStatus();
}

absl::Status CheckProduct(Bench& bench, TensorType type, Shape shape) {
  const TypeTraits traits = *TraitsOf(type);
  shape.k = (shape.k + traits.elements - 1) / traits.elements * traits.elements;
  bench.Begin("matmul", absl::StrCat(AbslView(traits.name), ", ", shape.rows, " rows, ",
                                     shape.n_out, " x ", shape.k));
  const std::vector<uint8_t> gguf = bench.Weights(type, static_cast<size_t>(shape.n_out * shape.k));
  const std::vector<float> x = bench.Floats(static_cast<size_t>(shape.rows * shape.k), 2);

  ops::cuda::DeviceMatrix w{type, shape.n_out, shape.k, nullptr};
  auto* data = bench.Alloc<uint8_t>(ops::cuda::MatrixBytes(type, shape.n_out, shape.k));
  bench.Note(ops::cuda::PackMatrix(
      type, shape.n_out, shape.k,
      [&](uint64_t offset, std::span<uint8_t> to) { return CopyPart(gguf, offset, to); },
      [&](uint64_t offset, std::span<const uint8_t> part) {
        return data == nullptr ? absl::OkStatus()
                               : bench.Write(data + offset, part.data(), part.size());
      }));
  w.data = data;
  ops::cuda::DeviceRows rows{w.wants_quantised(), shape.rows, shape.k, nullptr};
  rows.data = bench.Alloc<uint8_t>(ops::cuda::RowsBytes(rows.quantised, shape.rows, shape.k));
  bench.Note(ops::cuda::AssignRows(bench.stream(), bench.Upload(x), shape.k, rows));
  auto* out = bench.Alloc<float>(static_cast<size_t>(shape.rows * shape.n_out));
  bench.StartClock();
  bench.Run(ops::cuda::MatMul(bench.stream(), {bench.level(), bench.multiprocessors()}, w, rows,
                              {out, shape.n_out}));

  const auto packed = ops::PackedMatrix::Pack(
      Isa::kScalar, type, shape.n_out, shape.k,
      [&](uint64_t offset, std::span<uint8_t> to) { return CopyPart(gguf, offset, to); });
  bench.Note(packed.status());
  if (packed.ok()) {
    ops::ActRows act;
    act.Assign(Isa::kScalar, bench.pool(), x.data(), shape.rows, shape.k, shape.k, rows.quantised);
    std::vector<float> want(static_cast<size_t>(shape.rows * shape.n_out));
    ops::MatMul(bench.pool(), *packed, act, want.data(), shape.n_out);
    bench.Expect(out, want);
  }
  return bench.End();
}

}  // namespace

absl::Status CheckProducts(Bench& bench) {
  const std::vector<Shape> small = {{1, 33, 96}, {3, 17, 288}, {9, 20, 64}, {33, 40, 96}};
  const std::vector<Shape> large = {{1, 33, 96},      {1, 4096, 4096}, {3, 1001, 576},
                                    {8, 640, 2048},   {17, 257, 288},  {100, 300, 1024},
                                    {512, 1024, 1024}};
  for (const auto type :
       {TensorType::kF32, TensorType::kF16, TensorType::kQ4_0, TensorType::kQ4_1, TensorType::kQ5_0,
        TensorType::kQ8_0, TensorType::kQ4_K, TensorType::kQ6_K}) {
    for (const Shape& shape : bench.small() ? small : large)
      RETURN_IF_ERROR(CheckProduct(bench, type, shape));
  }
  return absl::OkStatus();
}

}  // namespace lanyard::cuda::op_checks
