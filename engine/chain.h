// The stages of a cut in one process, with the block tables that a coordinator would keep: this is
// what `eval`, `bench` and tests run. A step goes from stage to stage as the frames that machines
// would send each other.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "engine/local_stage.h"
#include "model/model_shape.h"
#include "model/tensor_source.h"
#include "stage/types.h"

namespace lanyard::engine {

struct ChainOptions {
  // 1 .. n_layers + 2: the largest counts have an embedding alone and a head alone.
  uint32_t stages = 1;
  stage::NumericsId numerics;
  StageOptions stage;
  uint32_t max_context = 0;  // tokens of one sequence
  uint32_t max_rows = stage::kMaxFrameRows;
  uint32_t sequences = 1;  // running at one time
  // Applied to a frame between machines, e.g. to encode and decode it; null: nothing is done.
  std::function<absl::StatusOr<stage::StepFrame>(stage::StepFrame)> wire;
};

// The new tokens of one sequence.
struct Feed {
  SeqId seq;
  std::vector<int32_t> tokens;
  std::vector<stage::OutputRequest> outputs;  // rows count from the first new token
};

class Chain {
 public:
  static absl::StatusOr<std::unique_ptr<Chain>> Create(const model::ModelShape& shape,
                                                       const model::TensorSource& source,
                                                       const ChainOptions& options);

  // Appends to each sequence, at most max_rows tokens together. Results come in the order of feeds
  // and outputs.
  absl::StatusOr<std::vector<stage::TokenOut>> Step(std::span<const Feed> feeds);
  // Forgets a sequence and frees its blocks.
  void Release(SeqId seq);

  const std::vector<std::unique_ptr<LocalStage>>& stages() const { return stages_; }
  const std::vector<stage::StageSpec>& specs() const { return specs_; }

 private:
  struct Sequence {
    uint32_t pos = 0;
    std::vector<stage::BlockTable> tables;
  };

  Chain() = default;
  absl::Status Reserve(Sequence& sequence, uint32_t n_rows);

  stage::FrameModel model_;
  ChainOptions options_;
  std::vector<stage::StageSpec> specs_;
  std::vector<std::unique_ptr<LocalStage>> stages_;
  std::vector<std::vector<uint32_t>> free_;  // blocks of each state group
  std::map<SeqId, Sequence> sequences_;
  uint64_t next_step_ = 0;
};

// Makes the specs of a cut into n stages with about equal numbers of layers.
absl::StatusOr<std::vector<stage::StageSpec>> CutEvenly(const model::ModelShape& shape,
                                                        const ChainOptions& options);

}  // namespace lanyard::engine
