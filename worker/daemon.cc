#include "worker/daemon.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <future>
#include <map>
#include <optional>
#include <thread>
#include <utility>
#include <variant>

#include "base/clock.h"
#include "base/log.h"
#include "base/mutex.h"
#include "identity/credential.h"
#include "identity/revoked_nodes.h"
#include "net/coordinator_client.h"
#include "net/stage_server.h"
#include "worker/card_watch.h"
#include "worker/frame_gate.h"
#include "worker/link_probe.h"
#include "worker/loader.h"
#include "worker/machine.h"
#include "worker/probe.h"
#include "worker/process.h"
#include "worker/stage_host.h"

namespace lanyard::worker {
namespace {

constexpr TimeNs kTick = 20 * kMillisecond;
constexpr int kLeaveMs = 500;
constexpr int kFlushMs = 300;
// Whoever waits for the machine to sleep does not wait for longer (logind: 5 s).
constexpr std::chrono::seconds kSleepPatience(4);
constexpr TimeNs kWatchEvery = kSecond;    // how often the cards are looked at
constexpr TimeNs kLongLook = 5 * kSecond;  // a driver that takes this long is worth a line

// Told when everything that was pushed before it has been obeyed.
using Obeyed = std::shared_ptr<std::promise<void>>;
// What comes from gRPC's threads, the loader, the stage and the owner. A LoadOutcome has what the
// machine's event cannot hold.
using Incoming = std::variant<MachineEvent::Any, LoadOutcome, Obeyed>;

class EventQueue {
 public:
  void Push(Incoming event) {
    MutexLock lock(&mu_);
    events_.push_back(std::move(event));
    cv_.NotifyOne();
  }
  // Returns nullopt when no event came within the time.
  std::optional<Incoming> Pop(TimeNs timeout) {
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
  std::deque<Incoming> events_ ABSL_GUARDED_BY(mu_);
};

int64_t UnixMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// One connection to the coordinator. Its events carry its number, so that the machine recognises
// those of an earlier one.
class Session final : public net::ControlSink {
 public:
  Session(SessionId id, EventQueue* queue) : id_(id), queue_(queue) {}

  void Start(const net::Endpoint& coordinator, const net::WorkerHello& hello) {
    client_ = net::ControlClient::Connect(coordinator, hello, this);
  }
  net::ControlClient* client() { return client_.get(); }

  void OnWelcome() override { Push(MachineEvent::Welcomed{id_}); }
  void OnRefused(const absl::Status& why, bool final) override {
    Push(MachineEvent::Refused{id_, why, final});
  }
  void OnAssign(net::Assignment assignment) override {
    Push(MachineEvent::Assigned{id_, std::move(assignment)});
  }
  void OnBadAssign(PlanId plan, Epoch epoch, const absl::Status& why) override {
    Push(MachineEvent::BadAssignment{id_, plan, epoch, why});
  }
  void OnRelease(PlanId plan) override { Push(MachineEvent::Released{id_, plan}); }
  void OnRevoked(std::vector<std::string> nodes) override {
    Push(MachineEvent::Revoked{id_, std::move(nodes)});
  }
  void OnDiagnose(net::DiagnoseRequest request) override {
    Push(MachineEvent::DiagnoseAsked{id_, std::move(request), UnixMs()});
  }
  void OnControlClosed(const absl::Status& why) override {
    Push(MachineEvent::SessionClosed{id_, why});
  }

 private:
  void Push(MachineEvent::Any event) { queue_->Push(std::move(event)); }

