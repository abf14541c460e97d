// Prompts through a chain: the log-sum-exp and top logits of every position, and a greedy
// continuation. The figures of `lanyard eval` and of the conformance tests.
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
  uint32_t generate = 0;  // tokens at most
  uint32_t top = 8;
  uint32_t chunk = 512;                 // tokens of one sequence in one step
  bool batch = false;                   // all prompts at once; else one after another
  std::function<bool(int32_t)> is_end;  // ends a continuation; null: nothing does
};

struct EvalPosition {
  float lse = 0;
  std::vector<std::pair<int32_t, float>> top;  // descending, ties to the lower id
};

struct EvalResult {
  std::vector<int32_t> tokens;
  std::vector<EvalPosition> positions;
  double mean_nll = 0;  // of the n - 1 predicted tokens, natural; 0 for a prompt of one token
  std::vector<int32_t> greedy;  // with the end token
};

// Each prompt has at least one token.
absl::StatusOr<std::vector<EvalResult>> Evaluate(Chain& chain,
                                                 const std::vector<std::vector<int32_t>>& prompts,
                                                 const EvalOptions& options);

}  // namespace lanyard::engine
