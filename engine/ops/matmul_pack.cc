// Re-lays GGUF weights into tiles (layout: matmul_impl.h).
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/bytes.h"
#include "engine/ops/matmul_state.h"

namespace lanyard::ops {
namespace {

constexpr uint64_t kHugePageBytes = 2 << 20;
constexpr uint64_t kReadBytes = 1 << 20;
constexpr uint32_t kLowNibbles = 0x0f0f0f0f;

int64_t BlockCount(int64_t k) { return (k + kBlock - 1) / kBlock; }

// The bytes of 16 rows of one block of 32.
uint64_t TileBlockBytes(TensorType type) {
  switch (type) {
    case TensorType::kF32:
      return 32 * 16 * 4;
    case TensorType::kF16:
      return 32 * 16 * 2;
    case TensorType::kQ4_0:
      return 32 + 256;
    case TensorType::kQ4_1:
      return 64 + 256;
    case TensorType::kQ5_0:
      return 32 + 64 + 256;
    case TensorType::kQ8_0:
      return 32 + 512;
    case TensorType::kQ4_K:
      return 32 + 256;
    case TensorType::kQ6_K:
      return 32 + 128 + 256;
    default:
      return 0;
  }
}

uint64_t TileHeaderBytes(TensorType type, int64_t k) {
  const uint64_t super_blocks = static_cast<uint64_t>(k / kSuperBlock);
  if (type == TensorType::kQ4_K) return super_blocks * 64;
  if (type == TensorType::kQ6_K) return super_blocks * 32;
  return 0;
}

uint32_t Load32(const uint8_t* p) { return LoadUnaligned<uint32_t>(p); }
void Store32(uint8_t* p, uint32_t v) { std::memcpy(p, &v, 4); }

// Makes the four nibble lines of one row from groups 0..7, which are dwords with one value of 0..15
// a byte.
void StoreNibbles(const uint32_t groups[8], uint8_t* nibbles, int64_t r) {
  for (int j = 0; j < 4; ++j) Store32(nibbles + j * 64 + r * 4, groups[j] | (groups[j + 4] << 4));
}

void PackQ4(const uint8_t* p, int64_t scale_bytes, int64_t r, uint8_t* dst) {
  for (int64_t i = 0; i < scale_bytes; i += 2) std::memcpy(dst + 16 * i + 2 * r, p + i, 2);
  // A GGUF byte already holds elements i and i + 16.
  for (int j = 0; j < 4; ++j) {
    std::memcpy(dst + 16 * scale_bytes + j * 64 + r * 4, p + scale_bytes + 4 * j, 4);
  }
}

void PackQ5_0(const uint8_t* p, int64_t r, uint8_t* dst) {
  std::memcpy(dst + 2 * r, p, 2);
  const uint32_t bits = Load32(p + 2);
  uint32_t high = 0;
  for (int element = 0; element < 32; ++element) {
    high |= ((bits >> element) & 1) << (8 * (element % 4) + element / 4);
  }
  Store32(dst + 32 + 4 * r, high);
  for (int j = 0; j < 4; ++j) std::memcpy(dst + 96 + j * 64 + r * 4, p + 6 + 4 * j, 4);
}

void PackQ8_0(const uint8_t* p, int64_t r, uint8_t* dst) {
  std::memcpy(dst + 2 * r, p, 2);
  for (int j = 0; j < 8; ++j)
    Store32(dst + 32 + j * 64 + r * 4, Load32(p + 2 + 4 * j) ^ 0x80808080);
}

void PackQ4K(const uint8_t* super, int64_t sub, int64_t r, uint8_t* dst) {
  const uint8_t* s = super + 4;
  if (sub < 4) {
    dst[r] = s[sub] & 63;
    dst[16 + r] = s[sub + 4] & 63;
  } else {
    dst[r] = static_cast<uint8_t>((s[sub + 4] & 0xf) | ((s[sub - 4] >> 6) << 4));
    dst[16 + r] = static_cast<uint8_t>((s[sub + 4] >> 4) | ((s[sub] >> 6) << 4));
  }
  uint32_t groups[8];
  for (int j = 0; j < 8; ++j) {
    groups[j] = (Load32(super + 16 + 32 * (sub / 2) + 4 * j) >> (sub % 2 * 4)) & kLowNibbles;
  }
  StoreNibbles(groups, dst + 32, r);
}

void PackQ6K(const uint8_t* super, int64_t sub, int64_t r, uint8_t* dst) {
  const int64_t column = sub % 4;
  const uint8_t* ql = super + 64 * (sub / 4) + 32 * (column % 2);
  const uint8_t* qh = super + 128 + 32 * (sub / 4);
  dst[r] = super[192 + 2 * sub];
  dst[16 + r] = super[192 + 2 * sub + 1];
  uint32_t groups[8];
  uint32_t high[2] = {0, 0};
  for (int j = 0; j < 8; ++j) {
    groups[j] = (Load32(ql + 4 * j) >> (column / 2 * 4)) & kLowNibbles;
    const uint32_t pairs = (Load32(qh + 4 * j) >> (2 * column)) & 0x03030303;
    high[j / 4] |= pairs << (2 * (j % 4));
  }
  Store32(dst + 32 + 4 * r, high[0]);
  Store32(dst + 96 + 4 * r, high[1]);
  StoreNibbles(groups, dst + 160, r);
}

// Packs one block of up to 16 rows, written in order.
template <typename Element>
void PackFloats(const uint8_t* src, uint64_t row_bytes, int64_t rows, int64_t n, uint8_t* dst) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(
          dst + (i * kTileRows + r) * static_cast<int64_t>(sizeof(Element)),
          src + static_cast<uint64_t>(r) * row_bytes + static_cast<uint64_t>(i) * sizeof(Element),
          sizeof(Element));
    }
  }
}

