// What takes the frames of a stage behind the stage port: a StageHost, or the simulator's.
#pragma once

#include "base/ids.h"
#include "stage/types.h"

namespace lanyard::worker {

class FrameTarget : public stage::StagePort {
 public:
  // A frame of the step came damaged and will not be run: rows that name its tokens belong to no
  // sequence that goes on (stage::LastTokens). Thread-safe; it does not block.
  virtual void FrameWasBad(StepId step) = 0;
  // A later epoch has begun: the running frame is stopped, and no other is run. Thread-safe; it
  // does not block.
  virtual void Abandon() = 0;
};

}  // namespace lanyard::worker
