// `lanyard up`: a whole pool on this machine. It starts a coordinator and its workers as processes,
// shows how they load, prints where to reach them, restarts a worker that died, and stops
// everything together.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/ascii.h"
#include "base/clock.h"
#include "base/environment.h"
#include "base/file.h"
#include "base/size.h"
#include "cli/cli.h"
#include "cli/http_client.h"
#include "cli/numerics_flags.h"
#include "cli/pool_json.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "cli/up_process.h"
#include "cli/up_status.h"

namespace lanyard::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr std::chrono::milliseconds kGrace{5'000};
constexpr TimeNs kNoPlanPatience = 3 * kSecond;
constexpr char kTokenFile[] = "join.token";
constexpr char kKeyFile[] = "api.key";
constexpr char kKeyName[] = "up";  // the name that lanyard key list shows
// For a coordinator that runs and does not accept its administrator.
constexpr TimeNs kRefusedPatience = 10 * kSecond;
constexpr int kStartFailures = 5;  // for one worker, before the pool was ever ready

struct Options {
  std::string model;
  uint32_t workers = 1;
  uint32_t threads = 0;
  std::string memory;
  uint32_t context = 0;
  uint32_t users = 0;
  uint32_t port = 8080;
  std::string state;
  bool http_open = false;
  stage::NumericsChoice numerics;
  std::vector<std::string> devices;  // for worker 1, 2, ...; the last one counts for the rest
  std::vector<std::string> vram;
  bool plaintext = false;
  bool json = false;
};

// The entry for worker i (from 0) in a list whose last entry counts for the rest.
std::string OfWorker(const std::vector<std::string>& list, uint32_t i) {
  return list.empty() ? std::string() : list[std::min<size_t>(i, list.size() - 1)];
}

// SIGINT, SIGTERM and SIGHUP stay blocked and are fetched here, so that nothing runs in a handler.
class Signals {
 public:
  Signals() {
    ::sigemptyset(&set_);
    for (const int s : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) ::sigaddset(&set_, s);
    ::sigprocmask(SIG_BLOCK, &set_, nullptr);
  }
  // Returns true when the pool is to stop. It waits at most `ms`; the end of a child ends the wait.
  bool StopWithin(int ms) {
    const timespec wait{.tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1'000'000L};
    const int got = ::sigtimedwait(&set_, nullptr, &wait);
    stop_ = stop_ || (got > 0 && got != SIGCHLD);
    return stop_;
  }

 private:
  sigset_t set_;
  bool stop_ = false;
};

struct Worker {
  explicit Worker(ProcessSpec spec) : process(std::move(spec)) {}
  Process process;
  BackOff back_off;
  TimeNs started = 0;
  TimeNs next_start = 0;
};

class Pool {
 public:
  Pool(Options options, fs::path state)
      : o_(std::move(options)), state_(std::move(state)), progress_(stderr) {}
  // It never leaves a child behind.
  ~Pool() { Stop(); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int Run();

 private:
  enum class Step { kGoOn, kStop, kEnded };  // kEnded: the coordinator has ended
  absl::Status StartCoordinator();
  absl::Status WaitForAddresses();
  absl::Status StartWorkers();
  absl::Status WaitUntilReady();
  absl::Status Supervise();  // looks after the workers once
  absl::Status CoordinatorError(const std::string& how) const;
  HttpClient::Options Client(const std::string& key) const;  // "": as administrator
  // Chooses the API key that is given out: the one of the last time while it is valid, else a new
  // one.
  absl::Status ChooseKey();
  absl::StatusOr<PoolView> Look() const;
  void ShowLoading(const PoolView& view);
  void Announce(const PoolView& view) const;
  void Stop();

  const Options o_;
  const fs::path state_;
  Signals signals_;
  Progress progress_;
  std::unique_ptr<Process> coordinator_;
  std::vector<std::unique_ptr<Worker>> workers_;
  PoolAccess access_;
  std::string grpc_;
  bool was_ready_ = false;
};

std::string ProgramDirectory() {
  std::error_code ec;
  return fs::read_symlink("/proc/self/exe", ec).parent_path().string();
}

// The coordinator.log of the last time becomes coordinator.log.1, so that a log holds one life of
// the pool.
void KeepPreviousLogs(const fs::path& dir) {
  std::error_code ec;
  std::vector<fs::path> logs;
  for (const auto& entry : fs::directory_iterator(dir, ec)) {
    if (entry.path().extension() == ".log") logs.push_back(entry.path());
  }
  for (const fs::path& log : logs) fs::rename(log, log.string() + ".1", ec);
}

absl::Status Stopped() { return absl::CancelledError("interrupted"); }

// This gives one line now, instead of a log to read later.
absl::Status CheckPort(uint32_t port) {
  if (port == 0) return absl::OkStatus();
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return Internal("socket: ", std::strerror(errno));
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int rc = ::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address));
  const int error = errno;
  ::close(fd);
  if (rc == 0) return absl::OkStatus();
  return FailedPrecondition("cannot listen on 127.0.0.1:", port, ": ", std::strerror(error),
                            "; choose another port with --port, or --port 0 for a free one");
}

