// lanyard-coordinator: it cuts a model over the workers that join and serves it.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "apps/daemon_config.h"
#include "apps/service_loop.h"
#include "base/environment.h"
#include "base/file.h"
#include "base/log.h"
#include "base/version.h"
#include "cli/numerics_flags.h"
#include "coordinator/access/cluster.h"
#include "coordinator/access/key_ring.h"
#include "coordinator/access/quarantine.h"
#include "coordinator/pool_runner.h"
#include "coordinator/state/store.h"
#include "net/channel.h"
#include "net/discovery.h"
#include "web/http_server.h"

namespace {

using namespace lanyard;  // NOLINT: a main

constexpr int64_t kReadyTokenSeconds = 600;

struct Flags {
  std::string model, ready_file, log_level = "info";
  coordinator::PoolRunnerOptions pool;
  std::vector<std::string> networks;
  web::ServerOptions front;
  int ready_fd = -1;
  uint32_t ready_tokens = 0;
  bool plaintext = false;
  bool discovery = true;
  uint16_t discovery_port = net::kDiscoveryPort;
  double drain_timeout_s = 0;
  int64_t certificate_life_s = identity::kNodeCertificateSeconds;
  double renew_every_s = 0;
  bool log_json = false;
};

// Writes one JSON line with the addresses, for the program that starts the workers.
void TellReady(const Flags& flags, nlohmann::json line) {
  const std::string text = line.dump() + "\n";
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

// The parts that make the pool a cluster with identities; empty with --plaintext.
struct Identity {
  std::unique_ptr<coordinator::Cluster> cluster;
  std::shared_ptr<coordinator::Quarantine> quarantine;
};

// Opens the cluster's authority and makes the pool and its front door use it.
absl::StatusOr<Identity> OpenIdentity(coordinator::Store* store, Flags* flags) {
  coordinator::ClusterOptions options{flags->pool.state_directory, MachineName(),
                                      flags->front.host_names};
  options.certificate_seconds = flags->certificate_life_s;
  options.renew_every = static_cast<TimeNs>(flags->renew_every_s * kSecond);
  Identity identity;
  ASSIGN_OR_RETURN(identity.cluster, coordinator::Cluster::Open(store, options));
  coordinator::Cluster* const c = identity.cluster.get();
  identity.quarantine = std::make_shared<coordinator::Quarantine>(c->nodes());
  flags->pool.security = {c->credential(), identity.quarantine};
  flags->pool.drained = c->nodes()->DrainedWorkers();
  flags->pool.join = [c](const net::JoinRequest& request) { return c->Enrol(request); };
  flags->front.cluster = c;
  flags->front.admin_of = [c](const std::string& pem) { return c->AdminOf(pem); };
  if (!flags->front.open) flags->front.tls = [c] { return c->HttpsContext(); };
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

absl::Status Run(Flags flags) {
  ASSIGN_OR_RETURN(const LogLevel level, ParseLogLevel(flags.log_level));
  SetupLog({level, flags.log_json, "coordinator"});
  ASSIGN_OR_RETURN(flags.pool.limits.networks, ParseNetworks(flags.networks));
  if (flags.pool.state_directory.empty()) flags.pool.state_directory = StateHome() + "/coordinator";
  std::signal(SIGPIPE, SIG_IGN);
  const sigset_t signals = apps::BlockEndingSignals();
  ServiceNotifier notifier = ServiceNotifier::FromEnvironment();
  flags.pool.on_shutdown = [] { ::kill(getpid(), SIGTERM); };

  ASSIGN_OR_RETURN(auto model,
                   coordinator::ServedModel::Load(flags.model, flags.pool.state_directory));
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
  if (cluster != nullptr && flags.discovery) {
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
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Serves a model that is cut over the workers of a Lanyard pool.",
               "lanyard-coordinator");
  app.set_version_flag("--version", kVersion);
  app.add_option("--model", flags.model, "a GGUF file")->required();
  app.add_option("--listen", flags.pool.listen, "where workers join")->capture_default_str();
  app.add_option("--network", flags.networks,
                 "that machines may join from, like 10.1.0.0/16; again for more (default: loopback "
                 "and private ones)");
  app.add_option("--http", flags.front.listen, "where clients ask")->capture_default_str();
  app.add_flag("--http-open", flags.front.open,
               "without API keys, for every program of this machine; on loopback only");
  app.add_option("--http-name", flags.front.host_names,
                 "a name that clients use for this server, besides its address");
  app.add_flag("--public", flags.front.public_address,
               "listen for HTTP also where the internet can reach it");
  app.add_option("--state", flags.pool.state_directory,
                 "folder for epochs and digests (default: ~/.local/state/lanyard/coordinator)");
  app.add_option("--workers", flags.pool.expect_workers,
                 "plan as soon as so many have joined (default: a second after the last)");
  app.add_option("--context", flags.pool.context,
                 "tokens of one conversation at most (default: the model's, at most 4096)");
  app.add_option("--users", flags.pool.users, "conversations of full length that KV is wanted for")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  cli::AddNumericsFlags(app, &flags.pool.numerics);
  app.add_option("--drain-timeout", flags.drain_timeout_s,
                 "seconds that SIGTERM leaves to running requests; no new ones are taken meanwhile")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  app.add_option("--certificate-life", flags.certificate_life_s,
                 "seconds that every certificate of the cluster is given for; clocks that differ "
                 "by more shut machines out")
      ->check(CLI::Range(identity::kLeastCertificateSeconds, identity::kNodeCertificateSeconds))
      ->capture_default_str();
  app.add_option("--renew-every", flags.renew_every_s,
                 "seconds between this machine's certificates (default: when a third of their life "
                 "is left)")
      ->check(CLI::Range(0.1, 86400.0));
  app.add_flag("--plaintext", flags.plaintext,
               "no encryption and no identities between coordinator and workers; on loopback only");
  app.add_flag("!--no-discovery", flags.discovery,
               "do not answer machines that look for a coordinator (UDP)");
  app.add_option("--discovery-port", flags.discovery_port, "where it answers them")
      ->capture_default_str();
  app.add_option("--ready-token", flags.ready_tokens,
                 "put a join token for so many workers into the ready line")
      ->check(CLI::Range(1, 1000));
  app.add_option("--ready-fd", flags.ready_fd,
                 "write one JSON line with the addresses there once both listen");
  app.add_option("--ready-file", flags.ready_file, "the same into a file");
  app.add_option("--log-level", flags.log_level, "debug, info, warning, error or off")
      ->capture_default_str();
  app.add_flag("--log-json", flags.log_json, "one JSON object a line");
  apps::AddConfigFile(app, "LANYARD_COORDINATOR");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Run(std::move(flags));
  if (status.ok()) return 0;
  std::fprintf(stderr, "lanyard-coordinator: %s\n", std::string(status.message()).c_str());
  return 1;
}