void PackRowBlock(TensorType type, const uint8_t* row, int64_t b, int64_t r, uint8_t* dst) {
  switch (type) {
    case TensorType::kQ4_0:
      return PackQ4(row + b * 18, 2, r, dst);
    case TensorType::kQ4_1:
      return PackQ4(row + b * 20, 4, r, dst);
    case TensorType::kQ5_0:
      return PackQ5_0(row + b * 22, r, dst);
    case TensorType::kQ8_0:
      return PackQ8_0(row + b * 34, r, dst);
    case TensorType::kQ4_K:
      return PackQ4K(row + b / 8 * 144, b % 8, r, dst);
    case TensorType::kQ6_K:
      return PackQ6K(row + b / 8 * 210, b % 8, r, dst);
    default:
      return;
  }
}

}  // namespace

void BufferFree::operator()(uint8_t* p) const {
  if (size_bytes >= kHugePageBytes) {
    munmap(p, size_bytes);
  } else {
    std::free(p);
  }
}

Buffer AllocateBuffer(uint64_t size_bytes) {
  if (size_bytes < kHugePageBytes) {
    const uint64_t rounded = (std::max<uint64_t>(size_bytes, 1) + 63) / 64 * 64;
    auto* p = static_cast<uint8_t*>(std::aligned_alloc(64, rounded));
    if (p == nullptr) return Buffer(nullptr, BufferFree{});
    std::memset(p, 0, rounded);
    return Buffer(p, BufferFree{rounded});
  }
  const uint64_t size = (size_bytes + 4095) / 4096 * 4096;
  // A huge page starts at a multiple of its size: map more, give the ends back.
  const uint64_t mapped = size + kHugePageBytes;
  void* base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return Buffer(nullptr, BufferFree{});
  auto* start = static_cast<uint8_t*>(base);
  const uint64_t skip =
      (kHugePageBytes - reinterpret_cast<uintptr_t>(base) % kHugePageBytes) % kHugePageBytes;
  if (skip > 0) munmap(start, skip);
  if (mapped - skip > size) munmap(start + skip + size, mapped - skip - size);
  // Only whole huge pages are asked for, so that no more memory is held than wanted. A system
  // without them refuses, which does no harm.
  (void)madvise(start + skip, size / kHugePageBytes * kHugePageBytes, MADV_HUGEPAGE);
  return Buffer(start + skip, BufferFree{size});
}

uint64_t TileBytes(TensorType type, int64_t k) {
  return TileHeaderBytes(type, k) + static_cast<uint64_t>(BlockCount(k)) * TileBlockBytes(type);
}

void PackTile(TensorType type, const uint8_t* src, uint64_t row_bytes, int64_t rows, int64_t k,
              uint8_t* tile) {
  const int64_t n_blocks = BlockCount(k);
  const int64_t supers = k / kSuperBlock;
  uint8_t* header = tile;
  uint8_t* blocks = tile + TileHeaderBytes(type, k);
  const uint64_t block_bytes = TileBlockBytes(type);
  for (int64_t r = 0; r < rows; ++r) {
    const uint8_t* row = src + static_cast<uint64_t>(r) * row_bytes;
    for (int64_t s = 0; s < supers; ++s) {
      if (type == TensorType::kQ4_K) {
        std::memcpy(header + s * 32 + 2 * r, row + s * 144, 2);
        std::memcpy(header + (supers + s) * 32 + 2 * r, row + s * 144 + 2, 2);
      } else if (type == TensorType::kQ6_K) {
        std::memcpy(header + s * 32 + 2 * r, row + s * 210 + 208, 2);
      }
    }
  }
  int64_t position = 0;
  for (int64_t p = 0; p < kPartials; ++p) {
    for (int64_t b = p; b < n_blocks; b += kPartials, ++position) {
      uint8_t* dst = blocks + static_cast<uint64_t>(position) * block_bytes;
      const int64_t n = std::min(kBlock, k - b * kBlock);
      if (type == TensorType::kF32) {
        PackFloats<uint32_t>(src + b * kBlock * 4, row_bytes, rows, n, dst);
        continue;
      }
      if (type == TensorType::kF16) {
        PackFloats<uint16_t>(src + b * kBlock * 2, row_bytes, rows, n, dst);
        continue;
      }
      for (int64_t r = 0; r < rows; ++r) {
        PackRowBlock(type, src + static_cast<uint64_t>(r) * row_bytes, b, r, dst);
      }
    }
  }
}