absl::Status Pool::StartCoordinator() {
  const std::string ready = (state_ / "ready.json").string();
  std::error_code ec;
  fs::remove(ready, ec);
  KeepPreviousLogs(state_ / "logs");
  ProcessSpec spec;
  spec.name = "coordinator";
  spec.program = ProgramDirectory() + "/lanyard-coordinator";
  spec.log_path = (state_ / "logs" / "coordinator.log").string();
  spec.args = {"--model",      o_.model,
               "--listen",     "127.0.0.1:0",
               "--http",       absl::StrCat("127.0.0.1:", o_.port),
               "--state",      (state_ / "coordinator").string(),
               "--workers",    absl::StrCat(o_.workers),
               "--ready-file", ready};
  if (o_.plaintext) {
    spec.args.emplace_back("--plaintext");
  } else {
    spec.args.insert(spec.args.end(), {"--ready-token", absl::StrCat(o_.workers)});
  }
  if (o_.context > 0) spec.args.insert(spec.args.end(), {"--context", absl::StrCat(o_.context)});
  if (o_.users > 0) spec.args.insert(spec.args.end(), {"--users", absl::StrCat(o_.users)});
  for (std::string& word : NumericsArgs(o_.numerics)) spec.args.push_back(std::move(word));
  if (o_.http_open) spec.args.emplace_back("--http-open");
  coordinator_ = std::make_unique<Process>(std::move(spec));
  return coordinator_->Start();
}

absl::Status Pool::CoordinatorError(const std::string& how) const {
  const std::string& log = coordinator_->spec().log_path;
  // Its own last line is the error; after a crash the lines before show what led to it.
  const std::string last = LastLines(log, 1);
  const std::string own = "lanyard-coordinator: ";
  if (last.rfind(own, 0) == 0) return Internal(last.substr(own.size()), "\n  Log: ", log);
  const std::string tail = LastLines(log, 10);
  return Internal("the coordinator ended (", how, ")", tail.empty() ? "" : "; its last lines:\n",
                  tail, "\n  Log: ", log);
}

absl::Status Pool::WaitForAddresses() {
  while (true) {
    std::ifstream in(state_ / "ready.json");
    if (in) {
      const ordered_json ready = ordered_json::parse(in, nullptr, /*allow_exceptions=*/false);
      // Anything else is a file that has not been written to its end yet.
      if (ready.is_object() && ready.contains("http") && ready["http"].is_string() &&
          ready.contains("grpc") && ready["grpc"].is_string()) {
        access_.url = ready["http"].get<std::string>();
        if (!o_.http_open) {
          access_.admin = ready.value("admin", "");
          access_.ca = access_.admin + "/ca.crt";
          access_.key_file = (state_ / kKeyFile).string();
        }
        grpc_ = ready["grpc"].get<std::string>();
        if (o_.plaintext) return absl::OkStatus();
        // The token goes by file: among the arguments it would stand in the process list.
        return WriteSmallFile((state_ / kTokenFile).string(), ready.value("token", ""));
      }
    }
    if (const auto how = coordinator_->Poll(); how.has_value()) return CoordinatorError(*how);
    progress_.Message("starting the coordinator", MonotonicNow());
    if (signals_.StopWithin(20)) return Stopped();
  }
}

