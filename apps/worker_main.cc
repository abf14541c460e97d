// lanyard-worker: it computes one machine's share of a pool.
#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>

#include "apps/daemon_config.h"
#include "apps/service_loop.h"
#include "base/environment.h"
#include "base/file.h"
#include "base/log.h"
#include "base/size.h"
#include "engine/cuda/open_devices.h"
#include "net/channel.h"
#include "net/convert_control.h"
#include "net/discovery.h"
#include "net/enrolment.h"
#include "worker/daemon.h"
#include "worker/probe.h"
#include "worker/process.h"

namespace {

using namespace lanyard;  // NOLINT: a main

struct Flags {
  std::string join, token, token_file, name, memory, cache_limit, state, listen, isa,
      log_level = "info";
  std::string models, devices = "auto", vram;
  std::vector<std::string> model, networks;
  int threads = 0;
  double speed = 0;
  double renew_every_s = 0;
  bool plaintext = false;
  bool log_json = false;
};

// Where the stage before reaches this worker when no address was given: loopback for a coordinator
// on loopback, else every address.
std::string ListenFor(const std::string& join) {
  const std::string host = join.substr(0, join.rfind(':'));
  if (net::IsLoopbackHost(host))
    return host.find(':') == std::string::npos ? "127.0.0.1:0" : "[::1]:0";
  return host.find(':') == std::string::npos ? "0.0.0.0:0" : "[::]:0";
}

// Makes the machine's membership, with the token at the first start.
absl::StatusOr<std::unique_ptr<net::Enrolment>> Enrol(const Flags& flags,
                                                      worker::DaemonOptions* options) {
  net::EnrolmentOptions enrol{options->weights.state_dir + "/identity", flags.join, flags.token,
                              identity::Role::kWorker, options->name};
  enrol.renew_every = static_cast<TimeNs>(flags.renew_every_s * kSecond);
  if (enrol.token.empty() && !flags.token_file.empty()) {
    ASSIGN_OR_RETURN(enrol.token, ReadSmallFile(flags.token_file));
  }
  ASSIGN_OR_RETURN(enrol.address, net::AddressToJoin(flags.join, enrol.token, enrol.folder));
  ASSIGN_OR_RETURN(auto enrolment, net::Enrolment::Open(enrol));
  options->join = enrolment->address();
  options->credential = enrolment->credential();
  if (!flags.name.empty() && flags.name != enrolment->name()) {
    return FailedPrecondition(
        "--name ", flags.name, ": this machine joined as '", enrolment->name(),
        "'; to rename it, revoke it on the coordinator, remove ", enrol.folder, " and join anew");
  }
  options->name = enrolment->name();
  return enrolment;
}

absl::StatusOr<worker::DaemonOptions> ToOptions(const Flags& flags) {
  worker::DaemonOptions out;
  out.join = flags.join;
  if (flags.plaintext && flags.join.empty())
    return InvalidArgument("--plaintext needs --join ADDRESS");
  const bool address = !flags.join.empty() && (flags.join != "auto" || flags.plaintext);
  if (address) RETURN_IF_ERROR(Annotate(net::CheckAddress(out.join), "--join"));
  out.name = !flags.name.empty() ? flags.name : HostName();
  if (out.name.empty()) out.name = absl::StrCat("w", getpid());
  RETURN_IF_ERROR(Annotate(net::CheckWorkerName(out.name), "--name"));
  out.listen = flags.listen;
  ASSIGN_OR_RETURN(out.limits.networks, ParseNetworks(flags.networks));
  out.threads = flags.threads > 0 ? flags.threads : worker::ProcessorCount();
  out.isa = ops::BestIsa();
  if (!flags.isa.empty()) {
    ASSIGN_OR_RETURN(out.isa, ops::ParseIsa(flags.isa));
  }
  out.speed = flags.speed > 0 ? flags.speed : worker::RelativeSpeed(out.threads, out.isa);
  out.memory_bytes = worker::AvailableBytes() / 4 * 3;
  if (!flags.memory.empty()) {
    ASSIGN_OR_RETURN(out.memory_bytes, ParseSize(flags.memory));
  }
  out.weights.state_dir = !flags.state.empty() ? flags.state : StateHome();
  out.weights.local_files = flags.model;
  out.weights.local_dir = flags.models;
  if (!flags.cache_limit.empty()) {
    ASSIGN_OR_RETURN(out.weights.cache_limit_bytes, ParseSize(flags.cache_limit));
  }
  out.factory = worker::EngineStages();
  ASSIGN_OR_RETURN(const engine::DeviceFlags devices,
                   engine::ParseDevices(flags.devices, flags.vram));
  worker::GiveDriverACache(out.weights.state_dir);
  ASSIGN_OR_RETURN(out.devices, engine::OpenDevices(devices));
  return out;
}

absl::Status Run(const Flags& flags) {
  ASSIGN_OR_RETURN(const LogLevel level, ParseLogLevel(flags.log_level));
  ASSIGN_OR_RETURN(worker::DaemonOptions options, ToOptions(flags));
  SetupLog({level, flags.log_json, options.name});
  RETURN_IF_ERROR(MakePrivateDir(options.weights.state_dir));
  ASSIGN_OR_RETURN(const worker::StateLock lock,
                   worker::StateLock::Take(options.weights.state_dir));
  options.rates = worker::RatesOf(options.devices, options.weights.state_dir);
  const sigset_t signals = apps::BlockEndingSignals();
  std::unique_ptr<net::Enrolment> enrolment;
  if (!flags.plaintext) {
    ASSIGN_OR_RETURN(enrolment, Enrol(flags, &options));
  }
  if (options.listen.empty()) options.listen = ListenFor(options.join);
  ServiceNotifier notifier = ServiceNotifier::FromEnvironment();
  ASSIGN_OR_RETURN(const auto daemon, worker::Daemon::Start(std::move(options)));
  const apps::ServiceWatch watch = {[&] { return daemon->Doing(); },
                                    [&] { return daemon->last_turn(); },
                                    [&] { return daemon->ended(); }};
  const int signal = apps::WaitForEnd(signals, watch, &notifier);
  if (signal == 0) return daemon->status();
  notifier.Stopping("leaving");
  daemon->Leave(signal == SIGINT ? "interrupted" : "told to stop");
  return absl::OkStatus();
}

// Other users of this machine can see the arguments of every process.
void HideToken(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    char* at = std::strstr(argv[i], "lyt1.");
    if (at != nullptr) std::memset(at, '*', std::strlen(at));
  }
}

}  // namespace

