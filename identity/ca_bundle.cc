#include "identity/ca_bundle.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/file.h"
#include "identity/openssl.h"

namespace lanyard::identity {
namespace {

constexpr size_t kMaxStoreBytes = 16u << 20;

// Debian, Ubuntu, Arch; Fedora, RHEL; openSUSE; Alpine and others.
constexpr const char* kSystemStores[] = {"/etc/ssl/certs/ca-certificates.crt",
                                         "/etc/pki/tls/certs/ca-bundle.crt",
                                         "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
                                         "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"};

// Empty: there is none.
std::string SystemStore() {
  for (const char* path : kSystemStores) {
    if (::access(path, R_OK) == 0) return path;
  }
  return "";
}

absl::Status WriteIfOther(const std::string& path, std::string_view text) {
  const absl::StatusOr<std::string> now = ReadSmallFile(path, kMaxStoreBytes);
  if (now.ok() && *now == text) return absl::OkStatus();
  return WriteSmallFile(path, text, Readers::kEverybody);
}

}  // namespace

ClientFiles ClientFilesIn(const std::string& folder) {
  return {folder + "/https-ca.crt", folder + "/ca-bundle.crt", SystemStore()};
}

absl::Status WriteClientFiles(const std::string& folder, std::string_view ca_pem) {
  const ClientFiles files = ClientFilesIn(folder);
  if (ca_pem.empty()) {
    for (const std::string& path : {files.ca, files.bundle}) {
      if (::unlink(path.c_str()) != 0 && errno != ENOENT)
        return Unavailable("cannot remove ", path, ": ", std::strerror(errno));
    }
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(WriteIfOther(files.ca, ca_pem));
  std::string bundle;
  if (!files.system_store.empty()) {
    ASSIGN_OR_RETURN(bundle, ReadSmallFile(files.system_store, kMaxStoreBytes));
    if (!bundle.empty() && bundle.back() != '\n') bundle += '\n';
  }
  bundle += Str(AbslView(ca_pem));
  return WriteIfOther(files.bundle, bundle);
}

bool HasNameConstraints(std::string_view pem) {
  const X509Ptr certificate = X509FromPem(pem);
  return certificate != nullptr &&
         X509_get_ext_by_NID(certificate.get(), NID_name_constraints, -1) >= 0;
}

std::string SystemStoreStamp() {
  const std::string store = SystemStore();
  struct stat info {};
  if (store.empty() || ::stat(store.c_str(), &info) != 0) return "none";
  return absl::StrCat(store, " ", info.st_ino, " ", info.st_size, " ", info.st_mtim.tv_sec, ".",
                      info.st_mtim.tv_nsec);
}

}  // namespace lanyard::identity