absl::Status Pool::StartWorkers() {
  const uint32_t cpus = std::max(1u, std::thread::hardware_concurrency());
  const uint32_t threads = o_.threads > 0 ? o_.threads : std::max(1u, cpus / o_.workers);
  for (uint32_t i = 1; i <= o_.workers; ++i) {
    ProcessSpec spec;
    spec.name = absl::StrCat("w", i);
    spec.program = ProgramDirectory() + "/lanyard-worker";
    spec.log_path = (state_ / "logs" / (spec.name + ".log")).string();
    spec.args = {"--join",    grpc_,
                 "--name",    spec.name,
                 "--threads", absl::StrCat(threads),
                 "--state",   (state_ / spec.name).string()};
    if (o_.plaintext) {
      spec.args.emplace_back("--plaintext");
    } else {
      spec.args.insert(spec.args.end(), {"--token-file", (state_ / kTokenFile).string()});
    }
    if (!o_.memory.empty()) spec.args.insert(spec.args.end(), {"--memory", o_.memory});
    // Workers of one machine do not share a card unless they are told to.
    const std::string devices =
        o_.devices.empty() ? (i == 1 ? "auto" : "cpu") : OfWorker(o_.devices, i - 1);
    const std::string vram = OfWorker(o_.vram, i - 1);
    spec.args.insert(spec.args.end(), {"--devices", devices});
    if (!vram.empty()) spec.args.insert(spec.args.end(), {"--vram", vram});
    workers_.push_back(std::make_unique<Worker>(std::move(spec)));
    RETURN_IF_ERROR(workers_.back()->process.Start());
    workers_.back()->started = MonotonicNow();
  }
  return absl::OkStatus();
}

absl::Status Pool::Supervise() {
  if (const auto how = coordinator_->Poll(); how.has_value()) {
    if (coordinator_->exited_cleanly()) return Stopped();  // by `lanyard stop`
    return CoordinatorError(*how);
  }
  const TimeNs now = MonotonicNow();
  for (const auto& worker : workers_) {
    Process& process = worker->process;
    if (const auto how = process.Poll(); how.has_value()) {
      worker->next_start = worker->back_off.NextStart(worker->started, now);
      if (!was_ready_ && worker->back_off.failures() >= kStartFailures) {
        return Internal("worker ", process.spec().name, " ended ", kStartFailures, " times (", *how,
                        "); its last lines:\n", LastLines(process.spec().log_path, 10),
                        "\n  Log: ", process.spec().log_path);
      }
      progress_.Clear();
      std::fprintf(stderr, "worker %s ended (%s); starting it again in %s\n",
                   process.spec().name.c_str(), how->c_str(),
                   FormatSeconds(static_cast<double>(worker->next_start - now) / kSecond).c_str());
    }
    if (!process.running() && now >= worker->next_start) {
      RETURN_IF_ERROR(process.Start());
      worker->started = now;
    }
  }
  return absl::OkStatus();
}

HttpClient::Options Pool::Client(const std::string& key) const {
  HttpClient::Options options;
  options.url = access_.url;
  options.api_key = key;
  if (key.empty()) options.admin = access_.admin;
  options.tls.ca = access_.ca;
  options.look_around = false;  // this pool, and not the one in the user's environment
  return options;
}

absl::Status Pool::ChooseKey() {
  if (o_.http_open) return absl::OkStatus();
  std::string key;
  if (const auto last = ReadSmallFile(access_.key_file); last.ok())
    key = Str(absl::StripAsciiWhitespace(*last));
  if (const auto client = HttpClient::Create(Client(key)); !key.empty() && client.ok()) {
    ASSIGN_OR_RETURN(const HttpReply models, client->Get("/v1/models"));
    if (models.status == 200) access_.api_key = key;
  }
  if (access_.api_key.empty()) {
    ASSIGN_OR_RETURN(const HttpClient client, HttpClient::Create(Client("")));
    // Such a key's file was lost or thrown away.
    ASSIGN_OR_RETURN(const HttpReply gone,
                     client.Delete(absl::StrCat("/admin/v1/keys/", kKeyName)));
    if (gone.status != 404) RETURN_IF_ERROR(StatusOfReply(gone));
    const std::string body = ordered_json({{"name", kKeyName}}).dump();
    ASSIGN_OR_RETURN(const ordered_json made,
                     ObjectOf(client, client.Post("/admin/v1/keys", body)));
    access_.api_key = Text(made, "key");
  }
  return WriteSmallFile(access_.key_file,
                        access_.api_key);  // this also closes a file that others can read
}

absl::StatusOr<PoolView> Pool::Look() const {
  HttpClient::Options options = Client("");
  options.connect_timeout_ms = 1'000;
  options.silence_timeout_ms = 2'000;
  ASSIGN_OR_RETURN(const HttpClient client, HttpClient::Create(options));
  ASSIGN_OR_RETURN(const HttpReply reply, client.Get("/admin/v1/status"));
  RETURN_IF_ERROR(StatusOfReply(reply));
  std::optional<PoolView> view = ParsePoolView(reply.body);
  if (!view.has_value())
    return Internal("what answers at ", access_.url, " is not a Lanyard pool (no JSON object)");
  return *std::move(view);
}

// True when the coordinator, whose process runs, has refused in the same way for long. Being slow
// is no refusal.
bool IsRefused(const absl::Status& status, TimeNs* since) {
  if (status.ok() || absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) {
    *since = 0;
    return false;
  }
  const TimeNs now = MonotonicNow();
  if (*since == 0) *since = now;
  return now - *since > kRefusedPatience;
}