uint64_t PackedMatrix::PackedBytes(TensorType type, int64_t n_out, int64_t k) {
  return static_cast<uint64_t>((n_out + kTileRows - 1) / kTileRows) * TileBytes(type, k);
}

namespace {

absl::Status CheckShape(TensorType type, int64_t n_out, int64_t k) {
  const auto traits = TraitsOf(type);
  if (!traits || !traits->computable) {
    return InvalidArgument("no kernels for tensor type ",
                           traits ? AbslView(traits->name) : "unknown",
                           "; convert the model to one of F32 F16 Q4_0 Q4_1 Q5_0 Q8_0 Q4_K Q6_K");
  }
  // With at most 2^40 elements, sizes in bytes stay far from overflow.
  if (n_out <= 0 || k <= 0 || n_out > (int64_t{1} << 40) / k) {
    return InvalidArgument("matrix of ", n_out, " x ", k,
                           " elements is empty or above the limit of 2^40");
  }
  if (k % traits->elements != 0) {
    return InvalidArgument("matrix of type ", AbslView(traits->name), " has rows of ", k,
                           " elements; they must be a multiple of ", traits->elements);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PackedMatrix> PackedMatrix::Pack(Isa isa, TensorType type, int64_t n_out, int64_t k,
                                                const Reader& read) {
  RETURN_IF_ERROR(CheckShape(type, n_out, k));
  PackedMatrix out;
  Impl& impl = *out.impl_;
  impl.isa = isa;
  impl.type = type;
  impl.n_out = n_out;
  impl.k = k;
  impl.n_blocks = BlockCount(k);
  impl.tiles = (n_out + kTileRows - 1) / kTileRows;
  impl.tile_bytes = TileBytes(type, k);
  const auto traits = *TraitsOf(type);
  impl.row_bytes = static_cast<uint64_t>(k) / traits.elements * traits.bytes;
  const uint64_t size_bytes = PackedBytes(type, n_out, k);
  impl.data = AllocateBuffer(size_bytes);
  if (!impl.data) {
    return ResourceExhausted("out of memory: ", size_bytes, " bytes for a matrix of ", n_out, " x ",
                             k, "; free memory or give this machine fewer layers");
  }
  if (isa == Isa::kScalar) {
    const uint64_t total = static_cast<uint64_t>(n_out) * impl.row_bytes;
    for (uint64_t at = 0; at < total; at += kReadBytes) {
      RETURN_IF_ERROR(read(at, {impl.data.get() + at, std::min(kReadBytes, total - at)}));
    }
    return out;
  }
  const uint64_t source_tile_bytes = impl.row_bytes * kTileRows;
  const int64_t tiles_a_read =
      std::max<int64_t>(1, static_cast<int64_t>(kReadBytes / source_tile_bytes));
  std::vector<uint8_t> buffer(source_tile_bytes *
                              static_cast<uint64_t>(std::min(tiles_a_read, impl.tiles)));
  for (int64_t first = 0; first < impl.tiles; first += tiles_a_read) {
    const int64_t row_begin = first * kTileRows;
    const int64_t row_end = std::min(n_out, row_begin + tiles_a_read * kTileRows);
    const std::span<uint8_t> part(buffer.data(),
                                  static_cast<uint64_t>(row_end - row_begin) * impl.row_bytes);
    RETURN_IF_ERROR(read(static_cast<uint64_t>(row_begin) * impl.row_bytes, part));
    for (int64_t row = row_begin; row < row_end; row += kTileRows) {
      PackTile(type, part.data() + static_cast<uint64_t>(row - row_begin) * impl.row_bytes,
               impl.row_bytes, std::min(kTileRows, row_end - row), k,
               impl.data.get() + static_cast<uint64_t>(row / kTileRows) * impl.tile_bytes);
    }
  }
  return out;
}

}  // namespace lanyard::ops
