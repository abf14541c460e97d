// Where a daemon's options come from. Their order is flag > environment > configuration file >
// default.
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace lanyard::apps {

// To be called when every option of `app` is there. It adds --config FILE: TOML whose keys are the
// long options without their dashes (`log-level = "debug"`, lists for what may be repeated, true or
// false for flags). Each option then also comes from PREFIX_OPTION in the environment
// (LANYARD_WORKER_LOG_LEVEL with prefix LANYARD_WORKER; a variable that is set to nothing counts as
// not set). Only the file that --config names is read. An unknown key is an error that names the
// nearest known one; a value of another type is an error too. Both name file and line. Throws
// CLI::ParseError within app.parse, like every wrong option.
void AddConfigFile(CLI::App& app, const std::string& prefix);

}  // namespace lanyard::apps
