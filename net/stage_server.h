// The worker's side of StageService.Frames: welcomes streams, converts and checks frames, answers
// pings.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "net/control.h"

namespace lanyard::net {

// Who opened a stream, and for what.
struct StreamFrom {
  std::string from;  // a worker's name, or "coordinator"
  PlanId plan;
  Epoch epoch;
  uint32_t stage = 0;
  std::optional<identity::Peer> peer = {};  // whose certificate the stream has; nullopt: plaintext
};

// Called from gRPC's threads; must only enqueue. Frames of one stream come in order.
class FrameSink {
 public:
  virtual ~FrameSink() = default;
  // An error refuses the stream; Unavailable asks the sender to try again soon.
  virtual absl::Status AcceptStream(const StreamFrom& from) = 0;
  // Plan, epoch and stage are those of the stream. What is wrong with the frame is the sink's to
  // report.
  virtual void OnFrame(stage::StepFrame frame) = 0;
  // A frame that could not be converted; the stream ends after it.
  virtual void OnBadFrame(const StreamFrom& from, StepId step, uint32_t frame,
                          const absl::Status& why) = 0;
};

class StageServer {
 public:
  // `sink` outlives the server. Errors as CoordinatorServer::Start.
  static absl::StatusOr<std::unique_ptr<StageServer>> Start(const ServerOptions& options,
                                                            FrameSink* sink);
  virtual ~StageServer() = default;         // closes every stream; no call to the sink after it
  virtual std::string address() const = 0;  // host:port actually bound
  // Cuts every connection of a node.
  virtual void CutOff(const std::string& node) = 0;
};

}  // namespace lanyard::net
