#include "worker/daemon.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <optional>
#include <thread>
#include <variant>

#include "base/clock.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/size.h"
#include "identity/credential.h"
#include "identity/revoked_nodes.h"
#include "net/coordinator_client.h"
#include "net/stage_server.h"
#include "worker/card_watch.h"
#include "worker/frame_gate.h"
#include "worker/link_probe.h"
#include "worker/loader.h"
#include "worker/probe.h"
#include "worker/process.h"
#include "worker/stage_host.h"

namespace lanyard::worker {
namespace {

constexpr int kFirstBackoffMs = 100;
constexpr int kLastBackoffMs = 2000;
constexpr int kLeaveMs = 500;
constexpr TimeNs kWatchEvery = kSecond;    // how often the cards are looked at
constexpr TimeNs kLongLook = 5 * kSecond;  // a driver that takes this long is worth a line
constexpr TimeNs kWaitForLook = kSecond;   // before a hello, to have present figures
constexpr uint64_t kTellBytes =
    uint64_t{32}  // A card's memory is told again when it differs by this much.
    << 20;
constexpr int kFlushMs = 300;

// The events of the control loop, from gRPC's threads and the loader.
struct Welcomed {};
struct Refusal {
  absl::Status why;
  bool final = false;
};
struct BadAssign {
  PlanId plan;
  Epoch epoch;
  absl::Status why;
};
struct Released {
  PlanId plan;
};
struct ControlGone {
  absl::Status why;
};
struct ResultsGone {
  absl::Status why;
};
struct NextGone {
  PlanId plan;
  Epoch epoch;
  absl::Status why;
};
struct Progress {
  PlanId plan;
  uint64_t done_bytes = 0;
  uint64_t total_bytes = 0;
};
// The stage can no longer run: a device was lost, or its memory was taken back.
struct StageLost {
  PlanId plan;
  Epoch epoch;
  absl::Status why;
};
struct Revoked {
  std::vector<std::string> nodes;
};
struct DiagnoseAsked {
  net::DiagnoseRequest request;
  int64_t received_unix_ms = 0;
};
struct Measured {
  uint64_t id = 0;
  std::vector<net::LinkDiagnosis> links;
};
struct LeaveAsked {
  std::string reason;
};
using Event = std::variant<Welcomed, Refusal, net::Assignment, BadAssign, Released, ControlGone,
                           ResultsGone, NextGone, Progress, LoadOutcome, StageLost, Revoked,
                           DiagnoseAsked, Measured, LeaveAsked>;

class EventQueue {
 public:
  void Push(Event event, uint64_t session = 0) {
    MutexLock lock(&mu_);
    events_.push_back({std::move(event), session});
    cv_.NotifyOne();
  }
  // Returns nullopt when no event came within the time.
  std::optional<std::pair<Event, uint64_t>> Pop(TimeNs timeout) {
    const TimeNs end = MonotonicNow() + timeout;
    MutexLock lock(&mu_);
    while (events_.empty()) {
      const TimeNs left = end - MonotonicNow();
      if (left <= 0) return std::nullopt;
      cv_.WaitFor(&mu_, std::chrono::nanoseconds(left));
    }
    auto out = std::move(events_.front());
    events_.pop_front();
    return out;
  }

 private:
  Mutex mu_;
  CondVar cv_;
  std::deque<std::pair<Event, uint64_t>> events_ ABSL_GUARDED_BY(mu_);
};

int64_t UnixMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::string LayersText(const stage::StageSpec& spec) {
  if (spec.layers.begin >= spec.layers.end) return spec.samples ? "the head" : "the embedding";
  return absl::StrCat("layers ", spec.layers.begin, "-", spec.layers.end - 1);
}

// One connection to the coordinator. Its events carry its number, so that those of an earlier one
// are recognised and dropped.
class Session final : public net::ControlSink {
 public:
  Session(uint64_t id, EventQueue* queue) : id_(id), queue_(queue) {}

  void Start(const net::Endpoint& coordinator, const net::WorkerHello& hello) {
    client_ = net::ControlClient::Connect(coordinator, hello, this);
  }
  net::ControlClient* client() { return client_.get(); }
  uint64_t id() const { return id_; }

