// Checks every frame before anything is computed, since frames come from other machines. Refusals
// name the field, the value seen and the limit.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "stage/types.h"

namespace lanyard::stage {

// The most logits, largest ones or single ones, that one row may ask for.
inline constexpr uint32_t kMaxTopLogits = 1024;
inline constexpr uint32_t kMaxWantLogits = 1024;
// The most outputs (samples) of one row.
inline constexpr uint32_t kMaxOutputsPerRow = 64;

// The hottest that is drawn; OpenAI's limit.
inline constexpr float kMaxTemperature = 2;

// The one rule of what a SampleSpec may hold: of a client's request, on the wire, before a draw.
// InvalidArgument naming the field, the value and the range; NaN is in none.
absl::Status CheckSample(const SampleSpec& sample);

// What a model's frames must fit.
struct FrameModel {
  uint32_t n_vocab = 0;
  uint32_t d_model = 0;
  std::vector<uint32_t> group_windows;  // for each state group the tokens that a row sees; 0: all
};

// The logical blocks [first, end) of a group that rows [pos, pos + n_rows) read or write.
struct BlockRange {
  uint32_t first = 0;
  uint32_t end = 0;
};
BlockRange NeededBlocks(uint32_t pos, uint32_t n_rows, uint32_t window);

// FailedPrecondition: the frame is for another plan, epoch, stage or numerics id. InvalidArgument:
// anything else is wrong. A frame that passes can be run: every index is in range and no two runs
// share a block. Hidden values are looked at by LocalStage::Run.
absl::Status ValidateFrame(const StepFrame& frame, const StageSpec& spec, const FrameModel& model);

}  // namespace lanyard::stage
