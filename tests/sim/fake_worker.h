// A worker's contract without its compute: it holds one stage, perhaps another of a later epoch
// beside it, refuses what it must, and runs the hash model on its own KV blocks.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "net/control.h"
#include "stage/last_tokens.h"
#include "stage/types.h"
#include "tests/sim/hash_model.h"

namespace lanyard::sim {

// Planted bugs: they prove that the checker would see a worker that does this.
struct WorkerBugs {
  bool obey_stale_epoch = false;
  bool obey_out_of_order = false;
  bool stale_token = false;       // takes the token that it read last instead of the one named
  bool fail_whole_frame = false;  // a row that is not finite fails all that share its frame
};

class FakeWorker {
 public:
  FakeWorker(std::string name, const HashModel* model, WorkerBugs bugs, uint64_t poison)
      : name_(std::move(name)), model_(model), bugs_(bugs), poison_(poison) {}

  // The KV becomes empty and full of poison; from now on frames of older epochs are refused.
  // (A stage beside another one is empty too, and leaves that one alone.)
  void Assign(const net::Assignment& assignment);
  void Release(PlanId plan);
  const std::optional<net::Assignment>& assignment() const { return assignment_; }

  struct Output {
    std::optional<stage::StepFrame> forward;
    std::optional<stage::StepResult> result;
  };
  Output Run(stage::StepFrame frame);

  const std::string& name() const { return name_; }
  uint64_t stale_frames_obeyed() const { return stale_frames_obeyed_; }

 private:
  void TakeBeside();
  absl::Status Check(const stage::StepFrame& frame);
  absl::Status ReadDrawn(stage::StepBatch* batch);
  absl::Status RunRows(stage::StepFrame* frame, std::vector<uint64_t>* hidden,
                       std::vector<stage::TokenOut>* tokens);
  uint64_t* Slot(uint32_t layer, const stage::SeqRun& run, uint32_t pos);
  stage::StepResult Result(const stage::StepFrame& frame, absl::Status status) const;

  std::string name_;
  const HashModel* model_;
  WorkerBugs bugs_;
  uint64_t poison_;
  std::optional<net::Assignment> assignment_;
  std::vector<std::vector<uint64_t>> kv_;  // one list for each layer
  StepId last_step_;
  uint32_t last_frame_ = 0;
  stage::LastTokens drawn_;
  int32_t read_last_ = 1;
  uint64_t stale_frames_obeyed_ = 0;
  std::unique_ptr<FakeWorker> beside_;
};

}  // namespace lanyard::sim
