// A stage that runs the hash model: what a worker of the simulated world has in place of the
// engine's.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/local_stage.h"
#include "tests/sim/hash_model.h"

namespace lanyard::sim {

// Numbers of an f32 hidden state that hold one hash.
inline constexpr uint32_t kHashColumns = 2;

class HashStage final : public engine::LocalStage {
 public:
  // `model` must outlive this.
  HashStage(const HashModel* model, stage::StageSpec spec)
      : model_(model), spec_(std::move(spec)), memory_{100, 20, 3} {}

  // The KV becomes full of poison: nothing of an earlier epoch may be read.
  void Poison(uint64_t poison);
  // From now on it says that its device is gone.
  void Lose() { lost_ = true; }

  absl::StatusOr<engine::StageOutput> Run(const stage::StepFrame& frame,
                                          std::stop_token stop) override;
  const engine::StageMemory& memory() const override { return memory_; }
  bool lost() const override { return lost_; }

 private:
  absl::Status RunRow(const stage::SeqRun& run, uint32_t pos, uint64_t* hidden);
  uint64_t* Slot(uint32_t layer, const stage::SeqRun& run, uint32_t pos);

  const HashModel* const model_;
  const stage::StageSpec spec_;
  const engine::StageMemory memory_;
  std::vector<std::vector<uint64_t>> kv_;  // one list for each layer
  bool lost_ = false;
};

}  // namespace lanyard::sim
