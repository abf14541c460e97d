// Product kernels against the scalar reference, bit for bit: every type, few and many rows, shapes
// with odd ends, extreme blocks.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "base/half.h"
#include "engine/ops/cuda/matmul.h"
#include "engine/ops/cuda/matmul_args.h"
#include "engine/ops/matmul.h"
#include "engine/ops/quant.h"
#include "gtest/gtest.h"
#include "tests/ptx/kernel_test_util.h"

namespace lanyard::ptx {
namespace {

using ops::Isa;
namespace cuda = ops::cuda;

constexpr TensorType kQuantised[] = {TensorType::kQ4_0, TensorType::kQ4_1, TensorType::kQ5_0,
                                     TensorType::kQ8_0, TensorType::kQ4_K, TensorType::kQ6_K};
constexpr TensorType kFloats[] = {TensorType::kF32, TensorType::kF16};

// How weights are filled.
enum class Fill { kNormal, kHighest, kLowest, kDenormal, kHuge };

struct Shape {
  int64_t rows, n_out, k;
};

uint16_t Scale(Fill fill, Numbers& numbers) {
  const auto sign = static_cast<uint16_t>(numbers.Below(2) << 15);
  switch (fill) {
    case Fill::kDenormal:
      return static_cast<uint16_t>(sign | numbers.Below(1024));
    case Fill::kHuge:
      return static_cast<uint16_t>(sign | (0x7bff - numbers.Below(100)));
    default:
      return FloatToHalf(numbers.Uniform(0.03f));
  }
}

std::vector<size_t> ScaleOffsets(TensorType type) {
  if (type == TensorType::kQ6_K) return {208};
  if (ops::HasMinimum(type)) return {0, 2};
  return {0};
}

std::vector<uint8_t> FloatWeights(TensorType type, size_t n, Fill fill, Numbers& numbers) {
  const float scale = fill == Fill::kHuge ? 3e4f : fill == Fill::kDenormal ? 2e-6f : 1.0f;
  std::vector<uint8_t> out;
  for (size_t i = 0; i < n; ++i) {
    const float v = numbers.Uniform(scale);
    const uint16_t h = FloatToHalf(v);
    const auto* bytes = type == TensorType::kF16 ? reinterpret_cast<const uint8_t*>(&h)
                                                 : reinterpret_cast<const uint8_t*>(&v);
    out.insert(out.end(), bytes, bytes + TraitsOf(type)->bytes);
  }
  return out;
}

// A matrix in GGUF layout.
std::vector<uint8_t> Weights(TensorType type, const Shape& shape, Fill fill, Numbers& numbers) {
  const TypeTraits traits = *TraitsOf(type);
  const auto elements = static_cast<size_t>(shape.n_out * shape.k);
  if (!ops::IsQuantised(type)) return FloatWeights(type, elements, fill, numbers);
  std::vector<uint8_t> out = numbers.Bytes(elements / traits.elements * traits.bytes);
  const bool lowest = fill == Fill::kLowest;
  const bool bytes = type == TensorType::kQ8_0;
  if (lowest) std::fill(out.begin(), out.end(), bytes ? uint8_t{0x80} : uint8_t{0});
  if (fill == Fill::kHighest)
    std::fill(out.begin(), out.end(), bytes ? uint8_t{0x7f} : uint8_t{0xff});
  for (size_t block = 0; block < out.size(); block += traits.bytes) {
    if (type == TensorType::kQ6_K && (lowest || fill == Fill::kHighest)) {
      std::memset(&out[block + 192], lowest ? 0x80 : 0x7f, 16);
    }
    for (const size_t offset : ScaleOffsets(type)) {
      const uint16_t h = Scale(fill, numbers);
      std::memcpy(&out[block + offset], &h, 2);
    }
  }
  return out;
}

// Rows with zero blocks, tiny, large and, where there are several, one with an infinity and one
// with a NaN.
std::vector<float> Rows(const Shape& shape, Fill fill, Numbers& numbers) {
  std::vector<float> x = numbers.Floats(static_cast<size_t>(shape.rows * shape.k), 2);
  if (fill == Fill::kHighest || fill == Fill::kLowest) {
    std::fill(x.begin(), x.end(), fill == Fill::kHighest ? 3.0f : -3.0f);
    return x;
  }
  if (fill == Fill::kNormal) return x;
  for (int64_t r = 0; r < shape.rows; ++r) {
    float* row = x.data() + r * shape.k;
    for (int64_t b = 0; b * 32 + 32 <= shape.k; ++b) {
      const float scale[] = {1, 0, 1e-33f, 1e-29f, 1e20f, 1e-3f, 1e-39f, -0.0f};
      for (int64_t i = 0; i < 32; ++i) row[b * 32 + i] *= scale[numbers.Below(8)];
    }
    if (r % 4 == 2) row[shape.k / 2] = std::numeric_limits<float>::infinity();
    if (r % 4 == 3) row[shape.k - 1] = std::nanf("");
  }
  return x;
}

class MatMulKernels : public KernelTest {
 protected:
  cuda::DeviceMatrix Matrix(TensorType type, const Shape& shape, const std::vector<uint8_t>& gguf) {
    const uint64_t bytes = cuda::MatrixBytes(type, shape.n_out, shape.k);
    auto* data = device_->Alloc<uint8_t>(bytes, "weights");
    const absl::Status packed = cuda::PackMatrix(
        type, shape.n_out, shape.k,
        [&](uint64_t offset, std::span<uint8_t> to) {
          std::memcpy(to.data(), gguf.data() + offset, to.size());
          return absl::OkStatus();
        },
        [&](uint64_t offset, std::span<const uint8_t> part) {
          return device_->memory().Write(reinterpret_cast<uint64_t>(data) + offset, part.data(),
                                         part.size());
        });
    EXPECT_TRUE(packed.ok()) << packed;
    return {type, shape.n_out, shape.k, data};
  }

