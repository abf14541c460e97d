// Runs the frames of one stage in one epoch. It has a bounded queue, one compute loop, and one loop
// that sends what was computed, so that the next frame is computed meanwhile. The outcome goes to
// the next stage or to the coordinator; every error goes to the coordinator at once.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "engine/local_stage.h"
#include "stage/types.h"
#include "stage/validate.h"
#include "worker/frame_target.h"
#include "worker/stage_runner.h"

namespace lanyard::worker {

// It outlives the hosts of a worker; the heartbeat reads it.
struct HostStats {
  std::atomic<uint64_t> frames{0};  // run since the start
  std::atomic<int64_t> busy_ns{0};  // spent in LocalStage::Run
};

struct StageHostOptions {
  std::string worker;  // name that stands in results
  stage::StageSpec spec;
  stage::FrameModel model;
  engine::LocalStage* stage = nullptr;  // all pointers must outlive the host
  stage::StagePort* next = nullptr;     // null for the last stage (spec.samples)
  stage::ResultSink* results = nullptr;
  HostStats* stats = nullptr;  // may be null
  // A frame failed, and the stage with it (LocalStage::lost). It is called from the compute loop
  // and must only enqueue. May be null.
  std::function<void(const absl::Status& why)> on_lost = nullptr;
  // Starts a thread; tests put another function here. Null: the operating system does it.
  std::function<absl::StatusOr<std::jthread>(std::function<void(std::stop_token)>)> start_thread =
      nullptr;
  size_t max_queued_frames = 1024;
  size_t max_queued_bytes = size_t{64} << 20;  // bytes of hidden states in each of the two queues
};

class StageHost final : public FrameTarget {
 public:
  // ResourceExhausted when the operating system gives no thread.
  static absl::StatusOr<std::unique_ptr<StageHost>> Create(StageHostOptions options);
  // Stops the running frame between two layers and drops the queue, since its epoch is over.
  // Computed results are still sent: they may hold the last token that a request waits for, and a
  // later epoch refuses them as stale.
  ~StageHost() override;

  // Refuses a frame of another plan, epoch or stage, a frame that comes behind a later one (also a
  // repeated one), and a frame beyond the queue's limit. The error is returned and also sent as the
  // step's result. Thread-safe; it does not block.
  absl::Status Send(stage::StepFrame frame) override;
  void FrameWasBad(StepId step) override;
  void Abandon() override;

 private:
  using Outcome = StageRunner::Outcome;

  explicit StageHost(StageHostOptions options)
      : options_(std::move(options)),
        runner_(options_.worker, &options_.spec, options_.model),
        intake_(options_.worker, &options_.spec) {}
  absl::Status Start();
  void ComputeLoop(std::stop_token stop);
  std::optional<Outcome> RunOne(stage::StepFrame frame, std::stop_token stop);
  void SendLoop();
  void SendOne(Outcome outcome);

  const StageHostOptions options_;
  StageRunner runner_;  // used by the compute loop
  Mutex mu_;
  CondVar cv_;
  std::deque<stage::StepFrame> queue_ ABSL_GUARDED_BY(mu_);
  size_t queued_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  FrameIntake intake_ ABSL_GUARDED_BY(mu_);
  std::vector<StepId> bad_steps_ ABSL_GUARDED_BY(mu_);  // steps that `runner_` does not know yet
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  Mutex out_mu_;
  CondVar out_cv_;    // there is something to send
  CondVar space_cv_;  // there is space for more
  std::deque<Outcome> out_ ABSL_GUARDED_BY(out_mu_);
  size_t out_bytes_ ABSL_GUARDED_BY(out_mu_) = 0;
  bool out_stopping_ ABSL_GUARDED_BY(out_mu_) = false;
  std::jthread sender_;
  std::jthread compute_;
};

}  // namespace lanyard::worker
