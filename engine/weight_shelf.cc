#include "engine/weight_shelf.h"

#include <utility>

namespace lanyard::engine {
namespace {

std::string KeyOf(const std::vector<std::string>& tensors) {
  std::string key;
  for (const std::string& tensor : tensors) absl::StrAppend(&key, key.empty() ? "" : "\n", tensor);
  return key;
}

}  // namespace

void WeightShelf::Put(const std::vector<std::string>& tensors, Weights weights) {
  const std::string key = KeyOf(tensors);
  for (const std::string& tensor : tensors) of_tensor_[tensor] = key;
  weights_[key] = std::move(weights);
}

void WeightShelf::Put(const std::vector<std::string>& tensors,
                      const std::shared_ptr<Matrix>& matrix) {
  Put(tensors, Weights{.matrix = matrix, .owner = {}});
}

void WeightShelf::Put(const std::string& tensor, const Vector& vector) {
  Put({tensor},
      Weights{.matrix = {}, .owner = vector.owner, .vector = {vector.data, vector.n, nullptr}});
}

std::shared_ptr<Matrix> WeightShelf::FindMatrix(const std::vector<std::string>& tensors) const {
  const auto it = weights_.find(KeyOf(tensors));
  return it == weights_.end() ? nullptr : it->second.matrix.lock();
}

Vector WeightShelf::FindVector(const std::string& tensor) const {
  const auto it = weights_.find(tensor);
  if (it == weights_.end()) return {};
  Vector out = it->second.vector;
  out.owner = it->second.owner.lock();
  return out.owner == nullptr ? Vector() : out;
}

bool WeightShelf::Has(std::string_view tensor) const {
  const auto key = of_tensor_.find(tensor);
  if (key == of_tensor_.end()) return false;
  const auto it = weights_.find(key->second);
  return it != weights_.end() && Alive(it->second);
}

void WeightShelf::Hold(const std::function<bool(std::string_view)>& wanted) {
  std::vector<std::shared_ptr<const void>> held;
  for (const auto& [tensor, key] : of_tensor_) {
    if (!wanted(tensor)) continue;
    const Weights& weights = weights_.find(key)->second;
    if (auto matrix = weights.matrix.lock()) held.push_back(std::move(matrix));
    if (auto owner = weights.owner.lock()) held.push_back(std::move(owner));
  }
  held_ = std::move(held);  // at the end, since some of it may be held already
}

void WeightShelf::Clear() {
  LetGo();
  weights_.clear();
  of_tensor_.clear();
}

}  // namespace lanyard::engine