  cuda::DeviceRows RowsOf(bool quantised, const Shape& shape, const std::vector<float>& x,
                          int64_t stride) {
    cuda::DeviceRows rows{quantised, shape.rows, shape.k, nullptr};
    rows.data = device_->Alloc<uint8_t>(cuda::RowsBytes(quantised, shape.rows, shape.k), "rows");
    EXPECT_LAUNCH(cuda::AssignRows(*device_, device_->Upload(x, "x"), stride, rows));
    return rows;
  }

  std::vector<float> Reference(TensorType type, const Shape& shape,
                               const std::vector<uint8_t>& gguf, const std::vector<float>& x) {
    auto w = ops::PackedMatrix::Pack(Isa::kScalar, type, shape.n_out, shape.k,
                                     [&](uint64_t offset, std::span<uint8_t> to) {
                                       std::memcpy(to.data(), gguf.data() + offset, to.size());
                                       return absl::OkStatus();
                                     });
    EXPECT_TRUE(w.ok()) << w.status();
    ops::ActRows rows;
    rows.Assign(Isa::kScalar, pool_, x.data(), shape.rows, shape.k, shape.k,
                ops::IsQuantised(type));
    std::vector<float> out(static_cast<size_t>(shape.rows * shape.n_out));
    ops::MatMul(pool_, *w, rows, out.data(), shape.n_out);
    return out;
  }

  // `multiprocessors`: 1 makes every product fill the device, so that many rows go to tiles; a huge
  // number, none.
  void Check(TensorType type, const Shape& shape, Fill fill, int multiprocessors) {
    Numbers numbers(static_cast<uint64_t>(shape.rows * 1000003 + shape.n_out * 1009 + shape.k));
    const std::vector<uint8_t> gguf = Weights(type, shape, fill, numbers);
    const std::vector<float> x = Rows(shape, fill, numbers);
    const cuda::DeviceMatrix w = Matrix(type, shape, gguf);
    const cuda::DeviceRows rows = RowsOf(w.wants_quantised(), shape, x, shape.k);
    // Another stride than n_out: what lies between must stay as it is.
    const int64_t stride = shape.n_out + 3;
    std::vector<float> out(static_cast<size_t>(shape.rows * stride), 7.0f);
    float* to = device_->Upload(out, "out");
    const cuda::Target target{GetParam().level, multiprocessors};
    EXPECT_LAUNCH(cuda::MatMul(*device_, target, w, rows, {to, stride}));
    const std::vector<float> want = Reference(type, shape, gguf, x);
    for (int64_t r = 0; r < shape.rows; ++r) {
      std::copy_n(want.begin() + r * shape.n_out, shape.n_out, out.begin() + r * stride);
    }
    EXPECT_TRUE(SameBits(Down(to, out.size()), out))
        << TraitsOf(type)->name << ", " << shape.rows << " rows, " << shape.n_out << " x "
        << shape.k << ", fill " << static_cast<int>(fill) << ", " << multiprocessors
        << " multiprocessors";
  }

