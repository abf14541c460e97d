// Reads a stage's weights tensor by tensor from a TensorSource and gives them to the backend that
// holds them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/backend.h"
#include "engine/weight_shelf.h"
#include "model/tensor_source.h"

namespace lanyard::engine {

// It reads and checks dimensions; the backend re-lays. Errors name the tensor.
class WeightLoader {
 public:
  // `progress(bytes)` is called after each tensor. What is on the shelf is taken from there, and
  // the rest is put on it. Both may be null.
  WeightLoader(const model::TensorSource& source, WeightShelf* shelf,
               std::function<void(uint64_t)> progress)
      : source_(source), shelf_(shelf), progress_(std::move(progress)) {}

  // The backend that gets what is loaded next.
  void set_backend(Backend* backend) { backend_ = backend; }

  struct Matrix {
    std::string name;
    int64_t n_out = 0;
  };
  // Neighbours of one type become one matrix, so that one pass over the input serves all of them.
  absl::StatusOr<Linear> LoadLinear(const std::vector<Matrix>& matrices, int64_t k);
  // The tensor may be F32 or F16.
  absl::StatusOr<Vector> LoadVector(const std::string& name, int64_t n);
  // The same, into host memory.
  absl::StatusOr<std::vector<float>> LoadFloats(const std::string& name, int64_t n);
  bool Has(const std::string& name) const { return source_.Find(name) != nullptr; }

 private:
  absl::StatusOr<std::shared_ptr<const engine::Matrix>> MatrixOf(
      const std::vector<const model::TensorInfo*>& tensors, int64_t n_out, int64_t k);
  WeightShelf* Shelf() const { return backend_->shares_weights() ? shelf_ : nullptr; }

  const model::TensorSource& source_;
  WeightShelf* const shelf_;
  Backend* backend_ = nullptr;
  const std::function<void(uint64_t)> progress_;
};

// Returns the tensor's info when it is a matrix [k, n_out] of a computable type.
absl::StatusOr<const model::TensorInfo*> FindMatrix(const model::TensorSource& source,
                                                    const std::string& name, int64_t n_out,
                                                    int64_t k);

}  // namespace lanyard::engine
