// A model in which every value is a hash of all that it may depend on: tokens, positions, layers,
// and the KV read through the block tables. One lost, repeated, stale or foreign row, or one wrong
// block, changes every later token.
#pragma once

#include <cstdint>
#include <vector>

#include "stage/types.h"

namespace lanyard::sim {

inline uint64_t Mix(uint64_t a, uint64_t b) {
  uint64_t x = a * 0x9e3779b97f4a7c15ULL ^ (b + 0x2545f4914f6cdd1dULL);
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ULL;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

struct HashModel {
  uint32_t n_layers = 4;
  std::vector<uint32_t> group_of_layer;
  std::vector<uint32_t> windows;  // one for each group; 0: full
  uint32_t n_vocab = 61;
  int32_t eos = 0;

  // Stands for a row that is not finite: whatever sees it becomes so too, and nothing else does.
  static constexpr uint64_t kNotFinite = ~uint64_t{0};

  // One in 500 pairs of token and position overflows.
  static uint64_t Embed(int32_t token, uint32_t pos) {
    const uint64_t hidden = Mix(0xe3bed ^ token, pos);
    return hidden % 500 == 0 ? kNotFinite : hidden;
  }
  static uint64_t KeyValue(uint32_t layer, uint32_t pos, uint64_t hidden) {
    return hidden == kNotFinite ? kNotFinite : Mix(Mix(layer + 1, pos), hidden);
  }
  uint32_t FirstVisible(uint32_t layer, uint32_t pos) const {
    const uint32_t window = windows[group_of_layer[layer]];
    return window != 0 && pos + 1 > window ? pos + 1 - window : 0;
  }
  // `read(q)` gives the KV of position q; the visible ones come in order, the row's own last.
  template <typename Read>
  uint64_t Layer(uint32_t layer, uint32_t pos, uint64_t hidden, const Read& read) const {
    uint64_t sum = layer;
    bool finite = hidden != kNotFinite;
    for (uint32_t q = FirstVisible(layer, pos); q <= pos; ++q) {
      const uint64_t seen = read(q);
      finite = finite && seen != kNotFinite;
      sum = Mix(sum, seen);
    }
    return finite ? Mix(hidden, sum) : kNotFinite;
  }
  int32_t Sample(uint64_t hidden, const stage::SampleSpec& sample, uint32_t pos) const {
    return static_cast<int32_t>(Mix(Mix(hidden, sample.seed), pos) % n_vocab);
  }

  // Returns the tokens that follow the prompt, by plain arrays: there are no blocks, stages,
  // batches or chunks. `overflows` says that behind them comes a row that is not finite.
  std::vector<int32_t> Continue(const std::vector<int32_t>& prompt, const stage::SampleSpec& sample,
                                uint32_t max_tokens, bool ignore_eos, bool* overflows) const {
    *overflows = false;
    std::vector<int32_t> tokens = prompt, out;
    std::vector<std::vector<uint64_t>> kv(n_layers);
    for (uint32_t pos = 0; out.size() < max_tokens; ++pos) {
      uint64_t hidden = Embed(tokens[pos], pos);
      for (uint32_t layer = 0; layer < n_layers; ++layer) {
        kv[layer].push_back(KeyValue(layer, pos, hidden));
        hidden = Layer(layer, pos, hidden, [&](uint32_t q) { return kv[layer][q]; });
      }
      if (pos + 1 < tokens.size()) continue;
      *overflows = hidden == kNotFinite;
      if (*overflows) break;
      const int32_t token = Sample(hidden, sample, pos);
      tokens.push_back(token);
      out.push_back(token);
      if (token == eos && !ignore_eos) break;
    }
    return out;
  }
};

}  // namespace lanyard::sim
