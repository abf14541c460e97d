#include "worker/frame_gate.h"

#include "worker/stage_runner.h"

namespace lanyard::worker {

void ResultForwarder::Set(std::unique_ptr<net::ResultClient> client) {
  {
    MutexLock lock(&mu_);
    client_.swap(client);
  }
}

void ResultForwarder::Finish(int timeout_ms) {
  std::unique_ptr<net::ResultClient> client;
  {
    MutexLock lock(&mu_);
    client.swap(client_);
  }
  if (client != nullptr) client->Finish(timeout_ms);
}

void ResultForwarder::OnResult(stage::StepResult result) {
  // It happens under the lock, so that the last owner is always Set's caller; OnResult of a client
  // only enqueues.
  MutexLock lock(&mu_);
  if (client_ != nullptr) client_->OnResult(std::move(result));
}

void FrameGate::Expect(PlanId plan, Epoch epoch, uint32_t stage, std::string from_node) {
  MutexLock lock(&mu_);
  expecting_ = true;
  plan_ = plan;
  epoch_ = epoch;
  stage_ = stage;
  from_node_ = std::move(from_node);
}

void FrameGate::ExpectNothing() {
  MutexLock lock(&mu_);
  expecting_ = false;
}

void FrameGate::SetHost(FrameTarget* host) {
  MutexLock lock(&mu_);
  host_ = host;
}

absl::Status FrameGate::AcceptStream(const net::StreamFrom& from) {
  MutexLock lock(&mu_);
  if (!expecting_ || from.epoch > epoch_) {
    return Unavailable("worker '", worker_, "' has not been assigned a stage of epoch ",
                       from.epoch.value, " yet; try again");
  }
  if (from.peer.has_value() && from.peer->node != from_node_) {
    return absl::PermissionDeniedError(absl::StrCat(
        "stage ", stage_, " of plan ", plan_.value, " is fed by node ", from_node_, "; ",
        identity::RoleName(from.peer->role), " '", from.peer->name, "' is node ", from.peer->node));
  }
  if (from.epoch == epoch_ && from.plan == plan_ && from.stage == stage_) return absl::OkStatus();
  return FailedPrecondition("worker '", worker_, "' holds stage ", stage_, " of plan ", plan_.value,
                            " epoch ", epoch_.value, "; '", from.from, "' asks for stage ",
                            from.stage, " of plan ", from.plan.value, " epoch ", from.epoch.value);
}

void FrameGate::OnFrame(stage::StepFrame frame) {
  MutexLock lock(&mu_);
  if (host_ != nullptr) {
    host_->Send(std::move(frame)).IgnoreError();  // it reports what it refuses
    return;
  }
  results_->OnResult(
      ErrorResult(frame, worker_,
                  FailedPrecondition("worker '", worker_, "' has no stage ready for epoch ",
                                     frame.epoch.value)));
}

void FrameGate::OnBadFrame(const net::StreamFrom& from, StepId step, uint32_t frame,
                           const absl::Status& why) {
  stage::StepResult result;
  result.plan = from.plan;
  result.epoch = from.epoch;
  result.step = step;
  result.frame = frame;
  result.stage = from.stage;
  result.worker = worker_;
  result.status = Annotate(why, absl::StrCat("from '", from.from, "'"));
  {
    MutexLock lock(&mu_);
    if (host_ != nullptr && from.plan == plan_ && from.epoch == epoch_) host_->FrameWasBad(step);
  }
  results_->OnResult(std::move(result));
}

}  // namespace lanyard::worker
