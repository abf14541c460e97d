// Matrix products on a CUDA device, the twin of engine/ops/matmul.h, with the same definition and
// the same bits (docs/numerics.md "Products"). docs/gpu.md says which kernels there are and what
// they cost. These functions only launch: memory belongs to the caller, and addresses are the
// device's and aligned to 256 bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "base/status.h"
#include "base/tensor_type.h"
#include "engine/ops/cuda/launcher.h"
#include "engine/ops/matmul.h"

namespace lanyard::ops::cuda {

// What the choice of kernels depends on. Results never depend on it.
struct Target {
  int level = 61;            // level of the PTX in use (ptx_image.h): 61, 75 or 80
  int multiprocessors = 32;  // number in the device
};

// A weight matrix [n_out][k] re-laid for the kernels (layout: matmul_args.h).
struct DeviceMatrix {
  TensorType type = TensorType::kF32;
  int64_t n_out = 0;
  int64_t k = 0;
  const uint8_t* data = nullptr;

  bool wants_quantised() const;  // the form of DeviceRows that MatMul needs
};

// The bytes of a re-laid matrix, for planning too: the GGUF size with n_out rounded up to 16 (Q4_K:
// 148/144 of it; floats: K rounded up to 32). It is 0 for a type without kernels.
uint64_t MatrixBytes(TensorType type, int64_t n_out, int64_t k);

// Re-lays a matrix from GGUF layout. It reads at most 1 MiB (or one row of tiles) at a time and
// hands the re-laid bytes on in ascending order without gaps, MatrixBytes in all. InvalidArgument
// for a type or shape without kernels.
using MatrixWriter = std::function<absl::Status(uint64_t offset, std::span<const uint8_t> bytes)>;
absl::Status PackMatrix(TensorType type, int64_t n_out, int64_t k, const PackedMatrix::Reader& read,
                        const MatrixWriter& write);

// Rows of activations in a form for products, in a buffer of at least RowsBytes(quantised, rows,
// k).
struct DeviceRows {
  bool quantised = false;
  int64_t rows = 0;
  int64_t k = 0;
  uint8_t* data = nullptr;
};
// It grows with rows.
uint64_t RowsBytes(bool quantised, int64_t rows, int64_t k);

// Converts x[rows][k] (stride in floats) into `to`, whose `data` is given: quantised to int8 blocks
// (k a multiple of 32) or as floats. A row's result depends on that row alone. InvalidArgument for
// a shape without kernels.
absl::Status AssignRows(Launcher& launcher, const float* x, int64_t stride, const DeviceRows& to);

struct DeviceOut {
  float* data = nullptr;
  int64_t stride = 0;  // floats from one row to the next
};

// Computes out.data[r * out.stride + o] for every row r and output o. InvalidArgument where rows
// and matrix do not fit each other.
absl::Status MatMul(Launcher& launcher, const Target& target, const DeviceMatrix& w,
                    const DeviceRows& rows, const DeviceOut& out);

}  // namespace lanyard::ops::cuda
