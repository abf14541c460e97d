#include "worker/stage_host.h"

#include "base/clock.h"

namespace lanyard::worker {

stage::StepResult ErrorResult(const stage::StepFrame& frame, const std::string& worker, const absl::Status& why) {
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

StageHost::StageHost(StageHostOptions options)
    : options_(std::move(options)), loop_([this](std::stop_token stop) { Loop(stop); }) {}

StageHost::~StageHost() {
  loop_.request_stop();
  {
    MutexLock lock(&mu_);
    stopping_ = true;
    cv_.NotifyAll();
  }
  loop_.join();
}

absl::Status StageHost::Send(stage::StepFrame frame) {
  const stage::StageSpec& spec = options_.spec;
  absl::Status why = absl::OkStatus();
  if (frame.plan != spec.plan || frame.epoch != spec.epoch || frame.stage != spec.index) {
    why = FailedPrecondition("worker '", options_.worker, "' holds stage ", spec.index, " of plan ", spec.plan.value,
                             " epoch ", spec.epoch.value, "; the frame is for stage ", frame.stage, " of plan ",
                             frame.plan.value, " epoch ", frame.epoch.value);
  } else {
    MutexLock lock(&mu_);
    const size_t bytes = frame.hidden.data.size();
    const std::pair place(frame.batch.step, frame.batch.frame);
    if (last_.has_value() && place <= *last_) {
      // Its block tables may name blocks that have since been given to others.
      why = FailedPrecondition("frame ", frame.batch.frame, " of step ", frame.batch.step.value, " came behind frame ",
                               last_->second, " of step ", last_->first.value, "; frames are taken in order, once");
    } else if (queue_.size() < options_.max_queued_frames && queued_bytes_ + bytes <= options_.max_queued_bytes) {
      last_ = place;
      queued_bytes_ += bytes;
      queue_.push_back(std::move(frame));
      cv_.NotifyOne();
      return absl::OkStatus();
    } else {
      why = ResourceExhausted("worker '", options_.worker, "' has ", queue_.size(), " frames (", queued_bytes_,
                              " bytes) queued already");
    }
  }
  Fail(frame, why);
  return why;
}

void StageHost::Loop(std::stop_token stop) {
  for (;;) {
    stage::StepFrame frame;
    {
      MutexLock lock(&mu_);
      while (queue_.empty() && !stopping_) cv_.Wait(&mu_);
      if (stopping_) return;
      frame = std::move(queue_.front());
      queue_.pop_front();
      queued_bytes_ -= frame.hidden.data.size();
    }
    RunOne(std::move(frame), stop);
  }
}

void StageHost::RunOne(stage::StepFrame frame, std::stop_token stop) {
  if (const absl::Status valid = stage::ValidateFrame(frame, options_.spec, options_.model); !valid.ok()) {
    Fail(frame, valid);
    return;
  }
  const TimeNs start = MonotonicNow();
  absl::StatusOr<engine::StageOutput> output = options_.stage->Run(frame, stop);
  if (options_.stats != nullptr) {
    options_.stats->busy_ns.fetch_add(MonotonicNow() - start, std::memory_order_relaxed);
    options_.stats->frames.fetch_add(1, std::memory_order_relaxed);
  }
  if (stop.stop_requested()) return;  // the epoch is over: nobody waits for it
  if (!output.ok()) {
    Fail(frame, output.status());
    return;
  }
  if (options_.next == nullptr) {
    stage::StepResult result = ErrorResult(frame, options_.worker, absl::OkStatus());
    result.tokens = std::move(output->tokens);
    options_.results->OnResult(std::move(result));
    return;
  }
  // The same rows for the next stage, which reads hidden states instead of tokens.
  stage::StepFrame next;
  next.plan = frame.plan;
  next.epoch = frame.epoch;
  next.stage = frame.stage + 1;
  next.numerics = frame.numerics;
  next.batch = std::move(frame.batch);
  for (stage::SeqRun& run : next.batch.runs) run.tokens.clear();
  next.hidden = std::move(output->hidden);
  stage::StepResult failed = ErrorResult(next, options_.worker, absl::OkStatus());
  if (const absl::Status sent = options_.next->Send(std::move(next)); !sent.ok()) {
    failed.stage = frame.stage;
    failed.status = Annotate(sent, "sending to the next stage");
    options_.results->OnResult(std::move(failed));
  }
}

void StageHost::Fail(const stage::StepFrame& frame, const absl::Status& why) {
  options_.results->OnResult(ErrorResult(frame, options_.worker, why));
}

}  // namespace lanyard::worker