  const SessionId id_;
  EventQueue* const queue_;
  std::unique_ptr<net::ControlClient> client_;
};

// A working stage. It is destroyed from the last member to the first: the host stops before what it
// uses is gone.
struct Running {
  PlanId plan;
  std::shared_ptr<LoadedStage> loaded;
  std::unique_ptr<net::RemoteStage> next;
  std::unique_ptr<StageHost> host;
};

// The watch of a card, and a look that a hello waits for.
struct Watched {
  std::string name;
  std::unique_ptr<CardWatch> watch;
  uint64_t ticket = 0;
  bool complained = false;
};

// The cards of this machine, as its control loop sees them. It asks no driver: it uses what the
// watches' threads found.
class Cards {
 public:
  explicit Cards(const std::vector<std::shared_ptr<engine::CudaDevice>>& devices) {
    for (const auto& device : devices) {
      watched_.push_back({device->name(),
                          std::make_unique<CardWatch>([device] { device->Watch(); }, kWatchEvery)});
    }
  }
  // Asks for a look; LookedAgain says once when it is over.
  void LookSoon() {
    for (Watched& watched : watched_) watched.ticket = watched.watch->LookSoon();
    looking_ = true;
  }
  bool LookedAgain() {
    if (!looking_) return false;
    looking_ = !std::all_of(watched_.begin(), watched_.end(), [](const Watched& watched) {
      return watched.watch->Looked(watched.ticket);
    });
    return !looking_;
  }
  // Writes a line for each driver that began not to answer.
  void Complain(TimeNs now) {
    for (Watched& watched : watched_) {
      const bool busy = watched.watch->busy_for(now) >= kLongLook;
      if (busy && !watched.complained)
        LogWarning(watched.name, ": its driver has not answered for ", kLongLook / kSecond, " s");
      watched.complained = busy;
    }
  }

 private:
  std::vector<Watched> watched_;
  bool looking_ = false;
};

// The threads, sockets and clock around the machine. Whatever happens becomes an event in the
// queue; the control loop gives it to the machine and does what that asks.
class DaemonImpl final : public Daemon, public LoaderEvents {
 public:
  explicit DaemonImpl(DaemonOptions options)
      : options_(std::move(options)),
        gate_(options_.name, &results_),
        weight_client_(Coordinator()),
        machine_({options_.name, options_.join}) {}

  ~DaemonImpl() override {
    Push(MachineEvent::LeaveAsked{});
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

  absl::Status Init();
  void Leave(const std::string& reason) override {
    Push(MachineEvent::LeaveAsked{reason});
    if (thread_.joinable()) thread_.join();
  }
  void Sleep() override {
    Push(MachineEvent::SleepAsked{});
    auto obeyed = std::make_shared<std::promise<void>>();
    const std::future<void> done = obeyed->get_future();
    queue_.Push(std::move(obeyed));
    done.wait_for(kSleepPatience);
  }
  void Wake() override { Push(MachineEvent::Woke{}); }
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
    Push(MachineEvent::LoadProgress{plan, done_bytes, total_bytes});
  }
  void OnLoadEnded(LoadOutcome outcome) override { queue_.Push(std::move(outcome)); }
  void OnNextClosed(NextLinkId link, const absl::Status& why) override {
    Push(MachineEvent::NextClosed{link, why});
  }
  void Push(MachineEvent::Any event) { queue_.Push(std::move(event)); }

  // Everything below runs on the control loop's thread.
  void Loop();
  void Take(Incoming incoming);
  // Gives the event to the machine, and does what it asks.
  void Feed(MachineEvent::Any event);
  void Publish();
  void WatchCards(TimeNs now);
  MachineEvent::DevicesSeen Devices() const { return {HelloOf(options_.devices, options_.rates)}; }
  net::WorkerHello Hello(std::string stage_address, std::vector<net::DeviceHello> devices) const;
  net::Heartbeat Beat(TimeNs now);
  net::Diagnosis Diagnosis(uint64_t id, std::vector<net::LinkDiagnosis> links) const;
  MachineEvent::StageStarted StartStage(const MachineAction::StartStage& action);

