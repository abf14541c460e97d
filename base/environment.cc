#include "base/environment.h"

#include <cstdlib>

namespace lanyard {

std::string EnvironmentOr(const char* name, const std::string& fallback) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : fallback;
}

std::string StateHome() {
  if (const std::string xdg = EnvironmentOr("XDG_STATE_HOME", ""); xdg.starts_with('/')) return xdg + "/lanyard";
  if (const std::string home = EnvironmentOr("HOME", ""); !home.empty()) return home + "/.local/state/lanyard";
  return "/var/lib/lanyard";
}

}  // namespace lanyard
