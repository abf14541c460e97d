// Measures the ways from this worker to its peers when the coordinator asks (`lanyard doctor`). A
// thread of its own does it, so that the control loop does not wait.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "base/clock.h"
#include "base/mutex.h"
#include "net/control.h"

namespace lanyard::worker {

struct LinkProbeOptions {
  std::string worker;                                         // its own name
  std::shared_ptr<identity::LiveCredential> credential = {};  // null: plaintext
  int connect_timeout_ms = 1500;
  TimeNs budget = 8 * kSecond;  // for all targets of a request
};

// Measures one way: TCP, then 20 small pings and 4 of 1 MiB over the peer's stage port. It blocks
// for some seconds at most.
net::LinkDiagnosis ProbeLink(const LinkProbeOptions& options, const net::DiagnoseTarget& target);

class LinkProber {
 public:
  // `done` is called from the prober's thread and must only enqueue.
  LinkProber(LinkProbeOptions options,
             std::function<void(net::DiagnoseRequest, std::vector<net::LinkDiagnosis>)> done);
  // Waits for the measurement under way (some seconds at most); no callback after it.
  ~LinkProber();
  // A request that still waits is replaced.
  void Start(net::DiagnoseRequest request);

 private:
  void Loop();
  std::vector<net::LinkDiagnosis> Measure(const net::DiagnoseRequest& request);

  const LinkProbeOptions options_;
  const std::function<void(net::DiagnoseRequest, std::vector<net::LinkDiagnosis>)> done_;
  Mutex mu_;
  CondVar cv_;
  std::optional<net::DiagnoseRequest> waiting_ ABSL_GUARDED_BY(mu_);
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace lanyard::worker
