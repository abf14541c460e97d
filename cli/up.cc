// `lanyard up`: a whole pool on this machine. It starts a coordinator and its workers as processes,
// shows how they load, prints where to reach them, restarts a worker that died, and stops
// everything together.
#include <signal.h>
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
#include "base/command_line.h"
#include "base/file.h"
#include "base/output.h"
#include "base/size.h"
#include "cli/cli.h"
#include "cli/http_client.h"
#include "cli/numerics_flags.h"
#include "cli/pool_json.h"
#include "cli/progress.h"
#include "cli/running_pools.h"
#include "cli/table.h"
#include "cli/up_process.h"
#include "cli/up_start.h"
#include "cli/up_status.h"
#include "engine/cuda/open_devices.h"
#include "identity/certificate.h"
#include "model/gguf.h"
#include "sharding/planner.h"
#include "stage/speed.h"
#include "web/address.h"
#include "web/browser.h"

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

struct UpOptions {
  std::string model;
  uint32_t workers = 1;
  uint32_t threads = 0;
  std::string memory;
  uint32_t context = 0;
  uint32_t users = sharding::kDefaultUsers;
  uint32_t port = 8080;
  std::string state;
  bool http_open = false;
  std::vector<std::string> http_names;
  std::vector<std::string> http_origins;
  std::string http_cert, http_key, http_tls_min = "1.2";
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
    if (stop_ == 0 && got > 0 && got != SIGCHLD) stop_ = got;
    return stop_ != 0;
  }
  int stop() const { return stop_; }  // the signal that ended it, or 0

 private:
  sigset_t set_;
  int stop_ = 0;
};

struct Worker {
  explicit Worker(ProcessSpec spec) : process(std::move(spec)), log(process.spec().log_path) {}
  Process process;
  Complaints log;
  BackOff back_off;
  TimeNs started = 0;
  TimeNs next_start = 0;
};

class Pool {
 public:
  Pool(UpOptions options, fs::path state)
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
  absl::Status Ended(Worker& worker, const std::string& how);
  void ShowComplaints();
  int EndedEarly();  // the exit code of one that was stopped before it was ready
  absl::Status CoordinatorError(const std::string& how) const;
  HttpClient::Options Client(const std::string& key) const;  // "": as administrator
  // Chooses the API key that is given out: the one of the last time while it is valid, else a new
  // one.
  absl::Status ChooseKey();
  absl::StatusOr<PoolView> Look() const;
  void ShowLoading(const PoolView& view);
  absl::Status Announce(const PoolView& view) const;
  void MakeKnown();  // to the other verbs, from when its coordinator answers
  void Stop();

  const UpOptions o_;
  const fs::path state_;
  Signals signals_;
  Progress progress_;
  std::unique_ptr<Process> coordinator_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::string url_;  // for this program
  PoolAccess access_;
  std::string grpc_;
  std::unique_ptr<PoolEntry> entry_;
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
  spec.args.insert(spec.args.end(), {"--users", absl::StrCat(o_.users)});
  for (std::string& word : NumericsArgs(o_.numerics)) spec.args.push_back(std::move(word));
  for (const std::string& name : o_.http_names)
    spec.args.insert(spec.args.end(), {"--http-name", name});
  for (const auto& [name, value] :
       {std::pair{"--http-cert", o_.http_cert}, std::pair{"--http-key", o_.http_key},
        std::pair{"--http-tls-min", o_.http_tls_min}}) {
    if (!value.empty()) spec.args.insert(spec.args.end(), {name, value});
  }
  if (o_.http_open) spec.args.emplace_back("--http-open");
  for (const std::string& origin : o_.http_origins)
    spec.args.insert(spec.args.end(), {"--http-origin", origin});
  coordinator_ = std::make_unique<Process>(std::move(spec));
  return coordinator_->Start();
}

