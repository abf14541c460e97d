// One simulated life of a pool: virtual time, links that lose, repeat, delay and reorder, workers
// that die, hang and come back, clients that come and go; all from one seed. The checker knows the
// right tokens and what must never happen.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "coordinator/pool.h"
#include "tests/sim/hash_model.h"
#include "tests/sim/sim_worker.h"

namespace lanyard::sim {

enum class Weather {
  kCalm,    // no faults: every request must end with its tokens
  kTinyKv,  // no faults, but hardly any KV: preemption all the time
  kStormy,  // everything may happen
};

struct WorldOptions {
  uint64_t seed = 1;
  Weather weather = Weather::kStormy;
  bool swap_blocks = false;  // planted: two blocks of a table change places on the wire
  // Planted: now and then a frame arrives with the hidden states of the one before.
  bool foreign_hidden = false;
};

// The lives of the tests: a fifth is calm, a fifth has hardly any KV.
WorldOptions OptionsFor(uint64_t seed);

struct Report {
  std::vector<std::string> violations;  // empty: the life was correct
  uint64_t requests = 0;
  uint64_t finished = 0;
  uint64_t failed = 0;      // with a typed error
  uint64_t overflowed = 0;  // ... because a row of their own was not finite
  uint64_t overdue = 0;     // ... because their deadline passed
  uint64_t cancelled = 0;
  uint64_t refused = 0;  // refused by Submit
  uint64_t tokens = 0;
  uint64_t cached = 0;  // tokens of prompts that were not read again
  uint64_t preemptions = 0;
  uint64_t epochs = 0;
  uint64_t improvements = 0;  // plans given up for a better one
  uint64_t taken = 0;         // ... that were loaded beside the one that served
  uint64_t moves = 0;         // ... because a worker was drained
  uint64_t ignored_results = 0;
  uint64_t faults = 0;
  uint64_t sessions = 0;  // times that a worker joined, or tried to
};

class World final : private Surroundings {
 public:
  explicit World(const WorldOptions& options);
  Report Run();

 private:
  struct Node {                          // a worker's machine
    std::shared_ptr<SimWorker> process;  // null: it does not run
    bool silent = false;                 // it ended without a word: nothing answers for it
    TimeNs cut_until = 0;                // nothing comes through its cable before
    double slowness = 1;
    uint64_t results = 0;  // counts its streams of results; what an earlier one carried is lost
    std::vector<std::shared_ptr<Stream>> inbound;
    std::vector<worker::MachineEvent::Any> told;  // that may come once more, much later
  };
  // A control stream. Messages keep their order in each direction.
  struct Link {
    net::LinkId id;
    size_t node = 0;
    worker::SessionId session;
    std::weak_ptr<SimWorker> process;
    bool open = true;   // for the coordinator
    bool left = false;  // closed by the worker: what is on its way from it may be lost
    bool lossy = false;
    TimeNs to_pool = 0;  // when the last message arrives
    TimeNs to_worker = 0;
  };
  struct Request {
    coordinator::SequenceSpec spec;
    std::vector<int32_t> expected;
    bool overflows = false;  // behind them it must fail, alone
    size_t seen = 0;
    bool ended = false;
    bool cancelled = false;
    TimeNs submitted = 0;
  };
  struct Faults {  // probabilities for a message between stages
    double lose = 0, repeat = 0, delay = 0, reorder = 0;
  };

  // Surroundings
  TimeNs Now() const override { return now_; }
  void At(TimeNs time, std::function<void()> what) override;
  uint64_t Random(uint64_t below) override { return rng_() % below; }
  void Violation(const std::string& text) override;
  bool LoadFails() override;
  double Slowness(size_t node) const override { return nodes_[node].slowness; }
  uint32_t Protocol(size_t node) const override;
  uint64_t MemoryBytes() const override { return memory_bytes_; }
  void OpenSession(size_t node, worker::SessionId session, net::WorkerHello hello) override;
  void CloseSession(size_t node, worker::SessionId session) override;
  void ToCoordinator(size_t node, worker::SessionId session, net::WorkerEvent event) override;
  void SendResult(size_t node, stage::StepResult result) override;
  void FinishResults(size_t node) override;
  void OpenStream(const std::shared_ptr<Stream>& stream) override;
  bool SendFrame(const std::shared_ptr<Stream>& stream, stage::StepFrame frame) override;
  void OnProcessEnd(size_t node) override;

