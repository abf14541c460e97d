// What a worker makes of the frames of one stage in one epoch: which it takes, how they are made
// ready to be run, and what becomes of the output. It has no queue, threads or clock: stage_host.h
// puts these around it, and tests/sim puts virtual time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "base/status.h"
#include "engine/local_stage.h"
#include "stage/last_tokens.h"
#include "stage/types.h"
#include "stage/validate.h"

namespace lanyard::worker {

// The error of a frame in the form for the coordinator.
stage::StepResult ErrorResult(const stage::StepFrame& frame, const std::string& worker,
                              const absl::Status& why);

// Which frames a stage takes: those of its plan, epoch and place, in order, once. Not thread-safe.
class FrameIntake {
 public:
  // `worker` stands in errors; `spec` must outlive this.
  FrameIntake(std::string worker, const stage::StageSpec* spec)
      : worker_(std::move(worker)), spec_(spec) {}

  // FailedPrecondition for a frame of another plan, epoch or stage, and for one that comes behind a
  // later one (also a repeated one).
  absl::Status Check(const stage::StepFrame& frame) const;
  // The frame passed Check and will be run.
  void Take(const stage::StepFrame& frame);

 private:
  const std::string worker_;
  const stage::StageSpec* const spec_;
  std::optional<std::pair<StepId, uint32_t>> last_;  // the step and frame that were taken last
};

// Not thread-safe: frames are run one after the other.
class StageRunner {
 public:
  // Goes to the next stage, or to the coordinator.
  using Outcome = std::variant<stage::StepFrame, stage::StepResult>;

  // `spec` must outlive this.
  StageRunner(std::string worker, const stage::StageSpec* spec, stage::FrameModel model)
      : worker_(std::move(worker)), spec_(spec), model_(std::move(model)) {}

  // Validates the frame, and writes the tokens that its rows name by the step that drew them. Only
  // then may it be run (engine::LocalStage::Run).
  absl::Status Prepare(stage::StepFrame* frame) const;
  // Takes what the stage made of the frame, or the error of Prepare or of the stage.
  Outcome Finish(stage::StepFrame frame, absl::StatusOr<engine::StageOutput> output);
  // A frame of the step came damaged and will not be run: rows that name its tokens belong to no
  // sequence that goes on (stage::LastTokens).
  void FrameWasBad(StepId step) { drawn_.PutFailed(step); }

 private:
  bool Draws() const { return spec_->embeds && spec_->samples; }

  const std::string worker_;
  const stage::StageSpec* const spec_;
  const stage::FrameModel model_;
  stage::LastTokens drawn_;
};

}  // namespace lanyard::worker
