// Re-lays GGUF weights for the kernels (layout: matmul_args.h).
#include <algorithm>
#include <cstring>
#include <vector>

#include "base/bytes.h"
#include "engine/ops/cuda/matmul.h"
#include "engine/ops/cuda/matmul_layout.h"

namespace lanyard::ops::cuda {
namespace {

constexpr uint64_t kReadBytes = 1 << 20;
constexpr int64_t kRows = kTileOutputs;
constexpr uint32_t kLowNibbles = 0x0f0f0f0f;
constexpr uint32_t kTopOfNibbles = 0x88888888;

uint32_t Load32(const uint8_t* p) { return LoadUnaligned<uint32_t>(p); }
void Store32(uint8_t* p, uint32_t v) { std::memcpy(p, &v, 4); }

// Makes a row's 16 bytes of nibbles from the block's eight dwords of values 0..15, one a byte.
void StoreNibbles(const uint32_t groups[8], uint8_t* q, int64_t r) {
  for (int j = 0; j < 4; ++j) Store32(q + r * 16 + j * 4, groups[j] | (groups[j + 4] << 4));
}

void PackQ4_0(const uint8_t* p, int64_t r, uint8_t* unit) {
  std::memcpy(unit + 2 * r, p, 2);
  for (int j = 0; j < 4; ++j)
    Store32(unit + 32 + r * 16 + j * 4, Load32(p + 2 + 4 * j) ^ kTopOfNibbles);
}

void PackQ4_1(const uint8_t* p, int64_t r, uint8_t* unit) {
  std::memcpy(unit + 4 * r, p, 4);
  std::memcpy(unit + 64 + r * 16, p + 4, 16);
}

void PackQ5_0(const uint8_t* p, int64_t r, uint8_t* unit) {
  std::memcpy(unit + 2 * r, p, 2);
  const uint32_t bits = ~Load32(p + 2);
  uint32_t high = 0;
  for (int element = 0; element < 32; ++element) {
    high |= ((bits >> element) & 1) << (8 * (element % 4) + element / 4);
  }
  Store32(unit + 32 + 4 * r, high);
  std::memcpy(unit + 96 + r * 16, p + 6, 16);
}

void PackQ8_0(const uint8_t* p, int64_t r, uint8_t* unit) {
  std::memcpy(unit + 2 * r, p, 2);
  std::memcpy(unit + 32 + r * 16, p + 2, 16);
  std::memcpy(unit + 32 + (kRows + r) * 16, p + 18, 16);
}

void PackQ4K(const uint8_t* super, int64_t sub, int64_t r, uint8_t* unit) {
  const uint8_t* s = super + 4;
  if (sub < 4) {
    unit[2 * r] = s[sub] & 63;
    unit[2 * r + 1] = s[sub + 4] & 63;
  } else {
    unit[2 * r] = static_cast<uint8_t>((s[sub + 4] & 0xf) | ((s[sub - 4] >> 6) << 4));
    unit[2 * r + 1] = static_cast<uint8_t>((s[sub + 4] >> 4) | ((s[sub] >> 6) << 4));
  }
  uint32_t groups[8];
  for (int j = 0; j < 8; ++j) {
    groups[j] = (Load32(super + 16 + 32 * (sub / 2) + 4 * j) >> (sub % 2 * 4)) & kLowNibbles;
  }
  StoreNibbles(groups, unit + 32, r);
}

void PackQ6K(const uint8_t* super, int64_t sub, int64_t r, uint8_t* unit) {
  const int64_t column = sub % 4;
  const uint8_t* ql = super + 64 * (sub / 4) + 32 * (column % 2);
  const uint8_t* qh = super + 128 + 32 * (sub / 4);
  std::memcpy(unit + 2 * r, super + 192 + 2 * sub, 2);
  uint32_t groups[8];
  uint32_t high[2] = {0, 0};
  for (int j = 0; j < 8; ++j) {
    groups[j] = (Load32(ql + 4 * j) >> (column / 2 * 4)) & kLowNibbles;
    const uint32_t pairs = ((Load32(qh + 4 * j) >> (2 * column)) & 0x03030303) ^ 0x02020202;
    high[j / 4] |= pairs << (2 * (j % 4));
  }
  Store32(unit + 32 + 8 * r, high[0]);
  Store32(unit + 32 + 8 * r + 4, high[1]);
  StoreNibbles(groups, unit + 160, r);
}

// Packs a block of a float row: 16 bytes of every row lie side by side. `bytes` of the row exist.
void PackFloats(const uint8_t* src, uint64_t bytes, int64_t r, uint8_t* unit) {
  for (uint64_t at = 0; at < bytes; at += 16) {
    std::memcpy(unit + at * kTileOutputs + r * 16, src + at, std::min<uint64_t>(16, bytes - at));
  }
}

void PackBlock(TensorType type, const uint8_t* row, int64_t k, int64_t b, PackedBlock to) {
  const auto [r, unit] = to;
  switch (type) {
    case TensorType::kF32:
      return PackFloats(row + b * 128, static_cast<uint64_t>(std::min<int64_t>(32, k - b * 32)) * 4,
                        r, unit);
    case TensorType::kF16:
      return PackFloats(row + b * 64, static_cast<uint64_t>(std::min<int64_t>(32, k - b * 32)) * 2,
                        r, unit);
    case TensorType::kQ4_0:
      return PackQ4_0(row + b * 18, r, unit);
    case TensorType::kQ4_1:
      return PackQ4_1(row + b * 20, r, unit);
    case TensorType::kQ5_0:
      return PackQ5_0(row + b * 22, r, unit);
    case TensorType::kQ8_0:
      return PackQ8_0(row + b * 34, r, unit);
    case TensorType::kQ4_K:
      return PackQ4K(row + b / 8 * 144, b % 8, r, unit);
    case TensorType::kQ6_K:
      return PackQ6K(row + b / 8 * 210, b % 8, r, unit);
    default:
      return;
  }
}

void PackHeader(TensorType type, const uint8_t* row, int64_t supers, int64_t r, uint8_t* header) {
  for (int64_t s = 0; s < supers; ++s) {
    if (type == TensorType::kQ4_K) std::memcpy(header + s * 64 + 4 * r, row + s * 144, 4);
    if (type == TensorType::kQ6_K) std::memcpy(header + s * 32 + 2 * r, row + s * 210 + 208, 2);
  }
}

absl::Status CheckShape(TensorType type, int64_t n_out, int64_t k) {
  const auto traits = TraitsOf(type);
  if (!traits || UnitBytes(type) == 0) {
    return InvalidArgument("no CUDA kernels for tensor type ",
                           traits ? AbslView(traits->name) : "unknown",
                           "; convert the model to one of F32 F16 Q4_0 Q4_1 Q5_0 Q8_0 Q4_K Q6_K");
  }
  if (n_out <= 0 || k <= 0 || k > kMaxK || n_out > kMaxOutputs) {
    return InvalidArgument("matrix of ", n_out, " x ", k,
                           " elements is empty or above the kernels' limit of ", kMaxOutputs, " x ",
                           kMaxK);
  }
  if (k % traits->elements != 0) {
    return InvalidArgument("matrix of type ", AbslView(traits->name), " has rows of ", k,
                           " elements; they must be a multiple of ", traits->elements);
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t UnitBytes(TensorType type) {
  switch (type) {
    case TensorType::kF32:
      return 2048;
    case TensorType::kF16:
      return 1024;
    case TensorType::kQ4_0:
    case TensorType::kQ4_K:
      return 288;
    case TensorType::kQ4_1:
      return 320;
    case TensorType::kQ5_0:
      return 352;
    case TensorType::kQ8_0:
      return 544;
    case TensorType::kQ6_K:
      return 416;
    default:
      return 0;
  }
}

uint64_t HeaderBytes(TensorType type, int64_t k) {
  const auto supers = static_cast<uint64_t>(k / kSuperBlock);
  if (type == TensorType::kQ4_K) return supers * 64;
  if (type == TensorType::kQ6_K) return supers * 32;
  return 0;
}

uint64_t TileBytes(TensorType type, int64_t k) {
  return HeaderBytes(type, k) + static_cast<uint64_t>(BlockCount(k)) * UnitBytes(type);
}

void PackTile(TensorType type, const TileSource& source, int64_t k, uint8_t* tile) {
  uint8_t* units = tile + HeaderBytes(type, k);
  const int64_t n_blocks = BlockCount(k);
  for (int64_t r = 0; r < source.rows; ++r) {
    const uint8_t* row = source.data + static_cast<uint64_t>(r) * source.row_bytes;
    PackHeader(type, row, k / kSuperBlock, r, tile);
    uint8_t* unit = units;
    for (int64_t p = 0; p < kPartials; ++p) {
      for (int64_t b = p; b < n_blocks; b += kPartials, unit += UnitBytes(type))
        PackBlock(type, row, k, b, {r, unit});
    }
  }
}

uint64_t MatrixBytes(TensorType type, int64_t n_out, int64_t k) {
  return static_cast<uint64_t>((n_out + kRows - 1) / kRows) * TileBytes(type, k);
}

absl::Status PackMatrix(TensorType type, int64_t n_out, int64_t k, const PackedMatrix::Reader& read,
                        const MatrixWriter& write) {
  RETURN_IF_ERROR(CheckShape(type, n_out, k));
  const TypeTraits traits = *TraitsOf(type);
  const uint64_t row_bytes = static_cast<uint64_t>(k) / traits.elements * traits.bytes;
  const uint64_t tile_bytes = TileBytes(type, k);
  const int64_t tiles = (n_out + kRows - 1) / kRows;
  const int64_t tiles_a_read =
      std::clamp<int64_t>(static_cast<int64_t>(kReadBytes / (row_bytes * kTileOutputs)), 1, tiles);
  std::vector<uint8_t> source(row_bytes * static_cast<uint64_t>(tiles_a_read * kRows));
  std::vector<uint8_t> packed(tile_bytes * static_cast<uint64_t>(tiles_a_read));
  for (int64_t first = 0; first < tiles; first += tiles_a_read) {
    const int64_t row_begin = first * kRows;
    const int64_t row_end = std::min(n_out, row_begin + tiles_a_read * kRows);
    const std::span<uint8_t> part(source.data(),
                                  static_cast<uint64_t>(row_end - row_begin) * row_bytes);
    RETURN_IF_ERROR(read(static_cast<uint64_t>(row_begin) * row_bytes, part));
    std::fill(packed.begin(), packed.end(), uint8_t{0});
    uint64_t bytes = 0;
    for (int64_t row = row_begin; row < row_end; row += kRows, bytes += tile_bytes) {
      const TileSource tile{part.data() + static_cast<uint64_t>(row - row_begin) * row_bytes,
                            row_bytes, std::min(kRows, row_end - row)};
      PackTile(type, tile, k, packed.data() + bytes);
    }
    RETURN_IF_ERROR(write(static_cast<uint64_t>(first) * tile_bytes, {packed.data(), bytes}));
  }
  return absl::OkStatus();
}

}  // namespace lanyard::ops::cuda
