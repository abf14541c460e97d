// Whole models of every family in small, with f32 weights from a seed: the same bytes on every
// machine, so that llama.cpp's figures of them (tests/data/golden/) can be kept
// without the models. A new family is one more row of the table in tiny_models.cc, and its figures
// by tools/make_golden.py. The keys and tensors stand there in full: nothing of the library says
// what a golden model has.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "model/testing/gguf_writer.h"

namespace lanyard::model::testing {

using KeyValue = std::variant<uint32_t, float, bool, std::string, std::vector<int32_t>>;

struct TinyTensor {
  std::string name;            // "blk.*.": one a layer
  std::vector<uint64_t> dims;  // one: a norm around 1; more: a matrix of n_in, n_out, ...
  // Of `name` with a value instead of random weights (rope_freqs).
  std::vector<float> values = {};
};

struct TinyModel {
  std::string name;
  std::string arch;
  double tolerance = 2e-3;  // of a logit against llama.cpp's; more needs its reason
  uint32_t layers = 0;
  float edge = 0.5f;  // the deviation of the embeddings' and the output's weights
  std::vector<std::pair<std::string, KeyValue>> keys;  // after "ARCH."
  std::vector<TinyTensor> tensors;
};

const std::vector<TinyModel>& TinyModels();
// Precondition: the table has it.
const TinyModel& FindTinyModel(std::string_view name);

// The model as a file, to be changed before it is built.
GgufWriter TinyModelWriter(const TinyModel& model);
inline std::vector<uint8_t> TinyModelFile(std::string_view name) {
  return TinyModelWriter(FindTinyModel(name)).Build();
}

}  // namespace lanyard::model::testing