  void OnWelcome() override { queue_->Push(Welcomed{}, id_); }
  void OnRefused(const absl::Status& why, bool final) override {
    queue_->Push(Refusal{why, final}, id_);
  }
  void OnAssign(net::Assignment assignment) override { queue_->Push(std::move(assignment), id_); }
  void OnBadAssign(PlanId plan, Epoch epoch, const absl::Status& why) override {
    queue_->Push(BadAssign{plan, epoch, why}, id_);
  }
  void OnRelease(PlanId plan) override { queue_->Push(Released{plan}, id_); }
  void OnRevoked(std::vector<std::string> nodes) override {
    queue_->Push(Revoked{std::move(nodes)}, id_);
  }
  void OnDiagnose(net::DiagnoseRequest request) override {
    queue_->Push(DiagnoseAsked{std::move(request), UnixMs()}, id_);
  }
  void OnControlClosed(const absl::Status& why) override { queue_->Push(ControlGone{why}, id_); }

 private:
  const uint64_t id_;
  EventQueue* const queue_;
  std::unique_ptr<net::ControlClient> client_;
};

// A working stage. It is destroyed from the last member to the first: the host stops before what it
// uses is gone.
struct Running {
  PlanId plan;
  Epoch epoch;
  std::string next_worker;
  std::string next_node;
  std::shared_ptr<LoadedStage> loaded;
  std::unique_ptr<net::RemoteStage> next;
  std::unique_ptr<StageHost> host;
};

// Says whether a coordinator that knows `told` plans badly.
bool WorthTelling(const std::vector<net::DeviceHello>& told,
                  const std::vector<net::DeviceHello>& now) {
  if (told.size() != now.size()) return true;
  for (size_t i = 0; i < now.size(); ++i) {
    const uint64_t a = told[i].memory_bytes, b = now[i].memory_bytes;
    if (told[i].name != now[i].name || std::max(a, b) - std::min(a, b) >= kTellBytes) return true;
  }
  return false;
}

// The watch of a card, and a look that a hello waits for.
struct Watched {
  std::string name;
  std::unique_ptr<CardWatch> watch;
  uint64_t ticket = 0;
  bool complained = false;
};

class DaemonImpl final : public Daemon, public LoaderEvents {
 public:
  explicit DaemonImpl(DaemonOptions options)
      : options_(std::move(options)),
        gate_(options_.name, &results_),
        weight_client_(Coordinator()) {}

  ~DaemonImpl() override {
    queue_.Push(LeaveAsked{});
    if (thread_.joinable()) thread_.join();
    // Frames may still come: the port closes before the parts that it feeds.
    prober_.reset();
    server_.reset();
    loader_.reset();
    // What the loader has ready holds streams that report here, so they must end while there is a
    // queue.
    while (queue_.Pop(0)) {
    }
  }

  absl::Status Init() {
    net::ServerOptions server;
    server.listen = options_.listen;
    server.security = {options_.credential, revoked_};
    server.limits = options_.limits;
    ASSIGN_OR_RETURN(server_, net::StageServer::Start(server, &gate_));
    base_bytes_ = OwnBytes();
    LoaderOptions loader;
    loader.worker = options_.name;
    loader.credential = options_.credential;
    loader.memory_bytes = options_.memory_bytes;
    loader.base_bytes = base_bytes_;
    loader.stage = {options_.threads, options_.isa};
    loader.stage.devices.assign(options_.devices.begin(), options_.devices.end());
    loader.factory = options_.factory;
    loader.weights = options_.weights;
    loader.fetch = [this](const std::string& sha256, uint64_t offset, std::stop_token stop,
                          const auto& take) {
      return weight_client_.Fetch(sha256, offset, stop, take);
    };
    loader_ = std::make_unique<Loader>(std::move(loader), this);
    prober_ = std::make_unique<LinkProber>(LinkProbeOptions{options_.name, options_.credential},
                                           [this](net::DiagnoseRequest request, auto links) {
                                             queue_.Push(Measured{request.id, std::move(links)});
                                           });
    for (const auto& device : options_.devices) {
      watched_.push_back({device->name(),
                          std::make_unique<CardWatch>([device] { device->Watch(); }, kWatchEvery)});
    }
    thread_ = std::thread([this] { Loop(); });
    return absl::OkStatus();
  }

