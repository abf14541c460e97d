#include "engine/ops/matmul.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/half.h"
#include "engine/ops/quant.h"

namespace lanyard::ops {
namespace {

constexpr TensorType kTypes[] = {TensorType::kF32,  TensorType::kF16,  TensorType::kQ4_0,
                                 TensorType::kQ4_1, TensorType::kQ5_0, TensorType::kQ8_0,
                                 TensorType::kQ4_K, TensorType::kQ6_K};

// How a matrix or the activations are filled.
enum class Fill { kNormal, kZero, kAllOnes, kAllLow, kRandomBits, kHuge, kDenormal };

struct Matrix {
  TensorType type;
  int64_t n_out;
  int64_t k;
  std::vector<uint8_t> bytes;
  uint64_t row_bytes;

  const uint8_t* row(int64_t o) const {
    return bytes.data() + static_cast<uint64_t>(o) * row_bytes;
  }
};

// Byte offsets of a block's f16 fields.
std::vector<size_t> HalfOffsets(TensorType type) {
  if (type == TensorType::kQ6_K) return {208};
  if (HasMinimum(type)) return {0, 2};
  return {0};
}

uint16_t RandomScale(Fill fill, std::mt19937& gen) {
  std::normal_distribution<float> normal;
  switch (fill) {
    case Fill::kZero:
      return 0;
    case Fill::kHuge:
      return FloatToHalf(60000.0f * (gen() % 2 ? 1 : -1));
    case Fill::kDenormal:
      return static_cast<uint16_t>((gen() & 0x8000) | (gen() % 1024));
    case Fill::kRandomBits:
      return static_cast<uint16_t>(gen() % 0x7c00 | (gen() & 0x8000));
    default:
      return FloatToHalf(0.02f * normal(gen));
  }
}

Matrix MakeMatrix(TensorType type, int64_t n_out, int64_t k, Fill fill, uint32_t seed) {
  std::mt19937 gen(seed);
  std::normal_distribution<float> normal;
  const TypeTraits traits = *TraitsOf(type);
  Matrix m{type, n_out, k, {}, static_cast<uint64_t>(k) / traits.elements * traits.bytes};
  m.bytes.resize(static_cast<size_t>(n_out) * m.row_bytes);
  if (type == TensorType::kF32) {
    for (size_t at = 0; at < m.bytes.size(); at += 4) {
      float v = normal(gen);
      if (fill == Fill::kHuge) v *= 1e37f;
      if (fill == Fill::kDenormal) v *= 1e-40f;
      if (fill == Fill::kZero) v = 0;
      std::memcpy(&m.bytes[at], &v, 4);
    }
    return m;
  }
  if (type == TensorType::kF16) {
    for (size_t at = 0; at < m.bytes.size(); at += 2) {
      const uint16_t h = fill == Fill::kNormal ? FloatToHalf(normal(gen)) : RandomScale(fill, gen);
      std::memcpy(&m.bytes[at], &h, 2);
    }
    return m;
  }
  for (uint8_t& b : m.bytes) b = static_cast<uint8_t>(gen());
  if (fill == Fill::kAllOnes) std::fill(m.bytes.begin(), m.bytes.end(), uint8_t{0xff});
  if (fill == Fill::kAllLow) {  // the lowest value of each format
    std::fill(m.bytes.begin(), m.bytes.end(),
              type == TensorType::kQ8_0 ? uint8_t{0x80} : uint8_t{0});
  }
  for (size_t block = 0; block < m.bytes.size(); block += traits.bytes) {
    if (type == TensorType::kQ6_K && (fill == Fill::kAllLow || fill == Fill::kAllOnes)) {
      std::memset(&m.bytes[block + 192], fill == Fill::kAllLow ? 0x80 : 0x7f,
                  16);  // sub-scales -128 and 127
    }
    for (size_t offset : HalfOffsets(type)) {
      const uint16_t h = RandomScale(fill, gen);
      std::memcpy(&m.bytes[block + offset], &h, 2);
    }
  }
  return m;
}

std::vector<float> MakeRows(int64_t rows, int64_t k, Fill fill, uint32_t seed) {
  std::mt19937 gen(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(rows * k));
  for (float& v : x) {
    v = normal(gen);
    switch (fill) {
      case Fill::kZero:
        v = 0;
        break;
      case Fill::kAllOnes:
        v = 3;
        break;
      case Fill::kAllLow:
        v = -3;
        break;
      case Fill::kHuge:
        v *= 5e37f;
        break;
      case Fill::kDenormal:
        v *= 1e-39f;
        break;
      case Fill::kRandomBits:  // any finite magnitude in turn, with zero blocks between
        v = std::ldexp(v, static_cast<int>(gen() % 200) - 120);
        break;
      case Fill::kNormal:
        break;
    }
  }
  if (fill == Fill::kRandomBits) {
    for (size_t at = 0; at + kBlock <= x.size(); at += 3 * kBlock)
      std::fill_n(x.begin() + static_cast<int64_t>(at), kBlock, 0.0f);
  }
  return x;
}

PackedMatrix Pack(Isa isa, const Matrix& m, int64_t n_out) {
  auto packed =
      PackedMatrix::Pack(isa, m.type, n_out, m.k, [&](uint64_t offset, std::span<uint8_t> out) {
        std::memcpy(out.data(), m.bytes.data() + offset, out.size());
        return absl::OkStatus();
      });
  EXPECT_TRUE(packed.ok()) << packed.status();
  return std::move(*packed);
}

// [rows][n_out]; what is behind an output row must stay as it was.
std::vector<float> Product(Isa isa, ThreadPool& pool, const PackedMatrix& w, const float* x,
                           int64_t rows, int64_t stride) {
  ActRows act;
  act.Assign(isa, pool, x, rows, w.k(), stride, w.wants_quantised());
  EXPECT_EQ(act.rows(), rows);
  const int64_t out_stride = w.n_out() + 3;
  std::vector<float> padded(static_cast<size_t>(rows * out_stride), -12345.0f);
  MatMul(pool, w, act, padded.data(), out_stride);
  std::vector<float> out;
  for (int64_t r = 0; r < rows; ++r) {
    const auto row = padded.begin() + r * out_stride;
    out.insert(out.end(), row, row + w.n_out());
    for (int64_t i = w.n_out(); i < out_stride; ++i) EXPECT_EQ(row[i], -12345.0f);
  }
  return out;
}

// The same bits; a NaN equals any NaN.
bool Same(float a, float b) {
  return LoadUnaligned<uint32_t>(&a) == LoadUnaligned<uint32_t>(&b) ||
         (std::isnan(a) && std::isnan(b));
}

// Compares with the leading rows and outputs of a larger product.
void ExpectPart(const std::vector<float>& got, const std::vector<float>& all, int64_t rows,
                int64_t n_out, int64_t all_n_out, const std::string& what) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t o = 0; o < n_out; ++o) {
      const float expected = all[static_cast<size_t>(r * all_n_out + o)];
      const float value = got[static_cast<size_t>(r * n_out + o)];
      ASSERT_TRUE(Same(value, expected))
          << what << " row " << r << " output " << o << ": " << value << " not " << expected;
    }
  }
}

