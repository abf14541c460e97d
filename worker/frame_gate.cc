#include "worker/frame_gate.h"

#include <utility>

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
  expected_.push_back({plan, epoch, stage, std::move(from_node)});
}

void FrameGate::Forget(Epoch epoch) {
  MutexLock lock(&mu_);
  std::erase_if(expected_, [&](const Expected& e) { return e.epoch == epoch; });
}

FrameGate::Expected* FrameGate::Find(Epoch epoch) {
  for (Expected& e : expected_) {
    if (e.epoch == epoch) return &e;
  }
  return nullptr;
}

void FrameGate::SetHost(Epoch epoch, FrameTarget* host) {
  MutexLock lock(&mu_);
  if (Expected* expected = Find(epoch)) expected->host = host;
}

absl::Status FrameGate::AcceptStream(const net::StreamFrom& from) {
  MutexLock lock(&mu_);
  if (expected_.empty() || from.epoch > expected_.back().epoch) {
    return Unavailable("worker '", worker_, "' has not been assigned a stage of epoch ",
                       from.epoch.value, " yet; try again");
  }
  const Expected* of_epoch = Find(from.epoch);
  const Expected& mine = of_epoch != nullptr ? *of_epoch : expected_.back();
  if (from.peer.has_value() && from.peer->node != mine.from_node) {
    return absl::PermissionDeniedError(
        absl::StrCat("stage ", mine.stage, " of plan ", mine.plan.value, " is fed by node ",
                     mine.from_node, "; ", identity::RoleName(from.peer->role), " '",
                     from.peer->name, "' is node ", from.peer->node));
  }
  if (from.epoch == mine.epoch && from.plan == mine.plan && from.stage == mine.stage)
    return absl::OkStatus();
  return FailedPrecondition("worker '", worker_, "' holds stage ", mine.stage, " of plan ",
                            mine.plan.value, " epoch ", mine.epoch.value, "; '", from.from,
                            "' asks for stage ", from.stage, " of plan ", from.plan.value,
                            " epoch ", from.epoch.value);
}

// A frame of an epoch that is not expected goes to a host all the same, which refuses it in words.
FrameTarget* FrameGate::HostFor(Epoch epoch) {
  const Expected* of_epoch = Find(epoch);
  if (of_epoch == nullptr) return expected_.empty() ? nullptr : expected_.back().host;
  if (of_epoch->host == nullptr) return nullptr;
  for (Expected& before : expected_) {
    if (before.epoch >= epoch || before.host == nullptr) continue;
    before.host->Abandon();
    before.host = nullptr;
  }
  return of_epoch->host;
}

void FrameGate::OnFrame(stage::StepFrame frame) {
  MutexLock lock(&mu_);
  if (FrameTarget* host = HostFor(frame.epoch)) {
    host->Send(std::move(frame)).IgnoreError();  // it reports what it refuses
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
    const Expected* expected = Find(from.epoch);
    if (expected != nullptr && expected->plan == from.plan && expected->host != nullptr)
      expected->host->FrameWasBad(step);
  }
  results_->OnResult(std::move(result));
}

}  // namespace lanyard::worker