  void After(TimeNs delay, std::function<void()> what) { At(now_ + delay, std::move(what)); }
  bool Chance(double p) { return std::uniform_real_distribution<double>(0, 1)(rng_) < p; }
  TimeNs Ms(uint64_t low, uint64_t high) { return (low + Random(high - low + 1)) * kMillisecond; }
  bool Storms() const { return options_.weather == Weather::kStormy; }

  void Setup();
  absl::StatusOr<sharding::Plan> MakePlan(const sharding::PlanRequest& request) const;
  void PlanWeather();
  void PlanClients();
  void PlanDrains();

  // Machines and their faults.
  void PlanFaults();
  void StartNode(size_t index);
  void Drain(size_t index);
  void KillNode(size_t index, bool silently);
  void BreakInbound(size_t index, TimeNs within);
  void HangNode(size_t index, TimeNs how_long);
  void SleepNode(size_t index, TimeNs how_long);
  void CutCable(size_t index, TimeNs how_long);
  void CutControl(size_t index);
  void BreakResults(size_t index);
  static void Deliver(const std::weak_ptr<SimWorker>& to, worker::MachineEvent::Any event);
  size_t NodeOf(const std::string& name) const;

  // Links.
  std::shared_ptr<Link> LinkOf(size_t node, worker::SessionId session);
  std::shared_ptr<Link> LinkOf(net::LinkId id);
  void ToPool(const std::shared_ptr<Link>& link, std::function<void()> what);
  // `event` is made of the link's session; null: only a sign of life.
  void ToWorker(net::LinkId id,
                const std::function<worker::MachineEvent::Any(worker::SessionId)>& event);
  void CloseLink(net::LinkId id, const absl::Status& why);
  void SendBeats();
  // Replays what a worker was told long ago.
  void TellAgain(size_t index);
  TimeNs CableOf(std::optional<size_t> node) const;
  // Carries a message over the ordered link `name`, with the link's faults, not before `earliest`.
  void Carry(const std::string& name, TimeNs earliest, const std::function<void()>& deliver);
  void OpenPort(const coordinator::PoolAction::OpenPort& open);
  void PortClosed(Epoch epoch, const absl::Status& why);
  void SendToPort(stage::StepFrame frame);

  // The pool.
  void Pump();
  void CheckStop();
  void Obey(coordinator::PoolAction::Any action);
  void OnAssign(const coordinator::PoolAction::Assign& assign);
  void OnToken(const coordinator::SequenceUpdate& update);
  void OnFail(const coordinator::PoolAction::Fail& fail);
  void OnDrained(const coordinator::PoolAction::DrainAnswer& answer);
  void Submit(uint64_t id);
  Request MakeRequest(uint64_t id);
  std::vector<int32_t> MakePrompt(uint32_t n);
  void CheckDeadlines();
  void CheckRest();
  void CheckWorkersAtRest();

  struct Event {
    TimeNs time;
    uint64_t order;
    std::function<void()> what;
    bool operator<(const Event& o) const {
      return time != o.time ? time > o.time : order > o.order;
    }
  };

  const WorldOptions options_;
  std::mt19937_64 rng_;
  std::mt19937_64 drain_rng_;
  TimeNs now_ = kSecond;
  uint64_t next_event_ = 0;
  std::priority_queue<Event> events_;
  HashModel model_;
  uint32_t context_ = 0;
  std::vector<uint32_t> group_blocks_;
  size_t min_nodes_ = 1;
  bool expects_all_ = false;   // the first plan waits for every node
  uint64_t memory_bytes_ = 0;  // of each machine's worker
  size_t old_nodes_ = 0;       // the first nodes, whose protocol is the one before
  std::vector<Node> nodes_;
  std::set<std::string> drained_;  // as the pool has accepted them
  std::map<std::string, TimeNs> drained_since_;
  TimeNs drain_patience_ = 0;
  std::unique_ptr<coordinator::PoolMachine> pool_;
  std::map<SeqId, Request> requests_;
  std::vector<std::vector<int32_t>> texts_;  // that prompts begin with
  std::map<std::string, TimeNs> link_time_;
  Faults faults_;
  uint64_t next_link_ = 1;
  uint64_t next_stream_ = 1;
  std::map<net::LinkId, std::shared_ptr<Link>> links_;
  std::shared_ptr<Stream> port_;  // to the first stage; null: none is open
  Epoch port_epoch_;
  std::map<uint64_t, Epoch> assigned_epoch_;                 // the highest epoch of each link
  std::set<Epoch> beside_epochs_;                            // assigned beside one that serves
  std::map<std::string, std::vector<uint8_t>> last_hidden_;  // of each stream
  Report report_;
};

}  // namespace lanyard::sim
