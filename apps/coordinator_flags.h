// The command line of lanyard-coordinator.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "apps/daemon_config.h"
#include "coordinator/access/https_front.h"
#include "coordinator/pool_runner.h"
#include "identity/authority.h"
#include "net/discovery.h"
#include "web/http_server.h"

namespace lanyard::apps {

struct CoordinatorFlags {
  std::string model, ready_file;
  coordinator::PoolRunnerOptions pool;
  std::vector<std::string> networks;
  web::ServerOptions front;
  coordinator::HttpsOptions https;
  std::string http_tls_min = "1.2";
  int ready_fd = -1;
  uint32_t ready_tokens = 0;
  bool plaintext = false;
  bool no_discovery = false;
  uint16_t discovery_port = net::kDiscoveryPort;
  double drain_timeout_s = 0;
  double decode_latency_ms = 100;
  int64_t certificate_life_s = identity::kNodeCertificateSeconds;
  double renew_every_s = 0;
  DaemonFlags daemon;
};

// The program's options, bound to *flags, which must outlive the parsing.
std::unique_ptr<CLI::App> MakeCoordinatorApp(CoordinatorFlags* flags);

}  // namespace lanyard::apps
