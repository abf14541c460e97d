#include "tests/conformance/golden.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

namespace lanyard {

absl::StatusOr<std::vector<GoldenPrompt>> ReadGolden(const std::string& path) {
  std::ifstream in(path);
  if (!in) return NotFound("no golden file ", path);
  const nlohmann::json list = nlohmann::json::parse(in, nullptr, false);
  if (list.is_discarded()) return InvalidArgument(path, " is not JSON");
  std::vector<GoldenPrompt> out;
  for (const auto& entry : list) {
    GoldenPrompt p;
    p.prompt = entry["prompt"];
    p.result.tokens = entry["tokens"].get<std::vector<int32_t>>();
    p.result.mean_nll = entry["mean_nll"];
    p.result.greedy = entry["greedy"].get<std::vector<int32_t>>();
    for (const auto& position : entry["positions"]) {
      engine::EvalPosition pos;
      pos.lse = position["lse"];
      for (const auto& top : position["top"]) pos.top.emplace_back(top[0], top[1]);
      p.result.positions.push_back(std::move(pos));
    }
    out.push_back(std::move(p));
  }
  return out;
}

Comparison Compare(const std::vector<GoldenPrompt>& golden,
                   const std::vector<engine::EvalResult>& results) {
  Comparison c;
  double predicted = 0;
  for (size_t i = 0; i < golden.size(); ++i) {
    const engine::EvalResult &a = golden[i].result, &b = results[i];
    for (size_t p = 0; p < a.positions.size(); ++p) {
      const auto &x = a.positions[p].top, &y = b.positions[p].top;
      for (const auto& [id, logit] : x) {
        const auto same =
            std::find_if(y.begin(), y.end(), [id = id](const auto& t) { return t.first == id; });
        if (same != y.end())
          c.worst_logit = std::max(c.worst_logit, std::fabs(double(logit) - same->second));
        else
          c.missing += id != x.back().first;
      }
      c.worst_lse =
          std::max(c.worst_lse, std::fabs(double(a.positions[p].lse) - b.positions[p].lse));
      const bool same = x[0].first == y[0].first;
      const float margin = x[0].second - x[1].second;
      ++c.positions;
      c.same_top1 += same;
      if (margin >= 0.3f) ++c.clear, c.clear_same += same;
      if (margin >= 1.0f) ++c.sure, c.sure_same += same;
    }
    const double n = static_cast<double>(a.tokens.size()) - 1;
    predicted += n;
    c.golden_nll += a.mean_nll * n;
    c.nll += b.mean_nll * n;
    c.same_greedy += a.greedy == b.greedy;
  }
  c.golden_nll /= predicted;
  c.nll /= predicted;
  return c;
}

std::string Comparison::ToString() const {
  return absl::StrFormat(
      "worst logit %.5f, worst lse %.5f; top-1 %d of %d, %d of %d with margin 0.3, %d of %d with "
      "margin 1; "
      "mean_nll %.6f, golden %.6f (%+.3f %%); equal greedy texts %d",
      worst_logit, worst_lse, same_top1, positions, clear_same, clear, sure_same, sure, nll,
      golden_nll, (nll / golden_nll - 1) * 100, same_greedy);
}

}  // namespace lanyard
