#include "worker/stage_host.h"

#include <system_error>

#include "base/clock.h"

namespace lanyard::worker {
namespace {

constexpr size_t kMaxBadSteps = 8;

size_t HiddenBytes(const std::variant<stage::StepFrame, stage::StepResult>& outcome) {
  const auto* frame = std::get_if<stage::StepFrame>(&outcome);
  return frame == nullptr ? 0 : frame->hidden.data.size();
}

absl::StatusOr<std::jthread> StartThread(std::function<void(std::stop_token)> body) {
  try {
    return std::jthread(std::move(body));
  } catch (const std::system_error& e) {
    return ResourceExhausted("the operating system gives no thread more: ", e.what());
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<StageHost>> StageHost::Create(StageHostOptions options) {
  auto host = std::unique_ptr<StageHost>(new StageHost(std::move(options)));
  RETURN_IF_ERROR(host->Start());  // the destructor ends the thread that was started
  return host;
}

absl::Status StageHost::Start() {
  const auto start = options_.start_thread != nullptr ? options_.start_thread : StartThread;
  const auto why = [this](const absl::Status& status) {
    return Annotate(
        status,
        absl::StrCat("worker '", options_.worker, "' cannot run stage ", options_.spec.index,
                     "; raise the limit of its user (ulimit -u) or of its service (TasksMax)"));
  };
  auto sender = start([this](std::stop_token) { SendLoop(); });
  RETURN_IF_ERROR(why(sender.status()));
  sender_ = *std::move(sender);
  auto compute = start([this](std::stop_token stop) { ComputeLoop(stop); });
  RETURN_IF_ERROR(why(compute.status()));
  compute_ = *std::move(compute);
  return absl::OkStatus();
}

StageHost::~StageHost() {
  StageHost::Abandon();
  if (compute_.joinable()) compute_.join();
  {
    MutexLock lock(&out_mu_);
    out_stopping_ = true;  // set now that nothing more comes
  }
  out_cv_.NotifyAll();
  if (sender_.joinable()) sender_.join();
}

void StageHost::Abandon() {
  compute_.request_stop();
  {
    MutexLock lock(&mu_);
    stopping_ = true;
  }
  cv_.NotifyAll();
}

void StageHost::FrameWasBad(StepId step) {
  MutexLock lock(&mu_);
  if (bad_steps_.size() == kMaxBadSteps) bad_steps_.erase(bad_steps_.begin());
  bad_steps_.push_back(step);
}

absl::Status StageHost::Send(stage::StepFrame frame) {
  absl::Status why;
  {
    MutexLock lock(&mu_);
    const size_t bytes = frame.hidden.data.size();
    why = intake_.Check(frame);
    if (why.ok() && (queue_.size() >= options_.max_queued_frames ||
                     queued_bytes_ + bytes > options_.max_queued_bytes)) {
      why = ResourceExhausted("worker '", options_.worker, "' has ", queue_.size(), " frames (",
                              queued_bytes_, " bytes) queued already");
    }
    if (why.ok()) {
      intake_.Take(frame);
      queued_bytes_ += bytes;
      queue_.push_back(std::move(frame));
      cv_.NotifyOne();
      return absl::OkStatus();
    }
  }
  options_.results->OnResult(ErrorResult(frame, options_.worker, why));
  return why;
}

void StageHost::ComputeLoop(std::stop_token stop) {
  for (;;) {
    stage::StepFrame frame;
    {
      MutexLock lock(&mu_);
      while (queue_.empty() && !stopping_) cv_.Wait(&mu_);
      if (stopping_) return;
      frame = std::move(queue_.front());
      queue_.pop_front();
      queued_bytes_ -= frame.hidden.data.size();
      for (const StepId step : bad_steps_) runner_.FrameWasBad(step);
      bad_steps_.clear();
    }
    std::optional<Outcome> outcome = RunOne(std::move(frame), stop);
    if (!outcome) return;  // the epoch is over: no request waits for it
    {
      MutexLock lock(&out_mu_);
      while (out_bytes_ > options_.max_queued_bytes)
        space_cv_.Wait(&out_mu_);  // sending never stops for long
      out_bytes_ += HiddenBytes(*outcome);
      out_.push_back(*std::move(outcome));
    }
    out_cv_.NotifyOne();
  }
}

std::optional<StageHost::Outcome> StageHost::RunOne(stage::StepFrame frame, std::stop_token stop) {
  if (const absl::Status ready = runner_.Prepare(&frame); !ready.ok())
    return runner_.Finish(std::move(frame), ready);
  const TimeNs start = MonotonicNow();
  absl::StatusOr<engine::StageOutput> output = options_.stage->Run(frame, stop);
  if (options_.stats != nullptr) {
    options_.stats->busy_ns.fetch_add(MonotonicNow() - start, std::memory_order_relaxed);
    options_.stats->frames.fetch_add(1, std::memory_order_relaxed);
  }
  if (!output.ok()) {
    if (stop.stop_requested()) return std::nullopt;
    if (options_.on_lost != nullptr && options_.stage->lost()) options_.on_lost(output.status());
  }
  return runner_.Finish(std::move(frame), std::move(output));
}

void StageHost::SendLoop() {
  for (;;) {
    Outcome outcome;
    {
      MutexLock lock(&out_mu_);
      while (out_.empty() && !out_stopping_) out_cv_.Wait(&out_mu_);
      if (out_.empty()) return;
      outcome = std::move(out_.front());
      out_.pop_front();
      out_bytes_ -= HiddenBytes(outcome);
    }
    space_cv_.NotifyOne();
    SendOne(std::move(outcome));
  }
}

void StageHost::SendOne(Outcome outcome) {
  if (auto* result = std::get_if<stage::StepResult>(&outcome)) {
    options_.results->OnResult(std::move(*result));
    return;
  }
  auto& frame = std::get<stage::StepFrame>(outcome);
  stage::StepResult failed = ErrorResult(frame, options_.worker, absl::OkStatus());
  failed.stage = options_.spec.index;
  if (const absl::Status sent = options_.next->Send(std::move(frame)); !sent.ok()) {
    failed.status = Annotate(sent, "sending to the next stage");
    options_.results->OnResult(std::move(failed));
  }
}

}  // namespace lanyard::worker
