// Quantised and float matrix products: out[r][o] = sum over k of w[o][k] * a[r][k]. The definition
// (lanes, order, rounding) stands in docs/numerics.md and in the scalar reference of matmul.cc;
// every ISA gives the same bits.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/tensor_type.h"
#include "engine/ops/isa.h"
#include "engine/ops/thread_pool.h"

namespace lanyard::ops {

// Rows of activations ready for a product. For quantised weights: int8 in blocks of 32 with one f32
// scale a block (and the block sums the kernels need); for float weights: the f32 values
// themselves.
class ActRows {
 public:
  ActRows();
  ~ActRows();
  ActRows(ActRows&&) noexcept;
  ActRows& operator=(ActRows&&) noexcept;

  // Takes x[rows][k] (row stride `stride` floats). Memory is kept for reuse. With `quantise` it
  // makes int8 blocks (k must be a multiple of 32), else f32. Row r's result depends on row r
  // alone.
  void Assign(Isa isa, ThreadPool& pool, const float* x, int64_t rows, int64_t k, int64_t stride,
              bool quantise);
  int64_t rows() const;
  int64_t k() const;
  bool quantised() const;
  // That a row of k takes in these forms together, for planning.
  static uint64_t RowBytes(int64_t k, bool quantised, bool floats);

  struct Impl;
  const Impl& impl() const { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

// A weight matrix [n_out][k] re-laid for an ISA's kernels.
class PackedMatrix {
 public:
  // Reads the matrix in GGUF layout by `read(byte offset, destination)`, a bounded number of bytes
  // at a time, so that it never holds a second copy. `type` must be computable.
  using Reader = std::function<absl::Status(uint64_t, std::span<uint8_t>)>;
  static absl::StatusOr<PackedMatrix> Pack(Isa isa, TensorType type, int64_t n_out, int64_t k,
                                           const Reader& read);

  PackedMatrix(PackedMatrix&&) noexcept;
  PackedMatrix& operator=(PackedMatrix&&) noexcept;
  ~PackedMatrix();

  int64_t n_out() const;
  int64_t k() const;
  TensorType type() const;
  bool wants_quantised() const;  // the form of ActRows that MatMul needs
  uint64_t bytes() const;        // memory that it holds
  // The bytes that Pack would hold, for planning.
  static uint64_t PackedBytes(TensorType type, int64_t n_out, int64_t k);

  struct Impl;
  const Impl& impl() const { return *impl_; }

 private:
  PackedMatrix();
  std::unique_ptr<Impl> impl_;
};

// Computes out[r * out_stride + o] for every row r of `a` and output o of `w`. Precondition: a.k()
// == w.k(), a.quantised() == w.wants_quantised(). It uses the ISA that `w` was packed for.
void MatMul(ThreadPool& pool, const PackedMatrix& w, const ActRows& a, float* out,
            int64_t out_stride);

// Converts one row of a GGUF-layout matrix to f32 (for embedding rows); `row` has the bytes of k
// elements. The result is the exact value that the format defines, rounded once to f32.
void DequantizeRow(TensorType type, const uint8_t* row, int64_t k, float* out);

}  // namespace lanyard::ops
