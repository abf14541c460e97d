// Stands between the stage port (gRPC's threads) and the stages of this worker: frames come in,
// results go out. Both ends change with assignments and connections while frames come.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "net/coordinator_client.h"
#include "net/stage_server.h"
#include "worker/frame_target.h"

namespace lanyard::worker {

// Sends results to the coordinator that is connected now. While there is none they are dropped; the
// coordinator itself ends what waits for them.
class ResultForwarder final : public stage::ResultSink {
 public:
  // Must not be called from a gRPC thread: the old client's destructor waits for its callbacks.
  void Set(std::unique_ptr<net::ResultClient> client);
  // The coordinator has read every result when this returns, unless `timeout_ms` was too short. No
  // result is taken after it.
  void Finish(int timeout_ms);
  void OnResult(stage::StepResult result) override;

 private:
  Mutex mu_;
  std::unique_ptr<net::ResultClient> client_ ABSL_GUARDED_BY(mu_);
};

class FrameGate final : public net::FrameSink {
 public:
  FrameGate(std::string worker, stage::ResultSink* results)
      : worker_(std::move(worker)), results_(results) {}

  // From now on streams for this stage are accepted too, also while it loads. With a `from_node`,
  // only streams from that node are. Its epoch is later than those that are expected already.
  void Expect(PlanId plan, Epoch epoch, uint32_t stage, std::string from_node);
  // No stream of the epoch is accepted any more.
  void Forget(Epoch epoch);
  // Frames of the epoch, which is expected, go to `host` until it is set to null or the epoch is
  // forgotten; it is not called after that. The first frame of an epoch ends those before it
  // (FrameTarget::Abandon): two stages may be one in memory.
  void SetHost(Epoch epoch, FrameTarget* host);

  absl::Status AcceptStream(const net::StreamFrom& from) override;
  void OnFrame(stage::StepFrame frame) override;
  void OnBadFrame(const net::StreamFrom& from, StepId step, uint32_t frame,
                  const absl::Status& why) override;

 private:
  struct Expected {
    PlanId plan;
    Epoch epoch;
    uint32_t stage = 0;
    std::string from_node;
    FrameTarget* host = nullptr;
  };
  Expected* Find(Epoch epoch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  FrameTarget* HostFor(Epoch epoch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::string worker_;
  stage::ResultSink* const results_;
  Mutex mu_;
  std::vector<Expected> expected_ ABSL_GUARDED_BY(mu_);  // by epoch
};

}  // namespace lanyard::worker
