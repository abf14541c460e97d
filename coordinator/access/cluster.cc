#include "coordinator/access/cluster.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>

#include "base/file.h"
#include "base/log.h"

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
    return absl::DataLossError(
        absl::StrCat("the cluster's CA in ", folder, " cannot be used: ", loaded.status().message(),
                     "; restore it from a copy, or remove the folder to begin a new cluster that every ",
                     "machine must join again"));
  }
  if (!absl::IsNotFound(certificate.status()) || !absl::IsNotFound(key.status())) {
    return absl::DataLossError(absl::StrCat(
        "the cluster's CA in ", folder,
        " is incomplete: ", certificate.ok() ? key.status().message() : certificate.status().message()));
  }
  ASSIGN_OR_RETURN(Authority made, Authority::Create(now));
  // The key first: without the certificate the next start says that the CA is incomplete, and no node trusts
  // it yet.
  RETURN_IF_ERROR(WriteSmallFile(folder + "/ca.key", made.key_pem()));
  RETURN_IF_ERROR(WriteSmallFile(folder + "/ca.crt", made.certificate_pem()));
  LogInfo("this is a new cluster, ", made.cluster());
  return made;
}

// Every address of this machine, for those who type one into a browser.
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

}  // namespace

absl::StatusOr<std::unique_ptr<Cluster>> Cluster::Open(Store* store, const ClusterOptions& options) {
  ClusterOptions with_clock = options;
  if (!with_clock.clock) with_clock.clock = identity::WallNow;
  ASSIGN_OR_RETURN(Authority authority, LoadOrMake(options.folder + "/ca", with_clock.clock()));
  auto cluster = std::unique_ptr<Cluster>(new Cluster(with_clock, std::move(authority)));
  ASSIGN_OR_RETURN(cluster->nodes_, Nodes::Open(store, &cluster->authority_, with_clock.clock));
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
  request.dns_names = {options_.name, "localhost"};
  request.dns_names.insert(request.dns_names.end(), options_.dns_names.begin(), options_.dns_names.end());
  request.addresses = OwnAddresses();
  const identity::UnixTime now = options_.clock();
  ASSIGN_OR_RETURN(std::string pem, authority_.Issue(key.get(), request, now));
  return Credential::Make(key, std::move(pem), authority_.certificate_pem(), now);
}

absl::Status Cluster::MakeAdmin(const std::string& https) {
  {
    MutexLock lock(&mu_);
    https_ = https;
    renew_admin_at_ = 0;
  }
  return RenewIfDue();
}

absl::Status Cluster::RenewIfDue() {
  const identity::UnixTime now = options_.clock();
  const auto own = credential_->Get();
  if (now >= identity::RenewAt(own->self)) {
    ASSIGN_OR_RETURN(auto next, IssueOwn(own->key));
    RETURN_IF_ERROR(credential_->Replace(std::move(next)));
  }
  std::string https;
  {
    MutexLock lock(&mu_);
    if (https_.empty() || now < renew_admin_at_) return absl::OkStatus();
    https = https_;
  }
  ASSIGN_OR_RETURN(const IdentityFolder folder, IdentityFolder::Open(admin_folder()));
  ASSIGN_OR_RETURN(const identity::KeyPair key, folder.Key());
  net::JoinRequest request;
  request.role = identity::Role::kAdmin;
  request.name = options_.name;
  request.from = "this machine";
  ASSIGN_OR_RETURN(request.request_pem, key.MakeRequest());
  ASSIGN_OR_RETURN(net::JoinReply reply, nodes_->EnrolLocal(request));
  RETURN_IF_ERROR(folder.Save({std::move(reply.certificate_pem), authority_.certificate_pem(), https}));
  MutexLock lock(&mu_);
  renew_admin_at_ = now + identity::kNodeCertificateSeconds / 2;
  return absl::OkStatus();
}

void Cluster::Loop() {
  while (true) {
    {
      MutexLock lock(&mu_);
      if (!stop_) cv_.WaitFor(&mu_, std::chrono::seconds(1));
      if (stop_) return;
    }
    if (const absl::Status status = RenewIfDue(); !status.ok()) {
      LogError("certificates of this machine could not be renewed: ", status.message());
      MutexLock lock(&mu_);
      if (!stop_) cv_.WaitFor(&mu_, std::chrono::seconds(30));
    }
  }
}

}  // namespace lanyard::coordinator
