// Row, activation and embedding kernels against the scalar references, bit for bit.
#include <cmath>
#include <limits>

#include "base/tensor_type.h"
#include "engine/ops/activation.h"
#include "engine/ops/cuda/activation.h"
#include "engine/ops/cuda/embed.h"
#include "engine/ops/cuda/rows.h"
#include "engine/ops/matmul.h"
#include "engine/ops/residual.h"
#include "gtest/gtest.h"
#include "tests/ptx/kernel_test_util.h"

namespace lanyard::ptx {
namespace {

using ops::Isa;

class RowKernels : public KernelTest {
 protected:
  ops::ThreadPool pool_{1};
};
INSTANTIATE_KERNELS(RowKernels);

struct ResidualCase {
  uint32_t rows;
  uint32_t n;
  bool delta;
  bool delta_norm;
  bool round;
  bool norm;
};

struct ResidualData {
  std::vector<float> x, delta, delta_norm, norm, out;
};

ResidualData MakeResidual(const ResidualCase& c, uint64_t seed) {
  Numbers numbers(seed);
  const size_t size = size_t{c.rows} * c.n;
  ResidualData d{numbers.Floats(size, 100), numbers.Floats(size, 3), numbers.Floats(c.n, 2),
                 numbers.Floats(c.n, 2), std::vector<float>(size, 7)};
  // A row of zeros, one with very small and one with very large values, one that is not finite.
  for (uint32_t r = 0; r < c.rows; ++r) {
    float* x = d.x.data() + size_t{r} * c.n;
    if (r % 5 == 1) {
      const std::vector<float> odd = numbers.Odd(c.n);
      std::copy(odd.begin(), odd.end(), x);
    }
    if (r % 5 == 2) std::fill(x, x + c.n, 0.0f);
    if (r % 5 == 3) x[c.n / 2] = std::numeric_limits<float>::infinity();
    if (r % 5 == 4) x[c.n - 1] = std::nanf("");
  }
  return d;
}

void Reference(const ResidualCase& c, ResidualData* d, ops::ThreadPool& pool) {
  ops::ResidualRows rows;
  rows.x = d->x.data();
  rows.delta = c.delta ? d->delta.data() : nullptr;
  rows.delta_norm = c.delta_norm ? d->delta_norm.data() : nullptr;
  rows.round_f16 = c.round;
  rows.norm = c.norm ? d->norm.data() : nullptr;
  rows.out = d->out.data();
  rows.rows = c.rows;
  rows.n = c.n;
  rows.eps = 1e-5f;
  ops::Residual(Isa::kScalar, pool, rows);
}

TEST_P(RowKernels, ResidualIsTheReference) {
  const ResidualCase cases[] = {
      {1, 576, false, false, false, true},   {2, 640, true, false, false, true},
      {5, 96, true, true, true, true},       {3, 37, true, true, false, false},
      {5, 100, false, false, true, false},   {1, 1, true, true, true, true},
      {2, 257, true, false, true, true},     {1, 12004, true, true, true, true},
      {2, 12001, false, false, false, true},
  };
  uint64_t seed = 0;
  for (const ResidualCase& c : cases) {
    SCOPED_TRACE(testing::Message() << c.rows << " x " << c.n);
    ResidualData want = MakeResidual(c, ++seed);
    ops::cuda::ResidualArgs args;
    args.x = device_->Upload(want.x, "x");
    args.delta = c.delta ? device_->Upload(want.delta, "delta") : nullptr;
    args.delta_norm = c.delta_norm ? device_->Upload(want.delta_norm, "delta_norm") : nullptr;
    args.round_f16 = c.round;
    args.norm = c.norm ? device_->Upload(want.norm, "norm") : nullptr;
    args.out = device_->Upload(want.out, "out");
    args.n_rows = Count(c.rows);
    args.max_rows = c.rows + 2;  // blocks without a row
    args.n = c.n;
    args.eps = 1e-5f;
    EXPECT_LAUNCH(ops::cuda::Residual(*device_, args));
    Reference(c, &want, pool_);
    EXPECT_TRUE(SameBits(Down(args.x, want.x.size()), want.x));
    EXPECT_TRUE(SameBits(Down(args.out, want.out.size()), want.out));
  }
}

TEST_P(RowKernels, OutMayBeDelta) {
  const ResidualCase c{3, 160, true, true, false, true};
  ResidualData want = MakeResidual(c, 77);
  ops::cuda::ResidualArgs args;
  args.x = device_->Upload(want.x, "x");
  args.out = device_->Upload(want.delta, "delta and out");
  args.delta = args.out;
  args.delta_norm = device_->Upload(want.delta_norm, "delta_norm");
  args.norm = device_->Upload(want.norm, "norm");
  args.n_rows = Count(c.rows);
  args.max_rows = c.rows;
  args.n = c.n;
  args.eps = 1e-5f;
  EXPECT_LAUNCH(ops::cuda::Residual(*device_, args));
  Reference(c, &want, pool_);
  EXPECT_TRUE(SameBits(Down(args.out, want.out.size()), want.out));
}

TEST_P(RowKernels, NormOfChosenRows) {
  const ResidualCase c{6, 64, false, false, false, true};
  ResidualData want = MakeResidual(c, 5);
  ops::cuda::ResidualArgs args;
  args.x = device_->Upload(want.x, "x");
  args.norm = device_->Upload(want.norm, "norm");
  args.out = device_->Alloc<float>(2 * c.n, "out");
  args.row_of = device_->Upload(std::vector<uint32_t>{4, 1}, "row_of");
  args.n_rows = Count(2);
  args.max_rows = 4;
  args.n = c.n;
  args.eps = 1e-5f;
  EXPECT_LAUNCH(ops::cuda::Residual(*device_, args));
  Reference(c, &want, pool_);
  std::vector<float> chosen(want.out.begin() + 4 * c.n, want.out.begin() + 5 * c.n);
  chosen.insert(chosen.end(), want.out.begin() + c.n, want.out.begin() + 2 * c.n);
  EXPECT_TRUE(SameBits(Down(args.out, chosen.size()), chosen));
}

TEST_P(RowKernels, HalfRowsThereAndBack) {
  for (const auto& [rows, n] : {std::pair<uint32_t, uint32_t>{1, 33}, {2, 64}, {3, 576}, {5, 7}}) {
    SCOPED_TRACE(testing::Message() << rows << " x " << n);
    Numbers numbers(rows);
    std::vector<float> x = numbers.Odd(size_t{rows} * n);
    for (float& v : x) v *= numbers.Below(3) == 0 ? 1e5f : 1.0f;
    if (rows == 5) std::fill(x.begin() + n, x.begin() + 2 * n, 0.0f);
    std::vector<uint8_t> want(rows + size_t{rows} * n * 2);
    ops::EncodeHalfRows(Isa::kScalar, pool_, x.data(), {rows, n}, want.data());

    ops::cuda::HalfRowsArgs args;
    args.x = device_->Upload(x, "x");
    args.data = device_->Alloc<uint8_t>(want.size(), "wire");
    args.not_finite = Count(0);
    args.n_rows = Count(rows);
    args.max_rows = rows + 1;
    args.n = n;
    EXPECT_LAUNCH(ops::cuda::EncodeHalfRows(*device_, args));
    EXPECT_TRUE(SameBits(Down(args.data, want.size()), want));

    std::vector<float> back(x.size());
    EXPECT_TRUE(ops::DecodeHalfRows(Isa::kScalar, pool_, want.data(), {rows, n}, back.data()));
    args.x = device_->Alloc<float>(x.size(), "x again");
    EXPECT_LAUNCH(ops::cuda::DecodeHalfRows(*device_, args));
    EXPECT_TRUE(SameBits(Down(args.x, back.size()), back));
    EXPECT_EQ(Down(args.not_finite, 1)[0], 0u);
  }
}

TEST_P(RowKernels, DecodeSeesWhatIsNotFinite) {
  // An infinity, a NaN, an exponent that no row has, a value that overflows only with its exponent.
  struct Damage {
    size_t at;
    std::vector<uint8_t> bytes;
    bool bad;
  };
  const uint32_t rows = 3, n = 40;
  const size_t halves = rows;
  const Damage cases[] = {{halves + 2 * 79, {0x00, 0x7c}, true},
                          {halves + 2 * 119, {0x01, 0xfe}, true},
                          {2, {120}, true},
                          {1, {static_cast<uint8_t>(-111)}, true},
                          {1, {static_cast<uint8_t>(-110)}, false},
                          {halves, {0xff, 0x7b}, false},
                          {0, {113}, true}};
  for (const Damage& damage : cases) {
    SCOPED_TRACE(damage.at);
    std::vector<uint8_t> data(rows + rows * n * 2, 0x3c);
    std::fill(data.begin(), data.begin() + rows, 0);
    if (damage.at == 0) {
      data[halves] = 0xff;
      data[halves + 1] = 0x7b;  // 65504 * 2^113 is infinite
    }
    std::copy(damage.bytes.begin(), damage.bytes.end(),
              data.begin() + static_cast<ptrdiff_t>(damage.at));
    std::vector<float> x(rows * n);
    EXPECT_EQ(ops::DecodeHalfRows(Isa::kScalar, pool_, data.data(), {rows, n}, x.data()),
              !damage.bad);
    ops::cuda::HalfRowsArgs args;
    args.x = device_->Alloc<float>(x.size(), "x");
    args.data = device_->Upload(data, "wire");
    args.not_finite = Count(0);
    args.n_rows = Count(rows);
    args.max_rows = rows;
    args.n = n;
    EXPECT_LAUNCH(ops::cuda::DecodeHalfRows(*device_, args));
    EXPECT_EQ(Down(args.not_finite, 1)[0], damage.bad ? 1u : 0u);
  }
}

TEST_P(RowKernels, FiniteAndScale) {
  const uint32_t rows = 2, n = 300;
  for (const float bad : {1.0f, std::numeric_limits<float>::infinity(), std::nanf(""), 3e38f}) {
    Numbers numbers(9);
    std::vector<float> x = numbers.Odd(rows * n);
    x[rows * n - 1] = bad;
    ops::cuda::ElementsArgs args;
    args.x = device_->Upload(x, "x");
    args.not_finite = Count(0);
    args.n_rows = Count(rows);
    args.max_rows = rows + 1;
    args.n = n;
    args.scale = 25.298221f;
    EXPECT_LAUNCH(ops::cuda::AllFinite(*device_, args));
    EXPECT_EQ(Down(args.not_finite, 1)[0] == 0, ops::AllFinite(Isa::kScalar, x.data(), rows * n));
    EXPECT_LAUNCH(ops::cuda::Scale(*device_, args));
    ops::Scale(Isa::kScalar, x.data(), rows * n, args.scale);
    EXPECT_TRUE(SameBits(Down(args.x, x.size()), x));
  }
}

TEST_P(RowKernels, GateMulIsTheReference) {
  for (const auto activation : {ops::Activation::kSilu, ops::Activation::kGeluTanh}) {
    for (const uint32_t n : {1u, 30u, 1028u, 1537u}) {
      SCOPED_TRACE(n);
      const uint32_t rows = 3;
      Numbers numbers(n);
      std::vector<float> x = numbers.Floats(size_t{rows} * 2 * n, 12);
      for (size_t i = 0; i < x.size(); i += 17) x[i] = numbers.Odd(1)[0];
      for (size_t i = 5; i < x.size(); i += 31) x[i] *= 100;
      x[0] = -std::numeric_limits<float>::infinity();
      x[n] = std::nanf("");
      ops::cuda::GateArgs args;
      args.gate_up = device_->Upload(x, "gate_up");
      args.n_rows = Count(rows);
      args.max_rows = rows + 1;
      args.n = n;
      args.activation = static_cast<uint32_t>(activation);
      EXPECT_LAUNCH(ops::cuda::GateMul(*device_, args));
      ops::GateMul(Isa::kScalar, pool_, {activation, x.data(), rows, n});
      EXPECT_TRUE(SameBits(Down(args.gate_up, x.size()), x));
    }
  }
}

TEST_P(RowKernels, EmbeddedRowsAreTheReference) {
  for (const auto type :
       {TensorType::kF32, TensorType::kF16, TensorType::kQ4_0, TensorType::kQ4_1, TensorType::kQ5_0,
        TensorType::kQ8_0, TensorType::kQ4_K, TensorType::kQ6_K}) {
    const auto traits = *TraitsOf(type);
    SCOPED_TRACE(std::string(traits.name));
    const uint32_t n = traits.elements == 256 ? 512 : traits.elements == 32 ? 288 : 35;
    const uint64_t row_bytes = uint64_t{n} / traits.elements * traits.bytes;
    const std::vector<int32_t> ids = {6, 0, 3};
    Numbers numbers(static_cast<uint64_t>(type));
    const std::vector<uint8_t> table = numbers.Bytes(7 * row_bytes);
    std::vector<float> want(ids.size() * n);
    for (size_t r = 0; r < ids.size(); ++r) {
      ops::DequantizeRow(type, table.data() + static_cast<size_t>(ids[r]) * row_bytes, n,
                         want.data() + r * n);
    }
    ops::cuda::EmbedArgs args;
    args.table = device_->Upload(table, "table");
    args.ids = device_->Upload(ids, "ids");
    args.x = device_->Alloc<float>(want.size(), "x");
    args.n_rows = Count(3);
    args.row_bytes = row_bytes;
    args.max_rows = 4;
    args.n = n;
    args.type = static_cast<uint32_t>(type);
    EXPECT_LAUNCH(ops::cuda::EmbedRows(*device_, args));
    EXPECT_TRUE(SameBits(Down(args.x, want.size()), want));

    // Only the rows themselves, scaled.
    args.ids = nullptr;
    args.scale = 25.298221f;
    EXPECT_LAUNCH(ops::cuda::EmbedRows(*device_, args));
    for (size_t r = 0; r < 3; ++r)
      ops::DequantizeRow(type, table.data() + r * row_bytes, n, want.data() + r * n);
    ops::Scale(Isa::kScalar, want.data(), static_cast<int64_t>(want.size()), args.scale);
    EXPECT_TRUE(SameBits(Down(args.x, want.size()), want));
  }
}

}  // namespace
}  // namespace lanyard::ptx
