#include "apps/coordinator_flags.h"

#include "apps/daemon_config.h"
#include "base/command_line.h"
#include "base/ip.h"
#include "cli/numerics_flags.h"
#include "web/address.h"
#include "web/browser.h"

namespace lanyard::apps {
namespace {

void AddHttpFlags(CLI::App& app, CoordinatorFlags* flags) {
  web::ServerOptions* const front = &flags->front;
  app.add_option("--http", front->listen, "where clients ask")
      ->check(ParsesAs(web::ParseListen))
      ->capture_default_str();
  app.add_flag("--http-open", front->open,
               "without API keys, for every program of this machine; on loopback only");
  app.add_option("--http-name", front->host_names,
                 "a name that clients use for this server, besides its address")
      ->check(ParsesAs([](const std::string& name) { return web::ParseHostNames({name}); }));
  app.add_option("--http-origin", front->origins,
                 "an origin whose web pages may ask this server, like https://chat.example; again "
                 "for more (never an administrator's routes)")
      ->check(ParsesAs([](const std::string& origin) { return web::ParseOrigin(origin); }));
  app.add_flag("--public", front->public_address,
               "listen for HTTP also where the internet can reach it");
  app.add_option("--http-cert", flags->https.certificate_file,
                 "the house's own certificate for HTTPS: PEM, with the CAs between it and the "
                 "root; read again when it changes (default: one of the pool's CA)");
  app.add_option("--http-key", flags->https.key_file, "its key: PEM, without a password");
  app.add_option("--http-tls-min", flags->http_tls_min,
                 "the oldest TLS that HTTPS clients may use; administrators' certificates take 1.3")
      ->check(CLI::IsMember({"1.2", "1.3"}))
      ->capture_default_str();
}

}  // namespace

std::unique_ptr<CLI::App> MakeCoordinatorApp(CoordinatorFlags* out) {
  auto made = std::make_unique<CLI::App>(
      "Serves a model that is cut over the workers of a Lanyard pool.", "lanyard-coordinator");
  CLI::App& app = *made;
  CoordinatorFlags& flags = *out;
  app.add_option("--model", flags.model, "a GGUF file")->required();
  app.add_option("--listen", flags.pool.listen, "where workers join")->capture_default_str();
  app.add_option("--network", flags.networks,
                 "that machines may join from, like 10.1.0.0/16; again for more (default: loopback "
                 "and private ones)")
      ->check(ParsesAs(Network::Parse));
  AddHttpFlags(app, &flags);
  app.add_option("--state", flags.pool.state_directory,
                 "folder for epochs and digests (default: ~/.local/state/lanyard/coordinator)");
  app.add_option("--workers", flags.pool.expect_workers,
                 "plan as soon as so many have joined (default: a second after the last)")
      ->check(CLI::Range(1, 4096));
  app.add_option("--context", flags.pool.context,
                 "tokens of one conversation at most (default: the model's, at most 4096)")
      ->check(CLI::Range(1, 16'777'216));
  app.add_option("--users", flags.pool.users, "conversations of full length that KV is wanted for")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  cli::AddNumericsFlags(app, &flags.pool.numerics);
  app.add_option(
         "--decode-latency", flags.decode_latency_ms,
         "milliseconds that the next token of an answer may wait for other people's prompts")
      ->check(CLI::Range(1.0, 60000.0))
      ->capture_default_str();
  app.add_option("--prefix-cache", flags.pool.scheduler.keep_prefixes,
                 "a text that was read once is not read again while there is room for its KV; "
                 "false reads all of every prompt")
      ->capture_default_str();
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
  app.add_flag("--no-discovery", flags.no_discovery,
               "do not answer machines that look for a coordinator (UDP)");
  app.add_option("--discovery-port", flags.discovery_port, "where it answers them")
      ->check(CLI::Range(1, 65535))
      ->capture_default_str();
  app.add_option("--ready-token", flags.ready_tokens,
                 "put a join token for so many workers into the ready line (default: "
                 "none)")
      ->check(CLI::Range(1, 1000));
  app.add_option("--ready-fd", flags.ready_fd,
                 "write one JSON line with the addresses there once both listen (default: "
                 "nowhere)");
  app.add_option("--ready-file", flags.ready_file, "the same into a file");
  AddDaemonFlags(
      app, "LANYARD_COORDINATOR",
      "  lanyard-coordinator --model smollm2.gguf\n"
      "  lanyard-coordinator --model smollm2.gguf --listen 192.168.1.10:7470 --http "
      "192.168.1.10:8470\n"
      "  lanyard-coordinator --config /etc/lanyard/coordinator.toml --model smollm2.gguf\n",
      &flags.daemon);
  return made;
}

}  // namespace lanyard::apps
