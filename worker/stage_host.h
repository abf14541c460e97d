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
#include <utility>
#include <variant>
#include <vector>

#include "base/mutex.h"
#include "engine/local_stage.h"
#include "stage/last_tokens.h"
#include "stage/types.h"
#include "stage/validate.h"

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
  stage::StagePort* next = nullptr;     // null for the last stage
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

class StageHost final : public stage::StagePort {
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
  // A frame of the step came damaged and will not be run: rows that name its tokens belong to no
  // sequence that goes on (stage::LastTokens). Thread-safe; it does not block.
  void FrameWasBad(StepId step);
  // A later epoch has begun: the running frame is stopped between two layers, and no other is run.
  // Thread-safe; it does not block.
  void Abandon();

 private:
  explicit StageHost(StageHostOptions options) : options_(std::move(options)) {}
  absl::Status Start();
  // Goes to the next stage, or to the coordinator.
  using Outcome = std::variant<stage::StepFrame, stage::StepResult>;

  bool Draws() const { return options_.spec.embeds && options_.spec.samples; }
  void ComputeLoop(std::stop_token stop);
  std::optional<Outcome> RunOne(stage::StepFrame frame, std::stop_token stop);
  void SendLoop();
  void SendOne(Outcome outcome);

  const StageHostOptions options_;
  stage::LastTokens drawn_;  // used by the compute loop
  Mutex mu_;
  CondVar cv_;
  std::deque<stage::StepFrame> queue_ ABSL_GUARDED_BY(mu_);
  size_t queued_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  std::optional<std::pair<StepId, uint32_t>> last_
      ABSL_GUARDED_BY(mu_);                             // the step and frame that were queued last
  std::vector<StepId> bad_steps_ ABSL_GUARDED_BY(mu_);  // steps that `drawn_` does not know yet
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

// The error of a frame in the form for the coordinator.
stage::StepResult ErrorResult(const stage::StepFrame& frame, const std::string& worker,
                              const absl::Status& why);

}  // namespace lanyard::worker
