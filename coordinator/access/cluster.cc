#include "coordinator/access/cluster.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>

#include "base/file.h"
#include "base/log.h"
#include "identity/ca_bundle.h"
#include "net/channel.h"

namespace lanyard::coordinator {
namespace {

using identity::Authority;
using identity::Credential;
using identity::IdentityFolder;

constexpr size_t kMaxAddresses = 64;

absl::StatusOr<Authority> LoadOrMake(const std::string& folder, identity::UnixTime now) {
  RETURN_IF_ERROR(MakePrivateDir(folder));
  const absl::StatusOr<std::string> certificate = ReadSmallFile(folder + "/ca.crt");
  const absl::StatusOr<std::string> key = ReadSmallFile(folder + "/ca.key");
  if (certificate.ok() && key.ok()) {
    absl::StatusOr<Authority> loaded = Authority::Load(*certificate, *key);
    if (loaded.ok()) return loaded;
    return absl::DataLossError(absl::StrCat(
        "the cluster's CA in ", folder, " cannot be used: ", loaded.status().message(),
        "; restore it from a copy, or remove the folder to begin a new cluster that every ",
        "machine must join again"));
  }
  if (!absl::IsNotFound(certificate.status()) || !absl::IsNotFound(key.status())) {
    return absl::DataLossError(
        absl::StrCat("the cluster's CA in ", folder, " is incomplete: ",
                     certificate.ok() ? key.status().message() : certificate.status().message()));
  }
  ASSIGN_OR_RETURN(Authority made, Authority::Create(now));
  // The key is written first: without the certificate the next start says that the CA is
  // incomplete, and no node trusts it yet.
  RETURN_IF_ERROR(WriteSmallFile(folder + "/ca.key", made.key_pem()));
  RETURN_IF_ERROR(WriteSmallFile(folder + "/ca.crt", made.certificate_pem()));
  LogInfo("this is a new cluster, ", made.cluster());
  return made;
}

// Finds every address of this machine, for people who type one into a browser.
std::vector<std::string> OwnAddresses() {
  std::vector<std::string> out;
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return out;
  for (const ifaddrs* at = all; at != nullptr && out.size() < kMaxAddresses; at = at->ifa_next) {
    if (at->ifa_addr == nullptr || (at->ifa_flags & IFF_UP) == 0) continue;
    std::array<char, INET6_ADDRSTRLEN> text{};
    const void* address = nullptr;
    if (at->ifa_addr->sa_family == AF_INET)
      address = &reinterpret_cast<const sockaddr_in*>(at->ifa_addr)->sin_addr;
    if (at->ifa_addr->sa_family == AF_INET6)
      address = &reinterpret_cast<const sockaddr_in6*>(at->ifa_addr)->sin6_addr;
    if (address == nullptr ||
        inet_ntop(at->ifa_addr->sa_family, address, text.data(), text.size()) == nullptr)
      continue;
    if (std::find(out.begin(), out.end(), text.data()) == out.end()) out.emplace_back(text.data());
  }
  freeifaddrs(all);
  return out;
}

JoinTokenInfo InfoOf(const TokenInfo& token) {
  return {token.id,
          identity::RoleName(token.role),
          token.created_unix_s,
          token.expires_unix_s,
          token.uses,
          token.used};
}

MemberInfo InfoOf(const NodeInfo& node) {
  return {node.id,
          node.name,
          identity::RoleName(node.role),
          node.joined_unix_s,
          node.certificate_ends_unix_s,
          node.revoked_unix_s,
          node.from,
          node.drained_unix_s};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Cluster>> Cluster::Open(Store* store,
                                                       const ClusterOptions& options) {
  ClusterOptions with_clock = options;
  if (!with_clock.clock) with_clock.clock = identity::WallNow;
  const std::string ca_folder = options.folder + "/ca";
  const bool is_new = absl::IsNotFound(ReadSmallFile(ca_folder + "/ca.crt").status()) &&
                      absl::IsNotFound(ReadSmallFile(ca_folder + "/ca.key").status());
  // First, so that a start that ends here is a new cluster's again the next time.
  ASSIGN_OR_RETURN(auto https_front,
                   HttpsFront::Open({ca_folder, options.name, options.dns_names, OwnAddresses,
                                     options.certificate_seconds, options.https},
                                    is_new, with_clock.clock()));
  ASSIGN_OR_RETURN(Authority authority, LoadOrMake(ca_folder, with_clock.clock()));
  auto cluster = std::unique_ptr<Cluster>(new Cluster(with_clock, std::move(authority)));
  cluster->https_front_ = std::move(https_front);
  ASSIGN_OR_RETURN(cluster->nodes_, Nodes::Open(store, &cluster->authority_, with_clock.clock,
                                                options.certificate_seconds));
  ASSIGN_OR_RETURN(const IdentityFolder folder, IdentityFolder::Open(options.folder + "/identity"));
  ASSIGN_OR_RETURN(const identity::KeyPair key, folder.Key());
  ASSIGN_OR_RETURN(auto own, cluster->IssueOwn(key));
  cluster->credential_ = std::make_shared<identity::LiveCredential>(std::move(own));
  cluster->thread_ = std::thread([c = cluster.get()] { c->Loop(); });
  return cluster;
}

Cluster::~Cluster() {
  {
    MutexLock lock(&mu_);
    stop_ = true;
    cv_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

absl::StatusOr<std::shared_ptr<const Credential>> Cluster::IssueOwn(const identity::KeyPair& key) {
  identity::IssueRequest request{.role = identity::Role::kCoordinator, .name = options_.name};
  // What HTTPS clients use in a cluster whose CA signs for these too (https_front.h).
  const identity::HttpsNames names = SplitNames(options_.dns_names);
  request.dns_names = {options_.name, "localhost"};
  request.dns_names.insert(request.dns_names.end(), names.dns.begin(), names.dns.end());
  request.addresses = OwnAddresses();
  request.addresses.insert(request.addresses.end(), names.addresses.begin(), names.addresses.end());
  request.lifetime_seconds = options_.certificate_seconds;
  const identity::UnixTime now = options_.clock();
  ASSIGN_OR_RETURN(std::string pem, authority_.Issue(key.get(), request, now));
  return Credential::Make(key, std::move(pem), authority_.certificate_pem(), now);
}

absl::StatusOr<std::string> Cluster::AdminOf(const std::string& certificate_pem) const {
  ASSIGN_OR_RETURN(const identity::Peer peer, identity::PeerOfPem(certificate_pem));
  if (peer.role != identity::Role::kAdmin) {
    return absl::PermissionDeniedError(
        absl::StrCat("the certificate is a ", identity::RoleName(peer.role), "'s"));
  }
  RETURN_IF_ERROR(nodes_->Check(peer));
  return peer.name;
}

absl::StatusOr<net::JoinReply> Cluster::Enrol(const net::JoinRequest& request) {
  const bool from_here = net::IsLoopbackHost(request.from.substr(0, request.from.rfind(':')));
  std::string https;
  {
    MutexLock lock(&mu_);
    https = https_for_others_.empty() && from_here ? https_ : https_for_others_;
    const bool joins = request.role == identity::Role::kAdmin && !request.token_id.empty();
    if (joins && https.empty() && !https_.empty()) {
      return FailedPrecondition(
          "the coordinator takes HTTP from its own machine alone (", https_,
          "), so that an administrator elsewhere could not reach it; start it with --http and an "
          "address of that machine (the token was not used)");
    }
  }
  ASSIGN_OR_RETURN(net::JoinReply reply, nodes_->Enrol(request));
  reply.https = std::move(https);
  return reply;
}

ClusterHooks Cluster::Hooks() {
  MutexLock lock(&mu_);
  return hooks_;
}

void Cluster::Serve(ClusterHooks hooks, std::string join_address) {
  // Workers are also told of revocations in this coordinator's earlier lives.
  const std::vector<std::string> revoked = nodes_->RevokedIds();
  if (!revoked.empty() && hooks.cut_off) hooks.cut_off("", revoked);
  MutexLock lock(&mu_);
  hooks_ = std::move(hooks);
  join_address_ = std::move(join_address);
}

absl::StatusOr<NewJoinToken> Cluster::CreateToken(const std::string& role, int64_t ttl_seconds,
                                                  uint32_t uses) {
  ASSIGN_OR_RETURN(const identity::Role parsed, identity::ParseRole(role));
  ASSIGN_OR_RETURN(NewToken made, nodes_->CreateToken({parsed, ttl_seconds, uses}));
  MutexLock lock(&mu_);
  return NewJoinToken{InfoOf(made.info), std::move(made.token), join_address_};
}

absl::StatusOr<std::vector<JoinTokenInfo>> Cluster::ListTokens() {
  ASSIGN_OR_RETURN(const std::vector<TokenInfo> tokens, nodes_->ListTokens());
  std::vector<JoinTokenInfo> out;
  for (const TokenInfo& token : tokens) out.push_back(InfoOf(token));
  return out;
}

absl::Status Cluster::RevokeToken(const std::string& id) { return nodes_->RevokeToken(id); }

absl::StatusOr<std::vector<MemberInfo>> Cluster::Members() {
  ASSIGN_OR_RETURN(const std::vector<NodeInfo> nodes, nodes_->List());
  std::vector<MemberInfo> out;
  const ClusterHooks hooks = Hooks();
  for (const NodeInfo& node : nodes) {
    out.push_back(InfoOf(node));
    if (hooks.quarantine) out.back().quarantine = hooks.quarantine(node.id);
  }
  return out;
}

absl::StatusOr<MemberInfo> Cluster::Revoke(const std::string& name_or_id) {
  MutexLock revoking(&revoke_mu_);  // so that the last list that workers get is the longest
  ASSIGN_OR_RETURN(const NodeInfo node, nodes_->Revoke(name_or_id));
  const ClusterHooks hooks = Hooks();
  if (hooks.cut_off) hooks.cut_off(node.id, nodes_->RevokedIds());
  // A node that comes with its name is another one.
  if (node.drained_unix_s.has_value() && hooks.set_drained)
    RETURN_IF_ERROR(hooks.set_drained(node.name, false));
  return InfoOf(node);
}

absl::StatusOr<MemberInfo> Cluster::SetDrained(const std::string& name_or_id, bool drained) {
  MutexLock changing(&revoke_mu_);
  ASSIGN_OR_RETURN(const NodeInfo before, nodes_->Find(name_or_id));
  const ClusterHooks hooks = Hooks();
  if (!hooks.set_drained) return Unavailable("the coordinator is starting; ask again");
  const bool is_worker =
      before.role == identity::Role::kWorker && !before.revoked_unix_s.has_value();
  // The hook may refuse it.
  if (is_worker && drained) RETURN_IF_ERROR(hooks.set_drained(before.name, true));
  const absl::StatusOr<NodeInfo> node = nodes_->SetDrained(before.id, drained);
  if (!node.ok()) {
    if (is_worker && drained && !before.drained_unix_s.has_value())
      (void)hooks.set_drained(before.name, false);
    return node.status();
  }
  if (!drained) RETURN_IF_ERROR(hooks.set_drained(node->name, false));
  return InfoOf(*node);
}

absl::Status Cluster::MakeAdmin(const std::string& https, const std::string& https_for_others) {
  {
    MutexLock lock(&mu_);
    https_ = https;
    https_for_others_ = https_for_others;
    renew_admin_at_ = 0;
  }
  RETURN_IF_ERROR(RenewIfDue());
  return WriteFilesForClients();
}

absl::Status Cluster::RenewIfDue(bool at_once) {
  MutexLock renewing(&renew_mu_);  // MakeAdmin and the loop write the same files
  const identity::UnixTime now = options_.clock();
  const auto own = credential_->Get();
  // It is also renewed before its time of issue: then the clock was ahead when it was given.
  if (at_once || now >= identity::RenewAt(own->self) || now < own->self.not_before) {
    ASSIGN_OR_RETURN(auto next, IssueOwn(own->key));
    RETURN_IF_ERROR(credential_->Replace(std::move(next)));
    LogDebug("the coordinator's certificate was renewed");
  }
  std::string https, join_address;
  {
    MutexLock lock(&mu_);
    const bool due =
        at_once || now >= renew_admin_at_ || now <= renew_admin_at_ - options_.certificate_seconds;
    if (https_.empty() || !due) return absl::OkStatus();
    https = https_;
    join_address = join_address_;
  }
  ASSIGN_OR_RETURN(const IdentityFolder folder, IdentityFolder::Open(admin_folder()));
  net::JoinRequest request;
  request.role = identity::Role::kAdmin;
  request.name =
      options_.name.substr(0, 50) + "-admin";  // a worker on this machine has the machine's name
  request.from = "this machine";
  ASSIGN_OR_RETURN(net::JoinReply reply, EnrolAdmin(folder, request));
  RETURN_IF_ERROR(folder.Save(
      {std::move(reply.certificate_pem), authority_.certificate_pem(), join_address, https}));
  MutexLock lock(&mu_);
  renew_admin_at_ = now + options_.certificate_seconds / 2;
  return absl::OkStatus();
}

absl::StatusOr<net::JoinReply> Cluster::EnrolAdmin(const IdentityFolder& folder,
                                                   net::JoinRequest request) {
  ASSIGN_OR_RETURN(const identity::KeyPair key, folder.Key());
  ASSIGN_OR_RETURN(request.request_pem, key.MakeRequest());
  absl::StatusOr<net::JoinReply> reply = nodes_->EnrolLocal(request);
  if (!absl::IsPermissionDenied(reply.status())) return reply;
  // Its key was revoked. A person who has this machine has the CA, so a new key gives nothing away.
  RETURN_IF_ERROR(folder.ForgetKey());
  ASSIGN_OR_RETURN(const identity::KeyPair next, folder.Key());
  ASSIGN_OR_RETURN(request.request_pem, next.MakeRequest());
  return nodes_->EnrolLocal(request);
}

absl::Status Cluster::WriteFilesForClients() {
  std::string https;
  {
    MutexLock lock(&mu_);
    https = https_;
  }
  if (https.empty()) return absl::OkStatus();
  const bool tls = https.rfind("https://", 0) == 0;
  const std::string ca = tls ? https_front_->CaPem(authority_.certificate_pem()) : "";
  std::string stamp = identity::SystemStoreStamp() + ca;
  MutexLock lock(&renew_mu_);
  if (stamp == client_files_stamp_) return absl::OkStatus();
  RETURN_IF_ERROR(identity::WriteClientFiles(admin_folder(), ca));
  client_files_stamp_ = std::move(stamp);
  return absl::OkStatus();
}

HttpsInfo Cluster::Https() {
  HttpsInfo out;
  {
    MutexLock lock(&mu_);
    out.url = https_for_others_.empty() ? https_ : https_for_others_;
  }
  const size_t host_at = out.url.find("://") + 3;
  if (out.url.rfind("https://", 0) != 0) return out;
  out.ca_pem = https_front_->CaPem(authority_.certificate_pem());
  out.house = https_front_->is_house();
  out.constrained = https_front_->constrained();
  out.names = https_front_->Names();
  const size_t colon = out.url.rfind(':');
  std::string host = out.url.substr(host_at, colon - host_at);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  if (https_front_->IsFor(host)) return out;
  // The first name that is one, and not a pattern.
  const auto name = std::find_if(out.names.begin(), out.names.end(),
                                 [](const std::string& n) { return n.find('*') == n.npos; });
  if (name != out.names.end()) out.url.replace(host_at, colon - host_at, *name);
  return out;
}

absl::StatusOr<HttpsInfo> Cluster::NewHttpsCa() {
  RETURN_IF_ERROR(https_front_->NewAuthority(options_.clock()));
  RETURN_IF_ERROR(WriteFilesForClients());
  return Https();
}

void Cluster::Wait(TimeNs time) {
  MutexLock lock(&mu_);
  if (!stop_) cv_.WaitFor(&mu_, std::chrono::nanoseconds(time));
}

void Cluster::Loop() {
  const TimeNs every = options_.renew_every;
  const TimeNs look = every > 0 ? std::min(every, kSecond) : kSecond;
  const TimeNs after_failure =
      std::clamp(options_.certificate_seconds * kSecond / 20, kSecond, 30 * kSecond);
  TimeNs renewed_at = MonotonicNow();
  while (true) {
    Wait(look);
    {
      MutexLock lock(&mu_);
      if (stop_) return;
    }
    const TimeNs now = MonotonicNow();
    const bool wanted = every > 0 && now - renewed_at >= every;
    if (wanted) renewed_at = now;
    absl::Status status = https_front_->Look(options_.clock(), wanted);
    status.Update(WriteFilesForClients());
    status.Update(RenewIfDue(wanted));
    if (!status.ok()) {
      LogError("certificates of this machine could not be renewed: ", status.message());
      Wait(after_failure);
    }
  }
}

}  // namespace lanyard::coordinator
