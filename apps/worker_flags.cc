#include "apps/worker_flags.h"

#include "apps/daemon_config.h"
#include "base/command_line.h"
#include "base/ip.h"
#include "base/size.h"
#include "engine/cuda/open_devices.h"
#include "engine/ops/isa.h"
#include "net/hello.h"
#include "stage/speed.h"

namespace lanyard::apps {

std::unique_ptr<CLI::App> MakeWorkerApp(WorkerFlags* out) {
  auto made = std::make_unique<CLI::App>(
      "Joins this machine to a Lanyard pool and runs the layers it is given.", "lanyard-worker");
  CLI::App& app = *made;
  WorkerFlags& flags = *out;
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
  app.add_option("--name", flags.name, "unique in the pool (default: the host's name)")
      ->check([](const std::string& name) { return Str(net::CheckWorkerName(name).message()); });
  app.add_option("--memory", flags.memory,
                 "limit of this whole process, e.g. 200MiB (default: 3/4 of what is free)")
      ->check(ParsesAsLimit(kLeastProcessBytes));
  app.add_option("--threads", flags.threads, "that compute (default: every processor)")
      ->check(CLI::Range(1, static_cast<int>(stage::kMaxThreads)));
  app.add_option("--state", flags.state, "folder for weights (default: ~/.local/state/lanyard)");
  app.add_option("--cache-limit", flags.cache_limit,
                 "of cached weights, e.g. 40GiB: the longest unused go first, layers in use never "
                 "(default: the disk)")
      ->check(ParsesAsLimit(kLeastStoreBytes));
  app.add_option("--model", flags.model, "a local copy of the model, used instead of fetching it");
  app.add_option("--models", flags.models, "a folder of GGUF files to look into");
  app.add_option("--listen", flags.listen,
                 "where the stage before reaches this worker (default: any port of any address; of "
                 "loopback for a "
                 "coordinator there)")
      ->check([](const std::string& text) { return Str(net::CheckAddress(text).message()); });
  app.add_option("--network", flags.networks,
                 "that others may connect from, like 10.1.0.0/16; again for more (default: "
                 "loopback and private ones)")
      ->check(ParsesAs(Network::Parse));
  app.add_option("--isa", flags.isa, "scalar, avx2 or avx512 (default: the best of this processor)")
      ->check(ParsesAs(ops::ParseIsa));
  app.add_option("--devices", flags.devices,
                 "auto (every card), cpu, or cards as cuda:0,cuda:1; the CPU takes the rest")
      ->check(ParsesAs([](const std::string& text) { return engine::ParseDevices(text, ""); }))
      ->capture_default_str();
  app.add_option("--vram", flags.vram,
                 "of cards, for stages: 6GiB or cuda:0=6GiB,cuda:1=4GiB (default: what is free)");
  app.add_option("--speed", flags.speed,
                 "relative speed for the planner (default: threads x instruction set)")
      ->check(CLI::Range(0.001, stage::kMaxSpeed));
  AddDaemonFlags(app, "LANYARD_WORKER",
                 "  lanyard-worker --join 192.168.1.10:7470 --token-file token.txt\n"
                 "  lanyard-worker --join auto --token-file token.txt --memory 8GiB\n"
                 "  lanyard-worker --config /etc/lanyard/worker.toml\n",
                 &flags.daemon);
  return made;
}

}  // namespace lanyard::apps
