// lanyard-coordinator: it cuts a model over the workers that join and serves it.
#include <malloc.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "apps/coordinator_flags.h"
#include "apps/service_loop.h"
#include "base/command_line.h"
#include "base/environment.h"
#include "base/file.h"
#include "base/listen_check.h"
#include "base/log.h"
#include "base/output.h"
#include "base/utf8.h"
#include "coordinator/access/cluster.h"
#include "coordinator/access/key_ring.h"
#include "coordinator/access/quarantine.h"
#include "coordinator/pool_runner.h"
#include "coordinator/state/store.h"
#include "net/channel.h"
#include "net/discovery.h"
#include "web/address.h"
#include "web/http_server.h"

namespace {

using namespace lanyard;  // NOLINT: a main

constexpr int64_t kReadyTokenSeconds = 600;
constexpr int kOwnMappingBytes = 1 << 20;

// One JSON line with the addresses, for whoever starts the workers.
void TellReady(const apps::CoordinatorFlags& flags, nlohmann::json line) {
  const std::string text =
      line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  if (flags.ready_fd >= 0 && ::write(flags.ready_fd, text.data(), text.size()) < 0) {
    LogWarning("--ready-fd ", flags.ready_fd, " takes no line");
  }
  if (flags.ready_file.empty()) return;
  if (const absl::Status written = WriteSmallFile(flags.ready_file, text); !written.ok())
    LogWarning(written.message());
}

// The name for this machine's certificates.
std::string MachineName() {
  const std::string name = HostName();
  return name.empty() ? "coordinator" : name;
}

// Where machines join: an address that other machines can use, and not the wildcard.
std::string JoinAddress(const std::string& bound) {
  const absl::StatusOr<std::string> routed =
      net::AdvertisedAddress(bound, "192.0.2.1:1");  // a documentation address
  if (routed.ok()) return *routed;
  return absl::StrCat(MachineName(), bound.substr(bound.rfind(':')));
}

// Makes one line for `systemctl status`.
std::string Summary(const coordinator::PoolStatus& pool) {
  return absl::StrCat(pool.state, ": ", pool.model, ", ", pool.nodes.size(), " workers, ",
                      pool.requests.size(), " requests", pool.why.empty() ? "" : "; ", pool.why);
}

std::string Scheme(const web::HttpServer& http) {
  return http.url().substr(0, http.url().find("//") + 2);
}

// The URL for programs of this machine, since the wildcard is no address to connect to.
std::string LocalUrl(const web::HttpServer& http) {
  const std::string address = http.address();
  const bool wildcard = address.rfind("0.0.0.0:", 0) == 0 || address.rfind("[::]:", 0) == 0;
  return wildcard ? absl::StrCat(Scheme(http), "localhost", address.substr(address.rfind(':')))
                  : http.url();
}

std::string UrlForOthers(const web::HttpServer& http) {
  const std::string address = http.address();
  return net::IsLoopbackHost(address.substr(0, address.rfind(':')))
             ? ""
             : Scheme(http) + JoinAddress(address);
}

// The options of HTTPS with each other and with those that leave it out.
absl::Status CheckHttps(apps::CoordinatorFlags* flags) {
  flags->https.tls12 = flags->http_tls_min == "1.2";
  if (flags->https.certificate_file.empty() != flags->https.key_file.empty())
    return InvalidArgument(
        "a certificate and its key are given together: --http-cert FILE "
        "--http-key FILE");
  if (!flags->https.certificate_file.empty() && (flags->front.open || flags->plaintext))
    return InvalidArgument("--http-cert is for HTTPS, which ",
                           flags->plaintext ? "--plaintext" : "--http-open",
                           " leaves out; leave out one of them");
  return absl::OkStatus();
}

// What makes the pool a cluster with identities; empty with --plaintext.
struct Identity {
  std::unique_ptr<coordinator::Cluster> cluster;
  std::shared_ptr<coordinator::Quarantine> quarantine;
};

// Opens the cluster's authority and makes the pool and its front door use it.
absl::StatusOr<Identity> OpenIdentity(coordinator::Store* store, apps::CoordinatorFlags* flags) {
  coordinator::ClusterOptions options{flags->pool.state_directory, MachineName(),
                                      flags->front.host_names};
  options.certificate_seconds = flags->certificate_life_s;
  options.renew_every = static_cast<TimeNs>(flags->renew_every_s * kSecond);
  options.https = flags->https;
  options.https.public_addresses = flags->front.public_address;
  Identity identity;
  ASSIGN_OR_RETURN(identity.cluster, coordinator::Cluster::Open(store, options));
  coordinator::Cluster* const c = identity.cluster.get();
  identity.quarantine = std::make_shared<coordinator::Quarantine>(c->nodes());
  flags->pool.security = {c->credential(), identity.quarantine};
  flags->pool.drained = c->nodes()->DrainedWorkers();
  flags->pool.join = [c](const net::JoinRequest& request) { return c->Enrol(request); };
  flags->front.cluster = c;
  flags->front.admin_of = [c](const std::string& pem) { return c->AdminOf(pem); };
  if (flags->front.open) return identity;
  flags->front.tls = [c] { return c->HttpsContext(); };
  // A browser that was led astray by a name sees a certificate for another: these are safe.
  for (std::string& name : c->HttpsNames()) flags->front.host_names.push_back(std::move(name));
  return identity;
}

// Lets the cluster act on the pool, and tells it where machines join.
void ServeJoining(const Identity& identity, coordinator::PoolRunner* pool) {
  coordinator::ClusterHooks hooks;
  hooks.cut_off = [pool](const std::string& node, const std::vector<std::string>& all) {
    pool->CutOff(node, all);
  };
  hooks.set_drained = [pool](const std::string& worker, bool on) {
    return pool->SetDrained(worker, on);
  };
  hooks.quarantine = [q = identity.quarantine](const std::string& node) { return q->Why(node); };
  identity.cluster->Serve(std::move(hooks), JoinAddress(pool->grpc_address()));
}

absl::Status Run(apps::CoordinatorFlags flags) {
  ASSIGN_OR_RETURN(const LogLevel level, ParseLogLevel(flags.daemon.log_level));
  SetupLog({level, flags.daemon.log_json, "coordinator"});
  ASSIGN_OR_RETURN(flags.pool.limits.networks, ParseNetworks(flags.networks));
  if (flags.pool.state_directory.empty()) flags.pool.state_directory = StateHome() + "/coordinator";
  // Its path travels: to `lanyard up`, and to whoever asks where the administrator's folder is.
  RETURN_IF_ERROR(Annotate(CheckUtf8(flags.pool.state_directory),
                           "the state folder " + flags.pool.state_directory));
  ASSIGN_OR_RETURN(flags.front.host_names, web::ParseHostNames(flags.front.host_names));
  std::signal(SIGPIPE, SIG_IGN);
  // Else glibc raises this with the first large body, whose memory then never goes back.
  mallopt(M_MMAP_THRESHOLD, kOwnMappingBytes);
  ServiceNotifier notifier = ServiceNotifier::FromEnvironment();
  flags.pool.scheduler.decode_latency = static_cast<TimeNs>(flags.decode_latency_ms * kMillisecond);
  flags.pool.on_shutdown = [] { ::kill(getpid(), SIGTERM); };

  RETURN_IF_ERROR(web::HttpServer::Check(flags.front, !flags.plaintext && !flags.front.open));
  RETURN_IF_ERROR(CheckCanListen(flags.pool.listen, "stop it, or choose another with --listen"));
  // Reads all of a new model, which takes minutes: until then a signal ends the process at once.
  ASSIGN_OR_RETURN(auto model,
                   coordinator::ServedModel::Load(flags.model, flags.pool.state_directory));
  const sigset_t signals = apps::BlockEndingSignals();
  ASSIGN_OR_RETURN(const auto store,
                   coordinator::Store::Open(flags.pool.state_directory + "/lanyard.db"));
  ASSIGN_OR_RETURN(const auto keys, coordinator::KeyRing::Open(store.get()));
  flags.front.keys = keys.get();
  Identity identity;
  if (!flags.plaintext) {
    ASSIGN_OR_RETURN(identity, OpenIdentity(store.get(), &flags));
  }
  coordinator::Cluster* const cluster = identity.cluster.get();
  ASSIGN_OR_RETURN(const auto pool, coordinator::PoolRunner::Start(flags.pool, std::move(model)));
  if (cluster != nullptr) ServeJoining(identity, pool.get());
  ASSIGN_OR_RETURN(const auto http, web::HttpServer::Start(flags.front, pool.get()));
  nlohmann::json ready = {{"http", http->url()}, {"grpc", pool->grpc_address()}, {"pid", getpid()}};
  if (cluster != nullptr) {
    if (const absl::Status made = cluster->MakeAdmin(LocalUrl(*http), UrlForOthers(*http));
        !made.ok()) {
      LogError("no administrator's folder on this machine: ", made.message());
    }
    ready["admin"] = cluster->admin_folder();
    if (flags.ready_tokens > 0) {
      ASSIGN_OR_RETURN(const auto token,
                       cluster->CreateToken("worker", kReadyTokenSeconds, flags.ready_tokens));
      ready["token"] = token.token;
    }
  }
  std::unique_ptr<net::DiscoveryResponder> discovery;
  if (cluster != nullptr && !flags.no_discovery) {
    discovery =
        net::Announce({cluster->authority().cluster(), pool->grpc_address(), flags.discovery_port});
  }
  LogInfo("HTTP on ", http->url(), ", workers join ", pool->grpc_address());
  TellReady(flags, std::move(ready));
  const apps::ServiceWatch watch = {[&] { return Summary(pool->Status()); },
                                    [&] { return pool->last_turn(); }};
  if (apps::WaitForEnd(signals, watch, &notifier) == SIGTERM) {
    pool->StopAdmitting();
    notifier.Stopping("finishing what runs");
    const auto idle = [&] { return pool->Status().requests.empty(); };
    const auto timeout = static_cast<TimeNs>(flags.drain_timeout_s * kSecond);
    if (!apps::Drain(signals, watch, timeout, idle, &notifier))
      LogWarning("requests that still ran are ended");
  }
  LogInfo("stopping");
  // The front goes before the pool and cannot be told anything after that, so clients would see
  // their streams just end.
  pool->EndAnswers();
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  HoldStandardStreams();
  apps::CoordinatorFlags flags;
  const auto app = apps::MakeCoordinatorApp(&flags);
  if (const auto code = ParseCommandLine(*app, argc, argv); code.has_value()) return *code;
  const absl::Status wrong = CheckHttps(&flags);
  const absl::Status status = wrong.ok() ? Run(std::move(flags)) : wrong;
  if (!status.ok()) std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  // Wrong options do not become right by trying again, which systemd and `lanyard up` know by this.
  return wrong.ok() ? ExitCodeOf(status.code()) : kUsage;
}
