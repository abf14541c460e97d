#include "coordinator/plan_thread.h"

namespace lanyard::coordinator {

PlanThread::PlanThread(PlanFn make, Done done)
    : make_(std::move(make)), done_(std::move(done)), thread_([this] { Loop(); }) {}

PlanThread::~PlanThread() {
  {
    MutexLock lock(&mu_);
    stopping_ = true;
    give_up_.store(true);
    cv_.NotifyOne();
  }
  thread_.join();
}

void PlanThread::Post(DeploymentId deployment, PlanJob job) {
  MutexLock lock(&mu_);
  waiting_[deployment] = std::move(job);
  if (running_ == deployment) give_up_.store(true);
  cv_.NotifyOne();
}

void PlanThread::Loop() {
  while (true) {
    DeploymentId deployment;
    PlanJob job;
    {
      MutexLock lock(&mu_);
      running_ = DeploymentId();
      while (waiting_.empty() && !stopping_) cv_.Wait(&mu_);
      if (stopping_) return;
      deployment = running_ = waiting_.begin()->first;
      job = std::move(waiting_.begin()->second);
      waiting_.erase(waiting_.begin());
      give_up_.store(false);
    }
    job.request.give_up = &give_up_;
    absl::StatusOr<sharding::Plan> made = make_(job.request);
    if (!give_up_.load()) done_(deployment, job.id, std::move(made));
  }
}

}  // namespace lanyard::coordinator
