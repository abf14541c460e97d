// The process's environment, which is read here alone (tools/tidy checks that), and the machine's
// name. A variable that is set to nothing counts as not set.
#pragma once

#include <string>
#include <vector>

namespace lanyard {

// Returns the variable, or `fallback`.
std::string EnvironmentOr(const char* name, const std::string& fallback);

// The folder where a program of this user keeps its state: $XDG_STATE_HOME/lanyard (an absolute
// path, as the XDG base directory specification asks), else ~/.local/state/lanyard, else (without
// HOME, as in a service) /var/lib/lanyard.
std::string StateHome();

// Where a program of this user keeps what lasts as long as it runs, the best first:
// $XDG_RUNTIME_DIR and what the login would have set it to. None need exist, and none is checked:
// the environment may be another user's (sudo).
std::vector<std::string> RuntimeHomes();

// The machine's name, made of what names of nodes may have (A-Z a-z 0-9, and . _ - after the first;
// at most 64); "" when no such name can be made of it.
std::string HostName();

}  // namespace lanyard
