// A worker's process in the simulated world: the product's state machine, frame gate and stage
// runner; around them stand a loader, links and a clock that are the world's. It watches the
// machine: what a worker must never do is a violation at once.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "net/stage_server.h"
#include "tests/sim/hash_stage.h"
#include "worker/frame_gate.h"
#include "worker/loader.h"
#include "worker/machine.h"
#include "worker/stage_runner.h"

namespace lanyard::sim {

class SimWorker;

// A stream of frames to a worker's stage port.
struct Stream {
  std::string name;                                    // of its link
  std::optional<size_t> sender;                        // the node; nullopt: the coordinator
  size_t receiver = 0;                                 // the node
  net::StreamFrom from;                                // what it says of itself
  std::weak_ptr<SimWorker> process;                    // that accepted it
  bool accepted = false;                               // frames that arrive are taken
  bool left = false;                                   // its sender does not care any more
  std::function<void(const absl::Status&)> on_opened;  // null once it was called
  std::function<void(const absl::Status&)> on_closed;

  // Its sender hears that it was opened, or why not.
  void Opened(const absl::Status& status) {
    if (!left && on_opened != nullptr) std::exchange(on_opened, nullptr)(status);
  }
  // Its sender hears that it is broken, once.
  void Broken(const absl::Status& why) {
    accepted = false;
    Opened(why);
    if (!std::exchange(left, true)) on_closed(why);
  }
};

// What a process has around it. The world implements it.
class Surroundings {
 public:
  virtual ~Surroundings() = default;
  virtual TimeNs Now() const = 0;
  virtual void At(TimeNs time, std::function<void()> what) = 0;
  virtual uint64_t Random(uint64_t below) = 0;
  virtual void Violation(const std::string& text) = 0;
  // Whether a load is to fail, and how many times slower than others this machine computes.
  virtual bool LoadFails() = 0;
  virtual double Slowness(size_t node) const = 0;
  virtual uint32_t Protocol(size_t node) const = 0;
  virtual uint64_t MemoryBytes() const = 0;  // of each machine's worker

  virtual void OpenSession(size_t node, worker::SessionId session, net::WorkerHello hello) = 0;
  virtual void CloseSession(size_t node, worker::SessionId session) = 0;
  virtual void ToCoordinator(size_t node, worker::SessionId session, net::WorkerEvent event) = 0;
  virtual void SendResult(size_t node, stage::StepResult result) = 0;
  // Results on their way arrive before what is sent to the coordinator from now on.
  virtual void FinishResults(size_t node) = 0;
  virtual void OpenStream(const std::shared_ptr<Stream>& stream) = 0;
  // False: the stream is broken.
  virtual bool SendFrame(const std::shared_ptr<Stream>& stream, stage::StepFrame frame) = 0;
  virtual void OnProcessEnd(size_t node) = 0;
};

inline constexpr uint64_t kBaseBytes = 1 << 20;  // of a worker before it holds a stage
inline constexpr uint64_t kKvBytes = 10 << 20;   // of a stage
inline constexpr uint64_t kLayerBytes = 100 << 20;

class SimWorker final : public std::enable_shared_from_this<SimWorker>, public stage::ResultSink {
 public:
  // `around` and `model` must outlive this.
  SimWorker(Surroundings* around, size_t node, const HashModel* model);
  ~SimWorker() override;
  void Start() { Tick(); }

  // What the world does to it. A frozen process sees it when it is awake again.
  void Freeze(TimeNs until) { frozen_until_ = std::max(frozen_until_, until); }
  void WhenAwake(std::function<void()> what);
  void Deliver(worker::MachineEvent::Any event);
  void Heard(worker::SessionId session);
  void LoseCard();
  void ChangeDevices(uint64_t memory_bytes);
  absl::Status AcceptStream(const net::StreamFrom& from);
  void TakeFrame(stage::StepFrame frame);
  // Breaks the link to a next stage, if a stage runs; says whether it did.
  bool BreakNext();

  // What the world may ask.
  const std::string& name() const { return name_; }
  worker::SessionId session() const { return session_; }
  bool results_open() const { return results_ != worker::SessionId(); }
  // Of the stage that serves; nullopt: it does not run.
  std::optional<Epoch> RunningEpoch() const;
  // Whether it was assigned the plan, or the epoch, and not released since.
  bool Has(PlanId plan) const;
  bool Has(Epoch epoch) const;
  bool has_duty() const { return duty_.has_value(); }
  const std::vector<net::DeviceHello>& devices() const { return devices_; }
  bool WasReady(Epoch epoch) const { return ready_.contains(epoch); }