  void Leave(const std::string& reason) override {
    queue_.Push(LeaveAsked{reason});
    if (thread_.joinable()) thread_.join();
  }
  bool ended() const override { return ended_.load(); }
  absl::Status status() const override {
    MutexLock lock(&status_mu_);
    return status_;
  }
  std::string stage_address() const override { return server_->address(); }
  TimeNs last_turn() const override { return turned_.load(std::memory_order_relaxed); }
  std::string Doing() const override {
    MutexLock lock(&status_mu_);
    return doing_;
  }

 private:
  // LoaderEvents
  void OnLoadProgress(PlanId plan, uint64_t done_bytes, uint64_t total_bytes) override {
    queue_.Push(Progress{plan, done_bytes, total_bytes});
  }
  void OnLoadEnded(LoadOutcome outcome) override { queue_.Push(std::move(outcome)); }
  void OnNextClosed(PlanId plan, Epoch epoch, const absl::Status& why) override {
    queue_.Push(NextGone{plan, epoch, why});
  }

  // Everything below runs on the control loop's thread.
  void Loop();
  void Tick(TimeNs now);
  void Connect();
  void OpenResults();
  void DropSession(const absl::Status& why);
  // Stops what runs and what stands beside it.
  void StopStage();
  void StopRunning();
  void StopBeside();
  absl::StatusOr<std::unique_ptr<Running>> MakeRunning(LoadOutcome* outcome);
  // The one that runs or the one beside it; null: neither is of this plan and epoch.
  std::unique_ptr<Running>* Find(PlanId plan, Epoch epoch);
  // Stops it and says so.
  void GiveUp(std::unique_ptr<Running>* which, const absl::Status& why,
              const std::string& unreachable = "");
  void SetDoing(std::string what);
  void Send(const net::WorkerEvent& event);
  // `unreachable`: the next worker, where the link to it is the reason.
  void Fail(PlanId plan, Epoch epoch, const absl::Status& why, const std::string& unreachable = "");
  bool CardsLookedAt(TimeNs now);
  void CheckCards(TimeNs now);
  void TellDevices();
  net::WorkerHello Hello(std::string stage_address);
  net::Heartbeat Beat(TimeNs now);

  void Handle(Welcomed event);
  void Handle(Refusal event);
  void Handle(net::Assignment event);
  void Handle(BadAssign event);
  void Handle(Released event);
  void Handle(ControlGone event);
  void Handle(ResultsGone event);
  void Handle(NextGone event);
  void Handle(Progress event);
  void Handle(LoadOutcome event);
  void Handle(StageLost event);
  void Handle(Revoked event);
  void Handle(DiagnoseAsked event);
  void Handle(Measured event);
  void Handle(LeaveAsked event);

  net::Endpoint Coordinator() const { return {options_.join, options_.credential}; }

  const DaemonOptions options_;
  const std::shared_ptr<identity::RevokedNodes> revoked_ =
      std::make_shared<identity::RevokedNodes>();
  EventQueue queue_;
  ResultForwarder results_;
  FrameGate gate_;
  HostStats stats_;
  net::WeightClient weight_client_;
  uint64_t base_bytes_ = 0;
  std::unique_ptr<net::StageServer> server_;
  std::unique_ptr<Loader> loader_;
  std::unique_ptr<LinkProber> prober_;
  std::atomic<bool> ended_{false};
  mutable Mutex status_mu_;
  absl::Status status_ ABSL_GUARDED_BY(status_mu_);
  std::string doing_ ABSL_GUARDED_BY(status_mu_) = "connecting";
  std::atomic<TimeNs> turned_{0};

  // Only the control loop uses these.
  std::unique_ptr<Session> session_;
  std::unique_ptr<Running> running_;
  std::optional<std::pair<PlanId, Epoch>> assigned_;
  // Of a later epoch, which takes the place of those above when their plan is released.
  std::unique_ptr<Running> beside_;
  std::optional<std::pair<PlanId, Epoch>> beside_assigned_;
  uint64_t sessions_ = 0;
  int backoff_ms_ = kFirstBackoffMs;
  bool complained_ = false;  // so that the log has the reason once and not twice a second
  TimeNs connect_at_ = 0;
  TimeNs results_at_ = 0;  // when to open the result stream again; 0: it is open
  TimeNs beat_at_ = 0;
  TimeNs last_beat_ = 0;
  TimeNs cards_at_ = 0;       // when to ask what the watches of the cards have found
  TimeNs looking_since_ = 0;  // since when the next hello waits for a look; 0: it does not
  std::vector<Watched> watched_;
  std::vector<net::DeviceHello> told_;  // the cards as the coordinator was told of them
  int64_t last_busy_ns_ = 0;
  std::pair<uint64_t, int64_t> diagnose_{
      0, 0};  // the request being measured: its id, and when it came (UnixMs)
  bool stop_ = false;

