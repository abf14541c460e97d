// One answer being made: tokens come in, and text goes out to its sink. The text never splits a
// character and never holds a stop string.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "coordinator/serve/generator.h"
#include "coordinator/serve/scheduler.h"
#include "model/detokenizer.h"
#include "model/stop_matcher.h"
#include "model/tokenizer.h"

namespace lanyard::coordinator {

// Not thread-safe: the pool's thread uses it. The tokenizer must outlive it.
class Answer {
 public:
  Answer(const model::Tokenizer* tokenizer, const GenerateRequest& request, uint32_t prompt_tokens,
         std::shared_ptr<TokenSink> sink);

  enum class Next {
    kGoOn,
    kEnded,
    kStopped
  };  // kStopped: a stop string was found; the caller must cancel the sequence
  // Sends the text. After kEnded and kStopped, Finish tells the sink that this is the end.
  Next OnToken(const SequenceUpdate& update);
  void Finish();
  void OnError(const absl::Status& status);

  const Usage& usage() const { return usage_; }
  FinishReason reason() const { return reason_; }

 private:
  TokenLogprob LogprobOf(const stage::TokenOut& out) const;
  void Emit(std::string text);

  const model::Tokenizer* tokenizer_;
  model::StreamDecoder decoder_;
  model::StopMatcher stops_;
  const bool logprobs_;
  std::shared_ptr<TokenSink> sink_;
  Usage usage_;
  FinishReason reason_ = FinishReason::kStop;
  std::vector<TokenLogprob> pending_;  // of the tokens whose text is held back
};

}  // namespace lanyard::coordinator
