// Steps on their way through the stages: which results are believed, in which order, and when the
// pipeline is given up. It is a state machine without I/O or clock.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/status.h"
#include "coordinator/serve/scheduler.h"
#include "stage/types.h"

namespace lanyard::coordinator {

struct PipelineStage {
  std::string worker;
  stage::LayerRange layers;
  // "worker 'w2' (layers 10-19)"; the range is inclusive, as in every text for people.
  std::string Describe() const;
};

struct PipelinePlan {
  PlanId plan;
  Epoch epoch;
  stage::NumericsId numerics;
  std::vector<PipelineStage> stages;
  uint32_t n_vocab = 0;
};

struct PipelineOptions {
  // The longest time in which no frame comes home: until the first one did (a large model over slow
  // machines may take a minute for it), and later. Later it is a multiple of the longest that a
  // frame took here, between the two.
  TimeNs first_timeout = 300 * kSecond;
  TimeNs step_timeout = 30 * kSecond;
  // Streams keep order: when a later frame is back and an earlier one is not, the earlier one is
  // lost and not slow.
  TimeNs gap_timeout = 2 * kSecond;
};

struct FrameDone {
  StepId step;
  uint32_t frame = 0;
  std::vector<stage::TokenOut> tokens;  // those with a status that is not OK end their sequence
};

struct FrameFailed {
  StepId step;
  uint32_t frame = 0;
  absl::Status status;  // names the worker and the stage
};

// What a result, or the passing of time, led to.
struct PipelineOutcome {
  std::vector<FrameDone> done;  // in the order in which they were submitted
  std::vector<FrameFailed> failed;
  std::optional<absl::Status> lost;  // set when the pipeline cannot go on: a new epoch is needed
  std::string ignored;               // why the result was ignored; empty when it was not
};

// Not thread-safe.
class Pipeline {
 public:
  explicit Pipeline(PipelineOptions options) : options_(options) {}

  void Open(PipelinePlan plan);
  void Close();
  bool open() const { return open_; }
  const PipelinePlan& plan() const { return plan_; }

  // Returns the frames for the first stage, in order.
  std::vector<stage::StepFrame> Submit(Step step, TimeNs now);
  // The result is untrusted. It is ignored when it belongs to another plan, epoch or worker, or to
  // a frame that is not in flight. When it answers a frame in flight with something impossible, the
  // pipeline is lost, and the text names the sender.
  PipelineOutcome OnResult(stage::StepResult result, TimeNs now);
  PipelineOutcome OnTick(TimeNs now);
  // In place of OnTick while a stage is known to stand still: the times allowed begin anew.
  void Stalled(TimeNs now);

  size_t frames_in_flight() const { return frames_.size(); }

 private:
  struct Output {
    SeqId seq;
    uint32_t pos = 0;
    uint32_t top = 0;
  };
  struct Frame {
    StepId step;
    uint32_t frame = 0;
    TimeNs submitted = 0;
    std::vector<Output> outputs;
    bool answered = false;  // held back until the frames before it are answered
    std::vector<stage::TokenOut> tokens;
  };

  TimeNs Allowed() const;
  std::string Stale(const stage::StepResult& result) const;
  PipelineOutcome OnError(const stage::StepResult& result, std::deque<Frame>::iterator frame,
                          TimeNs now);
  absl::Status Check(const stage::StepResult& result, const Frame& frame) const;
  void ReleaseInOrder(TimeNs now, PipelineOutcome* outcome);

  const PipelineOptions options_;
  bool open_ = false;
  PipelinePlan plan_;
  std::deque<Frame> frames_;  // in flight, in the order of submission
  TimeNs gap_since_ = 0;      // 0: no result is held back
  TimeNs progress_ = 0;       // when a frame last came home
  TimeNs longest_ = 0;        // that a frame took behind the one before; 0: none came home yet
};

}  // namespace lanyard::coordinator
