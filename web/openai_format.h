// OpenAI's answer objects as JSON text: whole answers, stream chunks, usage, log probabilities.
// They are pure functions of their inputs; chunks are put together from strings made once, because
// one is made for every token.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/serve/generator.h"

namespace lanyard::web {

struct AnswerInfo {
  std::string id;  // "chatcmpl-..." or "cmpl-..."
  int64_t created_unix_s = 0;
  std::string model;
  std::string system_fingerprint;  // numerics id and the model's digest: equal ones give equal
                                   // answers for a seed
  bool chat = true;
  bool include_usage = false;  // in a stream
  bool logprobs = false;
};

class AnswerFormat {
 public:
  explicit AnswerFormat(const AnswerInfo& info);

  // Whole server-sent events, "data: {...}\n\n". The first one of a chat has the role.
  std::string First() const;  // empty for text completions
  std::string Text(std::string_view text, const std::vector<coordinator::TokenLogprob>& logprobs);
  // The finish reason, the usage chunk if asked for, and [DONE].
  std::string Last(coordinator::FinishReason reason, const coordinator::Usage& usage) const;

  // The body of an answer that was not streamed.
  std::string Whole(std::string_view text, const std::vector<coordinator::TokenLogprob>& logprobs,
                    coordinator::FinishReason reason, const coordinator::Usage& usage);

 private:
  std::string Chunk(std::string_view choice) const;
  std::string LogprobsJson(const std::vector<coordinator::TokenLogprob>& logprobs);

  AnswerInfo info_;
  std::string head_;        // the text up to and with "choices":[
  std::string tail_;        // the text from ] on
  size_t text_offset_ = 0;  // characters of the answer so far, for text completions' logprobs
};

// One server-sent event.
std::string SseEvent(std::string_view json);
// A JSON string with its quotes; invalid UTF-8 becomes U+FFFD.
std::string JsonString(std::string_view text);
std::string UsageJson(const coordinator::Usage& usage);

}  // namespace lanyard::web