void Pool::ShowLoading(const PoolView& view) {
  uint64_t done = 0;
  uint64_t total = 0;
  for (const NodeView& node : view.nodes) {
    done += node.load_done_bytes;
    total += node.load_total_bytes;
  }
  if (total > 0) {
    progress_.Update("loading " + view.model, done, total, MonotonicNow());
  } else {
    progress_.Message(view.why.empty() ? view.state : view.state + ": " + view.why, MonotonicNow());
  }
}

// The answer is final once every worker was counted; while one is missing it may hold only for a
// moment.
bool IsFinal(const PoolView& view, uint32_t workers, TimeNs* since) {
  if (view.state != "no plan fits") {
    *since = 0;
    return false;
  }
  const TimeNs now = MonotonicNow();
  if (*since == 0) *since = now;
  const auto joined = std::count_if(view.nodes.begin(), view.nodes.end(),
                                    [](const NodeView& n) { return n.state != "lost"; });
  return joined >= static_cast<int64_t>(workers) || now - *since > kNoPlanPatience;
}

absl::Status Pool::WaitUntilReady() {
  TimeNs no_plan_since = 0;
  TimeNs refused_since = 0;
  while (true) {
    RETURN_IF_ERROR(Supervise());
    const absl::StatusOr<PoolView> view = Look();
    if (IsRefused(view.status(), &refused_since)) {
      return Annotate(view.status(),
                      absl::StrCat("the coordinator does not let lanyard up in (its log: ",
                                   coordinator_->spec().log_path, ")"));
    }
    if (view.ok() && view->ready) {
      progress_.Clear();
      was_ready_ = true;
      Announce(*view);
      return absl::OkStatus();
    }
    if (view.ok() && IsFinal(*view, o_.workers, &no_plan_since)) {
      return FailedPrecondition(view->why.empty() ? view->state : view->why,
                                view->plan_why.empty() ? "" : "\n", view->plan_why);
    }
    if (view.ok()) ShowLoading(*view);
    if (signals_.StopWithin(50)) return Stopped();
  }
}

void Pool::Announce(const PoolView& view) const {
  std::vector<std::pair<std::string, pid_t>> pids;
  for (const auto& worker : workers_)
    pids.emplace_back(worker->process.spec().name, worker->process.pid());
  if (o_.json) {
    std::printf("%s\n", UpJson(view, access_, coordinator_->pid(), pids).c_str());
  } else {
    std::fputs(UpText(view, access_, (state_ / "logs").string()).c_str(), stdout);
  }
  std::fflush(stdout);
}

void Pool::Stop() {
  std::vector<Process*> all;
  for (const auto& worker : workers_) all.push_back(&worker->process);
  if (coordinator_ != nullptr) all.push_back(coordinator_.get());
  StopAll(all, kGrace);
}

int Pool::Run() {
  const auto run = [&]() -> absl::Status {
    RETURN_IF_ERROR(StartCoordinator());
    RETURN_IF_ERROR(WaitForAddresses());
    RETURN_IF_ERROR(ChooseKey());
    RETURN_IF_ERROR(StartWorkers());
    RETURN_IF_ERROR(WaitUntilReady());
    while (!signals_.StopWithin(100)) RETURN_IF_ERROR(Supervise());
    return Stopped();
  };
  const absl::Status status = run();
  progress_.Clear();
  Stop();
  if (!absl::IsCancelled(status)) {
    Fail(status);
    return kFailed;
  }
  if (!o_.json) std::printf("The pool has stopped.\n");
  return kOk;
}

