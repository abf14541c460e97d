#include "stage/last_tokens.h"

#include <algorithm>

namespace lanyard::stage {
namespace {

// Sequences that ended stay until there are this many; a step has far fewer.
constexpr size_t kMaxKept = 4096;
// A step is named by the one right behind it, so the last would do. But the news of a bad frame may
// come in any order with frames.
constexpr size_t kMaxFailed = 8;

}  // namespace

void LastTokens::MakeSpace(StepId step, size_t n) {
  if (last_.size() + n <= kMaxKept) return;
  // A token is named only by the step right behind its own.
  std::erase_if(last_, [&](const auto& entry) { return entry.second.step.value + 1 < step.value; });
  if (last_.size() + n > kMaxKept) last_.clear();  // no honest step has this many
}

void LastTokens::PutFailed(const StepBatch& batch, const absl::Status& why) {
  if (why.code() == absl::StatusCode::kFailedPrecondition) return;
  MakeSpace(batch.step, batch.runs.size());
  for (const SeqRun& run : batch.runs) {
    if (!run.outputs.empty()) last_[run.seq] = {batch.step, run.pos + run.outputs.back().row, -1};
  }
}

void LastTokens::PutFailed(StepId step) {
  if (failed_.size() == kMaxFailed) failed_.erase(failed_.begin());
  failed_.push_back(step);
}

void LastTokens::Put(StepId step, const std::vector<TokenOut>& tokens) {
  MakeSpace(step, tokens.size());
  for (const TokenOut& out : tokens) {
    Drawn& drawn = last_[out.seq];
    if (drawn.step == step && drawn.pos == out.pos) continue;
    drawn = {step, out.pos, out.token};
  }
}

absl::Status LastTokens::Resolve(StepBatch* batch) const {
  for (SeqRun& run : batch->runs) {
    if (run.token_of == StepId()) continue;
    const auto it = last_.find(run.seq);
    if (it == last_.end() || it->second.step != run.token_of || it->second.pos + 1 != run.pos) {
      if (std::find(failed_.begin(), failed_.end(), run.token_of) != failed_.end()) {
        run.tokens.assign(1, 0);
        continue;
      }
      return FailedPrecondition("sequence ", run.seq.value, ": step ", run.token_of.value,
                                " drew no token for position ", run.pos, " here");
    }
    run.tokens.assign(1, std::max(it->second.token, 0));
  }
  return absl::OkStatus();
}

}  // namespace lanyard::stage
