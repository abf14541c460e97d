// The thread on which plans are made, so that the pool's own never does work.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <thread>
#include <utility>

#include "base/mutex.h"
#include "coordinator/pool_action.h"
#include "sharding/planner.h"

namespace lanyard::coordinator {

using PlanFn = std::function<absl::StatusOr<sharding::Plan>(const sharding::PlanRequest&)>;

// Thread-safe. Of the jobs of one deployment only the latest counts: an earlier one is not begun,
// or is given up.
class PlanThread {
 public:
  using Done = std::function<void(DeploymentId deployment, uint64_t job,
                                  absl::StatusOr<sharding::Plan> made)>;

  // `done` is called from the thread and must only enqueue.
  PlanThread(PlanFn make, Done done);
  // Gives up what it plans; `done` is not called any more.
  ~PlanThread();

  void Post(DeploymentId deployment, PlanJob job);

 private:
  void Loop();

  const PlanFn make_;
  const Done done_;
  std::atomic<bool> give_up_{false};  // of the job that runs
  Mutex mu_;
  CondVar cv_;
  std::map<DeploymentId, PlanJob> waiting_ ABSL_GUARDED_BY(mu_);
  DeploymentId running_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace lanyard::coordinator
