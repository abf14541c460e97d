// A node's membership: it joins with a token once, keeps key and certificate in a folder, and
// renews the certificate while the process runs.
#pragma once

#include <memory>
#include <string>
#include <thread>

#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "identity/credential.h"
#include "net/join.h"

namespace lanyard::net {

struct EnrolmentOptions {
  std::string folder;   // see identity::IdentityFolder
  std::string address;  // the coordinator's address; empty: where it was before
  std::string token;    // empty: the node joined before
  identity::Role role = identity::Role::kWorker;
  std::string name;  // the name wanted; ignored when the node joined before
  int timeout_ms = 10'000;
  TimeNs renew_every = 0;  // 0: when a third of the certificate's life is left
};

// Thread-safe.
class Enrolment {
 public:
  // Blocks while it talks to the coordinator, where that is needed; a certificate that is still
  // valid needs no coordinator. InvalidArgument: the token is malformed, or there is neither token
  // nor membership. FailedPrecondition: this is a member of another cluster. For other errors see
  // Join.
  static absl::StatusOr<std::unique_ptr<Enrolment>> Open(const EnrolmentOptions& options);
  ~Enrolment();

  const std::shared_ptr<identity::LiveCredential>& credential() const { return credential_; }
  const std::string& address() const { return address_; }
  std::string name() const { return credential_->Get()->self.name; }

  // Asks for a new certificate now.
  absl::Status Renew();

 private:
  Enrolment(identity::IdentityFolder folder, std::string address, std::string ca_pem)
      : folder_(std::move(folder)), address_(std::move(address)), ca_pem_(std::move(ca_pem)) {}
  absl::StatusOr<std::shared_ptr<const identity::Credential>> Ask(const identity::KeyPair& key);
  void Start(std::shared_ptr<const identity::Credential> first, TimeNs renew_every);
  void Loop();
  bool Wait();

  const identity::IdentityFolder folder_;
  const std::string address_;
  const std::string ca_pem_;
  std::shared_ptr<identity::LiveCredential> credential_;
  TimeNs renew_every_ = 0;
  Mutex mu_;
  CondVar cv_;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace lanyard::net
