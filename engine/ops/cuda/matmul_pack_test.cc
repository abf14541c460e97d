// Re-laid weights give back the blocks that the format defines (DecodeBlock, the definition).
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/half.h"
#include "engine/ops/cuda/matmul.h"
#include "engine/ops/cuda/matmul_layout.h"

namespace lanyard::ops::cuda {
namespace {

constexpr TensorType kTypes[] = {TensorType::kF32,  TensorType::kF16,  TensorType::kQ4_0,
                                 TensorType::kQ4_1, TensorType::kQ5_0, TensorType::kQ8_0,
                                 TensorType::kQ4_K, TensorType::kQ6_K};

struct Gguf {
  TensorType type;
  int64_t n_out, k;
  uint64_t row_bytes;
  std::vector<uint8_t> bytes;
};

Gguf RandomMatrix(TensorType type, int64_t n_out, int64_t k) {
  const TypeTraits traits = *TraitsOf(type);
  Gguf out{type, n_out, k, static_cast<uint64_t>(k) / traits.elements * traits.bytes, {}};
  out.bytes.resize(static_cast<size_t>(n_out) * out.row_bytes);
  std::mt19937 gen(static_cast<uint32_t>(k) + static_cast<uint32_t>(type));
  for (uint8_t& b : out.bytes) b = static_cast<uint8_t>(gen());
  return out;
}

absl::StatusOr<std::vector<uint8_t>> Packed(const Gguf& m) {
  std::vector<uint8_t> out;
  const auto read = [&](uint64_t offset, std::span<uint8_t> to) {
    EXPECT_LE(to.size(), uint64_t{1} << 20);
    EXPECT_LE(offset + to.size(), m.bytes.size());
    std::memcpy(to.data(), m.bytes.data() + offset, to.size());
    return absl::OkStatus();
  };
  const auto write = [&](uint64_t offset, std::span<const uint8_t> bytes) {
    EXPECT_EQ(offset, out.size()) << "without gaps";
    out.insert(out.end(), bytes.begin(), bytes.end());
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(PackMatrix(m.type, m.n_out, m.k, read, write));
  return out;
}

// Where a row of a block lies, as matmul_args.h says it.
struct UnitView {
  const uint8_t* tile;
  const uint8_t* unit;
  int64_t row;    // in the tile
  int64_t super;  // index of the super block

  int Byte(int64_t at) const { return unit[at]; }
  float Half(int64_t at) const { return HalfToFloat(LoadUnaligned<uint16_t>(unit + at)); }
  int Nibble(int64_t plane, int64_t i) const {
    return (unit[plane + row * 16 + i % 16] >> (i < 16 ? 0 : 4)) & 15;
  }
};

int Signed(int value, int bits) { return value >= 1 << (bits - 1) ? value - (1 << bits) : value; }

WeightBlock Unpacked(TensorType type, const UnitView& v) {
  WeightBlock out{};
  const int64_t r = v.row;
  out.d = v.Half(2 * r);
  for (int64_t i = 0; i < 32; ++i) {
    const int64_t half = i / 16, j = i % 16 / 4, byte = i % 4;
    switch (type) {
      case TensorType::kQ4_0:
        out.w[i] = Signed(v.Nibble(32, i), 4);
        break;
      case TensorType::kQ4_1:
        out.d = v.Half(4 * r);
        out.m = v.Half(4 * r + 2);
        out.w[i] = v.Nibble(64, i);
        break;
      case TensorType::kQ5_0:
        out.w[i] = Signed(v.Nibble(96, i) | (v.Byte(32 + 4 * r + byte) >> (i / 4) & 1) << 4, 5);
        break;
      case TensorType::kQ8_0:
        out.w[i] = Signed(v.Byte(32 + (half * 16 + r) * 16 + i % 16), 8);
        break;
      case TensorType::kQ4_K: {
        const uint8_t* header = v.tile + v.super * 64 + 4 * r;
        out.d = HalfToFloat(LoadUnaligned<uint16_t>(header)) * static_cast<float>(v.Byte(2 * r));
        out.m = -(HalfToFloat(LoadUnaligned<uint16_t>(header + 2)) *
                  static_cast<float>(v.Byte(2 * r + 1)));
        out.w[i] = v.Nibble(32, i);
        break;
      }
      case TensorType::kQ6_K: {
        const int pair = v.Byte(32 + 8 * r + 4 * half + byte) >> (2 * j) & 3;
        out.d = HalfToFloat(LoadUnaligned<uint16_t>(v.tile + v.super * 32 + 2 * r));
        out.w[i] = Signed(v.Nibble(160, i) | pair << 4, 6) * Signed(v.Byte(2 * r + half), 8);
        break;
      }
      default:
        break;
    }
  }
  return out;
}

class BlocksTest : public testing::TestWithParam<TensorType> {};
class FloatsTest : public testing::TestWithParam<TensorType> {};
std::string TypeNameOf(const testing::TestParamInfo<TensorType>& info) {
  return std::string(TraitsOf(info.param)->name);
}
INSTANTIATE_TEST_SUITE_P(Pack, FloatsTest, testing::Values(TensorType::kF32, TensorType::kF16),
                         TypeNameOf);
INSTANTIATE_TEST_SUITE_P(Pack, BlocksTest,
                         testing::Values(TensorType::kQ4_0, TensorType::kQ4_1, TensorType::kQ5_0,
                                         TensorType::kQ8_0, TensorType::kQ4_K, TensorType::kQ6_K),
                         TypeNameOf);

int64_t PositionOf(int64_t n_blocks, int64_t b) {
  int64_t position = 0;
  for (int64_t p = 0; p < kPartials; ++p) {
    for (int64_t at = p; at < n_blocks; at += kPartials, ++position) {
      if (at == b) return position;
    }
  }
  return -1;
}

TEST_P(BlocksTest, ComeBack) {
  const TensorType type = GetParam();
  for (const int64_t n_out : {1, 16, 37}) {
    const int64_t k = TraitsOf(type)->elements == 256 ? 768 : 352;
    const Gguf m = RandomMatrix(type, n_out, k);
    const auto packed = Packed(m);
    ASSERT_TRUE(packed.ok()) << packed.status();
    ASSERT_EQ(packed->size(), MatrixBytes(type, n_out, k));
    for (int64_t o = 0; o < n_out; ++o) {
      for (int64_t b = 0; b < k / 32; ++b) {
        const uint8_t* tile = packed->data() + static_cast<uint64_t>(o / 16) * TileBytes(type, k);
        const uint8_t* unit = tile + HeaderBytes(type, k) +
                              static_cast<uint64_t>(PositionOf(k / 32, b)) * UnitBytes(type);
        const WeightBlock got = Unpacked(type, {tile, unit, o % 16, b / 8});
        WeightBlock want;
        DecodeBlock(type, m.bytes.data() + static_cast<uint64_t>(o) * m.row_bytes, b, &want);
        ASSERT_EQ(0, std::memcmp(got.w, want.w, sizeof(got.w))) << "row " << o << " block " << b;
        ASSERT_EQ(0, std::memcmp(&got.d, &want.d, 4)) << "row " << o << " block " << b;
        if (HasMinimum(type)) {
          ASSERT_EQ(0, std::memcmp(&got.m, &want.m, 4)) << "row " << o << " block " << b;
        }
      }
    }
  }
}

TEST_P(FloatsTest, LieInChunks) {
  const TensorType type = GetParam();
  const int64_t k = 75, n_out = 19, bytes = TraitsOf(type)->bytes, of_chunk = 16 / bytes;
  const Gguf m = RandomMatrix(type, n_out, k);
  const auto packed = Packed(m);
  ASSERT_TRUE(packed.ok()) << packed.status();
  for (int64_t o = 0; o < n_out; ++o) {
    for (int64_t e = 0; e < 96; ++e) {
      const uint8_t* unit = packed->data() + static_cast<uint64_t>(o / 16) * TileBytes(type, k) +
                            static_cast<uint64_t>(PositionOf(3, e / 32)) * UnitBytes(type);
      const uint8_t* got = unit + (e % 32 / of_chunk * 16 + o % 16) * 16 + e % of_chunk * bytes;
      const uint8_t zero[4] = {};
      const uint8_t* want =
          e < k ? m.bytes.data() + static_cast<uint64_t>(o) * m.row_bytes + e * bytes : zero;
      ASSERT_EQ(0, std::memcmp(got, want, static_cast<size_t>(bytes)))
          << "row " << o << " element " << e;
    }
  }
}

TEST(Pack, IsAsLargeAsTheFile) {
  for (const TensorType type : kTypes) {
    const TypeTraits traits = *TraitsOf(type);
    const double file = 4096.0 * 4096 / traits.elements * traits.bytes;
    const double ratio = static_cast<double>(MatrixBytes(type, 4096, 4096)) / file;
    EXPECT_DOUBLE_EQ(ratio, type == TensorType::kQ4_K ? 148.0 / 144 : 1.0) << traits.name;
  }
}

TEST(Pack, LargeMatricesComeInParts) {
  const Gguf m = RandomMatrix(TensorType::kQ8_0, 700, 4096);  // 3 MB
  const auto packed = Packed(m);
  ASSERT_TRUE(packed.ok()) << packed.status();
  EXPECT_EQ(packed->size(), MatrixBytes(TensorType::kQ8_0, 700, 4096));
}

TEST(Pack, RefusesShapesAndTypesWithoutKernels) {
  const auto pack = [](TensorType type, int64_t n_out, int64_t k) {
    return PackMatrix(
        type, n_out, k, [](uint64_t, std::span<uint8_t>) { return absl::OkStatus(); },
        [](uint64_t, std::span<const uint8_t>) { return absl::OkStatus(); });
  };
  EXPECT_EQ(pack(TensorType::kQ3_K, 16, 256).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(pack(TensorType::kQ4_0, 16, 48).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(pack(TensorType::kQ4_K, 16, 224).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(pack(TensorType::kF32, 0, 32).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(pack(TensorType::kF32, 16, int64_t{1} << 40).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(Pack, ErrorsOfReadingAndWritingComeBack) {
  const auto ok_read = [](uint64_t, std::span<uint8_t>) { return absl::OkStatus(); };
  const auto ok_write = [](uint64_t, std::span<const uint8_t>) { return absl::OkStatus(); };
  EXPECT_EQ(PackMatrix(
                TensorType::kQ4_0, 16, 32,
                [](uint64_t, std::span<uint8_t>) { return NotFound("gone"); }, ok_write)
                .code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(PackMatrix(TensorType::kQ4_0, 16, 32, ok_read,
                       [](uint64_t, std::span<const uint8_t>) { return NotFound("x"); })
                .code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace lanyard::ops::cuda