 private:
  struct Outcome {  // of a load
    net::Assignment assignment;
    absl::Status status;
    std::shared_ptr<worker::LoadedStage> loaded;
    std::shared_ptr<Stream> next;
    worker::NextLinkId next_link;
    bool next_unreachable = false;
  };
  // A stage in memory, and the epochs that it was assigned for.
  struct Held {
    std::shared_ptr<worker::LoadedStage> stage;
    std::set<Epoch> epochs;
  };
  // An assignment, as the checker wrote it down.
  struct Duty {
    PlanId plan;
    Epoch epoch;
    bool fetch = false;   // of weights only
    bool failed = false;  // it said that it does not do its duty
  };
  class Host;

  void OnResult(stage::StepResult result) override;
  void Later(TimeNs delay, std::function<void()> what);
  void Tick();
  void Feed(worker::MachineEvent::Any event);
  void CheckTurn(const worker::MachineEvent::Any& event);
  void Expected(const worker::MachineEvent::Any& event);
  void ExpectedOfAssignment(const net::Assignment& assignment);
  void ExpectedOfRelease(PlanId plan);
  void CheckDuty(const Duty& duty);
  void CheckMemory();
  void CheckMessage(const net::WorkerEvent& event);
  net::WorkerHello Hello(std::vector<net::DeviceHello> devices) const;
  void Wrong(const std::string& what) { around_->Violation(absl::StrCat(name_, " ", what)); }
  bool Runs(Epoch epoch) const { return hosts_.contains(epoch); }

  // The loader.
  void Load(net::Assignment assignment, Epoch keep);
  void Free(Epoch keep, const worker::LoadedStage* again = nullptr);
  std::shared_ptr<worker::LoadedStage> Reuse(const net::Assignment& assignment, Epoch keep);
  void Connect(uint64_t load, std::shared_ptr<Outcome> outcome, TimeNs wait);
  void Report(std::shared_ptr<Outcome> outcome);
  void TakeOutcome(std::shared_ptr<Outcome> outcome);
  static HashStage* Hash(const worker::LoadedStage& loaded) {
    return static_cast<HashStage*>(loaded.stage.get());
  }
  worker::MachineEvent::StageStarted StartStage(const worker::MachineAction::StartStage& action);

  void Obey(worker::MachineAction::OpenSession action);
  void Obey(worker::MachineAction::CloseSession action);
  void Obey(worker::MachineAction::Send action);
  void Obey(worker::MachineAction::Beat action);
  void Obey(worker::MachineAction::SayLeaving action);
  void Obey(worker::MachineAction::OpenResults action) { results_ = action.session; }
  void Obey(worker::MachineAction::CloseResults) { results_ = worker::SessionId(); }
  void Obey(worker::MachineAction::FinishResults);
  void Obey(worker::MachineAction::Expect action);
  void Obey(worker::MachineAction::Forget action);
  void Obey(worker::MachineAction::Load action) { Load(std::move(action.assignment), action.keep); }
  void Obey(worker::MachineAction::CancelLoad);
  void Obey(worker::MachineAction::Unload action);
  void Obey(worker::MachineAction::StartStage action) { answers_.push_back(StartStage(action)); }
  void Obey(worker::MachineAction::StopStage action);
  void Obey(worker::MachineAction::Ban) {}
  void Obey(worker::MachineAction::Probe) {}
  void Obey(worker::MachineAction::LookAtCards action);
  void Obey(worker::MachineAction::Log) {}

  Surroundings* const around_;
  const size_t node_;
  const HashModel* const model_;
  const std::string name_;
  worker::FrameGate gate_;
  worker::WorkerMachine machine_;
  std::vector<worker::MachineEvent::Any> answers_;
  TimeNs frozen_until_ = 0;

  worker::SessionId session_;
  worker::SessionId results_;  // the session that the stream of results belongs to; 0: none
  TimeNs heard_ = 0;
  TimeNs session_closed_ = 0;
  TimeNs beat_ = 0;
  std::vector<net::DeviceHello> devices_;

  uint64_t load_ = 0;  // counts loads; those of an earlier number are over
  Epoch loading_;      // of the load under way; 0: there is none
  std::vector<Held> held_;
  std::shared_ptr<Outcome> outcome_;  // what the machine is being told of
  worker::NextLinkId next_link_;
  std::map<Epoch, std::unique_ptr<Host>> hosts_;
  uint64_t n_hosts_ = 0;

  // The checker's own book of what the machine was told.
  std::optional<Duty> duty_, beside_;
  Epoch highest_;
  Epoch computed_;                    // the latest of which a frame was run
  bool released_ = false;             // it was told that a stage is not wanted any more
  std::map<Epoch, PlanId> expected_;  // by the gate
  std::set<Epoch> next_broken_;       // hosts of whose link the machine was told that it broke
  size_t hosts_at_least_ = 0;         // that run on after this event
  bool results_broken_ = false;       // it was told of its stream of results
  bool lost_ = false;                 // ... of its card
  std::set<Epoch> ready_;             // that it said StageReady of
};

}  // namespace lanyard::sim
