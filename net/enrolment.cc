#include "net/enrolment.h"

#include <algorithm>
#include <optional>

#include "base/clock.h"
#include "base/log.h"
#include "identity/join_token.h"

namespace lanyard::net {
namespace {

using identity::Credential;
using identity::IdentityFolder;
using identity::JoinToken;

constexpr int64_t kFirstRetrySeconds = 2;
constexpr int64_t kLastRetrySeconds = 300;
constexpr int64_t kRetriesInALife = 100;

absl::StatusOr<std::string> FingerprintOfPem(const std::string& ca_pem) {
  const identity::X509Ptr ca = identity::X509FromPem(ca_pem);
  if (ca == nullptr) return InvalidArgument("the cluster's CA on this machine is not PEM");
  return identity::FingerprintOf(ca.get());
}

// Becomes a member for the first time.
absl::StatusOr<IdentityFolder::Joined> JoinWithToken(const EnrolmentOptions& options,
                                                     const JoinToken& token,
                                                     const identity::KeyPair& key) {
  if (options.address.empty())
    return InvalidArgument("a token needs the coordinator's address: --join ADDRESS --token T");
  JoinOptions join;
  join.address = options.address;
  join.ca_fingerprint = token.ca_fingerprint;
  join.request = {token.id, token.secret, options.role, options.name, "", ""};
  ASSIGN_OR_RETURN(join.request.request_pem, key.MakeRequest());
  join.timeout_ms = options.timeout_ms;
  ASSIGN_OR_RETURN(Joined joined, Join(join));
  return IdentityFolder::Joined{std::move(joined.reply.certificate_pem), std::move(joined.ca_pem),
                                options.address, std::move(joined.reply.https)};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Enrolment>> Enrolment::Open(const EnrolmentOptions& options) {
  std::optional<JoinToken> token;
  if (!options.token.empty()) {  // first: of what cannot work nothing is left on the disk
    ASSIGN_OR_RETURN(token, JoinToken::Decode(options.token));
  }
  ASSIGN_OR_RETURN(IdentityFolder folder, IdentityFolder::Open(options.folder));
  ASSIGN_OR_RETURN(const identity::KeyPair key, folder.Key());
  ASSIGN_OR_RETURN(std::optional<IdentityFolder::Joined> member, folder.Load());
  if (token.has_value()) {
    if (member.has_value()) {
      ASSIGN_OR_RETURN(const std::string known, FingerprintOfPem(member->ca_pem));
      if (known != token->ca_fingerprint) {
        return FailedPrecondition(
            "this machine is a member of another cluster than the token's; to move it, remove ",
            options.folder, " first");
      }
      LogInfo("this machine is a member already; the token is not used");
    } else {
      ASSIGN_OR_RETURN(member, JoinWithToken(options, *token, key));
      RETURN_IF_ERROR(folder.Save(*member));
    }
  }
  if (!member.has_value()) {
    return InvalidArgument(
        "this machine has not joined a cluster: give --join ADDRESS --token T, as `lanyard token "
        "create` "
        "on the coordinator prints them (identity is kept in ",
        options.folder, ")");
  }
  if (!options.address.empty() && options.address != member->coordinator) {
    member->coordinator = options.address;
    RETURN_IF_ERROR(folder.Save(*member));
  }
  const std::string folder_path = folder.path();
  auto out = std::unique_ptr<Enrolment>(
      new Enrolment(std::move(folder), member->coordinator, member->ca_pem));
  auto credential =
      Credential::Make(key, member->certificate_pem, member->ca_pem, identity::WallNow());
  if (!credential.ok()) {
    LogInfo("asking for a new certificate: ", credential.status().message());
    credential = out->Ask(key);
    if (!credential.ok())
      return Annotate(credential.status(), "no valid certificate (" + folder_path + ")");
  }
  out->Start(*std::move(credential), options.renew_every);
  return out;
}

Enrolment::~Enrolment() {
  {
    MutexLock lock(&mu_);
    stop_ = true;
    cv_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

absl::StatusOr<std::shared_ptr<const Credential>> Enrolment::Ask(const identity::KeyPair& key) {
  JoinOptions join;
  join.address = address_;
  ASSIGN_OR_RETURN(join.ca_fingerprint, FingerprintOfPem(ca_pem_));
  ASSIGN_OR_RETURN(join.request.request_pem, key.MakeRequest());
  ASSIGN_OR_RETURN(Joined joined, Join(join));
  ASSIGN_OR_RETURN(auto credential, Credential::Make(key, std::move(joined.reply.certificate_pem),
                                                     ca_pem_, identity::WallNow()));
  RETURN_IF_ERROR(folder_.SaveCertificate(credential->certificate_pem));
  return credential;
}

absl::Status Enrolment::Renew() {
  ASSIGN_OR_RETURN(auto next, Ask(credential_->Get()->key));
  return credential_->Replace(std::move(next));
}

void Enrolment::Start(std::shared_ptr<const Credential> first, TimeNs renew_every) {
  renew_every_ = renew_every;
  credential_ = std::make_shared<identity::LiveCredential>(std::move(first));
  thread_ = std::thread([this] { Loop(); });
}

bool Enrolment::Wait() {
  MutexLock lock(&mu_);
  const TimeNs look = renew_every_ > 0 ? std::min(renew_every_, kSecond) : kSecond;
  if (!stop_) cv_.WaitFor(&mu_, std::chrono::nanoseconds(look));
  return !stop_;
}

// It looks at the clock now and then, since a machine that slept must not wait for the rest of a
// long timer.
void Enrolment::Loop() {
  int64_t retry_seconds = kFirstRetrySeconds;
  TimeNs not_before = 0;
  TimeNs renewed_at = MonotonicNow();
  while (Wait()) {
    const identity::UnixTime wall = identity::WallNow();
    const TimeNs now = MonotonicNow();
    const identity::Peer self = credential_->Get()->self;
    // It is also renewed before its time of issue: then a clock was ahead when it was given.
    const bool wanted = renew_every_ > 0 && now - renewed_at >= renew_every_;
    const bool due = wanted || wall >= identity::RenewAt(self) || wall < self.not_before;
    if (now < not_before || !due) continue;
    const absl::Status renewed = Renew();
    if (renewed.ok()) {
      LogDebug("the certificate was renewed");
      retry_seconds = kFirstRetrySeconds;
      renewed_at = now;
      continue;
    }
    // The pause is never so long that a short life ends meanwhile.
    const int64_t longest =
        std::clamp<int64_t>(identity::LifeSeconds(self) / kRetriesInALife, 1, kLastRetrySeconds);
    retry_seconds = std::min(retry_seconds, longest);
    LogWarning("the certificate could not be renewed: ", renewed.message(), "; trying again in ",
               retry_seconds, " s");
    not_before = now + retry_seconds * kSecond;
    retry_seconds *= 2;
  }
}

}  // namespace lanyard::net
