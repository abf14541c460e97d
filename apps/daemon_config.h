// Where a daemon's options come from: flag > environment > configuration file > default.
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace lanyard::apps {

// Call it when every option of `app` stands. Adds --config FILE: TOML whose keys are the long
// options without their dashes
// (`log-level = "debug"`, lists for what may be repeated, true or false for flags). Each option
// then also comes from PREFIX_OPTION in the environment (LANYARD_WORKER_LOG_LEVEL with prefix
// LANYARD_WORKER; set to nothing is not set). No file is read that --config does not name. An
// unknown key is an error that names the nearest known one, as is a value of another type; both
// name file and line. Throws CLI::ParseError within app.parse, like every wrong option.
void AddConfigFile(CLI::App& app, const std::string& prefix);

}  // namespace lanyard::apps
