// The process's environment, read here alone (a test of tools/tidy): what is set to nothing counts
// as not set. And the name of its machine.
#pragma once

#include <string>
#include <vector>

namespace lanyard {

// The variable, or `fallback`.
std::string EnvironmentOr(const char* name, const std::string& fallback);

// Where a program of this user keeps what it must find again: $XDG_STATE_HOME/lanyard (an absolute
// path, as the XDG base directory specification asks), else ~/.local/state/lanyard, else (no HOME:
// a service) /var/lib/lanyard.
std::string StateHome();

// Where a program of this user keeps what lasts as long as it runs, the best first:
// $XDG_RUNTIME_DIR and what the login would have set it to. None need exist, and none is checked:
// the environment may be another user's (sudo).
std::vector<std::string> RuntimeHomes();

// The machine's name, made of what names of nodes may have (A-Z a-z 0-9, and . _ - after the first;
// at most 64); "" when it has none that fits.
std::string HostName();

}  // namespace lanyard
