// The worker's side of StageService.Frames: it welcomes streams, converts and checks frames, and
// answers pings.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "net/control.h"

namespace lanyard::net {

// Who opened a stream.
struct StreamFrom {
  std::string from;  // a worker's name, or "coordinator"
  PlanId plan;
  Epoch epoch;
  uint32_t stage = 0;
  // The peer whose certificate the stream has; nullopt: plaintext.
  std::optional<identity::Peer> peer = {};
};

// Called from gRPC's threads; an implementation must only enqueue. Frames of one stream come in
// order.
class FrameSink {
 public:
  virtual ~FrameSink() = default;
  // An error refuses the stream; Unavailable asks the sender to try again soon.
  virtual absl::Status AcceptStream(const StreamFrom& from) = 0;
  // Plan, epoch and stage are those of the stream. If anything is wrong with the frame, the sink
  // must report it.
  virtual void OnFrame(stage::StepFrame frame) = 0;
  // A frame came that could not be converted; the stream ends after it.
  virtual void OnBadFrame(const StreamFrom& from, StepId step, uint32_t frame,
                          const absl::Status& why) = 0;
};

class StageServer {
 public:
  // `sink` must outlive the server. The errors are those of CoordinatorServer::Start.
  static absl::StatusOr<std::unique_ptr<StageServer>> Start(const ServerOptions& options,
                                                            FrameSink* sink);
  virtual ~StageServer() = default;         // closes every stream; the sink is not called after it
  virtual std::string address() const = 0;  // the host:port that was bound
  // Cuts every connection of a node.
  virtual void CutOff(const std::string& node) = 0;
};

}  // namespace lanyard::net
