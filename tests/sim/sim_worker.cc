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
    busy_until_ = std::max(busy_until_, now) + cost;
    owner_->Later(busy_until_ - now, [owner = owner_, id = id_, frame = std::move(frame)] {
      for (const auto& [epoch, host] : owner->hosts_) {
        if (host->id_ == id) return host->Compute(frame);
      }
    });
    return absl::OkStatus();
  }
  void FrameWasBad(StepId step) override { runner_.FrameWasBad(step); }
  void Abandon() override { abandoned_ = true; }

  bool Is(PlanId plan, Epoch epoch) const { return spec_.plan == plan && spec_.epoch == epoch; }
  const stage::StageSpec& spec() const { return spec_; }
  const worker::LoadedStage* stage() const { return stage_.get(); }
  worker::NextLinkId next_link() const { return next_link_; }
  const std::shared_ptr<Stream>& next() const { return next_; }

 private:
  void Compute(stage::StepFrame frame) {
    if (abandoned_) return;
    if (!owner_->Has(frame.plan) || !owner_->Has(frame.epoch) || frame.epoch < owner_->computed_)
      owner_->around_->Violation("a stale epoch was obeyed");
    if (owner_->computed_ != frame.epoch)
      Hash(*stage_)->Poison(owner_->around_->Random(UINT64_MAX));
    owner_->computed_ = frame.epoch;
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
  TimeNs busy_until_ = 0;  // two hosts are two threads
  bool abandoned_ = false;
};

SimWorker::SimWorker(Surroundings* around, size_t node, const HashModel* model)
    : around_(around),
      node_(node),
      model_(model),
      name_(absl::StrCat("w", node)),
      gate_(name_, this),
      machine_({name_, "coordinator:1"}) {}

SimWorker::~SimWorker() {
  for (const auto& [epoch, host] : hosts_) gate_.SetHost(epoch, nullptr);
}

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
    if (assigned->session == session_) ExpectedOfAssignment(assigned->assignment);
  } else if (const auto* release = std::get_if<MachineEvent::Released>(&event)) {
    if (release->session == session_) ExpectedOfRelease(release->plan);
  } else if (const auto* closed = std::get_if<MachineEvent::NextClosed>(&event)) {
    for (const auto& [epoch, host] : hosts_) {
      if (host->next_link() == closed->next) next_broken_.insert(epoch);
    }
    hosts_at_least_ = next_broken_.empty() ? hosts_.size() : 0;
  } else if (const auto* results = std::get_if<MachineEvent::ResultsClosed>(&event)) {
    results_broken_ = results->session == session_;
  } else if (const auto* lost = std::get_if<MachineEvent::StageLost>(&event)) {
    lost_ = Runs(lost->epoch);
  }
}

void SimWorker::ExpectedOfAssignment(const net::Assignment& assignment) {
  const stage::StageSpec& spec = assignment.spec;
  if (spec.epoch <= highest_) return;
  highest_ = spec.epoch;
  released_ = false;
  beside_.reset();
  const bool alone = assignment.mode == net::AssignMode::kInstead;
  if (alone || (duty_ && !Runs(duty_->epoch))) duty_.reset();
  const bool fetch = assignment.mode == net::AssignMode::kFetch;
  (duty_ || fetch ? beside_ : duty_) = Duty{spec.plan, spec.epoch, fetch};
}

void SimWorker::ExpectedOfRelease(PlanId plan) {
  if (beside_ && beside_->plan == plan) {
    beside_.reset();
  } else if (duty_ && duty_->plan == plan) {
    duty_.reset();
    if (beside_ && !beside_->fetch && (Runs(beside_->epoch) || beside_->failed)) duty_ = beside_;
    beside_.reset();
  } else {
    return;
  }
  released_ = true;
}

bool SimWorker::Has(PlanId plan) const {
  return (duty_ && duty_->plan == plan) || (beside_ && beside_->plan == plan);
}

bool SimWorker::Has(Epoch epoch) const {
  return (duty_ && duty_->epoch == epoch) || (beside_ && beside_->epoch == epoch);
}

void SimWorker::CheckDuty(const Duty& duty) {
  const auto expected = expected_.find(duty.epoch);
  if ((expected != expected_.end() && expected->second == duty.plan) == duty.fetch)
    Wrong("does not expect the streams of its stage, or those of none");
  const bool done = duty.fetch ? WasReady(duty.epoch) : Runs(duty.epoch);
  if (!done && loading_ != duty.epoch && !duty.failed)
    Wrong("neither loads nor runs its stage, and has not said so");
}

