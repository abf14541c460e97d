// Runs the frames of one stage of one epoch: a bounded queue and one compute loop. The outcome goes to the next stage, or
// to the coordinator; every error goes to the coordinator at once.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "base/mutex.h"
#include "engine/local_stage.h"
#include "stage/types.h"
#include "stage/validate.h"

namespace lanyard::worker {

// Outlives the hosts of a worker; read by its heartbeat.
struct HostStats {
  std::atomic<uint64_t> frames{0};   // run since start
  std::atomic<int64_t> busy_ns{0};   // spent in LocalStage::Run
};

struct StageHostOptions {
  std::string worker;                      // stands in results
  stage::StageSpec spec;
  stage::FrameModel model;
  engine::LocalStage* stage = nullptr;     // all pointers outlive the host
  stage::StagePort* next = nullptr;        // null for the last stage
  stage::ResultSink* results = nullptr;
  HostStats* stats = nullptr;              // may be null
  size_t max_queued_frames = 1024;
  size_t max_queued_bytes = size_t{64} << 20;  // of hidden states
};

class StageHost final : public stage::StagePort {
 public:
  explicit StageHost(StageHostOptions options);
  // Stops the frame being run between two layers and drops the queue: its epoch is over.
  ~StageHost() override;

  // Refuses a frame of another plan, epoch or stage, one that came behind a later one (a repeat too), or one beyond the
  // queue's limit: the error is returned and also sent as the step's result. Thread-safe; does not block.
  absl::Status Send(stage::StepFrame frame) override;

 private:
  void Loop(std::stop_token stop);
  void RunOne(stage::StepFrame frame, std::stop_token stop);
  void Fail(const stage::StepFrame& frame, const absl::Status& why);

  const StageHostOptions options_;
  Mutex mu_;
  CondVar cv_;
  std::deque<stage::StepFrame> queue_ ABSL_GUARDED_BY(mu_);
  size_t queued_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  std::optional<std::pair<StepId, uint32_t>> last_ ABSL_GUARDED_BY(mu_);  // step and frame queued last
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::jthread loop_;  // last: started when the rest is there
};

// The error of a frame as the coordinator is to hear it.
stage::StepResult ErrorResult(const stage::StepFrame& frame, const std::string& worker, const absl::Status& why);

}  // namespace lanyard::worker
