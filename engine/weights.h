// Reads a stage's weights tensor by tensor from a TensorSource and gives them to the backend whose
// they are.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/backend.h"
#include "model/tensor_source.h"

namespace lanyard::engine {

// Reads and checks dimensions; the backend re-lays. Errors name the tensor.
class WeightLoader {
 public:
  // `progress(bytes)` after each tensor, may be null.
  WeightLoader(const model::TensorSource& source, std::function<void(uint64_t)> progress)
      : source_(source), progress_(std::move(progress)) {}

  // Where what is loaded next goes to.
  void set_backend(Backend* backend) { backend_ = backend; }

  struct Matrix {
    std::string name;
    int64_t n_out = 0;
  };
  // Neighbours of one type become one matrix: one pass over the input for all of them.
  absl::StatusOr<Linear> LoadLinear(const std::vector<Matrix>& matrices, int64_t k);
  // F32 or F16.
  absl::StatusOr<Vector> LoadVector(const std::string& name, int64_t n);
  // The same, to the host.
  absl::StatusOr<std::vector<float>> LoadFloats(const std::string& name, int64_t n);
  bool Has(const std::string& name) const { return source_.Find(name) != nullptr; }

 private:
  const model::TensorSource& source_;
  Backend* backend_ = nullptr;
  const std::function<void(uint64_t)> progress_;
};

// The tensor's info when it is a matrix [k, n_out] of a computable type.
absl::StatusOr<const model::TensorInfo*> FindMatrix(const model::TensorSource& source,
                                                    const std::string& name, int64_t n_out,
                                                    int64_t k);

}  // namespace lanyard::engine
