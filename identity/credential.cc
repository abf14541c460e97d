#include "identity/credential.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/file.h"
#include "identity/authority.h"

namespace lanyard::identity {
namespace {

constexpr char kKeyFile[] = "/node.key";
constexpr char kCertificateFile[] = "/node.crt";
constexpr char kCaFile[] = "/ca.crt";
constexpr char kCoordinatorFile[] = "/coordinator";
constexpr char kHttpsFile[] = "/https";

void CutNewlines(std::string* line) {
  while (!line->empty() && line->back() == '\n') line->pop_back();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Credential>> Credential::Make(const KeyPair& key,
                                                                   std::string certificate_pem,
                                                                   std::string ca_pem,
                                                                   UnixTime now) {
  const X509Ptr certificate = X509FromPem(certificate_pem);
  const X509Ptr ca = X509FromPem(ca_pem);
  if (certificate == nullptr || ca == nullptr)
    return absl::UnauthenticatedError("the node's or the CA's certificate is not PEM");
  ASSIGN_OR_RETURN(Peer self, VerifyCertificate(certificate.get(), ca.get(), now));
  if (self.node != key.node_id())
    return absl::UnauthenticatedError("the certificate is not this node's key's");
  return std::make_shared<const Credential>(
      Credential{key, key.ToPem(), std::move(certificate_pem), std::move(ca_pem), std::move(self)});
}

absl::Status LiveCredential::Replace(std::shared_ptr<const Credential> next) {
  MutexLock lock(&mu_);
  if (next->self.node != current_->self.node || next->self.cluster != current_->self.cluster) {
    return InvalidArgument("the new certificate is for node ", next->self.node, " of cluster ",
                           next->self.cluster, ", this is ", current_->self.node, " of ",
                           current_->self.cluster);
  }
  current_ = std::move(next);
  return absl::OkStatus();
}

int64_t LifeSeconds(const Peer& self) {
  return self.not_after - self.not_before - kClockToleranceSeconds;
}

UnixTime RenewAt(const Peer& self) { return self.not_after - LifeSeconds(self) / 3; }

absl::StatusOr<IdentityFolder> IdentityFolder::Open(const std::string& path) {
  RETURN_IF_ERROR(MakePrivateDir(path));
  return IdentityFolder(path);
}

absl::StatusOr<KeyPair> IdentityFolder::Key() const {
  const absl::StatusOr<std::string> pem = ReadSmallFile(path_ + kKeyFile);
  if (pem.ok()) {
    absl::StatusOr<KeyPair> key = KeyPair::FromPem(*pem);
    if (key.ok()) return key;
    return Annotate(key.status(), path_ + kKeyFile + " (move the folder away and join anew)");
  }
  if (!absl::IsNotFound(pem.status())) return pem.status();
  ASSIGN_OR_RETURN(KeyPair key, KeyPair::Generate());
  RETURN_IF_ERROR(WriteSmallFile(path_ + kKeyFile, key.ToPem()));
  return key;
}

absl::Status IdentityFolder::ForgetKey() const {
  const std::string path = path_ + kKeyFile;
  if (std::remove(path.c_str()) == 0) return absl::OkStatus();
  return Unavailable("cannot remove ", path, ": ", std::strerror(errno));
}

absl::StatusOr<std::optional<IdentityFolder::Joined>> IdentityFolder::Load() const {
  Joined out;
  for (const auto& [file, text] :
       {std::pair{kCertificateFile, &out.certificate_pem}, std::pair{kCaFile, &out.ca_pem},
        std::pair{kCoordinatorFile, &out.coordinator}}) {
    absl::StatusOr<std::string> read = ReadSmallFile(path_ + file);
    if (absl::IsNotFound(read.status())) return std::optional<Joined>();
    if (!read.ok()) return read.status();
    *text = *std::move(read);
  }
  CutNewlines(&out.coordinator);
  out.https = ReadSmallFile(path_ + kHttpsFile).value_or("");
  CutNewlines(&out.https);
  return std::optional(std::move(out));
}

absl::Status IdentityFolder::Save(const Joined& joined) const {
  RETURN_IF_ERROR(WriteSmallFile(path_ + kCaFile, joined.ca_pem));
  RETURN_IF_ERROR(WriteSmallFile(path_ + kCertificateFile, joined.certificate_pem));
  if (!joined.https.empty())
    RETURN_IF_ERROR(WriteSmallFile(path_ + kHttpsFile, joined.https + "\n"));
  return WriteSmallFile(path_ + kCoordinatorFile, joined.coordinator + "\n");
}

absl::Status IdentityFolder::SaveCertificate(const std::string& certificate_pem) const {
  return WriteSmallFile(path_ + kCertificateFile, certificate_pem);
}

}  // namespace lanyard::identity
