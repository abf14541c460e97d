#include "coordinator/access/https_front.h"

#include <sys/stat.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/ip.h"
#include "base/log.h"

namespace lanyard::coordinator {
namespace {

using identity::HttpsAuthority;
using identity::HttpsNames;
using identity::UnixTime;

constexpr char kCertificate[] = "/https-ca.crt";
constexpr char kKey[] = "/https-ca.key";
constexpr int64_t kRenewAuthoritySeconds = 400 * 24 * 3600;  // before its end

// Beside those that every CA permits.
HttpsNames Wanted(const HttpsFrontOptions& options) {
  HttpsNames out = SplitNames(options.names);
  const std::string machine = absl::AsciiStrToLower(options.machine);
  if (std::find(out.dns.begin(), out.dns.end(), machine) == out.dns.end())
    out.dns.push_back(machine);
  if (!options.https.public_addresses) return out;
  for (const std::string& text : options.addresses()) {
    const auto address = IpAddress::Parse(text);
    if (address.has_value() && address->is_v4() && address->is_public())
      out.addresses.push_back(text);
  }
  return out;
}

bool Covers(const HttpsAuthority& authority, const HttpsNames& names) {
  const HttpsNames permitted = authority.Permitted(names);
  return permitted.dns.size() == names.dns.size() &&
         permitted.addresses.size() == names.addresses.size();
}

}  // namespace

HttpsNames SplitNames(const std::vector<std::string>& names) {
  HttpsNames out;
  for (const std::string& name : names) {
    std::vector<std::string>& list = IpAddress::Parse(name).has_value() ? out.addresses : out.dns;
    const std::string lower = absl::AsciiStrToLower(name);
    if (std::find(list.begin(), list.end(), lower) == list.end()) list.push_back(lower);
  }
  return out;
}

absl::StatusOr<std::unique_ptr<HttpsFront>> HttpsFront::Open(const HttpsFrontOptions& options,
                                                             bool new_cluster, UnixTime now) {
  ASSIGN_OR_RETURN(identity::KeyPair key, identity::KeyPair::Generate());
  auto front = std::unique_ptr<HttpsFront>(new HttpsFront(options, std::move(key)));
  RETURN_IF_ERROR(front->OpenAuthority(new_cluster, now));
  if (!options.https.certificate_file.empty()) {
    RETURN_IF_ERROR(front->OpenHouse(now));
  } else {
    RETURN_IF_ERROR(front->Look(now));
  }
  return front;
}

absl::Status HttpsFront::OpenAuthority(bool new_cluster, UnixTime now) {
  const HttpsNames wanted = Wanted(options_);
  const absl::StatusOr<std::string> certificate = ReadSmallFile(options_.folder + kCertificate);
  const absl::StatusOr<std::string> key = ReadSmallFile(options_.folder + kKey);
  MutexLock lock(&mu_);
  if (absl::IsNotFound(certificate.status()) && absl::IsNotFound(key.status())) {
    if (!new_cluster) {
      if (options_.https.certificate_file.empty()) {
        LogWarning(
            "HTTPS: the CA that clients trust is the cluster's, made by an older version without "
            "name constraints: a machine that has it in its store trusts it for every web site. "
            "`lanyard clients --new-ca` makes one with constraints, which clients must be given");
      }
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(authority_, HttpsAuthority::Create(wanted, now));
    return Save();
  }
  absl::StatusOr<HttpsAuthority> loaded =
      certificate.ok() && key.ok() ? HttpsAuthority::Load(*certificate, *key)
                                   : (certificate.ok() ? key.status() : certificate.status());
  if (!loaded.ok()) {
    return absl::DataLossError(absl::StrCat(
        "the CA of HTTPS in ", options_.folder, " cannot be used: ", loaded.status().message(),
        "; restore https-ca.key and https-ca.crt from a copy, or remove both and make a new one "
        "with: lanyard clients --new-ca"));
  }
  authority_ = *std::move(loaded);
  const bool ends = authority_->not_after() - now < kRenewAuthoritySeconds;
  if (Covers(*authority_, wanted) && !ends) return absl::OkStatus();
  ASSIGN_OR_RETURN(authority_, authority_->For(wanted, now));
  LogWarning("HTTPS: the certificate of its CA was made anew, ",
             ends ? "since the last one ends" : "for names that the last one does not permit",
             " (now permitted beside the local ones: ", absl::StrJoin(wanted.dns, ", "),
             wanted.addresses.empty() ? "" : ", ", absl::StrJoin(wanted.addresses, ", "),
             "); clients that have the last one go on with the names it permits, and need the new "
             "one for others: lanyard clients");
  return Save();
}

absl::Status HttpsFront::Save() {
  RETURN_IF_ERROR(MakePrivateDir(options_.folder));
  RETURN_IF_ERROR(WriteSmallFile(options_.folder + kKey, authority_->key_pem()));
  return WriteSmallFile(options_.folder + kCertificate, authority_->certificate_pem());
}

absl::Status HttpsFront::OpenHouse(UnixTime now) {
  const HttpsOptions& https = options_.https;
  MutexLock reading(&files_mu_);
  MutexLock lock(&mu_);  // nobody waits for it yet
  files_.emplace(https.certificate_file, https.key_file);
  ASSIGN_OR_RETURN(usual_, files_->Read(now));
  const HttpsNames wanted = Wanted(options_);
  const auto is_for = [&shown = *usual_](const std::string& name) { return shown.IsFor(name); };
  const bool fits = std::any_of(wanted.dns.begin(), wanted.dns.end(), is_for) ||
                    std::any_of(wanted.addresses.begin(), wanted.addresses.end(), is_for);
  if (!fits) {
    LogWarning("HTTPS: the certificate in ", https.certificate_file, " is for ",
               absl::StrJoin(usual_->names, ", "), ", and this machine is ",
               absl::StrJoin(wanted.dns, ", "),
               "; clients must reach it by a name of the certificate, which --http-name gives");
  }
  struct stat info {};
  if (::stat(https.key_file.c_str(), &info) == 0 && (info.st_mode & S_IROTH) != 0)
    LogWarning("HTTPS: every user of this machine can read the key ", https.key_file,
               "; close it with: chmod o-r ", https.key_file);
  return absl::OkStatus();
}

absl::StatusOr<HttpsFront::Shown> HttpsFront::One(const HttpsNames& names, UnixTime now) {
  ASSIGN_OR_RETURN(const std::string pem,
                   authority_->Issue(key_.get(), names, options_.certificate_seconds, now));
  return identity::ServerCertificate::FromPem(pem, key_.ToPem());
}

// A client refuses the whole certificate for one name that the CA it has does not permit. So what
// every certificate of the CA permits (local names and addresses) is in one, and each other name in
// one of its own: who has an older certificate of the CA goes on with the names that it permits.
absl::Status HttpsFront::Issue(UnixTime now) {
  const HttpsNames wanted = Wanted(options_);
  std::vector<std::string> addresses = options_.addresses();
  HttpsNames usual;
  usual.dns = {"localhost"};
  for (const std::string& name : identity::LocalNames(absl::AsciiStrToLower(options_.machine)))
    usual.dns.push_back(name);
  usual.addresses = addresses;
  // An address that the internet routes counts only when it was named.
  usual.addresses.insert(usual.addresses.end(), wanted.addresses.begin(), wanted.addresses.end());
  ASSIGN_OR_RETURN(usual_, One(authority_->Permitted(usual), now));
  by_name_.clear();
  for (const std::string& name : authority_->Permitted(wanted).dns) {
    ASSIGN_OR_RETURN(by_name_[name], One({{name}, {}}, now));
  }
  addresses_ = std::move(addresses);
  issued_ = now;
  context_of_ = nullptr;
  return absl::OkStatus();
}

void HttpsFront::LookAtFiles(UnixTime now) {
  MutexLock reading(&files_mu_);
  if (!files_->Changed() && !retry_files_) return;
  const bool again = retry_files_ && !files_->Changed();
  absl::StatusOr<Shown> read = files_->Read(now);
  // Two files are not renewed in one moment: the second look decides.
  retry_files_ = !read.ok() && !again;
  MutexLock lock(&mu_);
  if (read.ok()) {
    usual_ = *std::move(read);
    context_of_ = nullptr;
    LogInfo("HTTPS: the certificate in ", options_.https.certificate_file,
            " was read again: ", absl::StrJoin(usual_->names, ", "), ", until ",
            identity::TimeText(usual_->not_after));
  } else if (again) {
    LogWarning("HTTPS: ", read.status().message(), "; the one of before stays in use, until ",
               identity::TimeText(usual_->not_after));
  }
}

absl::Status HttpsFront::Look(UnixTime now, bool renew) {
  if (files_.has_value()) {
    LookAtFiles(now);
    return absl::OkStatus();
  }
  MutexLock lock(&mu_);
  if (!authority_.has_value()) return absl::OkStatus();
  const bool due =
      usual_ == nullptr || now < issued_ || now - issued_ >= options_.certificate_seconds * 2 / 3;
  if (!renew && !due && options_.addresses() == addresses_) return absl::OkStatus();
  return Issue(now);
}

absl::Status HttpsFront::NewAuthority(UnixTime now) {
  if (is_house()) {
    return FailedPrecondition(
        "HTTPS shows the house's own certificate (--http-cert): its CA is not the pool's to "
        "renew");
  }
  MutexLock lock(&mu_);
  const std::optional<HttpsAuthority> before = authority_;
  ASSIGN_OR_RETURN(authority_, HttpsAuthority::Create(Wanted(options_), now));
  absl::Status made = Save();
  if (made.ok()) made = Issue(now);
  if (!made.ok()) authority_ = before;
  return made;
}

std::shared_ptr<ssl_ctx_st> HttpsFront::Context(
    const std::shared_ptr<const identity::Credential>& cluster) {
  MutexLock lock(&mu_);
  if (cluster == context_of_) return context_;
  auto made = identity::MakeHttpsContext({cluster, usual_, by_name_, options_.https.tls12});
  if (!made.ok()) {
    LogError("HTTPS: ", made.status().message());
    return context_;
  }
  context_of_ = cluster;
  context_ = *std::move(made);
  return context_;
}

bool HttpsFront::constrained() {
  MutexLock lock(&mu_);
  return authority_.has_value() && !files_.has_value();
}

std::string HttpsFront::CaPem(const std::string& cluster_ca_pem) {
  MutexLock lock(&mu_);
  if (files_.has_value()) return "";
  return authority_.has_value() ? authority_->certificate_pem() : cluster_ca_pem;
}

bool HttpsFront::IsFor(const std::string& host) {
  MutexLock lock(&mu_);
  return !files_.has_value() || usual_->IsFor(host);
}

std::vector<std::string> HttpsFront::Names() {
  MutexLock lock(&mu_);
  std::vector<std::string> out;
  for (const auto& [name, shown] : by_name_) out.push_back(name);
  if (usual_ != nullptr) out.insert(out.end(), usual_->names.begin(), usual_->names.end());
  return out;
}

}  // namespace lanyard::coordinator