void SimWorker::CheckMemory() {
  uint64_t bytes = kBaseBytes;
  std::set<uint32_t> layers;
  for (const Held& held : held_) {
    bytes += kKvBytes;
    for (uint32_t l = held.stage->spec.layers.begin; l < held.stage->spec.layers.end; ++l)
      bytes += layers.insert(l).second ? kLayerBytes : 0;
    const bool wanted = std::any_of(held.epochs.begin(), held.epochs.end(),
                                    [&](Epoch epoch) { return Has(epoch); });
    if (released_ && !wanted) Wrong("keeps a stage in memory after its release");
  }
  if (bytes > around_->MemoryBytes()) Wrong("holds more than its memory");
  for (const auto& [epoch, host] : hosts_) {
    const worker::LoadedStage* const stage = host->stage();
    if (std::none_of(held_.begin(), held_.end(),
                     [stage](const Held& held) { return held.stage.get() == stage; }))
      Wrong("runs a stage that its loader has freed");
  }
}

void SimWorker::CheckTurn(const MachineEvent::Any& event) {
  const TimeNs now = around_->Now();
  if (duty_) CheckDuty(*duty_);
  if (beside_) CheckDuty(*beside_);
  if (expected_.size() != (duty_ ? 1u : 0u) + (beside_ && !beside_->fetch ? 1u : 0u))
    Wrong("expects streams of a stage that it does not have");
  CheckMemory();
  if (session_ == worker::SessionId() && results_open()) Wrong("sends results to a closed session");
  for (const auto& [epoch, host] : hosts_) {
    if (!Has(epoch) || !Has(host->spec().plan)) Wrong("runs a stage that is not its duty");
    if (next_broken_.contains(epoch)) Wrong("goes on without the link to the next stage");
    if (results_broken_) Wrong("goes on although results may be lost");
    if (lost_) Wrong("runs a stage on a card that is gone");
  }
  if (hosts_.size() < hosts_at_least_) Wrong("ends a stage because of a link that is not its own");
  hosts_at_least_ = 0;
  next_broken_.clear();
  results_broken_ = lost_ = false;
  if (std::holds_alternative<MachineEvent::SleepAsked>(event) && session_ != worker::SessionId())
    Wrong("stays in the pool although its machine sleeps");
  if (!std::holds_alternative<MachineEvent::Tick>(event) || session_ == worker::SessionId()) return;
  if (now - beat_ > net::kHeartbeatMs * kMillisecond) Wrong("forgets a heartbeat");
  if (now - heard_ > net::kDeadAfterMs * kMillisecond) Wrong("trusts a silent coordinator");
}

void SimWorker::CheckMessage(const net::WorkerEvent& event) {
  if (session_ == worker::SessionId()) Wrong("speaks without a session");
  if (const auto* ready = std::get_if<net::StageReady>(&event)) {
    const bool fetched = beside_ && beside_->fetch && beside_->epoch == ready->epoch &&
                         outcome_ != nullptr && outcome_->assignment.spec.epoch == ready->epoch;
    if (!fetched && !(Runs(ready->epoch) && hosts_[ready->epoch]->spec().plan == ready->plan))
      Wrong("says ready before its stage runs");
    ready_.insert(ready->epoch);
  } else if (const auto* failed = std::get_if<net::StageFailed>(&event)) {
    if (Runs(failed->epoch)) Wrong("runs a stage that it says has failed");
    for (std::optional<Duty>* duty : {&duty_, &beside_}) {
      if (*duty && (*duty)->epoch == failed->epoch) (*duty)->failed = true;
    }
  }
}

std::optional<Epoch> SimWorker::RunningEpoch() const {
  return duty_ && Runs(duty_->epoch) ? std::optional(duty_->epoch) : std::nullopt;
}

void SimWorker::LoseCard() {
  for (const Held& held : held_) Hash(*held.stage)->Lose();
  if (hosts_.empty()) return;
  const stage::StageSpec& spec = hosts_.begin()->second->spec();
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
  if (hosts_.empty()) return false;
  const auto host = std::next(hosts_.begin(), static_cast<int>(around_->Random(hosts_.size())));
  const std::shared_ptr<Stream> next = host->second->next();
  if (next != nullptr) next->Broken(Unavailable("connection reset"));
  return next != nullptr;
}

absl::Status SimWorker::AcceptStream(const net::StreamFrom& from) {
  const absl::Status status = gate_.AcceptStream(from);
  const auto is = [&](const std::optional<Duty>& duty) {
    return duty && !duty->fetch && duty->plan == from.plan && duty->epoch == from.epoch;
  };
  if (status.ok() && !is(duty_) && !is(beside_))
    Wrong("takes a stream of a stage that is not its duty");
  return status;
}

void SimWorker::TakeFrame(stage::StepFrame frame) { gate_.OnFrame(std::move(frame)); }

void SimWorker::OnResult(stage::StepResult result) {
  if (results_open()) around_->SendResult(node_, std::move(result));
}

// --- The loader.

void SimWorker::Free(Epoch keep, const worker::LoadedStage* again) {
  std::erase_if(held_, [&](const Held& held) {
    return held.stage.get() != again && !held.epochs.contains(keep);
  });
}

std::shared_ptr<worker::LoadedStage> SimWorker::Reuse(const net::Assignment& assignment,
                                                      Epoch keep) {
  for (Held& held : held_) {
    if (Hash(*held.stage)->lost() || !worker::SameDuty(*held.stage, assignment)) continue;
    std::erase_if(held.epochs, [&](Epoch epoch) { return epoch != keep; });
    held.epochs.insert(assignment.spec.epoch);
    return held.stage;
  }
  return nullptr;
}

