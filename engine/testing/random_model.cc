#include "engine/testing/random_model.h"

#include <cmath>
#include <cstring>
#include <random>

#include "base/half.h"

namespace lanyard::engine::testing {
namespace {

void PutHalf(std::vector<uint8_t>& bytes, size_t at, float x) {
  const uint16_t half = FloatToHalf(x);
  std::memcpy(bytes.data() + at, &half, 2);
}

// The byte offsets of a block's f16 fields, and the value that makes its weights about 0.1.
struct BlockFields {
  std::vector<size_t> halves;
  float size;
};
BlockFields FieldsOf(TensorType type) {
  switch (type) {
    case TensorType::kQ4_0:
      return {{0}, 0.02f};
    case TensorType::kQ4_1:
      return {{0, 2}, 0.02f};
    case TensorType::kQ5_0:
      return {{0}, 0.01f};
    case TensorType::kQ8_0:
      return {{0}, 0.001f};
    case TensorType::kQ4_K:
      return {{0, 2}, 0.0005f};
    case TensorType::kQ6_K:
      return {{208}, 0.00003f};
    default:
      return {{}, 0};
  }
}

std::vector<uint8_t> RandomBytes(TensorType type, uint64_t elements, bool matrix,
                                 std::mt19937& rng) {
  const TypeTraits traits = *TraitsOf(type);
  std::vector<uint8_t> bytes(elements / traits.elements * traits.bytes);
  std::normal_distribution<float> normal;
  if (type == TensorType::kF32) {
    for (uint64_t i = 0; i < elements; ++i) {
      const float x = matrix ? normal(rng) * 0.1f : 1.0f + normal(rng) * 0.1f;
      std::memcpy(bytes.data() + i * 4, &x, 4);
    }
    return bytes;
  }
  if (type == TensorType::kF16) {
    for (uint64_t i = 0; i < elements; ++i) PutHalf(bytes, i * 2, normal(rng) * 0.1f);
    return bytes;
  }
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(rng());
  const BlockFields fields = FieldsOf(type);
  for (size_t block = 0; block < bytes.size(); block += traits.bytes) {
    for (const size_t at : fields.halves) PutHalf(bytes, block + at, normal(rng) * fields.size);
  }
  return bytes;
}

}  // namespace

RandomModel::RandomModel(const model::ModelShape& shape, std::vector<TensorType> types,
                         uint32_t seed)
    : shape_(shape) {
  std::mt19937 rng(seed);
  size_t turn = 0;
  for (const model::TensorSpec& spec : model::ExpectedTensors(shape)) {
    Tensor tensor;
    tensor.info.name = spec.name;
    tensor.info.dims = spec.dims;
    uint64_t elements = 1;
    for (const uint64_t d : spec.dims) elements *= d;
    if (spec.dims.size() > 1) {
      tensor.info.type = types[turn++ % types.size()];
      while (spec.dims[0] % TraitsOf(tensor.info.type)->elements != 0) {
        tensor.info.type = types[turn++ % types.size()];
      }
    }
    tensor.bytes = RandomBytes(tensor.info.type, elements, spec.dims.size() > 1, rng);
    tensor.info.bytes = tensor.bytes.size();
    tensors_[spec.name] = std::move(tensor);
  }
}

void RandomModel::Overflow(const std::string& name, uint64_t row) {
  Tensor& tensor = tensors_.at(name);
  const TypeTraits traits = *TraitsOf(tensor.info.type);
  const uint64_t row_bytes = tensor.bytes.size() / tensor.info.dims[1];
  const float infinity = HUGE_VALF;
  for (uint64_t at = row * row_bytes; at < (row + 1) * row_bytes; at += traits.bytes) {
    if (tensor.info.type == TensorType::kF32) std::memcpy(tensor.bytes.data() + at, &infinity, 4);
    if (tensor.info.type == TensorType::kF16) PutHalf(tensor.bytes, at, infinity);
    for (const size_t half : FieldsOf(tensor.info.type).halves)
      PutHalf(tensor.bytes, at + half, infinity);
  }
}

const model::TensorInfo* RandomModel::Find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second.info;
}

absl::Status RandomModel::Read(std::string_view name, uint64_t offset,
                               std::span<uint8_t> out) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) return NotFound("no tensor ", AbslView(name));
  const std::vector<uint8_t>& bytes = it->second.bytes;
  if (offset > bytes.size() || out.size() > bytes.size() - offset) {
    return absl::OutOfRangeError(
        absl::StrCat("tensor ", AbslView(name), " has ", bytes.size(), " bytes"));
  }
  std::memcpy(out.data(), bytes.data() + offset, out.size());
  return absl::OkStatus();
}

std::vector<model::TensorInfo> RandomModel::Infos() const {
  std::vector<model::TensorInfo> out;
  for (const auto& [name, tensor] : tensors_) out.push_back(tensor.info);
  return out;
}

model::ModelShape SmallLlama() {
  model::ModelShape s;
  s.family = model::Family::kLlama;
  s.n_layers = 3;
  s.d_model = 96;
  s.n_heads = 6;
  s.n_kv_heads = 2;
  s.head_dim = 16;
  s.d_ff = 256;
  s.n_vocab = 200;
  s.context_length = 512;
  s.norm_eps = 1e-5f;
  s.attention_scale = 0.25f;
  s.n_rot = 16;
  s.rope_base = 10000;
  s.rope_base_local = 10000;
  s.rope_factors = true;
  s.groups = {{model::StateKind::kFull, 0, {0, 1, 2}}};
  return s;
}

model::ModelShape SmallGemma3() {
  model::ModelShape s;
  s.family = model::Family::kGemma3;
  s.n_layers = 4;
  s.d_model = 64;
  s.n_heads = 4;
  s.n_kv_heads = 1;
  s.head_dim = 24;
  s.d_ff = 160;
  s.n_vocab = 150;
  s.context_length = 512;
  s.norm_eps = 1e-6f;
  s.attention_scale = 1.0f / std::sqrt(24.0f);
  s.n_rot = 24;
  s.rope_base = 1000000;
  s.rope_base_local = 10000;
  s.rope_scale = 0.125f;
  s.tied_output = true;
  s.groups = {{model::StateKind::kFull, 0, {1, 3}}, {model::StateKind::kSliding, 40, {0, 2}}};
  return s;
}

}  // namespace lanyard::engine::testing
