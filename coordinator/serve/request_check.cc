#include "coordinator/serve/request_check.h"

#include <cmath>

namespace lanyard::coordinator {
namespace {

absl::Status CheckSample(const stage::SampleSpec& sample) {
  // The conditions are written so that NaN fails.
  if (!(sample.temperature >= 0 && sample.temperature <= 100)) {
    return InvalidArgument("temperature is ", sample.temperature, "; it must be from 0 to 100");
  }
  if (!(sample.top_p > 0 && sample.top_p <= 1)) {
    return InvalidArgument("top_p is ", sample.top_p, "; it must be above 0 and at most 1");
  }
  if (!(sample.min_p >= 0 && sample.min_p <= 1)) {
    return InvalidArgument("min_p is ", sample.min_p, "; it must be from 0 to 1");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRequest(const GenerateRequest& request) {
  RETURN_IF_ERROR(CheckSample(request.sample));
  if (request.max_tokens && *request.max_tokens == 0) {
    return InvalidArgument("max_tokens is 0; it must be at least 1");
  }
  if (request.stop.size() > kMaxStops) {
    return InvalidArgument("stop has ", request.stop.size(), " strings; at most ", kMaxStops,
                           " are allowed");
  }
  for (const std::string& stop : request.stop) {
    if (stop.empty()) return InvalidArgument("stop has an empty string");
    if (stop.size() > kMaxStopBytes) {
      return InvalidArgument("stop has a string of ", stop.size(), " bytes; at most ",
                             kMaxStopBytes, " are allowed");
    }
  }
  if (request.top_logprobs > kMaxTopLogprobs) {
    return InvalidArgument("top_logprobs is ", request.top_logprobs, "; at most ", kMaxTopLogprobs,
                           " are given");
  }
  const auto* messages = std::get_if<std::vector<ChatMessage>>(&request.prompt);
  if (messages != nullptr && messages->empty()) return InvalidArgument("messages is empty");
  return absl::OkStatus();
}

}  // namespace lanyard::coordinator
