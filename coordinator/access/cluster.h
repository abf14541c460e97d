// The cluster's identity on the coordinator's machine: the CA, made at the first start; the coordinator's own
// certificate; an administrator's, for `lanyard` on this machine. All of them in one folder that only its
// owner reads:
//
//   ca/ca.key ca/ca.crt            the authority (mode 0600)
//   identity/                      the coordinator as a node (identity::IdentityFolder)
//   admin/                         an administrator on this machine, likewise; `coordinator` holds the HTTPS
//   address
#pragma once

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "coordinator/access/nodes.h"
#include "coordinator/state/store.h"
#include "identity/authority.h"
#include "identity/credential.h"

namespace lanyard::coordinator {

struct ClusterOptions {
  std::string folder;  // the state directory
  std::string name;    // of this machine
  std::vector<std::string> dns_names =
      {};                   // that HTTPS clients may use beside the machine's name and addresses
  Nodes::Clock clock = {};  // empty: the wall's
};

// Thread-safe after Open.
class Cluster {
 public:
  // `store` outlives it. A CA whose key and certificate do not fit is an error: making a new one would shut
  // every node out.
  static absl::StatusOr<std::unique_ptr<Cluster>> Open(Store* store, const ClusterOptions& options);
  ~Cluster();

  const std::shared_ptr<identity::LiveCredential>& credential() const { return credential_; }
  const std::shared_ptr<Nodes>& nodes() const { return nodes_; }
  const identity::Authority& authority() const { return authority_; }
  std::string admin_folder() const { return options_.folder + "/admin"; }

  // Writes the administrator's folder; `https` is where `lanyard` finds this coordinator. Renewed like the
  // rest.
  absl::Status MakeAdmin(const std::string& https);
  // New certificates for the coordinator and the administrator when theirs are due. Called by a thread of its
  // own.
  absl::Status RenewIfDue();

 private:
  Cluster(const ClusterOptions& options, identity::Authority authority)
      : options_(options), authority_(std::move(authority)) {}
  absl::StatusOr<std::shared_ptr<const identity::Credential>> IssueOwn(const identity::KeyPair& key);
  void Loop();

  const ClusterOptions options_;
  const identity::Authority authority_;
  std::shared_ptr<Nodes> nodes_;
  std::shared_ptr<identity::LiveCredential> credential_;
  Mutex mu_;
  CondVar cv_;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::string https_ ABSL_GUARDED_BY(mu_);
  identity::UnixTime renew_admin_at_ ABSL_GUARDED_BY(mu_) = 0;
  std::thread thread_;
};

}  // namespace lanyard::coordinator