std::vector<int64_t> Lengths(TensorType type) {
  const int64_t block = TraitsOf(type)->elements;
  if (block == 256) return {256, 512, 1024, 2048};
  if (block == 32) return {32, 64, 160, 256, 576, 1024, 2048};
  return {1, 31, 32, 33, 100, 160, 256, 576, 1000, 2048};
}

class MatMulTest : public testing::TestWithParam<TensorType> {
 protected:
  static std::string Name() { return std::string(TraitsOf(GetParam())->name); }
};
INSTANTIATE_TEST_SUITE_P(Types, MatMulTest, testing::ValuesIn(kTypes), [](const auto& param) {
  return std::string(TraitsOf(param.param)->name);
});

// One scalar product of 65 rows and 48 outputs holds every smaller one: so this shows, too, that
// neither other rows nor other outputs nor the number of threads change a result.
TEST_P(MatMulTest, EveryIsaShapeAndThreadCountGivesTheSameBits) {
  ThreadPool pools[] = {ThreadPool(1), ThreadPool(2), ThreadPool(3)};
  int next_pool = 0;
  for (int64_t k : Lengths(GetParam())) {
    const Matrix m = MakeMatrix(GetParam(), 48, k, Fill::kNormal, 3);
    const int64_t stride = k + 5;
    const std::vector<float> x = MakeRows(65, stride, Fill::kNormal, 4);
    const std::vector<float> all =
        Product(Isa::kScalar, pools[0], Pack(Isa::kScalar, m, 48), x.data(), 65, stride);
    for (Isa isa : RunnableIsas()) {
      for (int64_t n_out : {1, 15, 16, 17, 48}) {
        const PackedMatrix packed = Pack(isa, m, n_out);
        for (int64_t rows : {1, 2, 3, 7, 8, 32, 65}) {
          if (isa == Isa::kScalar && rows > 8) continue;
          const std::vector<float> got =
              Product(isa, pools[next_pool++ % 3], packed, x.data(), rows, stride);
          ExpectPart(got, all, rows, n_out, 48,
                     Name() + " " + IsaName(isa) + " k " + std::to_string(k) + " n " +
                         std::to_string(n_out) + " rows " + std::to_string(rows));
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// A row gives the same wherever it stands in the batch.
TEST_P(MatMulTest, PlaceInTheBatchDoesNotMatter) {
  ThreadPool pool(2);
  const int64_t k = 512;
  const Matrix m = MakeMatrix(GetParam(), 33, k, Fill::kNormal, 5);
  const std::vector<float> x = MakeRows(23, k, Fill::kNormal, 6);
  for (Isa isa : RunnableIsas()) {
    const PackedMatrix packed = Pack(isa, m, 33);
    const std::vector<float> all = Product(isa, pool, packed, x.data(), 23, k);
    for (int64_t r = 0; r < 23; ++r) {
      const std::vector<float> one = Product(isa, pool, packed, x.data() + r * k, 1, k);
      for (int64_t o = 0; o < 33; ++o) {
        ASSERT_TRUE(Same(one[static_cast<size_t>(o)], all[static_cast<size_t>(r * 33 + o)]))
            << Name() << IsaName(isa);
      }
    }
  }
}

// Saturation, overflow, underflow: where a kernel's shortcut would show.
TEST_P(MatMulTest, ExtremeBlocksGiveTheSameBits) {
  ThreadPool pool(1);
  const int64_t k = 768, rows = 9, n_out = 20;
  const Fill fills[] = {Fill::kNormal,     Fill::kZero, Fill::kAllOnes, Fill::kAllLow,
                        Fill::kRandomBits, Fill::kHuge, Fill::kDenormal};
  for (Fill weights : fills) {
    const Matrix m = MakeMatrix(GetParam(), n_out, k, weights, 7);
    const PackedMatrix reference = Pack(Isa::kScalar, m, n_out);
    for (Fill acts : fills) {
      const std::vector<float> x = MakeRows(rows, k, acts, 8);
      const std::vector<float> expected = Product(Isa::kScalar, pool, reference, x.data(), rows, k);
      for (Isa isa : RunnableIsas()) {
        const std::vector<float> got = Product(isa, pool, Pack(isa, m, n_out), x.data(), rows, k);
        ExpectPart(got, expected, rows, n_out, n_out,
                   Name() + " " + IsaName(isa) + " weights " +
                       std::to_string(static_cast<int>(weights)) + " rows " +
                       std::to_string(static_cast<int>(acts)));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(MatMulTest, RandomShapesAndBits) {
  std::mt19937 gen(9);
  ThreadPool pool(2);
  const int64_t block = TraitsOf(GetParam())->elements;
  for (int round = 0; round < 40; ++round) {
    const int64_t k = block == 1 ? 1 + static_cast<int64_t>(gen() % 700)
                                 : block * (1 + static_cast<int64_t>(gen() % (1200 / block)));
    const int64_t n_out = 1 + gen() % 70, rows = 1 + gen() % 40;
    const Fill fill = gen() % 2 ? Fill::kRandomBits : Fill::kNormal;
    const Matrix m = MakeMatrix(GetParam(), n_out, k, fill, gen());
    const std::vector<float> x = MakeRows(rows, k, fill, gen());
    const std::vector<float> expected =
        Product(Isa::kScalar, pool, Pack(Isa::kScalar, m, n_out), x.data(), rows, k);
    for (Isa isa : RunnableIsas()) {
      ExpectPart(Product(isa, pool, Pack(isa, m, n_out), x.data(), rows, k), expected, rows, n_out,
                 n_out, Name() + " " + IsaName(isa) + " round " + std::to_string(round));
      if (HasFatalFailure()) return;
    }
  }
}

// NaN and infinity stay in their row.
TEST_P(MatMulTest, NotANumberStaysInItsRow) {
  ThreadPool pool(1);
  const int64_t k = 256, n_out = 18;
  const Matrix m = MakeMatrix(GetParam(), n_out, k, Fill::kNormal, 10);
  std::vector<float> x = MakeRows(5, k, Fill::kNormal, 11);
  x[static_cast<size_t>(1 * k + 70)] = std::numeric_limits<float>::quiet_NaN();
  x[static_cast<size_t>(3 * k + 200)] = -std::numeric_limits<float>::infinity();
  for (Isa isa : RunnableIsas()) {
    const std::vector<float> out = Product(isa, pool, Pack(isa, m, n_out), x.data(), 5, k);
    for (int64_t r = 0; r < 5; ++r) {
      for (int64_t o = 0; o < n_out; ++o) {
        EXPECT_EQ(std::isfinite(out[static_cast<size_t>(r * n_out + o)]), r != 1 && r != 3)
            << Name() << IsaName(isa);
      }
    }
  }
}

// Against a double-precision product of the dequantised weights: within what 8-bit activations may
// lose, and, with the quantised activations, within f32 rounding.
TEST_P(MatMulTest, IsAccurate) {
  ThreadPool pool(1);
  const int64_t k = 2048, n_out = 16, rows = 4;
  const Matrix m = MakeMatrix(GetParam(), n_out, k, Fill::kNormal, 12);
  const std::vector<float> x = MakeRows(rows, k, Fill::kNormal, 13);
  const std::vector<float> out =
      Product(Isa::kScalar, pool, Pack(Isa::kScalar, m, n_out), x.data(), rows, k);
  std::vector<float> w(static_cast<size_t>(k));
  for (int64_t o = 0; o < n_out; ++o) {
    DequantizeRow(m.type, m.row(o), k, w.data());
    for (int64_t r = 0; r < rows; ++r) {
      double exact = 0, lossy = 0, magnitude = 0, bound = 0;
      for (int64_t b = 0; b < k / kBlock; ++b) {
        ActBlock act;
        QuantiseBlock(&x[static_cast<size_t>(r * k + b * kBlock)], &act);
        for (int64_t i = 0; i < kBlock; ++i) {
          const double weight = w[static_cast<size_t>(b * kBlock + i)];
          const double value = x[static_cast<size_t>(r * k + b * kBlock + i)];
          exact += weight * value;
          lossy += weight * act.q[i] * act.d;
          magnitude += std::abs(weight * value);
          bound += std::abs(weight) * act.d * 0.50001;
        }
      }
      const double got = out[static_cast<size_t>(r * n_out + o)];
      if (IsQuantised(m.type)) {
        EXPECT_LE(std::abs(got - exact), bound) << Name();
        EXPECT_LE(std::abs(got - lossy), 1e-6 * magnitude + 1e-6) << Name();
      } else {
        EXPECT_LE(std::abs(got - exact), 1e-6 * magnitude) << Name();
      }
    }
  }
}

// Guards the numerics version: these change only together with kNumericsVersion and
// docs/numerics.md.
TEST_P(MatMulTest, ResultsOfNumericsVersionOne) {
  uint32_t state = 12345;
  const auto next = [&state] { return state = state * 1664525u + 1013904223u; };
  const int64_t k = 768, n_out = 7, rows = 3;
  const TypeTraits traits = *TraitsOf(GetParam());
  Matrix m{GetParam(), n_out, k, {}, static_cast<uint64_t>(k) / traits.elements * traits.bytes};
  m.bytes.resize(static_cast<size_t>(n_out) * m.row_bytes);
  for (uint8_t& b : m.bytes) b = static_cast<uint8_t>(next() >> 24);
  for (size_t at = 0; at < m.bytes.size(); at += traits.bytes) {
    const float value = static_cast<float>(next() >> 8) * 0x1p-24f - 0.5f;
    if (m.type == TensorType::kF32) std::memcpy(&m.bytes[at], &value, 4);
    const uint16_t half = FloatToHalf(value);
    if (m.type == TensorType::kF32) continue;
    for (size_t offset : HalfOffsets(m.type)) std::memcpy(&m.bytes[at + offset], &half, 2);
  }
  std::vector<float> x(static_cast<size_t>(rows * k));
  for (float& v : x) v = static_cast<float>(next() >> 8) * 0x1p-23f - 1.0f;
  ThreadPool pool(1);
  uint64_t hash = 14695981039346656037ull;
  for (float v : Product(Isa::kScalar, pool, Pack(Isa::kScalar, m, n_out), x.data(), rows, k)) {
    hash = (hash ^ LoadUnaligned<uint32_t>(&v)) * 1099511628211ull;
  }
  const uint64_t expected = [] {
    switch (GetParam()) {
      case TensorType::kF32:
        return 0x9a30e446bd683e87ull;
      case TensorType::kF16:
        return 0xf6506ab0272039acull;
      case TensorType::kQ4_0:
        return 0xdfad1d7425630176ull;
      case TensorType::kQ4_1:
        return 0x8e79df8b08d9aab1ull;
      case TensorType::kQ5_0:
        return 0x756217efbcd570f7ull;
      case TensorType::kQ8_0:
        return 0x5cf769dfc2fb7221ull;
      case TensorType::kQ4_K:
        return 0x380af5d39044f80bull;
      case TensorType::kQ6_K:
        return 0x25b6680edbedd1e6ull;
      default:
        return 0ull;
    }
  }();
  EXPECT_EQ(hash, expected) << Name() << " gives 0x" << std::hex << hash;
}

TEST_P(MatMulTest, PackReadsEveryByteOnceInBoundedPieces) {
  const int64_t n_out = 700, k = 4096;
  const Matrix m = MakeMatrix(GetParam(), n_out, k, Fill::kNormal, 14);
  for (Isa isa : RunnableIsas()) {
    uint64_t at = 0, largest = 0;
    auto packed =
        PackedMatrix::Pack(isa, m.type, n_out, k, [&](uint64_t offset, std::span<uint8_t> out) {
          EXPECT_EQ(offset, at);
          at += out.size();
          largest = std::max<uint64_t>(largest, out.size());
          EXPECT_LE(at, m.bytes.size());
          std::memcpy(out.data(), m.bytes.data() + offset, out.size());
          return absl::OkStatus();
        });
    ASSERT_TRUE(packed.ok());
    EXPECT_EQ(at, m.bytes.size());
    EXPECT_LE(largest, uint64_t{1} << 20);
    EXPECT_EQ(packed->bytes(), PackedMatrix::PackedBytes(m.type, n_out, k));
    EXPECT_EQ(packed->n_out(), n_out);
    EXPECT_EQ(packed->k(), k);
    EXPECT_EQ(packed->type(), m.type);
    // 700 rows become 704; Q4_K's scales take 16 bits instead of 12.
    EXPECT_LT(static_cast<double>(packed->bytes()), static_cast<double>(m.bytes.size()) * 1.04);
  }
}

TEST(PackedMatrix, ErrorsOfTheReaderComeBack) {
  for (Isa isa : RunnableIsas()) {
    auto packed = PackedMatrix::Pack(
        isa, TensorType::kQ8_0, 64, 64,
        [](uint64_t, std::span<uint8_t>) { return absl::DataLossError("cut off"); });
    EXPECT_EQ(packed.status().code(), absl::StatusCode::kDataLoss);
  }
}

TEST(PackedMatrix, BadShapesAndTypesAreRefused) {
  const auto pack = [](TensorType type, int64_t n_out, int64_t k) {
    return PackedMatrix::Pack(BestIsa(), type, n_out, k,
                              [](uint64_t, std::span<uint8_t>) { return absl::OkStatus(); })
        .status();
  };
  EXPECT_THAT(std::string(pack(TensorType::kQ2_K, 16, 256).message()), testing::HasSubstr("Q2_K"));
  EXPECT_EQ(pack(static_cast<TensorType>(99), 16, 256).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(pack(TensorType::kQ4_0, 16, 33).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(pack(TensorType::kQ4_K, 16, 288).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(pack(TensorType::kQ4_0, 0, 32).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(pack(TensorType::kQ4_0, 16, 0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(pack(TensorType::kQ4_0, -1, 32).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(pack(TensorType::kF32, int64_t{1} << 40, int64_t{1} << 30).code(),
            absl::StatusCode::kInvalidArgument);
  // 4 TiB: refused by most systems, else by the reader.
  const absl::Status huge =
      PackedMatrix::Pack(BestIsa(), TensorType::kF32, int64_t{1} << 38, 4,
                         [](uint64_t, std::span<uint8_t>) { return absl::AbortedError(""); })
          .status();
  EXPECT_TRUE(absl::IsResourceExhausted(huge) || absl::IsAborted(huge)) << huge;
}

// Memory of an ActRows is kept and used again for other shapes.
TEST(ActRows, ReuseForOtherShapes) {
  ThreadPool pool(2);
  for (Isa isa : RunnableIsas()) {
    ActRows act;
    for (const auto& [rows, k, type] :
         {std::tuple<int64_t, int64_t, TensorType>{40, 256, TensorType::kQ4_0},
          {3, 1024, TensorType::kF32},
          {1, 32, TensorType::kQ8_0},
          {90, 512, TensorType::kQ5_0},
          {0, 64, TensorType::kQ8_0},
          {5, 77, TensorType::kF16}}) {
      const Matrix m = MakeMatrix(type, 17, k, Fill::kNormal, 15);
      const std::vector<float> x = MakeRows(rows, k, Fill::kNormal, 16);
      const PackedMatrix packed = Pack(isa, m, 17);
      act.Assign(isa, pool, x.data(), rows, k, k, packed.wants_quantised());
      std::vector<float> out(static_cast<size_t>(rows * 17));
      MatMul(pool, packed, act, out.data(), 17);
      EXPECT_EQ(out, Product(isa, pool, packed, x.data(), rows, k));
    }
  }
}

}  // namespace
}  // namespace lanyard::ops