absl::Status Pool::CoordinatorError(const std::string& how) const {
  const std::string& log = coordinator_->spec().log_path;
  const bool usage = coordinator_->exit_code() == kUsage;
  // Its own last line is the error; after a crash the lines before show what led to it.
  const std::string last = LastLines(log, 1);
  const std::string own = "error: ";
  if (last.rfind(own, 0) == 0) {
    const std::string words = last.substr(own.size());
    return usage ? InvalidArgument(words) : Internal(words, "\n  Log: ", log);
  }
  // Of a usage error it is the line before; the last one points to the coordinator's own help.
  const std::string wrong = LastLines(log, 2);
  if (usage && wrong.rfind(own, 0) == 0)
    return InvalidArgument(wrong.substr(own.size(), wrong.find('\n') - own.size()));
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
        url_ = ready["http"].get<std::string>();
        access_.clients.url = url_;
        access_.clients.open = o_.http_open;
        if (!o_.http_open) access_.admin = ready.value("admin", "");
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

void Pool::ShowComplaints() {
  for (const auto& worker : workers_) {
    for (const std::string& words : worker->log.Next()) {
      progress_.Clear();
      std::fprintf(stderr, "worker %s: %s\n", worker->process.spec().name.c_str(), words.c_str());
    }
  }
}

absl::Status Pool::Ended(Worker& worker, const std::string& how) {
  const ProcessSpec& spec = worker.process.spec();
  const std::string words = LastWords(spec.log_path);
  if (worker.process.exit_code() == kUsage) {
    return InvalidArgument("worker ", spec.name, " cannot run: ", words.empty() ? how : words,
                           "\n  Log: ", spec.log_path);
  }
  const TimeNs now = MonotonicNow();
  worker.next_start = worker.back_off.NextStart(worker.started, now);
  if (!was_ready_ && worker.back_off.failures() >= kStartFailures) {
    return Internal("worker ", spec.name, " ended ", kStartFailures, " times (", how,
                    "); its last lines:\n", LastLines(spec.log_path, 10),
                    "\n  Log: ", spec.log_path);
  }
  progress_.Clear();
  std::fprintf(stderr, "worker %s ended (%s)%s%s; starting it again in %s\n", spec.name.c_str(),
               how.c_str(), words.empty() ? "" : ": ", words.c_str(),
               FormatSeconds(static_cast<double>(worker.next_start - now) / kSecond).c_str());
  return absl::OkStatus();
}

absl::Status Pool::Supervise() {
  if (const auto how = coordinator_->Poll(); how.has_value()) {
    if (coordinator_->exit_code() == 0) return Stopped();  // `lanyard stop`
    return CoordinatorError(*how);
  }
  ShowComplaints();
  for (const auto& worker : workers_) {
    Process& process = worker->process;
    if (const auto how = process.Poll(); how.has_value()) RETURN_IF_ERROR(Ended(*worker, *how));
    if (const TimeNs now = MonotonicNow(); !process.running() && now >= worker->next_start) {
      RETURN_IF_ERROR(process.Start());
      worker->started = now;
    }
  }
  return absl::OkStatus();
}

HttpClient::Options Pool::Client(const std::string& key) const {
  HttpClient::Options options;
  options.url = url_;
  options.api_key = key;
  options.look_around = false;  // this pool, not the one that the user's environment speaks of
  if (key.empty()) options.admin = access_.admin;
  if (key.empty() || access_.admin.empty()) return options;
  // As the administrator's folder would have it: whatever certificate other clients are shown.
  options.tls.ca = access_.admin + "/ca.crt";
  options.tls_name = identity::TlsName(identity::Role::kCoordinator, "");
  return options;
}

absl::Status Pool::ChooseKey() {
  if (o_.http_open) return absl::OkStatus();
  ASSIGN_OR_RETURN(const HttpClient admin, HttpClient::Create(Client("")));
  ASSIGN_OR_RETURN(access_.clients, FetchClientAccess(admin, access_.admin));
  const std::string key_file = (state_ / kKeyFile).string();
  access_.clients.key_file = key_file;
  std::string key;
  if (const auto last = ReadSmallFile(key_file); last.ok())
    key = Str(absl::StripAsciiWhitespace(*last));
  if (const auto client = HttpClient::Create(Client(key)); !key.empty() && client.ok()) {
    ASSIGN_OR_RETURN(const HttpReply models, client->Get("/v1/models"));
    if (models.status == 200) access_.api_key = key;
  }
  if (access_.api_key.empty()) {
    // One whose file was lost or thrown away.
    ASSIGN_OR_RETURN(const HttpReply gone, admin.Delete(absl::StrCat("/admin/v1/keys/", kKeyName)));
    if (gone.status != 404) RETURN_IF_ERROR(StatusOfReply(gone));
    const std::string body = ordered_json({{"name", kKeyName}}).dump();
    ASSIGN_OR_RETURN(const ordered_json made, ObjectOf(admin, admin.Post("/admin/v1/keys", body)));
    access_.api_key = Text(made, "key");
  }
  return WriteSmallFile(key_file, access_.api_key);  // also closes a file that others may read
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
    return Internal("what answers at ", url_, " is not a Lanyard pool (no JSON object)");
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
      ShowComplaints();  // of the time before, which a Ctrl-C that comes now would leave unsaid
      return Announce(*view);
    }
    if (view.ok() && IsFinal(*view, o_.workers, &no_plan_since)) {
      return FailedPrecondition(view->why.empty() ? view->state : view->why,
                                view->plan_why.empty() ? "" : "\n", view->plan_why);
    }
    if (view.ok()) ShowLoading(*view);
    if (signals_.StopWithin(50)) return Stopped();
  }
}

