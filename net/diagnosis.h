// What the coordinator asks a worker about its machine and the ways to its peers, and what the
// worker measured (`lanyard doctor`). These plain structs are a part of net/control.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace lanyard::net {

struct DiagnoseTarget {
  std::string worker;
  std::string address;  // address of its stage port
  std::string node;     // the node whose certificate must be there; empty: plaintext
};

struct DiagnoseRequest {
  uint64_t id = 0;
  std::vector<DiagnoseTarget> targets;  // measured one after another
};

// The way from the worker that measured to one of its peers.
struct LinkDiagnosis {
  std::string worker;
  // DeadlineExceeded: no answer came (a firewall drops). Unavailable: the connection was refused,
  // there is no route, or TLS failed. Other errors are the peer's own.
  absl::Status status;
  uint64_t connect_ns = 0;  // for TCP alone
  uint64_t rtt_min_ns = 0;  // for small messages over TLS and gRPC
  uint64_t rtt_median_ns = 0;
  double bytes_per_second = 0;  // for large messages; 0: none came back, or there was no time
  uint32_t mtu_bytes = 0;       // as this machine's kernel knows it; 0: not known
  bool large_lost = false;      // small messages come back and large ones do not
};

struct Diagnosis {
  uint64_t id = 0;
  int64_t received_unix_ms = 0;         // the worker's clock when the request came
  int64_t sent_unix_ms = 0;             // the worker's clock when this answer left
  uint64_t available_bytes = 0;         // free memory of the machine
  uint64_t disk_free_bytes = 0;         // free bytes where weights are kept
  int64_t certificate_ends_unix_s = 0;  // 0: plaintext
  uint32_t key_mode = 0;                // permission bits of the node's key; 0: not known
  std::vector<LinkDiagnosis> links;
};

}  // namespace lanyard::net
