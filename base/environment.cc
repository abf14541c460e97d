#include "base/environment.h"

#include <unistd.h>

#include <cstdlib>
#include <utility>

namespace lanyard {

std::string EnvironmentOr(const char* name, const std::string& fallback) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : fallback;
}

std::string StateHome() {
  if (const std::string xdg = EnvironmentOr("XDG_STATE_HOME", ""); xdg.starts_with('/'))
    return xdg + "/lanyard";
  if (const std::string home = EnvironmentOr("HOME", ""); !home.empty())
    return home + "/.local/state/lanyard";
  return "/var/lib/lanyard";
}

std::vector<std::string> RuntimeHomes() {
  std::vector<std::string> out;
  if (std::string xdg = EnvironmentOr("XDG_RUNTIME_DIR", ""); xdg.starts_with('/'))
    out.push_back(std::move(xdg));
  out.push_back("/run/user/" + std::to_string(::geteuid()));
  return out;
}

std::string HostName() {
  char buffer[256] = {};
  if (gethostname(buffer, sizeof(buffer) - 1) != 0) return "";
  std::string out;
  for (const char* p = buffer; *p != '\0' && out.size() < 64; ++p) {
    const bool good =
        (*p >= '0' && *p <= '9') || (*p >= 'A' && *p <= 'Z') || (*p >= 'a' && *p <= 'z');
    if (good || (!out.empty() && (*p == '.' || *p == '_' || *p == '-'))) out.push_back(*p);
  }
  return out;
}

}  // namespace lanyard
