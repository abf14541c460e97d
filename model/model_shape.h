// What a model is, without its weights: dimensions, constants and state groups. It is plain data,
// which is validated when made from a GGUF file (ShapeFromGguf) or from a message (ValidateShape),
// and trusted afterwards.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/tensor_source.h"

namespace lanyard::model {

class GgufFile;

enum class Family { kLlama, kGemma3 };
inline constexpr Family kFamilies[] = {Family::kLlama, Family::kGemma3};
std::string FamilyName(Family family);
std::optional<Family> FamilyNamed(std::string_view name);

enum class StateKind { kFull, kSliding };

// Layers that keep the same kind of state. Every sequence has one block table for each group.
struct StateGroup {
  StateKind kind = StateKind::kFull;
  uint32_t window = 0;           // tokens that a row sees, itself included; 0 for kFull
  std::vector<uint32_t> layers;  // ascending
};

struct ModelShape {
  Family family = Family::kLlama;
  std::string name;  // general.name, for people
  uint32_t n_layers = 0;
  uint32_t d_model = 0;
  uint32_t n_heads = 0;
  uint32_t n_kv_heads = 0;
  uint32_t head_dim = 0;  // for keys and for values (a model where they differ is refused)
  uint32_t d_ff = 0;
  uint32_t n_vocab = 0;
  uint32_t context_length = 0;  // the context that the model was trained with
  float norm_eps = 0;
  float attention_scale = 0;   // factor of q.k before the softmax
  uint32_t n_rot = 0;          // number of rotated elements of a head
  float rope_base = 0;         // for full layers
  float rope_base_local = 0;   // for sliding layers
  float rope_scale = 1;        // positions of full layers are multiplied by it (1 / linear factor)
  bool rope_factors = false;   // rope_freqs.weight divides the frequencies (Llama 3)
  bool tied_output = false;    // no output.weight: token_embd.weight is the head
  bool float_weights = false;  // every matrix is F32: KV and wire default to f32
  std::vector<StateGroup> groups;  // every layer is in exactly one
};

// Refuses by name what no family here computes, with field, value and limit.
absl::StatusOr<ModelShape> ShapeFromGguf(const GgufFile& file);

// Checks that every number is consistent with every other. It is also used on shapes that came over
// the wire.
absl::Status ValidateShape(const ModelShape& shape);

// A tensor that a model of this shape has. Matrices are [n_in, n_out]; those with one dimension
// (norms, rope_freqs) are F32.
struct TensorSpec {
  std::string name;
  std::vector<uint64_t> dims;
};

// Every tensor of the model, grouped and ordered as in the parts of model/manifest.h. Precondition:
// the shape is validated.
std::vector<TensorSpec> EmbedTensors(const ModelShape& shape);
std::vector<TensorSpec> CommonTensors(const ModelShape& shape);  // empty when there are none
std::vector<TensorSpec> LayerTensors(const ModelShape& shape, uint32_t layer);
std::vector<TensorSpec> NormTensors(const ModelShape& shape);
std::vector<TensorSpec> OutputTensors(const ModelShape& shape);  // empty when tied
std::vector<TensorSpec> ExpectedTensors(const ModelShape& shape);

// OK when the tensor has the spec's dims, a type that the engine computes, and F32 where it has one
// dimension.
absl::Status CheckTensor(const TensorSpec& spec, const TensorInfo& info);

// How many rotations the layers choose from; the engine's family file makes as many.
uint32_t RopeKinds(const ModelShape& shape);

// Index into shape.groups of a layer. Precondition: a validated shape, layer < n_layers.
uint32_t GroupOfLayer(const ModelShape& shape, uint32_t layer);

}  // namespace lanyard::model
