// Golden files (tests/data/golden), and how far results are from them.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "engine/evaluate.h"

namespace lanyard {

struct GoldenPrompt {
  std::string prompt;
  engine::EvalResult result;
};

absl::StatusOr<std::vector<GoldenPrompt>> ReadGolden(const std::string& path);

struct Comparison {
  double worst_logit = 0;  // over the golden ids that both lists have
  double worst_lse = 0;
  int missing = 0;  // golden ids but the last that are not listed: near ties change places there
  int positions = 0;
  int same_top1 = 0;
  int clear = 0, clear_same = 0;   // a golden margin of 0.3 or more
  int sure = 0, sure_same = 0;     // a golden margin of 1 or more
  double golden_nll = 0, nll = 0;  // token-weighted means
  int same_greedy = 0;
  std::string ToString() const;
};
Comparison Compare(const std::vector<GoldenPrompt>& golden,
                   const std::vector<engine::EvalResult>& results);

}  // namespace lanyard
