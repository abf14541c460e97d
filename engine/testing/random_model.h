// Small models with random weights, made in memory, so that tests of the engine need no files.
// Equal seeds give equal models.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/model_shape.h"
#include "model/tensor_source.h"

namespace lanyard::engine::testing {

class RandomModel : public model::TensorSource {
 public:
  // Makes every tensor of the shape; matrices take the types in turn (those that fit their width).
  RandomModel(const model::ModelShape& shape, std::vector<TensorType> types, uint32_t seed);

  const model::TensorInfo* Find(std::string_view name) const override;
  absl::Status Read(std::string_view name, uint64_t offset, std::span<uint8_t> out) const override;

  const model::ModelShape& shape() const { return shape_; }
  std::vector<model::TensorInfo> Infos() const;
  // Makes the values of a row of the tensor not finite, as a damaged file or an overflow does.
  void Overflow(const std::string& name, uint64_t row);
  // Makes Find answer as if the tensor did not exist.
  void Remove(const std::string& name) { tensors_.erase(name); }

 private:
  struct Tensor {
    model::TensorInfo info;
    std::vector<uint8_t> bytes;
  };
  const model::ModelShape shape_;
  std::map<std::string, Tensor, std::less<>> tensors_;
};

// llama: 3 layers, 6 heads over 2, rotation of neighbours, frequencies scaled by factors.
model::ModelShape SmallLlama();
// gemma3: 4 layers, 4 heads over 1 of 24 elements, every other layer with a window of 40.
model::ModelShape SmallGemma3();

}  // namespace lanyard::engine::testing
