#include "engine/weights.h"

#include <algorithm>

namespace lanyard::engine {
namespace {

absl::StatusOr<const model::TensorInfo*> FindTensor(const model::TensorSource& source,
                                                    const std::string& name) {
  const model::TensorInfo* info = source.Find(name);
  if (info == nullptr)
    return NotFound("tensor ", name, " is missing; the model's file or part is incomplete");
  return info;
}

}  // namespace

absl::StatusOr<const model::TensorInfo*> FindMatrix(const model::TensorSource& source,
                                                    const std::string& name, int64_t n_out,
                                                    int64_t k) {
  ASSIGN_OR_RETURN(const model::TensorInfo* info, FindTensor(source, name));
  if (info->dims.size() != 2 || info->dims[0] != static_cast<uint64_t>(k) ||
      info->dims[1] != static_cast<uint64_t>(n_out)) {
    std::string dims;
    for (const uint64_t d : info->dims) absl::StrAppend(&dims, dims.empty() ? "" : ", ", d);
    return InvalidArgument("tensor ", name, " has dimensions [", dims,
                           "], the model's shape wants [", k, ", ", n_out, "]");
  }
  const auto traits = TraitsOf(info->type);
  if (!traits || !traits->computable) {
    return Unimplemented(
        "tensor ", name, " has type ",
        traits ? std::string(traits->name) : std::to_string(static_cast<uint32_t>(info->type)),
        ", which has no kernel here; use F32, F16, Q4_0, Q4_1, Q5_0, Q8_0, Q4_K or Q6_K");
  }
  if (k % traits->elements != 0 ||
      info->bytes != uint64_t(n_out) * (k / traits->elements) * traits->bytes) {
    return InvalidArgument("tensor ", name, " has ", info->bytes, " bytes for ", n_out, " rows of ",
                           k, " in ", AbslView(traits->name));
  }
  return info;
}

absl::StatusOr<std::shared_ptr<const Matrix>> WeightLoader::MatrixOf(
    const std::vector<const model::TensorInfo*>& tensors, int64_t n_out, int64_t k) {
  std::vector<std::string> names;
  for (const model::TensorInfo* tensor : tensors) names.push_back(tensor->name);
  WeightShelf* const shelf = Shelf();
  if (shelf != nullptr) {
    if (auto kept = shelf->FindMatrix(names)) {
      backend_->CountShared(kept->bytes());
      return kept;
    }
  }
  const auto read = [&](uint64_t offset, std::span<uint8_t> to) -> absl::Status {
    for (const model::TensorInfo* tensor : tensors) {
      if (offset >= tensor->bytes) {
        offset -= tensor->bytes;
        continue;
      }
      const uint64_t n = std::min<uint64_t>(to.size(), tensor->bytes - offset);
      RETURN_IF_ERROR(source_.Read(tensor->name, offset, to.first(n)));
      to = to.subspan(n);
      if (to.empty()) break;
      offset = 0;
    }
    return absl::OkStatus();
  };
  auto packed = backend_->PackMatrix(tensors[0]->type, n_out, k, read);
  if (!packed.ok()) return Annotate(packed.status(), "tensor " + names[0]);
  const std::shared_ptr<engine::Matrix> matrix = *std::move(packed);
  if (shelf != nullptr) shelf->Put(names, matrix);
  return matrix;
}

absl::StatusOr<Linear> WeightLoader::LoadLinear(const std::vector<Matrix>& matrices, int64_t k) {
  Linear out;
  out.set_k(k);
  size_t begin = 0;
  while (begin < matrices.size()) {
    ASSIGN_OR_RETURN(const model::TensorInfo* first,
                     FindMatrix(source_, matrices[begin].name, matrices[begin].n_out, k));
    // [begin, end) have one type: their rows follow each other as if they were one tensor.
    std::vector<const model::TensorInfo*> tensors = {first};
    int64_t n_out = matrices[begin].n_out;
    size_t end = begin + 1;
    for (; end < matrices.size(); ++end) {
      ASSIGN_OR_RETURN(const model::TensorInfo* next,
                       FindMatrix(source_, matrices[end].name, matrices[end].n_out, k));
      if (next->type != first->type) break;
      tensors.push_back(next);
      n_out += matrices[end].n_out;
    }
    ASSIGN_OR_RETURN(auto matrix, MatrixOf(tensors, n_out, k));
    out.Add(std::move(matrix), n_out);
    for (const model::TensorInfo* tensor : tensors) {
      if (progress_) progress_(tensor->bytes);
    }
    begin = end;
  }
  return out;
}

absl::StatusOr<std::vector<float>> WeightLoader::LoadFloats(const std::string& name, int64_t n) {
  ASSIGN_OR_RETURN(const model::TensorInfo* info, FindTensor(source_, name));
  if (info->dims.size() != 1 || info->dims[0] != static_cast<uint64_t>(n) ||
      (info->type != TensorType::kF32 && info->type != TensorType::kF16)) {
    return InvalidArgument("tensor ", name, ": a vector of ", n,
                           " numbers in F32 or F16 is needed");
  }
  std::vector<uint8_t> bytes(n * TraitsOf(info->type)->bytes);
  RETURN_IF_ERROR(source_.Read(name, 0, bytes));
  std::vector<float> out(n);
  ops::DequantizeRow(info->type, bytes.data(), n, out.data());
  if (progress_) progress_(info->bytes);
  return out;
}

absl::StatusOr<Vector> WeightLoader::LoadVector(const std::string& name, int64_t n) {
  WeightShelf* const shelf = Shelf();
  if (shelf != nullptr) {
    if (Vector kept = shelf->FindVector(name); kept.owner != nullptr && kept.n == n) {
      backend_->CountShared(kept.bytes());
      if (progress_) progress_(kept.bytes());
      return kept;
    }
  }
  ASSIGN_OR_RETURN(std::vector<float> values, LoadFloats(name, n));
  auto vector = backend_->PutVector(std::move(values));
  if (!vector.ok()) return Annotate(vector.status(), "tensor " + name);
  if (shelf != nullptr) shelf->Put(name, *vector);
  return vector;
}

}  // namespace lanyard::engine