  void Obey(MachineAction::OpenSession action);
  void Obey(MachineAction::CloseSession) { session_.reset(); }
  void Obey(MachineAction::Send action);
  void Obey(MachineAction::Beat) { Obey(MachineAction::Send{Beat(MonotonicNow())}); }
  void Obey(MachineAction::SayLeaving action) {
    session_->client()->Leave(action.reason, kLeaveMs);
  }
  void Obey(MachineAction::OpenResults action);
  void Obey(MachineAction::CloseResults) { results_.Set(nullptr); }
  void Obey(MachineAction::FinishResults) { results_.Finish(kFlushMs); }
  void Obey(MachineAction::Expect action) {
    gate_.Expect(action.plan, action.epoch, action.stage, std::move(action.from_node));
  }
  void Obey(MachineAction::Forget action) { gate_.Forget(action.epoch); }
  void Obey(MachineAction::Load action) {
    loader_->Load(std::move(action.assignment), action.keep);
  }
  void Obey(MachineAction::CancelLoad) { loader_->Cancel(); }
  void Obey(MachineAction::Unload action) { loader_->Unload(action.keep); }
  void Obey(MachineAction::StartStage action) { answers_.push_back(StartStage(action)); }
  void Obey(MachineAction::StopStage action);
  void Obey(MachineAction::Ban action);
  void Obey(MachineAction::Probe action) { prober_->Start(std::move(action.request)); }
  void Obey(MachineAction::LookAtCards) { cards_->LookSoon(); }
  void Obey(MachineAction::Log action) { WriteLog(action.level, action.text); }

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
  WorkerMachine machine_;
  std::vector<MachineEvent::Any> answers_;  // to the machine's actions, for its next turn
  std::optional<LoadOutcome> outcome_;      // what the machine is being told of
  std::unique_ptr<Session> session_;
  std::map<Epoch, std::unique_ptr<Running>> running_;  // two at most
  std::unique_ptr<Cards> cards_;
  TimeNs cards_at_ = 0;  // when to ask what the watches of the cards have found
  TimeNs last_beat_ = 0;
  int64_t last_busy_ns_ = 0;