// Finds the directory for logs, caches and identities, and locks it for the life of this process
// (its descriptor stays open).
absl::StatusOr<fs::path> LockState(const fs::path& dir) {
  std::error_code ec;
  fs::create_directories(dir / "logs", ec);
  if (ec)
    return FailedPrecondition("cannot create the state directory ", dir.string(), ": ",
                              ec.message(), "; name another with --state");
  const int fd = ::open((dir / "lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0)
    return FailedPrecondition("cannot write to the state directory ", dir.string(), ": ",
                              std::strerror(errno), "; name another with --state");
  bool locked = false;
  // A `lanyard` that looks for running pools holds the lock for an instant.
  for (int i = 0; i < 5 && !locked; ++i) {
    if (i > 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    locked = ::flock(fd, LOCK_EX | LOCK_NB) == 0;
  }
  if (!locked) {
    ::close(fd);
    return absl::AlreadyExistsError(
        absl::StrCat("another pool uses the state directory ", dir.string(),
                     "; stop it with: lanyard stop, or name another with --state"));
  }
  return fs::absolute(dir);
}

absl::StatusOr<fs::path> ChooseState(const Options& o) {
  if (!o.state.empty()) return LockState(o.state);
  const fs::path base = fs::path(StateHome()) / "up";
  const std::string stem = fs::path(o.model).stem().string();
  for (int i = 1;; ++i) {
    // Several pools of one model may run at once, and each has a directory that it finds again.
    auto state = LockState(base / (i == 1 ? stem : absl::StrCat(stem, "-", i)));
    if (state.ok() || !absl::IsAlreadyExists(state.status()) || i == 100) return state;
  }
}

int Up(const Options& o) {
  if (::access(o.model.c_str(), R_OK) != 0) {
    return Fail(NotFound("cannot read the model ", o.model, ": ", std::strerror(errno)));
  }
  if (o.plaintext && !o.http_open) {
    return Fail(InvalidArgument(
        "--plaintext leaves out the identities that HTTPS is made of; leave --plaintext out, or "
        "give ",
        "--http-open with it: plain HTTP without API keys, for every program of this machine"));
  }
  if (!o.memory.empty()) {
    if (const auto bytes = ParseSize(o.memory); !bytes.ok())
      return Fail(Annotate(bytes.status(), "--memory-per-worker"));
  }
  if (const absl::Status port = CheckPort(o.port); !port.ok()) return Fail(port);
  const auto state = ChooseState(o);
  if (!state.ok()) return Fail(state.status());
  return Pool(o, *state).Run();
}

}  // namespace

void RegisterUp(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  CLI::App* up = AddCommand(
      app, "up",
      "Runs a whole pool on this machine: a coordinator and workers, each with its part of the "
      "model",
      "  lanyard up --model smollm2.gguf --workers 3\n"
      "      HTTPS on loopback; the API key is in STATE/api.key, the CA certificate in "
      "STATE/coordinator/admin/ca.crt.\n"
      "      `lanyard run`, `list`, `node status`, `stop` find a pool with a default STATE by "
      "themselves.\n"
      "  lanyard up --model smollm2.gguf --workers 3 --memory-per-worker 88MiB --port 0 --json\n"
      "      one line when ready: "
      "{\"url\",\"api_key\",\"ca\",\"admin\",\"model\",\"context\",\"pids\":{\"coordinator\"},"
      "\"workers\":[{"
      "\"name\",\n"
      "      \"pid\",\"layers\":[first,last],\"embeds\",\"samples\",\"bytes\"}]} (layers 0-based; "
      "null: no layers)\n"
      "  Ctrl-C or SIGTERM stops all of it. Logs lie in STATE/logs.",
      [o] { return Up(*o); });
  up->add_option("--model", o->model, "Model file (GGUF)")->required();
  up->add_option("--workers", o->workers, "Worker processes")->check(CLI::Range(1, 64));
  up->add_option("--threads-per-worker", o->threads,
                 "Compute threads of each worker (default: the CPUs, shared out)")
      ->check(CLI::Range(1, 1024));
  up->add_option("--memory-per-worker", o->memory,
                 "What each worker may hold, for example 200MiB: weights, KV and code");
  up->add_option("--devices", o->devices,
                 "Of each worker: auto, cpu, or cards as cuda:0,cuda:1. Once a worker; the last "
                 "counts for the rest (default: auto for the first worker, cpu for the rest)");
  up->add_option("--vram", o->vram,
                 "Of each worker's cards, for example 6GiB or cuda:0=6GiB; given like --devices");
  up->add_option("--context", o->context, "Tokens of one conversation at most (default: what fits)")
      ->check(CLI::Range(1, 16'777'216));
  up->add_option("--users", o->users, "Conversations at a time that memory is set aside for")
      ->check(CLI::Range(1, 4096));
  up->add_option("--port", o->port, "Port of the API on 127.0.0.1; 0: a free one")
      ->check(CLI::Range(0, 65535));
  up->add_flag("--plaintext", o->plaintext,
               "no encryption between coordinator and workers (they stay on loopback)");
  up->add_flag(
      "--http-open", o->http_open,
      "Plain HTTP without API keys: every program of this machine may use the pool and stop it");
  up->add_option(
      "--state", o->state,
      "Directory for logs, caches and the API key (default: ~/.local/state/lanyard/up/MODEL)");
  AddNumericsFlags(*up, &o->numerics);
  up->add_flag("--json", o->json, "One line of JSON when the pool is ready");
}

}  // namespace lanyard::cli
