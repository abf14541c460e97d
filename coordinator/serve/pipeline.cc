#include "coordinator/serve/pipeline.h"

#include <algorithm>
#include <cmath>

namespace lanyard::coordinator {
namespace {

std::string SecondsText(TimeNs t) {
  return absl::StrFormat("%g s", static_cast<double>(t) / kSecond);
}

// After these codes the stage's state is unknown, or it does not run this plan: only a new epoch
// helps.
bool LosesPipeline(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kDeadlineExceeded:
      return true;
    default:
      return false;
  }
}

absl::Status CheckToken(const stage::TokenOut& out, uint32_t n_vocab, uint32_t top) {
  if (!out.status.ok()) return absl::OkStatus();  // there is no token to look at
  const auto bad_id = [n_vocab](int32_t id) {
    return id < 0 || static_cast<uint32_t>(id) >= n_vocab;
  };
  if (bad_id(out.token)) {
    return InvalidArgument("token id ", out.token, " is not below the vocabulary's ", n_vocab);
  }
  if (!std::isfinite(out.logprob) || !std::isfinite(out.lse)) {
    return InvalidArgument("log probability ", out.logprob, " (lse ", out.lse, ") is not finite");
  }
  if (out.top.size() != std::min(top, n_vocab)) {
    return InvalidArgument(out.top.size(), " top logits where ", top, " were asked for");
  }
  for (const auto& [id, logit] : out.top) {
    if (bad_id(id) || !std::isfinite(logit)) {
      return InvalidArgument("top logit ", logit, " of token ", id, " makes no sense");
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string PipelineStage::Describe() const {
  if (layers.size() == 0) return absl::StrCat("worker '", worker, "' (head only)");
  if (layers.size() == 1) return absl::StrCat("worker '", worker, "' (layer ", layers.begin, ")");
  return absl::StrCat("worker '", worker, "' (layers ", layers.begin, "-", layers.end - 1, ")");
}

void Pipeline::Open(PipelinePlan plan) {
  plan_ = std::move(plan);
  frames_.clear();
  gap_since_ = 0;
  progress_ = 0;
  longest_ = 0;
  open_ = true;
}

void Pipeline::Close() {
  open_ = false;
  frames_.clear();
  gap_since_ = 0;
}

std::vector<stage::StepFrame> Pipeline::Submit(Step step, TimeNs now) {
  std::vector<stage::StepFrame> out;
  for (stage::StepBatch& batch : step.frames) {
    Frame frame;
    frame.step = batch.step;
    frame.frame = batch.frame;
    frame.submitted = now;
    for (const stage::SeqRun& run : batch.runs) {
      for (const stage::OutputRequest& output : run.outputs) {
        frame.outputs.push_back({run.seq, run.pos + output.row, output.top});
      }
    }
    frames_.push_back(std::move(frame));
    stage::StepFrame& message = out.emplace_back();
    message.plan = plan_.plan;
    message.epoch = plan_.epoch;
    message.stage = 0;
    message.numerics = plan_.numerics;
    message.batch = std::move(batch);
  }
  return out;
}

std::string Pipeline::Stale(const stage::StepResult& result) const {
  if (!open_) return "no pipeline is open";
  if (result.epoch != plan_.epoch || result.plan != plan_.plan) {
    return absl::StrCat("it is of plan ", result.plan.value, " epoch ", result.epoch.value,
                        ", now is plan ", plan_.plan.value, " epoch ", plan_.epoch.value);
  }
  if (result.stage >= plan_.stages.size())
    return absl::StrCat("stage ", result.stage, " is not in the plan");
  if (result.worker != plan_.stages[result.stage].worker) {
    return absl::StrCat("stage ", result.stage, " is not held by '", result.worker, "'");
  }
  if (result.status.ok() && result.stage + 1 != plan_.stages.size()) {
    return absl::StrCat("stage ", result.stage, " is not the last and has no tokens to send");
  }
  return "";
}

PipelineOutcome Pipeline::OnResult(stage::StepResult result, TimeNs now) {
  PipelineOutcome outcome;
  outcome.ignored = Stale(result);
  if (!outcome.ignored.empty()) return outcome;
  auto frame = std::find_if(frames_.begin(), frames_.end(), [&](const Frame& f) {
    return f.step == result.step && f.frame == result.frame;
  });
  if (frame == frames_.end() || frame->answered) {
    outcome.ignored =
        absl::StrCat("step ", result.step.value, " frame ", result.frame, " is not in flight");
    return outcome;
  }
  if (!result.status.ok()) return OnError(result, frame, now);
  if (absl::Status bad = Check(result, *frame); !bad.ok()) {
    outcome.lost =
        Unavailable(plan_.stages[result.stage].Describe(), " sent an impossible result for step ",
                    result.step.value, ": ", bad.message());
    return outcome;
  }
  frame->answered = true;
  frame->tokens = std::move(result.tokens);
  for (stage::TokenOut& out : frame->tokens) {
    out.status = Annotate(out.status, plan_.stages[result.stage].Describe());
  }
  ReleaseInOrder(now, &outcome);
  return outcome;
}

PipelineOutcome Pipeline::OnError(const stage::StepResult& result,
                                  std::deque<Frame>::iterator frame, TimeNs now) {
  PipelineOutcome outcome;
  const PipelineStage& stage =
      plan_.stages[std::min<size_t>(result.stage, plan_.stages.size() - 1)];
  const absl::Status status =
      Annotate(result.status, absl::StrCat(stage.Describe(), " failed in stage ", result.stage));
  if (LosesPipeline(result.status.code())) {
    outcome.lost = absl::UnavailableError(status.message());
    return outcome;
  }
  outcome.failed.push_back({result.step, result.frame, status});
  frames_.erase(frame);
  ReleaseInOrder(now, &outcome);
  return outcome;
}

absl::Status Pipeline::Check(const stage::StepResult& result, const Frame& frame) const {
  if (result.tokens.size() != frame.outputs.size()) {
    return InvalidArgument(result.tokens.size(), " tokens where ", frame.outputs.size(),
                           " were asked for");
  }
  for (size_t i = 0; i < frame.outputs.size(); ++i) {
    const stage::TokenOut& out = result.tokens[i];
    const Output& want = frame.outputs[i];
    if (out.seq != want.seq || out.pos != want.pos) {
      return InvalidArgument("a token of sequence ", out.seq.value, " position ", out.pos,
                             " where sequence ", want.seq.value, " position ", want.pos,
                             " was asked for");
    }
    RETURN_IF_ERROR(CheckToken(out, plan_.n_vocab, want.top));
  }
  return absl::OkStatus();
}

void Pipeline::ReleaseInOrder(TimeNs now, PipelineOutcome* outcome) {
  bool released = false;
  while (!frames_.empty() && frames_.front().answered) {
    Frame& head = frames_.front();
    outcome->done.push_back({head.step, head.frame, std::move(head.tokens)});
    longest_ = std::max({longest_, now - std::max(head.submitted, progress_), TimeNs{1}});
    frames_.pop_front();
    released = true;
    progress_ = now;
  }
  const bool held =
      std::any_of(frames_.begin(), frames_.end(), [](const Frame& f) { return f.answered; });
  if (!held) {
    gap_since_ = 0;
  } else if (gap_since_ == 0 || released) {
    gap_since_ = now;
  }
}

TimeNs Pipeline::Allowed() const {
  constexpr TimeNs kTimesTheLongest = 20;
  if (longest_ == 0) return options_.first_timeout;
  return std::clamp(kTimesTheLongest * longest_, options_.step_timeout, options_.first_timeout);
}

void Pipeline::Stalled(TimeNs now) {
  progress_ = now;
  if (gap_since_ != 0) gap_since_ = now;
}

PipelineOutcome Pipeline::OnTick(TimeNs now) {
  PipelineOutcome outcome;
  if (!open_ || frames_.empty()) return outcome;
  const Frame& head = frames_.front();
  const std::string what = absl::StrCat("step ", head.step.value, " frame ", head.frame);
  std::string path;
  for (const PipelineStage& stage : plan_.stages) {
    absl::StrAppend(&path, path.empty() ? "" : ", ", stage.Describe());
  }
  if (now >= std::max(head.submitted, progress_) + Allowed()) {
    outcome.lost =
        Unavailable(what, " did not come back within ", SecondsText(Allowed()), " from ", path);
  } else if (gap_since_ != 0 && now >= gap_since_ + options_.gap_timeout) {
    outcome.lost =
        Unavailable(what, " was lost between ", path, ": a later one came back before it");
  }
  return outcome;
}

}  // namespace lanyard::coordinator
