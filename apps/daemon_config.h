// Where a daemon's options come from. Their order is flag > environment > configuration file >
// default.
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace lanyard::apps {

struct DaemonFlags {
  std::string log_level = "info";
  bool log_json = false;
};

// To be called when every other option of `app` is there. It adds what both daemons have,
// --version,
// --log-level, --log-json and --config FILE, and the footer: `examples`, then where options come
// from. The file is TOML whose keys are the long options without their dashes (`log-level =
// "debug"`, lists for what may be repeated, true or false for flags). Each option then also comes
// from PREFIX_OPTION in the environment (LANYARD_WORKER_LOG_LEVEL with prefix LANYARD_WORKER; a
// variable that is set to nothing counts as not set). Only the file that --config names is read. An
// unknown key is an error that names the nearest known one. A value of another kind is an error too
// (a number where a text belongs; a text that is a number stands for it), and so is one that the
// flag would not take, even where a flag or a variable stands above it. All name file and line.
// Throws CLI::ParseError within app.parse, like every wrong option.
void AddDaemonFlags(CLI::App& app, const std::string& prefix, const std::string& examples,
                    DaemonFlags* flags);

}  // namespace lanyard::apps
