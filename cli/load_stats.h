// What `lanyard load` reports.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace lanyard::cli {

// The smallest value that at least `percent` of them do not exceed (nearest rank); 0 when there are
// none. It reorders the values.
double Percentile(std::vector<double>& values, double percent);

struct LoadStats {
  uint64_t requests = 0;
  uint64_t errors = 0;
  uint64_t prompt_tokens = 0;  // as the server counted them
  uint64_t completion_tokens = 0;
  double seconds = 0;
  std::vector<double> ttft_ms;     // from sending a request to its first text, one value a request
  std::vector<double> between_ms;  // between one text and the next of the same request
  std::string first_error;

  void Add(const LoadStats& other);  // adds all but seconds
  // {"requests","errors","tokens_per_s","ttft_ms":{"p50","p99"},"between_ms":{"p50","p99"},
  //  "prompt_tokens","completion_tokens","seconds"}
  std::string ToJson();
  std::string ToText();
};

}  // namespace lanyard::cli
