// lanyard-worker: one machine's share of a pool.
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>

#include "apps/service_loop.h"
#include "apps/worker_flags.h"
#include "base/command_line.h"
#include "base/environment.h"
#include "base/file.h"
#include "base/log.h"
#include "base/output.h"
#include "base/size.h"
#include "engine/cuda/open_devices.h"
#include "net/channel.h"
#include "net/convert_control.h"
#include "net/discovery.h"
#include "net/enrolment.h"
#include "worker/daemon.h"
#include "worker/probe.h"
#include "worker/process.h"
#include "worker/sleep_watch.h"

namespace {

using namespace lanyard;  // NOLINT: a main

// Where the stage before reaches this worker, when nobody said: loopback for a coordinator there,
// else every address.
std::string ListenFor(const std::string& join) {
  const std::string host = join.substr(0, join.rfind(':'));
  if (net::IsLoopbackHost(host))
    return host.find(':') == std::string::npos ? "127.0.0.1:0" : "[::1]:0";
  return host.find(':') == std::string::npos ? "0.0.0.0:0" : "[::]:0";
}

// The machine's membership, made with the token at the first start.
absl::StatusOr<std::unique_ptr<net::Enrolment>> Enrol(const apps::WorkerFlags& flags,
                                                      worker::DaemonOptions* options) {
  net::EnrolmentOptions enrol{options->weights.state_dir + "/identity", flags.join, flags.token,
                              identity::Role::kWorker, options->name};
  enrol.renew_every = static_cast<TimeNs>(flags.renew_every_s * kSecond);
  if (enrol.token.empty() && !flags.token_file.empty()) {
    ASSIGN_OR_RETURN(enrol.token, ReadSmallInput(flags.token_file));
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

absl::StatusOr<worker::DaemonOptions> ToOptions(const apps::WorkerFlags& flags) {
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
  // Now, with its drivers, it is as large as it is before any layer.
  if (const uint64_t own = worker::OwnBytes(); out.memory_bytes <= own) {
    const std::string takes =
        absl::StrCat(" and this program alone takes ", FormatSize(own), "; the layers come on top");
    if (flags.memory.empty())
      return ResourceExhausted("3/4 of this machine's free memory is ",
                               FormatSize(out.memory_bytes), takes);
    return InvalidArgument("--memory: the limit is ", FormatSize(out.memory_bytes), takes,
                           ", so give it more, for example ", FormatSize(4 * own));
  }
  return out;
}

absl::Status Run(const apps::WorkerFlags& flags, worker::DaemonOptions options) {
  ASSIGN_OR_RETURN(const LogLevel level, ParseLogLevel(flags.daemon.log_level));
  SetupLog({level, flags.daemon.log_json, options.name});
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
  const auto sleep =
      worker::SleepWatch::Start({[&daemon] { daemon->Sleep(); }, [&daemon] { daemon->Wake(); }});
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
  HoldStandardStreams();
  worker::TuneMalloc();
  apps::WorkerFlags flags;
  const auto app = apps::MakeWorkerApp(&flags);
  if (const auto code = ParseCommandLine(*app, argc, argv); code.has_value()) return *code;
  HideToken(argc, argv);
  auto options = ToOptions(flags);
  const bool usable = options.ok() || !absl::IsInvalidArgument(options.status());
  const absl::Status status =
      options.ok() ? Run(flags, *std::move(options)) : std::move(options).status();
  if (!status.ok()) std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  // Wrong options do not become right by trying again, which systemd and `lanyard up` know by this.
  return usable ? ExitCodeOf(status.code()) : kUsage;
}
