// Looks at this machine, and at the coordinator from here, for `lanyard doctor`. Calls to the
// operating system stay in this file.
#pragma once

#include <string>
#include <vector>

#include "cli/doctor_facts.h"
#include "cli/http_client.h"

namespace lanyard::cli {

struct GatherOptions {
  std::string
      state_dir;  // the worker's state; empty: the service's where there is one, else this user's
  std::string admin;  // an administrator's folder; empty: the default ones are tried
  bool deep = false;  // read every cached part of a model
};

MachineFacts GatherMachine(const GatherOptions& options);

// Also fills *pool when the coordinator answered an administrator. With a `node` only that machine
// is asked about.
CoordinatorFacts GatherCoordinator(const HttpClient::Options& http, const MachineFacts& machine,
                                   const std::string& node, std::optional<PoolFacts>* pool);

}  // namespace lanyard::cli
