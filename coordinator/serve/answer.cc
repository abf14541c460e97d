#include "coordinator/serve/answer.h"

#include <utility>

namespace lanyard::coordinator {

Answer::Answer(const model::Tokenizer* tokenizer, const GenerateRequest& request,
               uint32_t prompt_tokens, std::shared_ptr<TokenSink> sink)
    : tokenizer_(tokenizer),
      decoder_(tokenizer),
      stops_(request.stop),
      logprobs_(request.logprobs),
      sink_(std::move(sink)) {
  usage_.prompt_tokens = prompt_tokens;
}

TokenLogprob Answer::LogprobOf(const stage::TokenOut& out) const {
  TokenLogprob logprob;
  logprob.id = out.token;
  logprob.bytes = tokenizer_->PieceBytes(out.token);
  logprob.logprob = out.logprob;
  for (const auto& [id, logit] : out.top) {
    // Rounding must not give one token two values.
    const float value = id == out.token ? out.logprob : logit - out.lse;
    logprob.top.emplace_back(tokenizer_->PieceBytes(id), value);
  }
  return logprob;
}

void Answer::Emit(std::string text) {
  if (text.empty()) return;
  sink_->OnText(std::move(text), std::exchange(pending_, {}));
}

Answer::Next Answer::OnToken(const SequenceUpdate& update) {
  usage_.completion_tokens = update.completion_tokens;
  usage_.cached_tokens = update.cached_tokens;
  const bool eos = update.end == SequenceEnd::kEos;
  std::string text;
  if (!eos) {
    if (logprobs_) pending_.push_back(LogprobOf(update.out));
    text = stops_.Push(decoder_.Push(update.out.token));
    if (!stops_.stopped() && update.end) {
      text += stops_.Push(decoder_.Flush());
      if (!stops_.stopped()) text += stops_.Flush();
    }
  } else {
    text = stops_.Push(decoder_.Flush());
    if (!stops_.stopped()) text += stops_.Flush();
  }
  if (stops_.stopped()) {
    // The stop string's own tokens are no part of the answer.
    if (!text.empty() && pending_.size() > 1) pending_.pop_back();
    Emit(std::move(text));
    return update.end ? Next::kEnded : Next::kStopped;
  }
  if (update.end && text.empty() && !pending_.empty()) {
    sink_->OnText("",
                  std::exchange(pending_, {}));  // tokens without text, with their probabilities
  }
  Emit(std::move(text));
  if (!update.end) return Next::kGoOn;
  reason_ = eos ? FinishReason::kStop : FinishReason::kLength;
  return Next::kEnded;
}

void Answer::Finish() { sink_->OnDone(reason_, usage_); }

void Answer::OnError(const absl::Status& status) { sink_->OnError(status, usage_); }

}  // namespace lanyard::coordinator
