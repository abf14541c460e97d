#include "cli/load_stats.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/status.h"

namespace lanyard::cli {

double Percentile(std::vector<double>& values, double percent) {
  if (values.empty()) return 0;
  const double rank = std::ceil(percent / 100 * static_cast<double>(values.size()));
  const size_t index =
      static_cast<size_t>(std::clamp(rank, 1.0, static_cast<double>(values.size()))) - 1;
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(index), values.end());
  return values[index];
}

void LoadStats::Add(const LoadStats& other) {
  requests += other.requests;
  errors += other.errors;
  prompt_tokens += other.prompt_tokens;
  completion_tokens += other.completion_tokens;
  ttft_ms.insert(ttft_ms.end(), other.ttft_ms.begin(), other.ttft_ms.end());
  between_ms.insert(between_ms.end(), other.between_ms.begin(), other.between_ms.end());
  if (first_error.empty()) first_error = other.first_error;
}

namespace {

double Round(double value) { return std::round(value * 1000) / 1000; }

}  // namespace

std::string LoadStats::ToJson() {
  const double rate = seconds > 0 ? static_cast<double>(completion_tokens) / seconds : 0;
  nlohmann::ordered_json out = {
      {"requests", requests},
      {"errors", errors},
      {"tokens_per_s", Round(rate)},
      {"ttft_ms",
       {{"p50", Round(Percentile(ttft_ms, 50))}, {"p99", Round(Percentile(ttft_ms, 99))}}},
      {"between_ms",
       {{"p50", Round(Percentile(between_ms, 50))}, {"p99", Round(Percentile(between_ms, 99))}}},
      {"prompt_tokens", prompt_tokens},
      {"completion_tokens", completion_tokens},
      {"seconds", Round(seconds)}};
  return out.dump();
}

std::string LoadStats::ToText() {
  const double rate = seconds > 0 ? static_cast<double>(completion_tokens) / seconds : 0;
  return absl::StrFormat(
      "requests     %d, errors %d, in %.2f s\n"
      "tokens       %d of prompts, %d generated, %.1f generated a second\n"
      "first text   p50 %.1f ms, p99 %.1f ms\n"
      "between      p50 %.2f ms, p99 %.2f ms\n",
      requests, errors, seconds, prompt_tokens, completion_tokens, rate, Percentile(ttft_ms, 50),
      Percentile(ttft_ms, 99), Percentile(between_ms, 50), Percentile(between_ms, 99));
}

}  // namespace lanyard::cli