int main(int argc, char** argv) {
  worker::TuneMalloc();
  Flags flags;
  CLI::App app("Joins this machine to a Lanyard pool and runs the layers it is given.",
               "lanyard-worker");
  app.set_version_flag("--version", kVersion);
  app.add_option(
      "--join", flags.join,
      "the coordinator's host:port; auto: looks for it here (default: where it was before)");
  app.add_option("--token", flags.token, "that `lanyard token create` printed; needed once");
  app.add_option("--token-file", flags.token_file,
                 "a file with the token, so that nobody reads it in the process list");
  app.add_option(
         "--renew-every", flags.renew_every_s,
         "seconds between certificates (default: when a third of a certificate's life is left)")
      ->check(CLI::Range(0.1, 86400.0));
  app.add_flag("--plaintext", flags.plaintext, "no encryption and no identities; on loopback only");
  app.add_option("--name", flags.name, "unique in the pool (default: the host's name)");
  app.add_option("--memory", flags.memory,
                 "limit of this whole process, e.g. 200MiB (default: 3/4 of what is free)");
  app.add_option("--threads", flags.threads, "that compute (default: every processor)")
      ->check(CLI::Range(1, 1024));
  app.add_option("--state", flags.state, "folder for weights (default: ~/.local/state/lanyard)");
  app.add_option("--cache-limit", flags.cache_limit,
                 "of cached weights, e.g. 40GiB: the longest unused go first, layers in use never "
                 "(default: the disk)");
  app.add_option("--model", flags.model, "a local copy of the model, used instead of fetching it");
  app.add_option("--models", flags.models, "a folder of GGUF files to look into");
  app.add_option("--listen", flags.listen,
                 "where the stage before reaches this worker (default: any port of any address; of "
                 "loopback for a "
                 "coordinator there)");
  app.add_option("--network", flags.networks,
                 "that others may connect from, like 10.1.0.0/16; again for more (default: "
                 "loopback and private ones)");
  app.add_option("--isa", flags.isa,
                 "scalar, avx2 or avx512 (default: the best of this processor)");
  app.add_option("--devices", flags.devices,
                 "auto (every card), cpu, or cards as cuda:0,cuda:1; the CPU takes the rest")
      ->capture_default_str();
  app.add_option("--vram", flags.vram,
                 "of cards, for stages: 6GiB or cuda:0=6GiB,cuda:1=4GiB (default: what is free)");
  app.add_option("--speed", flags.speed,
                 "relative speed for the planner (default: threads x instruction set)")
      ->check(CLI::Range(0.001, 1e6));
  app.add_option("--log-level", flags.log_level, "debug, info, warning, error or off")
      ->capture_default_str();
  app.add_flag("--log-json", flags.log_json, "one JSON object a line");
  apps::AddConfigFile(app, "LANYARD_WORKER");
  CLI11_PARSE(app, argc, argv);
  HideToken(argc, argv);
  const absl::Status status = Run(flags);
  if (status.ok()) return 0;
  std::fprintf(stderr, "lanyard-worker: %s\n", std::string(status.message()).c_str());
  return 1;
}
