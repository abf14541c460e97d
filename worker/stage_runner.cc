#include "worker/stage_runner.h"

namespace lanyard::worker {

stage::StepResult ErrorResult(const stage::StepFrame& frame, const std::string& worker,
                              const absl::Status& why) {
  stage::StepResult result;
  result.plan = frame.plan;
  result.epoch = frame.epoch;
  result.step = frame.batch.step;
  result.frame = frame.batch.frame;
  result.stage = frame.stage;
  result.worker = worker;
  result.status = why;
  return result;
}

absl::Status FrameIntake::Check(const stage::StepFrame& frame) const {
  if (frame.plan != spec_->plan || frame.epoch != spec_->epoch || frame.stage != spec_->index) {
    return FailedPrecondition("worker '", worker_, "' holds stage ", spec_->index, " of plan ",
                              spec_->plan.value, " epoch ", spec_->epoch.value,
                              "; the frame is for stage ", frame.stage, " of plan ",
                              frame.plan.value, " epoch ", frame.epoch.value);
  }
  if (last_.has_value() && std::pair(frame.batch.step, frame.batch.frame) <= *last_) {
    // Its block tables may name blocks that other sequences have by now.
    return FailedPrecondition("frame ", frame.batch.frame, " of step ", frame.batch.step.value,
                              " came behind frame ", last_->second, " of step ", last_->first.value,
                              "; frames are taken in order, once");
  }
  return absl::OkStatus();
}

void FrameIntake::Take(const stage::StepFrame& frame) {
  last_ = {frame.batch.step, frame.batch.frame};
}

absl::Status StageRunner::Prepare(stage::StepFrame* frame) const {
  RETURN_IF_ERROR(stage::ValidateFrame(*frame, *spec_, model_));
  return drawn_.Resolve(&frame->batch);
}

StageRunner::Outcome StageRunner::Finish(stage::StepFrame frame,
                                         absl::StatusOr<engine::StageOutput> output) {
  if (!output.ok()) {
    if (Draws()) drawn_.PutFailed(frame.batch, output.status());
    return ErrorResult(frame, worker_, output.status());
  }
  if (spec_->samples) {
    if (Draws()) drawn_.Put(frame.batch.step, output->tokens);
    stage::StepResult result = ErrorResult(frame, worker_, absl::OkStatus());
    result.tokens = std::move(output->tokens);
    return result;
  }
  // The next stage gets the same rows, and reads hidden states instead of tokens.
  frame.stage += 1;
  for (stage::SeqRun& run : frame.batch.runs) run.tokens.clear();
  frame.hidden = std::move(output->hidden);
  return frame;
}

}  // namespace lanyard::worker
