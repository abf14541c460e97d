#include "cli/admin_folder.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "base/environment.h"
#include "cli/running_pools.h"
#include "identity/certificate.h"
#include "net/enrolment.h"

namespace lanyard::cli {
namespace {

constexpr char kServiceFolder[] = "/var/lib/lanyard/coordinator/admin";

bool HoldsCredential(const std::string& folder) {
  return ::access((folder + "/https").c_str(), R_OK) == 0;
}

// Where a pool is.
struct PoolPlace {
  std::string url;    // empty: as the folder says
  std::string admin;  // empty: it takes no certificate
};

// Of what runs or was set up on this machine; both empty when there is none.
absl::StatusOr<PoolPlace> DefaultPlace() {
  if (HoldsCredential(OwnAdminFolder())) return PoolPlace{"", OwnAdminFolder()};
  if (const std::vector<RunningPool> pools = RunningPools(); pools.size() == 1) {
    return PoolPlace{pools.front().url, pools.front().admin};
  } else if (pools.size() > 1) {
    return InvalidArgument(
        pools.size(),
        " pools of lanyard up run on this machine; say which one is meant:", ListOf(pools));
  }
  for (const std::string& folder :
       {StateHome() + "/coordinator/admin", std::string(kServiceFolder)}) {
    if (HoldsCredential(folder)) return PoolPlace{"", folder};
  }
  return PoolPlace{};
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

// Why the folder that was named by `from` cannot be used.
absl::Status NotAFolder(const char* from, const std::string& folder) {
  struct stat info {};
  int error = ::stat(folder.c_str(), &info) != 0 ? errno : 0;
  const bool is_folder = error == 0 && S_ISDIR(info.st_mode);
  const bool has_file = is_folder && ::stat((folder + "/https").c_str(), &info) == 0;
  if (is_folder && !has_file) error = errno == ENOENT ? 0 : errno;
  if (has_file) error = EACCES;
  const std::string what = absl::StrCat(from, " ", folder, ": ");
  if (error == EACCES) {
    return absl::PermissionDeniedError(absl::StrCat(
        what, "this user may not read the folder (", std::strerror(error),
        ")\n  Its owner or root may; for a folder of your own: lanyard token create --role admin"));
  }
  const std::string why = error == ENOENT ? "there is no such folder"
                          : error != 0    ? std::strerror(error)
                          : is_folder
                              ? "it is not an administrator's folder (it has no file `https`)"
                              : "it is not a folder";
  return NotFound(
      what, why,
      "\n  `lanyard join` makes one; that of a pool on this machine is `coordinator/admin` "
      "in its state folder");
}

// Fills what is empty from the folder, which `from` named.
absl::Status UseAdminFolder(const char* from, HttpClient::Options* options) {
  const std::string& folder = options->admin;
  if (!HoldsCredential(folder)) {
    return NotAFolder(from, folder);
  }
  ASSIGN_OR_RETURN(const identity::IdentityFolder identity, identity::IdentityFolder::Open(folder));
  ASSIGN_OR_RETURN(const auto joined, identity.Load());
  if (!joined.has_value())
    return NotFound("the administrator's folder ", folder, " holds no certificate");
  RETURN_IF_ERROR(RenewIfDue(folder, *joined));
  options->admin = folder;
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

}  // namespace

std::string OwnAdminFolder() { return StateHome() + "/admin"; }

absl::Status FindPool(HttpClient::Options* options) {
  PoolPlace place{options->url, options->admin};
  const char* from = "--admin";
  if (!options->pool.empty()) {
    ASSIGN_OR_RETURN(const RunningPool pool, FindRunningPool(options->pool));
    place = {pool.url, pool.admin};
  } else if (options->look_around) {
    if (place.admin.empty()) {
      place.admin = EnvironmentOr("LANYARD_ADMIN", "");
      from = "LANYARD_ADMIN";
    }
    if (place.admin.empty() && place.url.empty()) place.url = EnvironmentOr("LANYARD_URL", "");
    if (place.admin.empty() && place.url.empty()) {
      ASSIGN_OR_RETURN(place, DefaultPlace());
    }
  }
  options->url = std::move(place.url);
  options->admin = std::move(place.admin);
  return options->admin.empty() ? absl::OkStatus() : UseAdminFolder(from, options);
}

}  // namespace lanyard::cli