  std::thread thread_;
};

absl::Status DaemonImpl::Init() {
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
  prober_ = std::make_unique<LinkProber>(
      LinkProbeOptions{options_.name, options_.credential},
      [this](net::DiagnoseRequest request, std::vector<net::LinkDiagnosis> links) {
        Push(MachineEvent::Measured{Diagnosis(request.id, std::move(links))});
      });
  cards_ = std::make_unique<Cards>(options_.devices);
  thread_ = std::thread([this] { Loop(); });
  return absl::OkStatus();
}

void DaemonImpl::Loop() {
  while (!machine_.stopped()) {
    turned_.store(MonotonicNow(), std::memory_order_relaxed);
    if (auto incoming = queue_.Pop(kTick)) Take(*std::move(incoming));
    Feed(MachineEvent::Tick{session_ != nullptr ? session_->client()->last_heard() : 0});
    WatchCards(MonotonicNow());
    Publish();
  }
  while (!running_.empty()) Obey(MachineAction::StopStage{running_.begin()->first});
  loader_->Cancel();
  results_.Set(nullptr);
  session_.reset();
  ended_.store(true);
}

void DaemonImpl::Take(Incoming incoming) {
  if (auto* event = std::get_if<MachineEvent::Any>(&incoming)) return Feed(std::move(*event));
  if (auto* obeyed = std::get_if<Obeyed>(&incoming)) return (*obeyed)->set_value();
  outcome_ = std::get<LoadOutcome>(std::move(incoming));
  Feed(Devices());  // they come first: the plan that follows a failed load uses them
  const stage::StageSpec& spec = outcome_->assignment.spec;
  const bool open = outcome_->next != nullptr && outcome_->next->ready();
  Feed(MachineEvent::LoadEnded{spec.plan, spec.epoch, outcome_->status, outcome_->next_unreachable,
                               outcome_->next_link, open, outcome_->fetched_bytes});
  outcome_.reset();
}

void DaemonImpl::Feed(MachineEvent::Any event) {
  answers_.push_back(std::move(event));
  while (!answers_.empty()) {
    for (MachineEvent::Any& next : std::exchange(answers_, {}))
      machine_.On(std::move(next), MonotonicNow());
    for (MachineAction::Any& action : machine_.TakeActions())
      std::visit([this](auto&& a) { Obey(std::move(a)); }, std::move(action));
  }
}

void DaemonImpl::Publish() {
  MutexLock lock(&status_mu_);
  doing_ = machine_.doing();
  status_ = machine_.status();
}

void DaemonImpl::WatchCards(TimeNs now) {
  const bool looked = cards_->LookedAgain();
  if (now >= cards_at_ || looked) {
    cards_at_ = now + kWatchEvery / 4;
    cards_->Complain(now);
    const auto lost = std::find_if(running_.begin(), running_.end(), [](const auto& running) {
      return running.second->loaded->stage->lost();
    });
    if (lost != running_.end()) {
      Feed(MachineEvent::StageLost{lost->second->plan, lost->first,
                                   Unavailable("a card was lost or wanted back")});
    }
    Feed(Devices());
  }
  if (looked) Feed(MachineEvent::CardsLooked{});
}

void DaemonImpl::Obey(MachineAction::OpenSession action) {
  // This machine's address may be another one than at the last time (DHCP, docking, Wi-Fi).
  auto address = net::AdvertisedAddress(server_->address(), options_.join);
  if (!address.ok()) {
    answers_.push_back(MachineEvent::SessionClosed{action.session, address.status()});
    return;
  }
  session_ = std::make_unique<Session>(action.session, &queue_);
  session_->Start(Coordinator(), Hello(*std::move(address), std::move(action.devices)));
}

void DaemonImpl::Obey(MachineAction::Send action) {
  if (session_ != nullptr)
    session_->client()->Send(action.event).IgnoreError();  // a closed stream says so itself
}

void DaemonImpl::Obey(MachineAction::OpenResults action) {
  results_.Set(net::ResultClient::Connect(
      Coordinator(), options_.name, [this, session = action.session](const absl::Status& why) {
        Push(MachineEvent::ResultsClosed{session, why});
      }));
}

void DaemonImpl::Obey(MachineAction::StopStage action) {
  gate_.SetHost(action.epoch, nullptr);
  running_.erase(action.epoch);
}

void DaemonImpl::Obey(MachineAction::Ban action) {
  revoked_->Set(action.all);
  for (const std::string& node : action.added) server_->CutOff(node);
}

net::WorkerHello DaemonImpl::Hello(std::string stage_address,
                                   std::vector<net::DeviceHello> devices) const {
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
  hello.devices = std::move(devices);
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

net::Diagnosis DaemonImpl::Diagnosis(uint64_t id, std::vector<net::LinkDiagnosis> links) const {
  net::Diagnosis out;
  out.id = id;
  out.available_bytes = AvailableBytes();
  out.disk_free_bytes = FreeDiskBytes(options_.weights.state_dir);
  if (options_.credential != nullptr) {
    out.certificate_ends_unix_s = options_.credential->Get()->self.not_after;
    out.key_mode = FileMode(options_.weights.state_dir + "/identity/node.key");
  }
  out.links = std::move(links);
  out.sent_unix_ms = UnixMs();
  return out;
}

MachineEvent::StageStarted DaemonImpl::StartStage(const MachineAction::StartStage& action) {
  MachineEvent::StageStarted started{action.plan, action.epoch, absl::OkStatus()};
  const net::Assignment& assignment = outcome_->assignment;
  auto running = std::make_unique<Running>();
  running->plan = action.plan;
  running->loaded = std::move(outcome_->loaded);
  running->next = std::move(outcome_->next);
  StageHostOptions host;
  host.worker = options_.name;
  host.spec = assignment.spec;
  host.model = engine::FrameModelOf(assignment.manifest->shape);
  host.stage = running->loaded->stage.get();
  host.next = running->next.get();
  host.results = &results_;
  host.stats = &stats_;
  host.on_lost = [this, plan = action.plan, epoch = action.epoch](const absl::Status& why) {
    Push(MachineEvent::StageLost{plan, epoch, why});
  };
  auto made = StageHost::Create(std::move(host));
  if (!made.ok()) {
    started.status = made.status();
    return started;
  }
  running->host = *std::move(made);
  gate_.SetHost(action.epoch, running->host.get());
  const engine::StageMemory memory = running->loaded->stage->memory();
  running_[action.epoch] = std::move(running);
  started.weights_bytes = memory.weights;
  started.kv_bytes = memory.kv;
  started.buffer_bytes = memory.buffers;
  for (const engine::StageMemory::OnDevice& on : memory.devices) {
    started.weights_bytes += on.memory.weights;
    started.kv_bytes += on.memory.kv;
    started.buffer_bytes += on.memory.buffers;
  }
  return started;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(DaemonOptions options) {
  auto daemon = std::make_unique<DaemonImpl>(std::move(options));
  RETURN_IF_ERROR(daemon->Init());
  return daemon;
}

}  // namespace lanyard::worker
