// Checks, dispatch and the scalar reference, which is the definition of a product
// (docs/numerics.md, "Products").
#include "engine/ops/matmul.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "engine/ops/matmul_state.h"

namespace lanyard::ops {
namespace {

// The bytes of activations that are walked for every tile before the next tile: they should stay in
// the second-level cache.
constexpr int64_t kColumnChunkBytes = 384 << 10;
// A unit of work walks at least this many bytes of weights, so that dealing costs little beside it.
constexpr int64_t kUnitBytes = 32 << 10;

void Require(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "matmul: precondition broken: %s\n", what);
  std::abort();
}

float SumPartials(const float* partials) {
  float total = 0;
  for (int64_t p = 0; p < kPartials; ++p) total += partials[p];
  return total;
}

// Computes one output of every row of `a`, for quantised weights.
void ScalarQuantisedOutput(const PackedMatrix::Impl& w, const ActRows::Impl& a, int64_t o,
                           float* out, int64_t out_stride) {
  std::vector<float> partials(static_cast<size_t>(a.rows * kPartials), 0.0f);
  const uint8_t* row = w.data.get() + static_cast<uint64_t>(o) * w.row_bytes;
  const bool has_minimum = HasMinimum(w.type);
  WeightBlock block;
  for (int64_t b = 0; b < w.n_blocks; ++b) {
    DecodeBlock(w.type, row, b, &block);
    for (int64_t r = 0; r < a.rows; ++r) {
      const ActBlock& act = a.blocks[static_cast<size_t>(r * a.n_blocks + b)];
      int32_t sum = 0;
      for (int64_t i = 0; i < kBlock; ++i) sum += block.w[i] * act.q[i];
      float& partial = partials[static_cast<size_t>(r * kPartials + b % kPartials)];
      partial = std::fma(static_cast<float>(sum), block.d * act.d, partial);
      if (has_minimum) partial = std::fma(block.m, act.s, partial);
    }
  }
  for (int64_t r = 0; r < a.rows; ++r)
    out[r * out_stride + o] = SumPartials(&partials[static_cast<size_t>(r * kPartials)]);
}

// Does the same for float weights, with the elements of a block in order.
void ScalarFloatOutput(const PackedMatrix::Impl& w, const ActRows::Impl& a, int64_t o, float* out,
                       int64_t out_stride) {
  std::vector<float> partials(static_cast<size_t>(a.rows * kPartials), 0.0f);
  const uint8_t* row = w.data.get() + static_cast<uint64_t>(o) * w.row_bytes;
  float block[kBlock];
  for (int64_t b = 0; b < w.n_blocks; ++b) {
    const int64_t n = std::min(kBlock, w.k - b * kBlock);
    DecodeFloats(w.type, row, b * kBlock, n, block);
    for (int64_t r = 0; r < a.rows; ++r) {
      const float* x = &a.floats[static_cast<size_t>(r * a.k + b * kBlock)];
      float partial = partials[static_cast<size_t>(r * kPartials + b % kPartials)];
      for (int64_t i = 0; i < n; ++i) partial = std::fma(block[i], x[i], partial);
      partials[static_cast<size_t>(r * kPartials + b % kPartials)] = partial;
    }
  }
  for (int64_t r = 0; r < a.rows; ++r)
    out[r * out_stride + o] = SumPartials(&partials[static_cast<size_t>(r * kPartials)]);
}

void ScalarMatMul(ThreadPool& pool, const PackedMatrix::Impl& w, const ActRows::Impl& a, float* out,
                  int64_t out_stride) {
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, w.k * a.rows));
  pool.For(w.n_out, grain, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      if (a.quantised) {
        ScalarQuantisedOutput(w, a, o, out, out_stride);
      } else {
        ScalarFloatOutput(w, a, o, out, out_stride);
      }
    }
  });
}

}  // namespace

const KernelTable& KernelsOf(Isa isa) {
  return isa == Isa::kAvx512 ? Avx512Kernels() : Avx2Kernels();
}

ActRows::ActRows() : impl_(std::make_unique<Impl>()) {}
ActRows::~ActRows() = default;
ActRows::ActRows(ActRows&&) noexcept = default;
ActRows& ActRows::operator=(ActRows&&) noexcept = default;
int64_t ActRows::rows() const { return impl_->rows; }
int64_t ActRows::k() const { return impl_->k; }
bool ActRows::quantised() const { return impl_->quantised; }
uint64_t ActRows::RowBytes(int64_t k, bool quantised, bool floats) {
  const int64_t n_blocks = (k + kBlock - 1) / kBlock;
  return static_cast<uint64_t>(n_blocks) *
         ((quantised ? kQuantRecordBytes : 0) + (floats ? kFloatRecordBytes : 0));
}

namespace {

void AssignScalar(ActRows::Impl& a, ThreadPool& pool, const float* x, int64_t stride) {
  if (a.quantised) a.blocks.resize(static_cast<size_t>(a.rows * a.n_blocks));
  if (!a.quantised) a.floats.resize(static_cast<size_t>(a.rows * a.k));
  pool.For(a.rows, std::max<int64_t>(1, 16384 / a.k), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (!a.quantised) {
        std::memcpy(&a.floats[static_cast<size_t>(r * a.k)], x + r * stride,
                    static_cast<size_t>(a.k) * 4);
        continue;
      }
      for (int64_t b = 0; b < a.n_blocks; ++b) {
        QuantiseBlock(x + r * stride + b * kBlock,
                      &a.blocks[static_cast<size_t>(r * a.n_blocks + b)]);
      }
    }
  });
}

