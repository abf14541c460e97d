// The cluster's identity on the coordinator's machine: the CA, made at the first start; the
// coordinator's own certificate; an administrator's, for `lanyard` on this machine. All of them lie
// in one folder that only its owner can read:
//
//   ca/ca.key ca/ca.crt            the authority (mode 0600)
//   ca/https-ca.key ca/https-ca.crt  that of HTTPS, which clients trust (https_front.h)
//   identity/                      the coordinator as a node (identity::IdentityFolder)
//   admin/                         an administrator on this machine, likewise; `https` holds the
//   HTTPS address, https-ca.crt and ca-bundle.crt what clients are given (identity/ca_bundle.h)
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "coordinator/access/cluster_admin.h"
#include "coordinator/access/https_front.h"
#include "coordinator/access/nodes.h"
#include "coordinator/state/store.h"
#include "identity/authority.h"
#include "identity/credential.h"

namespace lanyard::coordinator {

struct ClusterOptions {
  std::string folder;  // the state directory
  std::string name;    // this machine's name
  // More names that HTTPS clients may use, beside the machine's name and addresses.
  std::vector<std::string> dns_names = {};
  Nodes::Clock clock = {};  // empty: the system's clock
  // Every certificate of the cluster is given for this long: kLeastCertificateSeconds to
  // kNodeCertificateSeconds.
  int64_t certificate_seconds = identity::kNodeCertificateSeconds;
  TimeNs renew_every = 0;  // this machine's own; 0: when a third of their life is left
  HttpsOptions https = {};
};

// What the pool does for the cluster.
struct ClusterHooks {
  std::function<void(const std::string& node, const std::vector<std::string>& all_revoked)> cut_off;
  std::function<absl::Status(const std::string& worker, bool drained)> set_drained;
  // Says why a node is in quarantine; empty when it is not.
  std::function<std::string(const std::string& node)> quarantine;
};

// Thread-safe after Open.
class Cluster final : public ClusterAdmin {
 public:
  // `store` must outlive the result. A CA whose key and certificate do not fit together is an
  // error: making a new one would shut every node out.
  static absl::StatusOr<std::unique_ptr<Cluster>> Open(Store* store, const ClusterOptions& options);
  ~Cluster() override;

  const std::shared_ptr<identity::LiveCredential>& credential() const { return credential_; }
  const std::shared_ptr<Nodes>& nodes() const { return nodes_; }
  const identity::Authority& authority() const { return authority_; }
  std::string admin_folder() const { return options_.folder + "/admin"; }

  // Writes the administrator's folder, which is renewed like the rest. `https` is where `lanyard`
  // finds this coordinator. `https_for_others` is where machines that join as administrators find
  // it; it is empty when they cannot (loopback).
  absl::Status MakeAdmin(const std::string& https, const std::string& https_for_others);
  // Implements net::JoinHandler: calls Nodes::Enrol and adds where the HTTP front is.
  absl::StatusOr<net::JoinReply> Enrol(const net::JoinRequest& request);

  // For an HTTPS connection that is accepted now; clients may show a certificate of the cluster.
  std::shared_ptr<ssl_ctx_st> HttpsContext() { return https_front_->Context(credential_->Get()); }
  // Names that HTTPS clients may use for this server, beside its addresses.
  std::vector<std::string> HttpsNames() { return https_front_->Names(); }
  // The name of the administrator whose verified certificate this is; PermissionDenied for other
  // roles and after revocation.
  absl::StatusOr<std::string> AdminOf(const std::string& certificate_pem) const;

  // To be called before the first call that needs the hooks. `join_address` is the address that a
  // token's line tells a machine to join.
  void Serve(ClusterHooks hooks, std::string join_address);

  absl::StatusOr<NewJoinToken> CreateToken(const std::string& role, int64_t ttl_seconds,
                                           uint32_t uses) override;
  absl::StatusOr<std::vector<JoinTokenInfo>> ListTokens() override;
  absl::Status RevokeToken(const std::string& id) override;
  absl::StatusOr<std::vector<MemberInfo>> Members() override;
  absl::StatusOr<MemberInfo> Revoke(const std::string& name_or_id) override;
  absl::StatusOr<MemberInfo> SetDrained(const std::string& name_or_id, bool drained) override;
  HttpsInfo Https() override;
  absl::StatusOr<HttpsInfo> NewHttpsCa() override;

  // Makes new certificates for the coordinator and the administrator when theirs are due, or in any
  // case when `at_once` is set. A thread of its own calls it.
  absl::Status RenewIfDue(bool at_once = false);

 private:
  Cluster(const ClusterOptions& options, identity::Authority authority)
      : options_(options), authority_(std::move(authority)) {}
  absl::StatusOr<std::shared_ptr<const identity::Credential>> IssueOwn(
      const identity::KeyPair& key);
  absl::StatusOr<net::JoinReply> EnrolAdmin(const identity::IdentityFolder& folder,
                                            net::JoinRequest request);
  // The files for HTTPS clients in the administrator's folder, where they or the system's CAs have
  // changed.
  absl::Status WriteFilesForClients();
  ClusterHooks Hooks();
  void Loop();
  void Wait(TimeNs time);  // returns early when the cluster ends

  const ClusterOptions options_;
  const identity::Authority authority_;
  std::shared_ptr<Nodes> nodes_;
  std::shared_ptr<identity::LiveCredential> credential_;
  std::unique_ptr<HttpsFront> https_front_;
  Mutex renew_mu_;   // taken before mu_
  Mutex revoke_mu_;  // likewise; revocations and drains, one at a time
  Mutex mu_;
  CondVar cv_;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  ClusterHooks hooks_ ABSL_GUARDED_BY(mu_);
  std::string join_address_ ABSL_GUARDED_BY(mu_);
  std::string https_ ABSL_GUARDED_BY(mu_);
  std::string https_for_others_ ABSL_GUARDED_BY(mu_);
  identity::UnixTime renew_admin_at_ ABSL_GUARDED_BY(mu_) = 0;
  std::string client_files_stamp_ ABSL_GUARDED_BY(renew_mu_);  // that they were written with
  std::thread thread_;
};

}  // namespace lanyard::coordinator
