// The process's environment, read here alone (a test of tools/tidy): what is set to nothing counts as not set.
#pragma once

#include <string>

namespace lanyard {

// The variable, or `fallback`.
std::string EnvironmentOr(const char* name, const std::string& fallback);

// Where a program of this user keeps what it must find again: $XDG_STATE_HOME/lanyard (an absolute path, as the XDG base
// directory specification asks), else ~/.local/state/lanyard, else (no HOME: a service) /var/lib/lanyard.
std::string StateHome();

}  // namespace lanyard