absl::Status Pool::Announce(const PoolView& view) const {
  std::vector<std::pair<std::string, pid_t>> pids;
  for (const auto& worker : workers_)
    pids.emplace_back(worker->process.spec().name, worker->process.pid());
  if (o_.json) {
    std::printf("%s\n", UpJson(view, access_, coordinator_->pid(), pids).c_str());
  } else {
    std::fputs(UpText(view, access_, (state_ / "logs").string()).c_str(), stdout);
  }
  return FlushOutput();
}

void Pool::Stop() {
  std::vector<Process*> all;
  for (const auto& worker : workers_) all.push_back(&worker->process);
  if (coordinator_ != nullptr) all.push_back(coordinator_.get());
  StopAll(all, kGrace);
}

void Pool::MakeKnown() {
  const std::string name = state_.filename().string();
  auto entry = PoolEntry::Make(
      {name, state_.string(), url_, access_.admin, fs::path(o_.model).stem().string(), ::getpid()});
  if (entry.ok()) {
    entry_ = *std::move(entry);
  } else {
    progress_.Clear();
    std::fprintf(stderr, "lanyard finds this pool by --url or --admin only: %s\n",
                 Str(entry.status().message()).c_str());
  }
}

int Pool::EndedEarly() {
  const int signal = signals_.stop();
  std::fprintf(stderr, "error: the pool was stopped%s%s before it was ready\n",
               signal != 0 ? " by " : "", signal != 0 ? ::strsignal(signal) : "");
  return signal != 0 ? 128 + signal : kFailed;
}

int Pool::Run() {
  const auto run = [&]() -> absl::Status {
    RETURN_IF_ERROR(StartCoordinator());
    RETURN_IF_ERROR(WaitForAddresses());
    RETURN_IF_ERROR(ChooseKey());
    MakeKnown();
    RETURN_IF_ERROR(StartWorkers());
    RETURN_IF_ERROR(WaitUntilReady());
    while (!signals_.StopWithin(100)) RETURN_IF_ERROR(Supervise());
    return Stopped();
  };
  const absl::Status status = run();
  progress_.Clear();
  if (!absl::IsCancelled(status)) ShowComplaints();
  entry_.reset();
  Stop();
  if (!absl::IsCancelled(status)) {
    Fail(status);
    return absl::IsInvalidArgument(status) ? kUsage : kFailed;
  }
  if (!was_ready_) return EndedEarly();
  if (!o_.json) std::printf("The pool has stopped.\n");
  return kOk;
}

int Up(const UpOptions& o) {
  if (const auto file = model::GgufFile::Open(o.model); !file.ok()) return Fail(file.status());
  if (o.plaintext && !o.http_open) {
    return FailUsage(InvalidArgument(
        "--plaintext leaves out the identities that HTTPS is made of; leave --plaintext out, or "
        "give ",
        "--http-open with it: plain HTTP without API keys, for every program of this machine"));
  }
  for (uint32_t i = 0; i < o.workers; ++i) {
    const auto devices = engine::ParseDevices(OfWorker(o.devices, i), OfWorker(o.vram, i));
    if (!devices.ok()) return FailUsage(devices.status());
  }
  if (const absl::Status port = CheckPort(o.port); !port.ok()) return Fail(port);
  const auto state = ChooseState(o.state, o.model);
  if (!state.ok()) return FailUsage(state.status());
  return Pool(o, *state).Run();
}

