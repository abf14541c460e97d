// The insides of ActRows and PackedMatrix, for matmul*.cc only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/ops/matmul.h"
#include "engine/ops/matmul_impl.h"
#include "engine/ops/quant.h"

namespace lanyard::ops {

// Zeroed memory that starts on a cache line; from 2 MiB up it lies on huge pages where the system
// gives them (there are fewer TLB misses, and a killed process frees them quickly). Null when
// memory is refused.
struct BufferFree {
  uint64_t size_bytes = 0;
  void operator()(uint8_t* p) const;
};
using Buffer = std::unique_ptr<uint8_t[], BufferFree>;
Buffer AllocateBuffer(uint64_t size_bytes);

struct ActRows::Impl {
  Isa isa = Isa::kScalar;
  bool quantised = false;
  int64_t rows = 0;
  int64_t k = 0;
  int64_t n_blocks = 0;
  // For kScalar:
  std::vector<ActBlock> blocks;  // [row][block]
  std::vector<float> floats;     // [row][k]
  // For the others:
  int64_t groups = 0;
  Buffer records;
  uint64_t capacity_bytes = 0;

  int64_t FirstColumn(int64_t group) const {
    return group * (rows / groups) + std::min(group, rows % groups);
  }
  int Columns(int64_t group) const {
    return static_cast<int>(rows / groups + (group < rows % groups ? 1 : 0));
  }
  int64_t RecordBytes() const { return quantised ? kQuantRecordBytes : kFloatRecordBytes; }
  uint8_t* Group(int64_t group) const {
    return records.get() + FirstColumn(group) * n_blocks * RecordBytes();
  }
};

struct PackedMatrix::Impl {
  Isa isa = Isa::kScalar;
  TensorType type = TensorType::kF32;
  int64_t n_out = 0;
  int64_t k = 0;
  int64_t n_blocks = 0;
  int64_t tiles = 0;
  uint64_t tile_bytes = 0;
  uint64_t row_bytes = 0;  // bytes of a row in GGUF layout
  Buffer data;
};

// The kernels of an ISA other than kScalar.
const KernelTable& KernelsOf(Isa isa);

// Packs 16 rows of GGUF layout (of which `rows` exist, `row_bytes` apart) into a zeroed tile.
void PackTile(TensorType type, const uint8_t* src, uint64_t row_bytes, int64_t rows, int64_t k,
              uint8_t* tile);
uint64_t TileBytes(TensorType type, int64_t k);

}  // namespace lanyard::ops
