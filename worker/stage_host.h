// Runs the frames of one stage of one epoch: a bounded queue, one compute loop, and one loop that
// sends what it made, so that the next frame is computed meanwhile. The outcome goes to the next
// stage, or to the coordinator; every error goes to the coordinator at once.
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

// Outlives the hosts of a worker; read by its heartbeat.
struct HostStats {
  std::atomic<uint64_t> frames{0};  // run since start
  std::atomic<int64_t> busy_ns{0};  // spent in LocalStage::Run
};

struct StageHostOptions {
  std::string worker;  // stands in results
  stage::StageSpec spec;
  stage::FrameModel model;
  engine::LocalStage* stage = nullptr;  // all pointers outlive the host
  stage::StagePort* next = nullptr;     // null for the last stage
  stage::ResultSink* results = nullptr;
  HostStats* stats = nullptr;  // may be null
  // A frame failed and the stage with it (LocalStage::lost). Called from the compute loop; must
  // only enqueue. May be null.
  std::function<void(const absl::Status& why)> on_lost = nullptr;
  // Starts a thread; a seam for tests. Null: the operating system.
  std::function<absl::StatusOr<std::jthread>(std::function<void(std::stop_token)>)> start_thread =
      nullptr;
  size_t max_queued_frames = 1024;
  size_t max_queued_bytes = size_t{64} << 20;  // of hidden states, in each of the two queues
};

class StageHost final : public stage::StagePort {
 public:
  // ResourceExhausted when the operating system gives it no thread.
  static absl::StatusOr<std::unique_ptr<StageHost>> Create(StageHostOptions options);
  // Stops the frame being run between two layers and drops the queue: its epoch is over. What was
  // computed is still sent: whoever waits for it may have its last token in it, and to a later
  // epoch it is stale and refused.
  ~StageHost() override;

  // Refuses a frame of another plan, epoch or stage, one that came behind a later one (a repeat
  // too), or one beyond the queue's limit: the error is returned and also sent as the step's
  // result. Thread-safe; does not block.
  absl::Status Send(stage::StepFrame frame) override;
  // A frame of the step came damaged and will not be run: rows that name its tokens are nobody's
  // (stage::LastTokens). Thread-safe; does not block.
  void FrameWasBad(StepId step);

 private:
  explicit StageHost(StageHostOptions options) : options_(std::move(options)) {}
  absl::Status Start();
  // For the next stage, or for the coordinator.
  using Outcome = std::variant<stage::StepFrame, stage::StepResult>;

  bool Draws() const { return options_.spec.embeds && options_.spec.samples; }
  void ComputeLoop(std::stop_token stop);
  std::optional<Outcome> RunOne(stage::StepFrame frame, std::stop_token stop);
  void SendLoop();
  void SendOne(Outcome outcome);

  const StageHostOptions options_;
  stage::LastTokens drawn_;  // of the compute loop
  Mutex mu_;
  CondVar cv_;
  std::deque<stage::StepFrame> queue_ ABSL_GUARDED_BY(mu_);
  size_t queued_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  std::optional<std::pair<StepId, uint32_t>> last_
      ABSL_GUARDED_BY(mu_);                             // step and frame queued last
  std::vector<StepId> bad_steps_ ABSL_GUARDED_BY(mu_);  // not yet known to `drawn_`
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

// The error of a frame as the coordinator is to hear it.
stage::StepResult ErrorResult(const stage::StepFrame& frame, const std::string& worker,
                              const absl::Status& why);

}  // namespace lanyard::worker
