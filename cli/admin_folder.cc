#include "cli/admin_folder.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/environment.h"
#include "identity/certificate.h"
#include "net/enrolment.h"

namespace lanyard::cli {
namespace {

constexpr char kServiceFolder[] = "/var/lib/lanyard/coordinator/admin";

bool IsFolder(const std::string& folder) { return ::access((folder + "/https").c_str(), R_OK) == 0; }

// "" when there is none.
std::string DefaultFolder() {
  for (const std::string& folder : {OwnAdminFolder(), StateHome() + "/coordinator/admin", std::string(kServiceFolder)}) {
    if (IsFolder(folder)) return folder;
  }
  return "";
}

// The coordinator renews its own folder; that of `lanyard join` is renewed by its use.
absl::Status RenewIfDue(const std::string& folder, const identity::IdentityFolder::Joined& joined) {
  const absl::StatusOr<identity::Peer> self = identity::PeerOfPem(joined.certificate_pem);
  const identity::UnixTime now = identity::WallNow();
  if (self.ok() && now < identity::RenewAt(*self)) return absl::OkStatus();
  absl::Status renewed;
  if (auto enrolment = net::Enrolment::Open({folder, "", "", identity::Role::kAdmin, ""}); enrolment.ok()) {
    renewed = (*enrolment)->Renew();
  } else {
    renewed = enrolment.status();
  }
  return self.ok() && now < self->not_after ? absl::OkStatus() : renewed;
}

}  // namespace

std::string OwnAdminFolder() { return StateHome() + "/admin"; }

absl::Status UseAdminFolder(HttpClient::Options* options) {
  std::string folder = !options->admin.empty() ? options->admin : EnvironmentOr("LANYARD_ADMIN", "");
  if (folder.empty()) {
    if (!options->url.empty() || !EnvironmentOr("LANYARD_URL", "").empty()) return absl::OkStatus();
    folder = DefaultFolder();
    if (folder.empty()) return absl::OkStatus();
  } else if (!IsFolder(folder)) {
    const std::string why = std::strerror(errno);
    return errno == EACCES ? absl::PermissionDeniedError(absl::StrCat("the administrator's folder ", folder, ": ", why,
                                                                      "; its owner or root may read it"))
                           : NotFound("the administrator's folder ", folder, " has no file `https`: ", why);
  }
  ASSIGN_OR_RETURN(const identity::IdentityFolder identity, identity::IdentityFolder::Open(folder));
  ASSIGN_OR_RETURN(const auto joined, identity.Load());
  if (!joined.has_value()) return NotFound("the administrator's folder ", folder, " holds no certificate");
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
