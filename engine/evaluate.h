// Runs prompts through a chain: it gives the log-sum-exp and top logits of every position, and a
// greedy continuation. These are the figures of `lanyard eval` and of the conformance tests.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "base/status.h"
#include "engine/chain.h"

namespace lanyard::engine {

struct EvalOptions {
  uint32_t generate = 0;  // the most tokens to generate
  uint32_t top = 8;
  uint32_t chunk = 512;  // tokens of one sequence in one step
  bool batch = false;    // run all prompts at once; otherwise one after another
  // true for a token that ends a continuation; null: no token does.
  std::function<bool(int32_t)> is_end;
};

struct EvalPosition {
  float lse = 0;
  std::vector<std::pair<int32_t, float>> top;  // descending, ties to the lower id
};

struct EvalResult {
  std::vector<int32_t> tokens;
  std::vector<EvalPosition> positions;
  // Over the n - 1 predicted tokens, natural logarithm; 0 for a prompt of one token.
  double mean_nll = 0;
  std::vector<int32_t> greedy;  // the end token is included
};

// Each prompt has at least one token.
absl::StatusOr<std::vector<EvalResult>> Evaluate(Chain& chain,
                                                 const std::vector<std::vector<int32_t>>& prompts,
                                                 const EvalOptions& options);

}  // namespace lanyard::engine
