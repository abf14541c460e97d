#include "cli/admin_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/environment.h"
#include "base/file.h"
#include "identity/certificate.h"
#include "net/enrolment.h"

namespace lanyard::cli {
namespace {

constexpr char kServiceFolder[] = "/var/lib/lanyard/coordinator/admin";

bool IsFolder(const std::string& folder) {
  return ::access((folder + "/https").c_str(), R_OK) == 0;
}

bool IsLocked(const std::string& file) {
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool locked = ::flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  ::close(fd);
  return locked;
}

// Lists the pools of `lanyard up` that run now: a pool's lock says that it runs, and its ready.json
// where its folder is.
std::vector<std::string> FoldersOfUp() {
  std::vector<std::string> out;
  std::error_code ec;
  for (const auto& pool : std::filesystem::directory_iterator(StateHome() + "/up", ec)) {
    const absl::StatusOr<std::string> text = ReadSmallFile((pool.path() / "ready.json").string());
    if (!text.ok() || !IsLocked((pool.path() / "lock").string())) continue;
    const auto ready = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
    if (!ready.is_object() || !ready.contains("admin") || !ready["admin"].is_string()) continue;
    if (IsFolder(ready["admin"].get<std::string>()))
      out.push_back(ready["admin"].get<std::string>());
  }
  std::sort(out.begin(), out.end());
  return out;
}

// Returns "" when there is none.
absl::StatusOr<std::string> DefaultFolder() {
  if (IsFolder(OwnAdminFolder())) return OwnAdminFolder();
  if (const std::vector<std::string> up = FoldersOfUp(); up.size() == 1) {
    return up.front();
  } else if (up.size() > 1) {
    std::string names;
    for (const std::string& folder : up) names += "\n  --admin " + folder;
    return InvalidArgument(
        up.size(), " pools of lanyard up run on this machine; say which one is meant:", names);
  }
  for (const std::string& folder :
       {StateHome() + "/coordinator/admin", std::string(kServiceFolder)}) {
    if (IsFolder(folder)) return folder;
  }
  return "";
}

// The coordinator renews its own folder; the folder of `lanyard join` is renewed when it is used.
absl::Status RenewIfDue(const std::string& folder, const identity::IdentityFolder::Joined& joined) {
  const absl::StatusOr<identity::Peer> self = identity::PeerOfPem(joined.certificate_pem);
  const identity::UnixTime now = identity::WallNow();
  if (self.ok() && now < identity::RenewAt(*self)) return absl::OkStatus();
  absl::Status renewed;
  if (auto enrolment = net::Enrolment::Open({folder, "", "", identity::Role::kAdmin, ""});
      enrolment.ok()) {
    renewed = (*enrolment)->Renew();
  } else {
    renewed = enrolment.status();
  }
  return self.ok() && now < self->not_after ? absl::OkStatus() : renewed;
}

}  // namespace

std::string OwnAdminFolder() { return StateHome() + "/admin"; }

absl::Status UseAdminFolder(HttpClient::Options* options) {
  std::string folder = options->admin;
  if (folder.empty() && options->look_around) folder = EnvironmentOr("LANYARD_ADMIN", "");
  if (folder.empty()) {
    if (!options->look_around) return absl::OkStatus();
    if (!options->url.empty() || !EnvironmentOr("LANYARD_URL", "").empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(folder, DefaultFolder());
    if (folder.empty()) return absl::OkStatus();
  } else if (!IsFolder(folder)) {
    const std::string why = std::strerror(errno);
    return errno == EACCES
               ? absl::PermissionDeniedError(absl::StrCat("the administrator's folder ", folder,
                                                          ": ", why,
                                                          "; its owner or root may read it"))
               : NotFound("the administrator's folder ", folder, " has no file `https`: ", why);
  }
  ASSIGN_OR_RETURN(const identity::IdentityFolder identity, identity::IdentityFolder::Open(folder));
  ASSIGN_OR_RETURN(const auto joined, identity.Load());
  if (!joined.has_value())
    return NotFound("the administrator's folder ", folder, " holds no certificate");
  RETURN_IF_ERROR(RenewIfDue(folder, *joined));
  if (options->url.empty()) options->url = joined->https;
  if (options->tls.ca.empty()) {
    options->tls.ca = folder + "/ca.crt";
    options->tls_name = identity::TlsName(identity::Role::kCoordinator, "");
  }
  if (options->tls.cert.empty() && options->tls.key.empty()) {
    options->tls.cert = folder + "/node.crt";
    options->tls.key = folder + "/node.key";
  }
  return absl::OkStatus();
}

}  // namespace lanyard::cli
