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

// What the worker hears on the control stream. Called from gRPC's threads; must only enqueue.
class ControlSink {
 public:
  virtual ~ControlSink() = default;
  virtual void OnWelcome() = 0;
  // `final`: trying again will not help (another version). The stream closes after it.
  virtual void OnRefused(const absl::Status& why, bool final) = 0;
  virtual void OnAssign(Assignment assignment) = 0;
  // An assignment that could not be converted or validated.
  virtual void OnBadAssign(PlanId plan, Epoch epoch, const absl::Status& why) = 0;
  virtual void OnRelease(PlanId plan) = 0;
  // These nodes are no members any more; the whole list.
  virtual void OnRevoked(std::vector<std::string> nodes) = 0;
  // To be answered with a Diagnosis.
  virtual void OnDiagnose(DiagnoseRequest request) { (void)request; }
  // Once, last: the stream ended or could not be opened.
  virtual void OnControlClosed(const absl::Status& why) = 0;
};

class ControlClient {
 public:
  // Sends the hello at once. `sink` outlives the client; the destructor waits for the last
  // callback, after which none comes.
  static std::unique_ptr<ControlClient> Connect(const Endpoint& coordinator,
                                                const WorkerHello& hello, ControlSink* sink);
  virtual ~ControlClient() = default;
  virtual absl::Status Send(const WorkerEvent& event) = 0;
  // Sends Leaving, closes the stream in order, waits at most `timeout_ms`.
  virtual void Leave(const std::string& reason, int timeout_ms) = 0;
  // When the last message came (of the connect, before any).
  virtual TimeNs last_heard() const = 0;
};

// Results over one long-lived stream. Results of a closed stream are dropped: `on_closed` tells the
// owner.
class ResultClient : public stage::ResultSink {
 public:
  // `on_closed` is called once, from a gRPC thread, unless the client is destroyed first; must only
  // enqueue.
  static std::unique_ptr<ResultClient> Connect(
      const Endpoint& coordinator, const std::string& worker,
      std::function<void(const absl::Status& why)> on_closed);
  ~ResultClient() override = default;
  virtual absl::Status WaitReady(int timeout_ms) = 0;
  // Writes what is queued, half-closes, and waits at most `timeout_ms` until the coordinator, which
  // ends the stream when it has read all, did so. `on_closed` is not called any more.
  virtual void Finish(int timeout_ms) = 0;
};

class WeightClient {
 public:
  explicit WeightClient(const Endpoint& coordinator);
  ~WeightClient();

  // Streams the bytes of a part from `offset` to its end into `take`, in order; blocks. Ends with
  // take's error, Cancelled when `stop` asks, or the coordinator's.
  absl::Status Fetch(const std::string& sha256, uint64_t offset, std::stop_token stop,
                     const std::function<absl::Status(std::span<const uint8_t>)>& take);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lanyard::net
