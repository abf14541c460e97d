// A stage's weights as the kernels want them, read tensor by tensor from a TensorSource.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/ops/matmul.h"
#include "model/tensor_source.h"

namespace lanyard::engine {

// The rows that enter products, in the forms that their weights take. Memory is kept between steps.
struct Inputs {
  ops::ActRows quantised;
  ops::ActRows floats;
};

// One or more matrices with the same input, their outputs side by side: [n_out of all][k].
class Linear {
 public:
  int64_t n_out() const { return n_out_; }
  uint64_t bytes() const;
  bool needs_quantised() const { return needs_quantised_; }
  bool needs_floats() const { return needs_floats_; }
  // out[r * stride + o] for r in [0, rows); x rows lie k apart unless `x_stride` is given.
  struct Rows {
    const float* x = nullptr;
    int64_t rows = 0;
    int64_t x_stride = 0;
    float* out = nullptr;
    int64_t out_stride = 0;
  };
  void Apply(ops::Isa isa, ops::ThreadPool& pool, Inputs& inputs, const Rows& rows) const;

 private:
  friend class WeightLoader;
  struct Part {
    ops::PackedMatrix matrix;
    int64_t offset;
  };
  std::vector<Part> parts_;
  int64_t n_out_ = 0;
  int64_t k_ = 0;
  bool needs_quantised_ = false;
  bool needs_floats_ = false;
};

// Reads, checks dimensions and re-lays. Errors name the tensor.
class WeightLoader {
 public:
  // `progress(bytes)` after each tensor, may be null.
  WeightLoader(const model::TensorSource& source, ops::Isa isa, std::function<void(uint64_t)> progress)
      : source_(source), isa_(isa), progress_(std::move(progress)) {}

  struct Matrix {
    std::string name;
    int64_t n_out = 0;
  };
  // Neighbours of one type become one matrix: one pass over the input for all of them.
  absl::StatusOr<Linear> LoadLinear(const std::vector<Matrix>& matrices, int64_t k);
  // F32 or F16.
  absl::StatusOr<std::vector<float>> LoadVector(const std::string& name, int64_t n);
  bool Has(const std::string& name) const { return source_.Find(name) != nullptr; }

 private:
  const model::TensorSource& source_;
  const ops::Isa isa_;
  const std::function<void(uint64_t)> progress_;
};

// The tensor's info when it is a matrix [k, n_out] of a computable type.
absl::StatusOr<const model::TensorInfo*> FindMatrix(const model::TensorSource& source, const std::string& name,
                                                    int64_t n_out, int64_t k);

}  // namespace lanyard::engine