  std::thread thread_;
};

void DaemonImpl::Loop() {
  while (!stop_) {
    turned_.store(MonotonicNow(), std::memory_order_relaxed);
    auto event = queue_.Pop(20 * kMillisecond);
    // Events of an earlier connection are ignored; those of the loader carry plan and epoch
    // instead.
    const bool current =
        event && (event->second == 0 || (session_ != nullptr && event->second == session_->id()));
    if (current) std::visit([this](auto&& e) { Handle(std::move(e)); }, std::move(event->first));
    if (!stop_) Tick(MonotonicNow());
  }
  StopStage();
  gate_.ExpectNothing();
  loader_->Cancel();
  results_.Set(nullptr);
  session_.reset();
  ended_.store(true);
}

void DaemonImpl::Tick(TimeNs now) {
  if (session_ == nullptr) {
    if (now >= connect_at_ && CardsLookedAt(now)) Connect();
    return;
  }
  if (now >= beat_at_) {
    beat_at_ = now + TimeNs{net::kHeartbeatMs} * kMillisecond;
    Send(Beat(now));
  }
  if (results_at_ != 0 && now >= results_at_) OpenResults();
  if (now >= cards_at_) {
    cards_at_ = now + kWatchEvery / 4;
    CheckCards(now);
    if (session_ == nullptr) return;
  }
  if (now - session_->client()->last_heard() > TimeNs{net::kDeadAfterMs} * kMillisecond) {
    DropSession(absl::DeadlineExceededError(
        absl::StrCat("nothing heard from the coordinator for ", net::kDeadAfterMs, " ms")));
  }
}

// A hello says what the cards have now; a driver that does not answer delays it only a little.
bool DaemonImpl::CardsLookedAt(TimeNs now) {
  if (looking_since_ == 0) {
    looking_since_ = now;
    for (Watched& watched : watched_) watched.ticket = watched.watch->LookSoon();
  }
  const bool all = std::all_of(watched_.begin(), watched_.end(), [](const Watched& watched) {
    return watched.watch->Looked(watched.ticket);
  });
  if (!all && now - looking_since_ < kWaitForLook) return false;
  looking_since_ = 0;
  return true;
}

// Asks no driver: it uses what the watches' threads found.
void DaemonImpl::CheckCards(TimeNs now) {
  for (Watched& watched : watched_) {
    const bool busy = watched.watch->busy_for(now) >= kLongLook;
    if (busy && !watched.complained)
      LogWarning(watched.name, ": its driver has not answered for ", kLongLook / kSecond, " s");
    watched.complained = busy;
  }
  if (running_ != nullptr && running_->loaded->stage->lost()) {
    Handle(
        StageLost{running_->plan, running_->epoch, Unavailable("a card was lost or wanted back")});
    return;
  }
  TellDevices();
}

void DaemonImpl::TellDevices() {
  std::vector<net::DeviceHello> devices = HelloOf(options_.devices, options_.rates);
  if (!WorthTelling(told_, devices)) return;
  told_ = devices;
  Send(net::DevicesChanged{std::move(devices)});
}

void DaemonImpl::Connect() {
  session_ = std::make_unique<Session>(++sessions_, &queue_);
  // This machine's address may be another one than at the last time (DHCP, docking, Wi-Fi).
  auto address = net::AdvertisedAddress(server_->address(), options_.join);
  if (!address.ok()) return DropSession(address.status());
  session_->Start(Coordinator(), Hello(*std::move(address)));
  beat_at_ = MonotonicNow() + TimeNs{net::kHeartbeatMs} * kMillisecond;
}

void DaemonImpl::OpenResults() {
  results_at_ = 0;
  const uint64_t session = session_->id();
  results_.Set(net::ResultClient::Connect(
      Coordinator(), options_.name,
      [this, session](const absl::Status& why) { queue_.Push(ResultsGone{why}, session); }));
}

void DaemonImpl::DropSession(const absl::Status& why) {
  if (!complained_) {
    LogWarning("not joined to ", options_.join, ": ", why.message(),
               "; trying again until it answers");
  }
  complained_ = true;
  SetDoing(absl::StrCat("not joined to ", options_.join, ": ", why.message()));
  StopStage();
  gate_.ExpectNothing();
  loader_->Cancel();
  assigned_.reset();
  results_.Set(nullptr);
  results_at_ = 0;
  session_.reset();
  connect_at_ = MonotonicNow() + backoff_ms_ * kMillisecond;
  backoff_ms_ = std::min(2 * backoff_ms_, kLastBackoffMs);
}

void DaemonImpl::SetDoing(std::string what) {
  MutexLock lock(&status_mu_);
  doing_ = std::move(what);
}

void DaemonImpl::StopStage() {
  StopBeside();
  StopRunning();
}

void DaemonImpl::StopRunning() {
  if (running_ != nullptr) gate_.SetHost(running_->epoch, nullptr);
  running_.reset();
}

void DaemonImpl::StopBeside() {
  if (beside_ != nullptr) gate_.SetHost(beside_->epoch, nullptr);
  if (beside_assigned_) gate_.Forget(beside_assigned_->second);
  beside_.reset();
  beside_assigned_.reset();
}

std::unique_ptr<Running>* DaemonImpl::Find(PlanId plan, Epoch epoch) {
  for (std::unique_ptr<Running>* one : {&running_, &beside_}) {
    if (*one != nullptr && (*one)->plan == plan && (*one)->epoch == epoch) return one;
  }
  return nullptr;
}

void DaemonImpl::GiveUp(std::unique_ptr<Running>* which, const absl::Status& why,
                        const std::string& unreachable) {
  const PlanId plan = (*which)->plan;
  const Epoch epoch = (*which)->epoch;
  if (which == &beside_) {
    StopBeside();
  } else {
    StopRunning();
  }
  Fail(plan, epoch, why, unreachable);
}

void DaemonImpl::Send(const net::WorkerEvent& event) {
  if (session_ != nullptr)
    session_->client()->Send(event).IgnoreError();  // a closed stream says so itself
}

void DaemonImpl::Fail(PlanId plan, Epoch epoch, const absl::Status& why,
                      const std::string& unreachable) {
  LogError("plan ", plan.value, " epoch ", epoch.value, ": ", why.message());
  const net::LoadCause cause =
      unreachable.empty() ? net::CauseOf(why) : net::LoadCause::kUnreachable;
  Send(net::StageFailed{plan, epoch, why, unreachable, cause});
}

net::WorkerHello DaemonImpl::Hello(std::string stage_address) {
  net::WorkerHello hello;
  hello.name = options_.name;
  hello.version = options_.version;
  hello.protocol = options_.protocol;
  hello.stage_address = std::move(stage_address);
  hello.memory_bytes = options_.memory_bytes;
  hello.base_bytes = base_bytes_;
  hello.threads = static_cast<uint32_t>(options_.threads);
  hello.speed = options_.speed;
  hello.isa = ops::IsaName(options_.isa);
  hello.pid = static_cast<uint64_t>(getpid());
  hello.devices = HelloOf(options_.devices, options_.rates);
  told_ = hello.devices;
  return hello;
}

net::Heartbeat DaemonImpl::Beat(TimeNs now) {
  const int64_t busy_ns = stats_.busy_ns.load(std::memory_order_relaxed);
  const double share =
      last_beat_ == 0 || now <= last_beat_
          ? 0
          : static_cast<double>(busy_ns - last_busy_ns_) / static_cast<double>(now - last_beat_);
  last_beat_ = now;
  last_busy_ns_ = busy_ns;
  return {ResidentBytes(), std::clamp(share, 0.0, 1.0),
          stats_.frames.load(std::memory_order_relaxed)};
}

void DaemonImpl::Handle(Welcomed) {
  LogInfo("joined ", options_.join, " as '", options_.name, "'");
  complained_ = false;
  SetDoing(absl::StrCat("joined ", options_.join, ", no layers yet"));
  backoff_ms_ = kFirstBackoffMs;
  OpenResults();
}

void DaemonImpl::Handle(Refusal event) {
  if (!event.final) {
    DropSession(Annotate(event.why, "refused by the coordinator"));
    return;
  }
  LogError("refused by the coordinator at ", options_.join, ": ", event.why.message());
  {
    MutexLock lock(&status_mu_);
    status_ = event.why;
  }
  stop_ = true;
}

void DaemonImpl::Handle(net::Assignment event) {
  const auto& latest = beside_assigned_ ? beside_assigned_ : assigned_;
  if (latest && event.spec.epoch < latest->second) {
    Fail(event.spec.plan, event.spec.epoch,
         FailedPrecondition("worker '", options_.name, "' is at epoch ", latest->second.value,
                            " already"));
    return;
  }
  const bool fetch = event.mode == net::AssignMode::kFetch;
  if (fetch || (event.mode == net::AssignMode::kBeside && running_ != nullptr)) {
    StopBeside();
    beside_assigned_ = {event.spec.plan, event.spec.epoch};
    if (!fetch)
      gate_.ExpectBeside(event.spec.plan, event.spec.epoch, event.spec.index, event.from_node);
    loader_->Load(std::move(event), running_ != nullptr ? running_->loaded : nullptr);
    return;
  }
  StopStage();
  assigned_ = {event.spec.plan, event.spec.epoch};
  gate_.Expect(event.spec.plan, event.spec.epoch, event.spec.index, event.from_node);
  SetDoing(absl::StrCat("loading ", LayersText(event.spec)));
  loader_->Load(std::move(event));
}

void DaemonImpl::Handle(BadAssign event) { Fail(event.plan, event.epoch, event.why); }

void DaemonImpl::Handle(Released event) {
  if (beside_assigned_ && beside_assigned_->first == event.plan) {
    StopBeside();
    loader_->Unload(running_ != nullptr ? running_->loaded : nullptr);
    return;
  }
  if (!assigned_ || assigned_->first != event.plan) return;
  if (beside_ != nullptr) {
    StopRunning();
    gate_.Forget(assigned_->second);
    running_ = std::move(beside_);
    assigned_ = std::exchange(beside_assigned_, std::nullopt);
    loader_->Unload(running_->loaded);
    SetDoing(absl::StrCat("runs ", LayersText(running_->loaded->spec), " for ", options_.join));
    return;
  }
  StopStage();
  gate_.ExpectNothing();
  assigned_.reset();
  SetDoing(absl::StrCat("joined ", options_.join, ", no layers now"));
  loader_->Unload();
}

void DaemonImpl::Handle(Revoked event) {
  const std::vector<std::string> added = revoked_->Set(event.nodes);
  for (const std::string& node : added) {
    LogWarning("node ", node, " was revoked: nothing is taken from it or sent to it any more");
    server_->CutOff(node);
    for (std::unique_ptr<Running>* one : {&running_, &beside_}) {
      if (*one == nullptr || (*one)->next_node != node) continue;
      GiveUp(one, Unavailable("worker '", (*one)->next_worker, "' was revoked"));
    }
  }
}

void DaemonImpl::Handle(DiagnoseAsked event) {
  diagnose_ = {event.request.id, event.received_unix_ms};
  prober_->Start(std::move(event.request));
}

void DaemonImpl::Handle(Measured event) {
  if (event.id != diagnose_.first) return;  // a later request is being measured
  net::Diagnosis out;
  out.id = event.id;
  out.received_unix_ms = diagnose_.second;
  out.available_bytes = AvailableBytes();
  out.disk_free_bytes = FreeDiskBytes(options_.weights.state_dir);
  if (options_.credential != nullptr) {
    out.certificate_ends_unix_s = options_.credential->Get()->self.not_after;
    out.key_mode = FileMode(options_.weights.state_dir + "/identity/node.key");
  }
  out.links = std::move(event.links);
  out.sent_unix_ms = UnixMs();
  Send(out);
}

void DaemonImpl::Handle(ControlGone event) { DropSession(event.why); }

void DaemonImpl::Handle(ResultsGone event) {
  results_.Set(nullptr);
  results_at_ = MonotonicNow() + kFirstBackoffMs * kMillisecond;
  if (running_ == nullptr) return;
  // Results may be lost: the requests that wait for them must end, and the coordinator starts a new
  // epoch.
  GiveUp(&running_,
         Unavailable("worker '", options_.name, "' lost its result stream: ", event.why.message()));
}

void DaemonImpl::Handle(NextGone event) {
  std::unique_ptr<Running>* one = Find(event.plan, event.epoch);
  if (one == nullptr || (*one)->next == nullptr || (*one)->next->ready())
    return;  // it belongs to an earlier attempt to connect
  const std::string next = (*one)->next_worker;
  GiveUp(one,
         Unavailable("worker '", options_.name, "' lost its link to worker '", next,
                     "': ", event.why.message()),
         next);
}

void DaemonImpl::Handle(Progress event) {
  Send(net::LoadProgress{event.plan, event.done_bytes, event.total_bytes});
}

void DaemonImpl::Handle(LoadOutcome event) {
  const stage::StageSpec& spec = event.assignment.spec;
  const std::pair of(spec.plan, spec.epoch);
  const bool beside = beside_assigned_ == of;
  if (!beside && assigned_ != of) return;
  if (event.status.ok() && event.next != nullptr && !event.next->ready()) {
    event.next_unreachable = true;
    event.status = Unavailable("worker '", options_.name, "' lost its link to worker '",
                               event.assignment.next_worker, "' at once");
  }
  if (!event.status.ok()) {
    TellDevices();  // this comes first: the next plan uses it
    Fail(spec.plan, spec.epoch, event.status,
         event.next_unreachable ? event.assignment.next_worker : "");
    if (beside) StopBeside();
    return;
  }
  if (event.loaded == nullptr) {  // it was to be fetched only
    Send(net::StageReady{spec.plan, spec.epoch, 0, 0, 0, event.fetched_bytes});
    return;
  }
  const engine::StageMemory memory = event.loaded->stage->memory();
  auto made = MakeRunning(&event);
  if (!made.ok()) {
    if (beside) StopBeside();
    Fail(spec.plan, spec.epoch, made.status());
    return;
  }
  std::unique_ptr<Running>& running = beside ? beside_ : running_;
  running = *std::move(made);
  gate_.SetHost(spec.epoch, running->host.get());
  net::StageReady ready{spec.plan, spec.epoch,     memory.weights,
                        memory.kv, memory.buffers, event.fetched_bytes};
  for (const engine::StageMemory::OnDevice& on : memory.devices) {
    ready.weights_bytes += on.memory.weights;
    ready.kv_bytes += on.memory.kv;
    ready.buffer_bytes += on.memory.buffers;
  }
  Send(ready);
  if (!beside) SetDoing(absl::StrCat("runs ", LayersText(spec), " for ", options_.join));
}

absl::StatusOr<std::unique_ptr<Running>> DaemonImpl::MakeRunning(LoadOutcome* outcome) {
  const stage::StageSpec& spec = outcome->assignment.spec;
  auto running = std::make_unique<Running>();
  running->plan = spec.plan;
  running->epoch = spec.epoch;
  running->next_worker = outcome->assignment.next_worker;
  running->next_node = outcome->assignment.next_node;
  running->loaded = std::move(outcome->loaded);
  running->next = std::move(outcome->next);
  StageHostOptions host;
  host.worker = options_.name;
  host.spec = spec;
  host.model = engine::FrameModelOf(outcome->assignment.manifest->shape);
  host.stage = running->loaded->stage.get();
  host.next = running->next.get();
  host.results = &results_;
  host.stats = &stats_;
  host.on_lost = [this, plan = spec.plan, epoch = spec.epoch](const absl::Status& why) {
    queue_.Push(StageLost{plan, epoch, why});
  };
  ASSIGN_OR_RETURN(running->host, StageHost::Create(std::move(host)));
  return running;
}

// The coordinator plans by what a worker said when it joined, so it joins again with what it has
// now.
void DaemonImpl::Handle(StageLost event) {
  if (Find(event.plan, event.epoch) == nullptr) return;
  StopStage();
  results_.Finish(
      kFlushMs);  // what it still computed arrives before the news that ends its requests
  Fail(event.plan, event.epoch, Annotate(event.why, absl::StrCat("worker '", options_.name, "'")));
  DropSession(event.why);
  loader_->Unload();  // frees what it still holds of the cards, before they are looked at again
}

void DaemonImpl::Handle(LeaveAsked event) {
  stop_ = true;
  if (event.reason.empty() || session_ == nullptr) return;
  LogInfo("leaving: ", event.reason);
  StopStage();
  results_.Finish(kFlushMs);  // the coordinator has read them all before it is told of the leaving
  session_->client()->Leave(event.reason, kLeaveMs);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(DaemonOptions options) {
  auto daemon = std::make_unique<DaemonImpl>(std::move(options));
  RETURN_IF_ERROR(daemon->Init());
  return daemon;
}

}  // namespace lanyard::worker