  ops::ThreadPool pool_{1};
};
INSTANTIATE_KERNELS(MatMulKernels);

constexpr int kFull = 1;         // any product fills the device
constexpr int kEmpty = 1 << 30;  // none does

int64_t Fit(TensorType type, int64_t k) {
  const int64_t unit = TraitsOf(type)->elements;
  return (k + unit - 1) / unit * unit;
}

TEST_P(MatMulKernels, QuantisedRowsAreTheReference) {
  for (const Shape& shape :
       {Shape{1, 1, 96}, Shape{3, 1, 320}, Shape{11, 1, 32}, Shape{8, 1, 64}}) {
    Numbers numbers(static_cast<uint64_t>(shape.rows));
    std::vector<float> x = Rows(shape, Fill::kHuge, numbers);
    x[0] = 0x1p-100f;  // the border below which a block is zero
    x[static_cast<size_t>(shape.k - 32)] = 3.0e38f;
    // A stride that is no multiple of four: rows that cannot be read 16 bytes at once.
    const int64_t stride = shape.k + shape.rows % 4;
    std::vector<float> strided(static_cast<size_t>(shape.rows * stride), 1.0f);
    for (int64_t r = 0; r < shape.rows; ++r) {
      std::copy_n(x.begin() + r * shape.k, shape.k, strided.begin() + r * stride);
    }
    const cuda::DeviceRows rows = RowsOf(true, shape, strided, stride);
    const int64_t n_blocks = shape.k / 32,
                  columns = shape.rows == 3 ? 4 : std::min<int64_t>(8, shape.rows);
    const int64_t blocks = (shape.rows + columns - 1) / columns * columns * n_blocks;
    ASSERT_EQ(cuda::RowsBytes(true, shape.rows, shape.k), static_cast<uint64_t>(blocks * 40));
    const std::vector<uint8_t> q = Down(rows.data, static_cast<size_t>(blocks * 32));
    const std::vector<float> scales =
        Down(reinterpret_cast<float*>(rows.data + blocks * 32), static_cast<size_t>(blocks * 2));
    for (int64_t at = 0; at < blocks; ++at) {
      const int64_t r = at / n_blocks, b = at % n_blocks;
      ops::ActBlock want{};
      if (r < shape.rows) ops::QuantiseBlock(x.data() + r * shape.k + b * 32, &want);
      int64_t position = b / 8;
      for (int64_t p = 0; p < b % 8; ++p) position += (n_blocks - p + 7) / 8;
      const int64_t unit = r / columns * n_blocks + position;
      for (int64_t i = 0; i < 32; ++i) {
        ASSERT_EQ(static_cast<int8_t>(q[static_cast<size_t>(
                      ((unit * 2 + i / 16) * columns + r % columns) * 16 + i % 16)]),
                  want.q[i])
            << shape.rows << " rows, row " << r << " block " << b << " element " << i;
      }
      EXPECT_TRUE(SameFloat(scales[static_cast<size_t>(unit * columns + r % columns)], want.d))
          << r << " " << b;
      EXPECT_TRUE(
          SameFloat(scales[static_cast<size_t>(blocks + unit * columns + r % columns)], want.s))
          << r << " " << b;
    }
  }
}

TEST_P(MatMulKernels, FewRows) {
  const Shape shapes[] = {{1, 16, 32}, {1, 33, 288}, {2, 17, 96},  {3, 5, 576},
                          {4, 16, 64}, {5, 31, 256}, {8, 32, 512}, {1, 3, 2048}};
  for (const TensorType type : kQuantised) {
    for (Shape shape : shapes) {
      shape.k = Fit(type, shape.k);
      Check(type, shape, Fill::kNormal, kFull);
    }
  }
}

TEST_P(MatMulKernels, SomeRows) {
  const Shape shapes[] = {{9, 33, 96}, {16, 32, 32}, {17, 7, 288}, {33, 50, 576}};
  for (const TensorType type : kQuantised) {
    for (Shape shape : shapes) {
      shape.k = Fit(type, shape.k);
      Check(type, shape, Fill::kNormal, kEmpty);
    }
  }
}

TEST_P(MatMulKernels, ManyRows) {
  const Shape shapes[] = {{33, 130, 32}, {64, 128, 288},  {65, 37, 96},
                          {40, 16, 576}, {130, 129, 320}, {128, 16, 64}};
  for (const TensorType type : kQuantised) {
    for (Shape shape : shapes) {
      shape.k = Fit(type, shape.k);
      Check(type, shape, Fill::kNormal, kFull);
    }
  }
}

TEST_P(MatMulKernels, ExtremeBlocks) {
  for (const TensorType type : kQuantised) {
    for (const Fill fill : {Fill::kHighest, Fill::kLowest, Fill::kDenormal, Fill::kHuge}) {
      Check(type, {4, 18, 256}, fill, kFull);
      Check(type, {10, 18, 256}, fill, kFull);
      Check(type, {34, 18, 256}, fill, kFull);
      Check(type, {66, 18, 256}, fill, kFull);
    }
  }
}

TEST_P(MatMulKernels, Floats) {
  const Shape shapes[] = {{1, 16, 32}, {1, 33, 289}, {2, 17, 5},    {3, 5, 576},  {7, 31, 256},
                          {8, 32, 95}, {9, 20, 300}, {33, 30, 100}, {65, 130, 77}};
  for (const TensorType type : kFloats) {
    for (const Shape& shape : shapes) Check(type, shape, Fill::kNormal, kFull);
    Check(type, {4, 18, 256}, Fill::kDenormal, kFull);
    Check(type, {34, 18, 288}, Fill::kHuge, kFull);
    Check(type, {34, 18, 288}, Fill::kHuge, kEmpty);
  }
}

// What docs/gpu.md says of memory: few rows read hardly more than the weights, many rows meet no
// bank conflicts.
TEST_P(MatMulKernels, TrafficIsAsDesigned) {
  const bool print = std::getenv("LANYARD_PRINT_COUNTERS") != nullptr;
  const int64_t k = print ? 2048 : 512;
  for (const TensorType type :
       {TensorType::kQ4_0, TensorType::kQ4_1, TensorType::kQ5_0, TensorType::kQ8_0,
        TensorType::kQ4_K, TensorType::kQ6_K, TensorType::kF32, TensorType::kF16}) {
    for (const Shape& shape : {Shape{1, 64, k}, Shape{8, 64, k}, Shape{16, 64, k}, Shape{32, 64, k},
                               Shape{64, 128, k}, Shape{128, 128, k}}) {
      Numbers numbers(1);
      const cuda::DeviceMatrix w =
          Matrix(type, shape, Weights(type, shape, Fill::kNormal, numbers));
      const cuda::DeviceRows rows =
          RowsOf(w.wants_quantised(), shape, Rows(shape, Fill::kNormal, numbers), k);
      auto* out = device_->Alloc<float>(static_cast<size_t>(shape.rows * shape.n_out), "out");
      device_->counters() = Counters();
      EXPECT_LAUNCH(cuda::MatMul(*device_, {GetParam().level, kFull}, w, rows, {out, shape.n_out}));
      const Counters& c = device_->counters();
      const double weight_bytes = static_cast<double>(cuda::MatrixBytes(type, shape.n_out, k));
      const double read = static_cast<double>(c.global_read_sectors) * 32 / weight_bytes;
      const std::string name =
          std::string(TraitsOf(type)->name) + ", " + std::to_string(shape.rows) + " rows";
      if (print) {
        const double blocks = static_cast<double>(shape.n_out * k) / 32;
        std::printf(
            "%s %-16s read %.2f x weights, %.2f lane instructions a block of output and row, %llu "
            "conflicts of %llu\n",
            GetParam().Name().c_str(), name.c_str(), read,
            static_cast<double>(c.warp_instructions) * 32 / blocks /
                static_cast<double>(shape.rows),
            static_cast<unsigned long long>(c.shared_conflicts),
            static_cast<unsigned long long>(c.shared_requests));
      }
      if (shape.rows == 1) {
        EXPECT_LT(read, 1.7) << name;
      }
      const bool tensor_cores = ops::IsQuantised(type) && shape.rows > 8 && GetParam().level >= 75;
      EXPECT_EQ(c.mma > 0, tensor_cores) << name;
      EXPECT_EQ(c.dp4a > 0, ops::IsQuantised(type) && !tensor_cores) << name;
      EXPECT_EQ(c.async_copies > 0, tensor_cores && shape.rows > 32 && GetParam().level >= 80)
          << name;
      EXPECT_LE(c.shared_conflicts * 20, c.shared_requests) << name;
    }
  }
}

TEST_P(MatMulKernels, MisfitsAreRefused) {
  const cuda::Target target{GetParam().level, 1};
  const cuda::DeviceMatrix w{TensorType::kQ4_0, 16, 64, nullptr};
  EXPECT_EQ(cuda::MatMul(*device_, target, w, {true, 1, 32, nullptr}, {nullptr, 16}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(cuda::MatMul(*device_, target, w, {false, 1, 64, nullptr}, {nullptr, 16}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(cuda::AssignRows(*device_, nullptr, 64, {true, 1, 48, nullptr}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(cuda::MatMul(*device_, target, w, {true, 0, 64, nullptr}, {nullptr, 16}).ok());
}

}  // namespace
}  // namespace lanyard::ptx
