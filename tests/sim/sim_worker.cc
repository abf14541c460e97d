#include "tests/sim/sim_worker.h"

#include <algorithm>

#include "base/version.h"

namespace lanyard::sim {

using worker::MachineAction;
using worker::MachineEvent;

namespace {

constexpr TimeNs kTick = 100 * kMillisecond;
constexpr TimeNs kConnectTimeout = 10 * kSecond;
constexpr TimeNs kShortestPause = 100 * kMillisecond;  // before a worker joins again

}  // namespace

// A stage at work: what StageHost is in the product, with virtual time in place of its threads.
class SimWorker::Host final : public worker::FrameTarget {
 public:
  Host(SimWorker* owner, uint64_t id, const Outcome& outcome)
      : owner_(owner),
        id_(id),
        spec_(outcome.assignment.spec),
        stage_(outcome.loaded),
        next_(outcome.next),
        next_link_(outcome.next_link),
        intake_(owner->name_, &spec_),
        runner_(owner->name_, &spec_, engine::FrameModelOf(outcome.assignment.manifest->shape)) {}
  ~Host() override {
    if (next_ != nullptr) next_->left = true;
  }

  absl::Status Send(stage::StepFrame frame) override {
    if (absl::Status why = intake_.Check(frame); !why.ok()) {
      owner_->OnResult(worker::ErrorResult(frame, owner_->name_, why));
      return why;
    }
    intake_.Take(frame);
    const TimeNs cost =
        static_cast<TimeNs>(static_cast<double>(200'000 + 20'000 * frame.batch.TotalRows() +
                                                owner_->around_->Random(200'000)) *
                            owner_->around_->Slowness(owner_->node_));
    const TimeNs now = owner_->around_->Now();
    owner_->busy_until_ = std::max(owner_->busy_until_, now) + cost;
    owner_->Later(owner_->busy_until_ - now, [owner = owner_, id = id_, frame = std::move(frame)] {
      if (owner->host_ != nullptr && owner->host_->id_ == id) owner->host_->Compute(frame);
    });
    return absl::OkStatus();
  }
  void FrameWasBad(StepId step) override { runner_.FrameWasBad(step); }

  bool Is(PlanId plan, Epoch epoch) const { return spec_.plan == plan && spec_.epoch == epoch; }
  const stage::StageSpec& spec() const { return spec_; }
  worker::NextLinkId next_link() const { return next_link_; }
  const std::shared_ptr<Stream>& next() const { return next_; }

 private:
  void Compute(stage::StepFrame frame) {
    if (!owner_->duty_ || *owner_->duty_ != std::pair(frame.plan, frame.epoch))
      owner_->around_->Violation("a stale epoch was obeyed");
    absl::StatusOr<engine::StageOutput> output = engine::StageOutput();
    if (const absl::Status ready = runner_.Prepare(&frame); !ready.ok()) {
      output = ready;
    } else {
      output = stage_->stage->Run(frame, {});
    }
    if (stage_->stage->lost()) {
      owner_->Later(0, [owner = owner_, plan = spec_.plan, epoch = spec_.epoch] {
        owner->Feed(MachineEvent::StageLost{plan, epoch, Unavailable("the card is gone")});
      });
    }
    auto outcome = runner_.Finish(std::move(frame), std::move(output));
    if (auto* result = std::get_if<stage::StepResult>(&outcome)) {
      owner_->OnResult(std::move(*result));
      return;
    }
    auto& forward = std::get<stage::StepFrame>(outcome);
    stage::StepResult failed = worker::ErrorResult(forward, owner_->name_,
                                                   Unavailable("the link to the next stage broke"));
    failed.stage = spec_.index;
    if (!owner_->around_->SendFrame(next_, std::move(forward))) owner_->OnResult(std::move(failed));
  }

  SimWorker* const owner_;
  const uint64_t id_;
  const stage::StageSpec spec_;
  const std::shared_ptr<worker::LoadedStage> stage_;
  const std::shared_ptr<Stream> next_;  // null for the last stage
  const worker::NextLinkId next_link_;
  worker::FrameIntake intake_;
  worker::StageRunner runner_;
};

SimWorker::SimWorker(Surroundings* around, size_t node, const HashModel* model)
    : around_(around),
      node_(node),
      model_(model),
      name_(absl::StrCat("w", node)),
      gate_(name_, this),
      machine_({name_, "coordinator:1"}) {}

SimWorker::~SimWorker() { gate_.SetHost(nullptr); }

void SimWorker::WhenAwake(std::function<void()> what) {
  if (around_->Now() >= frozen_until_) return what();
  Later(frozen_until_ - around_->Now(), std::move(what));
}

void SimWorker::Later(TimeNs delay, std::function<void()> what) {
  around_->At(around_->Now() + delay, [weak = weak_from_this(), what = std::move(what)] {
    if (const auto self = weak.lock()) self->WhenAwake(what);
  });
}

void SimWorker::Tick() {
  Feed(MachineEvent::Tick{heard_});
  if (!machine_.stopped()) Later(kTick, [this] { Tick(); });
}

void SimWorker::Heard(worker::SessionId session) {
  if (session == session_) heard_ = around_->Now();
}

void SimWorker::Deliver(MachineEvent::Any event) { Feed(std::move(event)); }

void SimWorker::Feed(MachineEvent::Any event) {
  if (machine_.stopped()) return;
  Expected(event);
  answers_.push_back(event);
  while (!answers_.empty()) {
    for (MachineEvent::Any& next : std::exchange(answers_, {}))
      machine_.On(std::move(next), around_->Now());
    for (MachineAction::Any& action : machine_.TakeActions())
      std::visit([this](auto&& a) { Obey(std::move(a)); }, std::move(action));
  }
  if (machine_.stopped()) {
    around_->OnProcessEnd(node_);
  } else {
    CheckTurn(event);
  }
}

// Writes down what the event asks of a right machine.
void SimWorker::Expected(const MachineEvent::Any& event) {
  if (const auto* assigned = std::get_if<MachineEvent::Assigned>(&event)) {
    const stage::StageSpec& spec = assigned->assignment.spec;
    if (assigned->session != session_ || spec.epoch <= highest_) return;
    highest_ = spec.epoch;
    duty_ = {spec.plan, spec.epoch};
    failed_ = released_ = false;
  } else if (const auto* release = std::get_if<MachineEvent::Released>(&event)) {
    if (release->session != session_ || !duty_ || duty_->first != release->plan) return;
    duty_.reset();
    released_ = true;
  } else if (const auto* closed = std::get_if<MachineEvent::NextClosed>(&event)) {
    next_broken_ = host_ != nullptr && host_->next_link() == closed->next;
  } else if (const auto* results = std::get_if<MachineEvent::ResultsClosed>(&event)) {
    results_broken_ = host_ != nullptr && results->session == session_;
  } else if (const auto* lost = std::get_if<MachineEvent::StageLost>(&event)) {
    lost_ = host_ != nullptr && host_->Is(lost->plan, lost->epoch);
  }
}

void SimWorker::CheckTurn(const MachineEvent::Any& event) {
  const auto wrong = [&](const std::string& what) {
    around_->Violation(absl::StrCat(name_, ": ", what));
  };
  const TimeNs now = around_->Now();
  if (host_ != nullptr && (!duty_ || !host_->Is(duty_->first, duty_->second)))
    wrong("a stage runs that is not its duty");
  if (expected_ != duty_) wrong("the gate expects another stage than the one assigned");
  if (duty_ && host_ == nullptr && !loading_ && !failed_)
    wrong("it neither loads nor runs its stage, and has not said so");
  if (released_ && has_loaded()) wrong("a stage stays in memory after its release");
  if (session_ == worker::SessionId() && results_open()) wrong("results go to a closed session");
  if (host_ != nullptr && next_broken_) wrong("it goes on without the link to the next stage");
  if (host_ != nullptr && results_broken_) wrong("it goes on although results may be lost");
  if (host_ != nullptr && lost_) wrong("a stage runs on a card that is gone");
  next_broken_ = results_broken_ = lost_ = false;
  if (!std::holds_alternative<MachineEvent::Tick>(event) || session_ == worker::SessionId()) return;
  if (now - beat_ > net::kHeartbeatMs * kMillisecond) wrong("a heartbeat is missing");
  if (now - heard_ > net::kDeadAfterMs * kMillisecond) wrong("it trusts a silent coordinator");
}

void SimWorker::CheckMessage(const net::WorkerEvent& event) {
  if (session_ == worker::SessionId()) around_->Violation(name_ + " speaks without a session");
  if (const auto* ready = std::get_if<net::StageReady>(&event)) {
    if (host_ == nullptr || !host_->Is(ready->plan, ready->epoch))
      around_->Violation(name_ + " says ready before its stage runs");
    ready_ = ready->epoch;
  } else if (const auto* failed = std::get_if<net::StageFailed>(&event)) {
    if (host_ != nullptr && host_->Is(failed->plan, failed->epoch))
      around_->Violation(name_ + " runs a stage that it says has failed");
    if (duty_ && *duty_ == std::pair(failed->plan, failed->epoch)) failed_ = true;
  }
}

std::optional<Epoch> SimWorker::RunningEpoch() const {
  return host_ == nullptr ? std::nullopt : std::optional(host_->spec().epoch);
}

void SimWorker::LoseCard() {
  if (loaded_ != nullptr) Hash()->Lose();
  if (host_ == nullptr) return;
  const stage::StageSpec& spec = host_->spec();
  Feed(MachineEvent::StageLost{spec.plan, spec.epoch, Unavailable("the card is gone")});
}

void SimWorker::ChangeDevices(uint64_t memory_bytes) {
  net::DeviceHello card;
  card.kind = "cuda";
  card.name = "cuda:0";
  card.model = "Hash 1";
  card.memory_bytes = memory_bytes;
  devices_ = {card};
  Feed(MachineEvent::DevicesSeen{devices_});
}

bool SimWorker::BreakNext() {
  if (host_ == nullptr || host_->next() == nullptr) return false;
  const std::shared_ptr<Stream> next = host_->next();
  next->Broken(Unavailable("connection reset"));
  return true;
}

absl::Status SimWorker::AcceptStream(const net::StreamFrom& from) {
  const absl::Status status = gate_.AcceptStream(from);
  if (status.ok() && (!duty_ || *duty_ != std::pair(from.plan, from.epoch)))
    around_->Violation(name_ + " takes a stream of a stage that is not its duty");
  return status;
}

void SimWorker::TakeFrame(stage::StepFrame frame) { gate_.OnFrame(std::move(frame)); }

void SimWorker::OnResult(stage::StepResult result) {
  if (results_open()) around_->SendResult(node_, std::move(result));
}

// --- The loader.

void SimWorker::Load(net::Assignment assignment) {
  const uint64_t load = ++load_;
  loading_ = true;
  auto outcome = std::make_shared<Outcome>();
  outcome->assignment = std::move(assignment);
  const net::Assignment& a = outcome->assignment;
  const bool reuse = loaded_ != nullptr && !Hash()->lost() && worker::SameDuty(*loaded_, a);
  if (!reuse) loaded_.reset();
  const bool fails = around_->LoadFails();
  const TimeNs time = (1 + static_cast<TimeNs>(around_->Random(reuse ? 5 : 400))) * kMillisecond;
  Later(time / 2, [this, load, plan = a.spec.plan] {
    if (load == load_) Feed(MachineEvent::LoadProgress{plan, 1, 2});
  });
  Later(time, [this, load, outcome, fails] {
    if (load != load_) return;
    const net::Assignment& a = outcome->assignment;
    if (fails) {
      outcome->status = absl::DataLossError("bad disk");
      return Report(outcome);
    }
    if (loaded_ == nullptr) {
      loaded_ = std::make_shared<worker::LoadedStage>();
      loaded_->digest = a.manifest->digest;
      loaded_->spec = a.spec;
      loaded_->stage = std::make_unique<HashStage>(model_, a.spec);
    }
    outcome->loaded = loaded_;
    if (a.spec.samples) return Report(outcome);
    Connect(load, outcome, 20 * kMillisecond);
    Later(kConnectTimeout, [this, load, outcome] {
      if (load != load_ || !loading_) return;
      ++load_;
      outcome->status = Unavailable("cannot reach ", outcome->assignment.next_worker);
      outcome->next_unreachable = true;
      Report(outcome);
    });
  });
}

void SimWorker::Connect(uint64_t load, std::shared_ptr<Outcome> outcome, TimeNs wait) {
  if (load != load_ || !loading_) return;
  const net::Assignment& a = outcome->assignment;
  next_link_ = worker::NextLinkId(next_link_.value + 1);
  auto stream = std::make_shared<Stream>();
  stream->sender = node_;
  stream->receiver = std::stoul(a.next_worker.substr(1));
  stream->from = {name_, a.spec.plan, a.spec.epoch, a.spec.index + 1};
  // The world calls these; the process may have ended, or be frozen.
  const auto when_awake = [weak = weak_from_this()](std::function<void(SimWorker*)> what) {
    if (const auto self = weak.lock()) self->WhenAwake([self = self.get(), what] { what(self); });
  };
  stream->on_closed = [when_awake, link = next_link_](const absl::Status& why) {
    when_awake([link, why](SimWorker* self) { self->Feed(MachineEvent::NextClosed{link, why}); });
  };
  stream->on_opened = [when_awake, load, outcome, wait, link = next_link_,
                       weak_stream = std::weak_ptr(stream)](const absl::Status& status) {
    when_awake([=](SimWorker* self) {
      const auto stream = weak_stream.lock();
      if (stream == nullptr || load != self->load_ || !self->loading_) return;
      if (status.ok()) {
        outcome->next = stream;
        outcome->next_link = link;
        return self->Report(outcome);
      }
      if (!absl::IsUnavailable(status)) {
        outcome->status = status;
        outcome->next_unreachable = true;
        return self->Report(outcome);
      }
      self->Later(wait,
                  [=] { self->Connect(load, outcome, std::min(2 * wait, 300 * kMillisecond)); });
    });
  };
  around_->OpenStream(stream);
}

// The outcome waits a moment in the queue of the control loop: another assignment may be there
// before it.
void SimWorker::Report(std::shared_ptr<Outcome> outcome) {
  Later(static_cast<TimeNs>(around_->Random(3)) * kMillisecond,
        [this, outcome] { TakeOutcome(outcome); });
}

void SimWorker::TakeOutcome(std::shared_ptr<Outcome> outcome) {
  const stage::StageSpec& spec = outcome->assignment.spec;
  if (duty_ && *duty_ == std::pair(spec.plan, spec.epoch)) loading_ = false;
  outcome_ = outcome;
  const bool open = outcome->next != nullptr && outcome->next->accepted;
  Feed(MachineEvent::LoadEnded{spec.plan, spec.epoch, outcome->status, outcome->next_unreachable,
                               outcome->next_link, open});
  outcome_.reset();
}

MachineEvent::StageStarted SimWorker::StartStage(const MachineAction::StartStage& action) {
  MachineEvent::StageStarted started{action.plan, action.epoch, absl::OkStatus()};
  if (outcome_ == nullptr || outcome_->loaded == nullptr || host_ != nullptr) {
    around_->Violation(name_ + " starts a stage that is not loaded");
    started.status = Internal("nothing is loaded");
    return started;
  }
  if (around_->Random(6) == 0 && around_->LoadFails()) {
    started.status = ResourceExhausted("the operating system gives no thread more");
    return started;
  }
  Hash()->Poison(around_->Random(UINT64_MAX));
  host_ = std::make_unique<Host>(this, ++hosts_, *outcome_);
  gate_.SetHost(host_.get());
  started.weights_bytes = started.kv_bytes = started.buffer_bytes = 1;
  return started;
}

// --- What the machine asks for.

net::WorkerHello SimWorker::Hello(std::vector<net::DeviceHello> devices) const {
  net::WorkerHello hello;
  hello.name = name_;
  hello.version = kVersion;
  hello.protocol = kProtocolVersion;
  hello.stage_address = "127.0.0.1:1";
  hello.memory_bytes = 1 << 30;
  hello.base_bytes = 1 << 20;
  hello.devices = std::move(devices);
  return hello;
}

void SimWorker::Obey(MachineAction::OpenSession action) {
  const TimeNs now = around_->Now();
  if (session_ != worker::SessionId()) around_->Violation(name_ + " has two sessions");
  if (session_closed_ != 0 && now - session_closed_ < kShortestPause)
    around_->Violation(name_ + " joins again without a pause");
  session_ = action.session;
  heard_ = beat_ = now;
  around_->OpenSession(node_, session_, Hello(std::move(action.devices)));
}

void SimWorker::Obey(MachineAction::CloseSession) {
  around_->CloseSession(node_, session_);
  session_ = worker::SessionId();
  session_closed_ = around_->Now();
  duty_.reset();
  highest_ = Epoch();
  failed_ = released_ = false;
}

void SimWorker::Obey(MachineAction::Send action) {
  CheckMessage(action.event);
  around_->ToCoordinator(node_, session_, std::move(action.event));
}

void SimWorker::Obey(MachineAction::Beat) {
  beat_ = around_->Now();
  around_->ToCoordinator(node_, session_, net::Heartbeat{1 << 20, 0.5, 1});
}

void SimWorker::Obey(MachineAction::SayLeaving action) {
  around_->ToCoordinator(node_, session_, net::Leaving{action.reason});
}

void SimWorker::Obey(MachineAction::FinishResults) {
  around_->FinishResults(node_);
  results_ = worker::SessionId();
}

void SimWorker::Obey(MachineAction::Expect action) {
  expected_ = {action.plan, action.epoch};
  gate_.Expect(action.plan, action.epoch, action.stage, std::move(action.from_node));
}

void SimWorker::Obey(MachineAction::ExpectNothing) {
  expected_.reset();
  gate_.ExpectNothing();
}

void SimWorker::Obey(MachineAction::CancelLoad) {
  ++load_;
  loading_ = false;
}

void SimWorker::Obey(MachineAction::Unload) {
  Obey(MachineAction::CancelLoad{});
  loaded_.reset();
}

void SimWorker::Obey(MachineAction::StopStage) {
  gate_.SetHost(nullptr);
  host_.reset();
}

// A driver may take its time, or never answer.
void SimWorker::Obey(MachineAction::LookAtCards) {
  if (around_->Random(20) == 0) return;
  Later(static_cast<TimeNs>(around_->Random(30)) * kMillisecond, [this] {
    Feed(MachineEvent::DevicesSeen{devices_});
    Feed(MachineEvent::CardsLooked{});
  });
}

}  // namespace lanyard::sim
