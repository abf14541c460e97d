// Measures the ways from this worker to its peers, when the coordinator asks (`lanyard doctor`), on
// a thread of its own: the control loop does not wait for it.
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
  std::string worker;                                         // own name
  std::shared_ptr<identity::LiveCredential> credential = {};  // null: plaintext
  int connect_timeout_ms = 1500;
  TimeNs budget = 8 * kSecond;  // of all targets of a request
};

// One way: TCP, then 20 small pings and 4 of 1 MiB over the peer's stage port. Blocks, for at most
// some seconds.
net::LinkDiagnosis ProbeLink(const LinkProbeOptions& options, const net::DiagnoseTarget& target);

class LinkProber {
 public:
  // `done` is called from the prober's thread; must only enqueue.
  LinkProber(LinkProbeOptions options,
             std::function<void(net::DiagnoseRequest, std::vector<net::LinkDiagnosis>)> done);
  ~LinkProber();  // after what is being measured (some seconds at most); no call after it
  // A request that still waits gives way.
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