void SimWorker::Load(net::Assignment assignment, Epoch keep) {
  const uint64_t load = ++load_;
  loading_ = assignment.spec.epoch;
  auto outcome = std::make_shared<Outcome>();
  outcome->assignment = std::move(assignment);
  const net::Assignment& a = outcome->assignment;
  const bool fetch = a.mode == net::AssignMode::kFetch;
  if (!fetch) {
    outcome->loaded = Reuse(a, keep);
    Free(keep, outcome->loaded.get());
  }
  const bool fails = around_->LoadFails();
  uint64_t ms = 1 + around_->Random(outcome->loaded != nullptr ? 5 : 400);
  // What is loaded beside the plan that serves may take long, and nobody waits for it.
  if (a.mode != net::AssignMode::kInstead) ms += around_->Random(6000);
  const TimeNs time = static_cast<TimeNs>(ms) * kMillisecond;
  Later(time / 2, [this, load, plan = a.spec.plan] {
    if (load == load_) Feed(MachineEvent::LoadProgress{plan, 1, 2});
  });
  Later(time, [this, load, outcome, fails, fetch] {
    if (load != load_) return;
    const net::Assignment& a = outcome->assignment;
    if (fails) {
      outcome->loaded.reset();
      outcome->status = absl::DataLossError("bad disk");
      return Report(outcome);
    }
    if (fetch) return Report(outcome);
    if (outcome->loaded == nullptr) {
      outcome->loaded = std::make_shared<worker::LoadedStage>();
      outcome->loaded->digest = a.manifest->digest;
      outcome->loaded->spec = a.spec;
      outcome->loaded->stage = std::make_unique<HashStage>(model_, a.spec);
      held_.push_back({outcome->loaded, {a.spec.epoch}});
    }
    if (a.spec.samples) return Report(outcome);
    Connect(load, outcome, 20 * kMillisecond);
    Later(kConnectTimeout, [this, load, outcome] {
      if (load != load_ || loading_ == Epoch()) return;
      ++load_;
      outcome->status = Unavailable("cannot reach ", outcome->assignment.next_worker);
      outcome->next_unreachable = true;
      Report(outcome);
    });
  });
}

void SimWorker::Connect(uint64_t load, std::shared_ptr<Outcome> outcome, TimeNs wait) {
  if (load != load_ || loading_ == Epoch()) return;
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
      if (stream == nullptr || load != self->load_ || self->loading_ == Epoch()) return;
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
  if (loading_ == spec.epoch) loading_ = Epoch();
  outcome_ = outcome;
  const bool open = outcome->next != nullptr && outcome->next->accepted;
  Feed(MachineEvent::LoadEnded{spec.plan, spec.epoch, outcome->status, outcome->next_unreachable,
                               outcome->next_link, open});
  outcome_.reset();
}

MachineEvent::StageStarted SimWorker::StartStage(const MachineAction::StartStage& action) {
  MachineEvent::StageStarted started{action.plan, action.epoch, absl::OkStatus()};
  if (outcome_ == nullptr || outcome_->loaded == nullptr || Runs(action.epoch)) {
    Wrong("starts a stage that is not loaded");
    started.status = Internal("nothing is loaded");
    return started;
  }
  if (around_->Random(6) == 0 && around_->LoadFails()) {
    started.status = ResourceExhausted("the operating system gives no thread more");
    return started;
  }
  auto host = std::make_unique<Host>(this, ++n_hosts_, *outcome_);
  gate_.SetHost(action.epoch, host.get());
  hosts_[action.epoch] = std::move(host);
  started.weights_bytes = started.kv_bytes = started.buffer_bytes = 1;
  return started;
}

// --- What the machine asks for.

net::WorkerHello SimWorker::Hello(std::vector<net::DeviceHello> devices) const {
  net::WorkerHello hello;
  hello.name = name_;
  hello.version = kVersion;
  hello.protocol = around_->Protocol(node_);
  hello.stage_address = "127.0.0.1:1";
  hello.memory_bytes = around_->MemoryBytes();
  hello.base_bytes = kBaseBytes;
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
  beside_.reset();
  highest_ = computed_ = Epoch();
  released_ = false;
  ready_.clear();
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
  expected_[action.epoch] = action.plan;
  gate_.Expect(action.plan, action.epoch, action.stage, std::move(action.from_node));
}

void SimWorker::Obey(MachineAction::Forget action) {
  expected_.erase(action.epoch);
  gate_.Forget(action.epoch);
}

void SimWorker::Obey(MachineAction::CancelLoad) {
  ++load_;
  loading_ = Epoch();
}

void SimWorker::Obey(MachineAction::Unload action) {
  Obey(MachineAction::CancelLoad{});
  Free(action.keep);
}

void SimWorker::Obey(MachineAction::StopStage action) {
  gate_.SetHost(action.epoch, nullptr);
  hosts_.erase(action.epoch);
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