void AddHttpFlags(CLI::App* up, UpOptions* o) {
  up->add_option("--http-name", o->http_names,
                 "A name that clients use for this server, besides its address; again for more")
      ->check(ParsesAs([](const std::string& name) { return web::ParseHostNames({name}); }));
  up->add_option("--http-origin", o->http_origins,
                 "Origin whose web pages may ask the pool, such as https://chat.example; again for "
                 "more")
      ->check(ParsesAs([](const std::string& origin) { return web::ParseOrigin(origin); }))
      ->allow_extra_args(false);
  CLI::Option* certificate =
      up->add_option("--http-cert", o->http_cert,
                     "The house's own certificate for HTTPS (PEM, with the CAs between it and the "
                     "root), so that clients need no CA of the pool's");
  CLI::Option* key = up->add_option("--http-key", o->http_key, "Its key (PEM, without a password)");
  certificate->needs(key);
  key->needs(certificate);
  up->add_option("--http-tls-min", o->http_tls_min, "The oldest TLS of clients")
      ->check(CLI::IsMember({"1.2", "1.3"}))
      ->capture_default_str();
}

}  // namespace

void RegisterUp(CLI::App& app) {
  const auto o = std::make_shared<UpOptions>();
  CLI::App* up = AddCommand(
      app, "up",
      "Runs a whole pool on this machine: a coordinator and workers, each with its part of the "
      "model",
      "  lanyard up --model smollm2.gguf --workers 3\n"
      "      HTTPS on loopback; the API key is in STATE/api.key, the CA certificate in "
      "STATE/coordinator/admin/https-ca.crt.\n"
      "      `lanyard run`, `list`, `node status`, `stop` find the pool by themselves.\n"
      "  lanyard up --model smollm2.gguf --workers 3 --memory-per-worker 88MiB --port 0 --json\n"
      "      one line when ready: "
      "{\"url\",\"api_key\",\"ca\",\"ca_bundle\",\"admin\",\"clients\",\"model\",\"context\","
      "\"pids\":{\"coordinator\"},"
      "\"workers\":[{"
      "\"name\",\n"
      "      \"pid\",\"layers\":[first,last],\"embeds\",\"samples\",\"bytes\"}]} (layers 0-based; "
      "null: no layers)\n"
      "  Ctrl-C or SIGTERM stops all of it. Logs lie in STATE/logs.",
      [o] { return Up(*o); });
  up->add_option("--model", o->model, "Model file (GGUF)")->required();
  up->add_option("--workers", o->workers, "Worker processes")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  up->add_option("--threads-per-worker", o->threads,
                 "Compute threads of each worker (default: the CPUs, shared out)")
      ->check(CLI::Range(1, static_cast<int>(stage::kMaxThreads)));
  up->add_option("--memory-per-worker", o->memory,
                 "What each worker may hold, for example 200MiB: weights, KV and code")
      ->check(ParsesAsLimit(kLeastProcessBytes));
  up->add_option("--devices", o->devices,
                 "Of each worker: auto, cpu, or cards as cuda:0,cuda:1. Once a worker; the last "
                 "counts for the rest (default: auto for the first worker, cpu for the rest)");
  up->add_option("--vram", o->vram,
                 "Of each worker's cards, for example 6GiB or cuda:0=6GiB; given like --devices");
  up->add_option("--context", o->context, "Tokens of one conversation at most (default: what fits)")
      ->check(CLI::Range(1, 16'777'216));
  up->add_option("--users", o->users, "Conversations at a time that memory is set aside for")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  up->add_option("--port", o->port, "Port of the API on 127.0.0.1; 0: a free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  up->add_flag("--plaintext", o->plaintext,
               "no encryption between coordinator and workers (they stay on loopback)");
  up->add_flag(
      "--http-open", o->http_open,
      "Plain HTTP without API keys: every program of this machine may use the pool and stop it");
  AddHttpFlags(up, o.get());
  up->add_option(
      "--state", o->state,
      "Directory for logs, caches and the API key (default: ~/.local/state/lanyard/up/MODEL)");
  AddNumericsFlags(*up, &o->numerics);
  up->add_flag("--json", o->json, "One line of JSON when the pool is ready");
}

}  // namespace lanyard::cli
