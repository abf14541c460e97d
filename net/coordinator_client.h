// The worker's ends of the coordinator's services: the control stream, the results, the weights.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "base/clock.h"
#include "net/control.h"

namespace lanyard::net {

// What a worker is told on the control stream. It is called from gRPC's threads; an implementation
// must only enqueue.
class ControlSink {
 public:
  virtual ~ControlSink() = default;
  virtual void OnWelcome() = 0;
  // `final` says that trying again will not help (the version is another). The stream closes after
  // it.
  virtual void OnRefused(const absl::Status& why, bool final) = 0;
  virtual void OnAssign(Assignment assignment) = 0;
  // An assignment came that could not be converted or validated.
  virtual void OnBadAssign(PlanId plan, Epoch epoch, const absl::Status& why) = 0;
  virtual void OnRelease(PlanId plan) = 0;
  // These nodes are no longer members; it is the whole list.
  virtual void OnRevoked(std::vector<std::string> nodes) = 0;
  // The request is to be answered with a Diagnosis.
  virtual void OnDiagnose(DiagnoseRequest request) { (void)request; }
  // Called once, as the last: the stream ended or could not be opened.
  virtual void OnControlClosed(const absl::Status& why) = 0;
};

class ControlClient {
 public:
  // Sends the hello at once. `sink` must outlive the client. The destructor waits for the last
  // callback; none comes after it.
  static std::unique_ptr<ControlClient> Connect(const Endpoint& coordinator,
                                                const WorkerHello& hello, ControlSink* sink);
  virtual ~ControlClient() = default;
  virtual absl::Status Send(const WorkerEvent& event) = 0;
  // Sends Leaving, closes the stream in order and waits at most `timeout_ms`.
  virtual void Leave(const std::string& reason, int timeout_ms) = 0;
  // When the last message came; before any, the time of the connect.
  virtual TimeNs last_heard() const = 0;
};

// Sends results over one long-lived stream. Results of a closed stream are dropped; `on_closed`
// tells the owner.
class ResultClient : public stage::ResultSink {
 public:
  // `on_closed` is called once, from a gRPC thread, unless the client is destroyed first. It must
  // only enqueue.
  static std::unique_ptr<ResultClient> Connect(
      const Endpoint& coordinator, const std::string& worker,
      std::function<void(const absl::Status& why)> on_closed);
  ~ResultClient() override = default;
  virtual absl::Status WaitReady(int timeout_ms) = 0;
  // Writes what is queued, half-closes, and waits at most `timeout_ms` until the coordinator has
  // read all and ended the stream. `on_closed` is not called after it.
  virtual void Finish(int timeout_ms) = 0;
};

class WeightClient {
 public:
  explicit WeightClient(const Endpoint& coordinator);
  ~WeightClient();

  // Streams the bytes of a part from `offset` to its end into `take`, in order, and blocks
  // meanwhile. It returns take's error, Cancelled when `stop` asks, or the coordinator's error.
  absl::Status Fetch(const std::string& sha256, uint64_t offset, std::stop_token stop,
                     const std::function<absl::Status(std::span<const uint8_t>)>& take);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lanyard::net
