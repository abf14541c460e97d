#include "coordinator/serve/request_check.h"

#include "base/field_error.h"
#include "stage/validate.h"

namespace lanyard::coordinator {
namespace {

absl::Status CheckFits(uint64_t prompt_tokens, uint32_t context, const char* at_least) {
  const uint64_t needed = prompt_tokens + 1;  // an answer has at least one token
  if (needed <= context) return absl::OkStatus();
  const uint64_t over = needed - context;
  return absl::OutOfRangeError(absl::StrCat(
      "This model's maximum context length is ", context,
      " tokens, and at least 1 of them is needed for the answer. However, your prompt has ",
      at_least, prompt_tokens, " tokens, which is ", at_least, over,
      over == 1 ? " token" : " tokens", " too many. Please reduce the length of the messages."));
}

}  // namespace

absl::Status CheckRequest(const GenerateRequest& request) {
  RETURN_IF_ERROR(stage::CheckSample(request.sample));
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

absl::Status CheckPromptFits(uint64_t prompt_tokens, uint32_t context) {
  return CheckFits(prompt_tokens, context, "");
}

absl::Status CheckPromptMayFit(uint64_t fewest_tokens, uint32_t context) {
  return CheckFits(fewest_tokens, context, "at least ");
}

absl::Status CheckQueueHasRoom(uint64_t waiting, uint32_t max_waiting, TimeNs room_in) {
  if (waiting < max_waiting) return absl::OkStatus();
  const int64_t seconds = SecondsUp(room_in);
  return WithRetryAfter(
      ResourceExhausted("the queue is full: ", waiting,
                        waiting == 1 ? " request waits" : " requests wait",
                        " and no more may; a place is expected in ", seconds, " s"),
      seconds);
}

}  // namespace lanyard::coordinator