// Writes x[k] into column `column` of a float group.
void AssignFloatColumn(const float* x, int64_t k, int columns, int column, uint8_t* group) {
  auto* out = reinterpret_cast<float*>(group);
  const int64_t n_blocks = (k + kBlock - 1) / kBlock;
  int64_t position = 0;
  for (int64_t p = 0; p < kPartials; ++p) {
    for (int64_t b = p; b < n_blocks; b += kPartials, ++position) {
      for (int64_t i = 0; i < kBlock; ++i) {
        const int64_t at = b * kBlock + i;
        out[(position * kBlock + i) * columns + column] = at < k ? x[at] : 0.0f;
      }
    }
  }
}

void AssignGroups(ActRows::Impl& a, ThreadPool& pool, const float* x, int64_t stride) {
  const KernelTable& kernels = KernelsOf(a.isa);
  a.groups = (a.rows + kernels.max_columns - 1) / kernels.max_columns;
  const uint64_t size_bytes = static_cast<uint64_t>(a.rows * a.n_blocks * a.RecordBytes());
  if (a.capacity_bytes < size_bytes) {
    a.records = AllocateBuffer(size_bytes);
    Require(a.records != nullptr, "out of memory for activations");
    a.capacity_bytes = size_bytes;
  }
  const int64_t grain = std::max<int64_t>(1, 16384 / a.k / kernels.max_columns);
  pool.For(a.groups, grain, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      for (int c = 0; c < a.Columns(g); ++c) {
        const float* row = x + (a.FirstColumn(g) + c) * stride;
        (a.quantised ? kernels.quantise : AssignFloatColumn)(row, a.k, a.Columns(g), c, a.Group(g));
      }
    }
  });
}

}  // namespace

void ActRows::Assign(Isa isa, ThreadPool& pool, const float* x, int64_t rows, int64_t k,
                     int64_t stride, bool quantise) {
  Require(rows >= 0 && k > 0 && stride >= k, "shape of activations");
  Require(!quantise || k % kBlock == 0, "k is a multiple of 32 for quantised activations");
  Impl& a = *impl_;
  a.isa = isa;
  a.quantised = quantise;
  a.rows = rows;
  a.k = k;
  a.n_blocks = (k + kBlock - 1) / kBlock;
  if (rows == 0) return;
  if (isa == Isa::kScalar) return AssignScalar(a, pool, x, stride);
  AssignGroups(a, pool, x, stride);
}

PackedMatrix::PackedMatrix() : impl_(std::make_unique<Impl>()) {}
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;
PackedMatrix& PackedMatrix::operator=(PackedMatrix&&) noexcept = default;
PackedMatrix::~PackedMatrix() = default;
int64_t PackedMatrix::n_out() const { return impl_->n_out; }
int64_t PackedMatrix::k() const { return impl_->k; }
TensorType PackedMatrix::type() const { return impl_->type; }
bool PackedMatrix::wants_quantised() const { return IsQuantised(impl_->type); }
uint64_t PackedMatrix::bytes() const {
  return static_cast<uint64_t>(impl_->tiles) * impl_->tile_bytes;
}

namespace {

// Multiplies tiles [begin, end) by the groups [group_begin, group_end).
void RunTiles(const PackedMatrix::Impl& w, const ActRows::Impl& a, int64_t begin, int64_t end,
              int64_t group_begin, int64_t group_end, float* out, int64_t out_stride) {
  const KernelTable& kernels = KernelsOf(w.isa);
  ProductArgs args;
  args.tile_bytes = static_cast<int64_t>(w.tile_bytes);
  args.n_blocks = w.n_blocks;
  args.n_out = w.n_out;
  args.out_stride = out_stride;
  // One group streams through all tiles at once; several share a tile while it is in the cache.
  const int64_t step = group_end - group_begin == 1 ? end - begin : 1;
  for (int64_t t = begin; t < end; t += step) {
    args.tiles = w.data.get() + static_cast<uint64_t>(t) * w.tile_bytes;
    args.tile_begin = t;
    args.tile_end = t + step;
    for (int64_t g = group_begin; g < group_end; ++g) {
      args.act = a.Group(g);
      args.out = out + a.FirstColumn(g) * out_stride;
      kernels.product(w.type, a.Columns(g))(args);
    }
  }
}

}  // namespace

void MatMul(ThreadPool& pool, const PackedMatrix& matrix, const ActRows& rows, float* out,
            int64_t out_stride) {
  const PackedMatrix::Impl& w = matrix.impl();
  const ActRows::Impl& a = rows.impl();
  if (a.rows == 0) return;
  Require(a.k == w.k && a.quantised == matrix.wants_quantised() && a.isa == w.isa,
          "activations fit the weights");
  if (w.isa == Isa::kScalar) return ScalarMatMul(pool, w, a, out, out_stride);
  const int64_t group_bytes = (a.rows + a.groups - 1) / a.groups * a.n_blocks * a.RecordBytes();
  const int64_t chunk = std::clamp<int64_t>(kColumnChunkBytes / group_bytes, 1, a.groups);
  const int64_t chunks = (a.groups + chunk - 1) / chunk;
  const int64_t least =
      std::max<int64_t>(1, kUnitBytes / (static_cast<int64_t>(w.tile_bytes) * chunk));
  const int64_t grain =
      std::clamp<int64_t>(w.tiles / (pool.size() * 8), least, std::max(least, w.tiles));
  const int64_t spans = (w.tiles + grain - 1) / grain;
  pool.For(chunks * spans, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t group = unit / spans * chunk;
      const int64_t tile = unit % spans * grain;
      RunTiles(w, a, tile, std::min(w.tiles, tile + grain), group,
               std::min(a.groups, group + chunk), out, out_stride);
    }
  });
}

}  // namespace lanyard::ops
