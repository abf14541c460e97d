// A model as parts that can be fetched, verified and cached one by one: "embed" (token_embd),
// "common" (tensors every stage with layers needs, e.g. rope_freqs; absent when there are none),
// "layer.N", "norm" (output_norm) and "output" (output.weight; absent when tied). A part's bytes
// are its tensors' bytes, one after another in the order of the list.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/model_shape.h"
#include "model/tensor_source.h"

namespace lanyard::model {

class GgufFile;

struct Part {
  std::string name;
  std::vector<TensorInfo> tensors;
  uint64_t bytes = 0;
  std::string sha256;  // of the part's bytes, hex; empty until hashed
};

struct Manifest {
  ModelShape shape;
  std::vector<Part> parts;
  std::string
      digest;  // SHA-256 over the parts' names, tensors and digests; it names the model's content

  const Part* Find(std::string_view name) const;
};

// Groups the file's tensors into parts; with `hash`, reads every byte and fills the digests
// (parallel over parts).
absl::StatusOr<Manifest> BuildManifest(const GgufFile& file, bool hash);

// Checks a manifest that came over the wire: shape, names, types, dims against the shape, bytes and
// digests.
absl::Status ValidateManifest(const Manifest& manifest);

// Returns the names of the parts that a stage with these duties reads (the tied head is "embed").
std::vector<std::string> PartsOfStage(const Manifest& manifest, uint32_t layer_begin,
                                      uint32_t layer_end, bool embeds, bool samples);

}  // namespace lanyard::model
