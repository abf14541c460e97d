// The command line of lanyard-worker.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "apps/daemon_config.h"

namespace lanyard::apps {

struct WorkerFlags {
  std::string join, token, token_file, name, memory, cache_limit, state, listen, isa;
  std::string models, devices = "auto", vram;
  std::vector<std::string> model, networks;
  int threads = 0;
  double speed = 0;
  double renew_every_s = 0;
  bool plaintext = false;
  DaemonFlags daemon;
};

// The program's options, bound to *flags, which must outlive the parsing.
std::unique_ptr<CLI::App> MakeWorkerApp(WorkerFlags* flags);

}  // namespace lanyard::apps
