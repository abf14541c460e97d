// What a machine's RAM has of a model's weights, in the form that its kernels take. A stage that
// follows another of the same model gets the layers that stay from here, and reads, verifies and
// re-lays only those that are new to it: after a loss, the time to load is that of what moved.
//
// The shelf itself owns nothing: weights live as long as a stage has them, or between two stages
// while they are held. One thread uses it; stages may be dropped on another.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/backend.h"

namespace lanyard::engine {

class WeightShelf {
 public:
  // `tensors` are the names of what the weights were made from, in their order.
  void Put(const std::vector<std::string>& tensors, const std::shared_ptr<Matrix>& matrix);
  void Put(const std::string& tensor, const Vector& vector);
  // Null, and a Vector without an owner, when no stage has them any more.
  std::shared_ptr<Matrix> FindMatrix(const std::vector<std::string>& tensors) const;
  Vector FindVector(const std::string& tensor) const;
  bool Has(std::string_view tensor) const;

  // Keeps what is in memory of the tensors that are `wanted` until LetGo, whoever drops it.
  void Hold(const std::function<bool(std::string_view tensor)>& wanted);
  void LetGo() { held_.clear(); }
  // Forgets all of it: what comes is of another model.
  void Clear();

 private:
  struct Weights {
    std::weak_ptr<Matrix> matrix;
    std::weak_ptr<const void> owner;  // of a vector
    Vector vector = {};               // without its owner
  };
  static bool Alive(const Weights& weights) {
    return !weights.matrix.expired() || !weights.owner.expired();
  }
  void Put(const std::vector<std::string>& tensors, Weights weights);

  std::map<std::string, Weights, std::less<>> weights_;        // by the names, joined
  std::map<std::string, std::string, std::less<>> of_tensor_;  // each tensor's key in weights_
  std::vector<std::shared_ptr<const void>> held_;
};

}  // namespace lanyard::engine
