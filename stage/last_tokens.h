// The tokens that a stage drew last, so that a frame may name one that its sender has not seen yet
// (SeqRun::token_of): the next decode step then lies on the worker before the last one is home, and
// no round trip stands between two tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "stage/types.h"

namespace lanyard::stage {

// It belongs to one stage that embeds and samples, in one epoch. Not thread-safe: the compute loop
// owns it.
class LastTokens {
 public:
  // Takes the results of a frame of `step`, in order. Of several outputs of a row the first counts.
  void Put(StepId step, const std::vector<TokenOut>& tokens);
  // A frame failed: its outputs were not drawn. With FailedPrecondition it counts as a frame that
  // never came.
  void PutFailed(const StepBatch& batch, const absl::Status& why);
  // A frame of the step could not be read. It is not known whose outputs it had; their sequences
  // have ended.
  void PutFailed(StepId step);
  // Writes the tokens that runs name by token_of. Where the frame that should have drawn one
  // failed, its sequence has ended and the row's result is not read: the row gets token 0, for the
  // sake of the others in its frame. FailedPrecondition where that frame never ran here: it was
  // lost, and only a new epoch helps.
  absl::Status Resolve(StepBatch* batch) const;

  size_t size() const { return last_.size(); }

 private:
  struct Drawn {
    StepId step;
    uint32_t pos = 0;    // position of the row
    int32_t token = -1;  // -1: the frame failed
  };
  void MakeSpace(StepId step, size_t n);

  std::unordered_map<SeqId, Drawn> last_;
  std::vector<StepId> failed_;  // the last few steps with a frame that could not be read
};

}  // namespace lanyard::stage
