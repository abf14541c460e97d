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
#include "tests/sim/fake_worker.h"
#include "tests/sim/hash_model.h"

namespace lanyard::sim {

enum class Weather {
  kCalm,    // no faults: every request must end with its tokens
  kTinyKv,  // no faults, but hardly any KV: preemption all the time
  kStormy,  // everything may happen
};

struct WorldOptions {
  uint64_t seed = 1;
  Weather weather = Weather::kStormy;
  coordinator::PlantedBugs bugs;
  WorkerBugs worker_bugs;
  bool swap_blocks = false;  // planted: two blocks of a table change places on the wire
  // Planted: now and then a frame arrives with the hidden states of the one before.
  bool foreign_hidden = false;
};

struct Report {
  std::vector<std::string> violations;  // empty: the life was correct
  uint64_t requests = 0;
  uint64_t finished = 0;
  uint64_t failed = 0;      // with a typed error
  uint64_t overflowed = 0;  // ... because a row of their own was not finite
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
};

class World {
 public:
  explicit World(const WorldOptions& options);
  Report Run();

 private:
  struct Node {  // a worker's machine
    std::unique_ptr<FakeWorker> worker;
    uint64_t life = 0;  // changes with every start: messages on their way to an older life are lost
    bool up = false;
    bool hung = false;
    TimeNs busy_until = 0;
    net::LinkId link;
    double slowness = 1;
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

  // Events.
  void At(TimeNs time, std::function<void()> what);
  void After(TimeNs delay, std::function<void()> what) { At(now_ + delay, std::move(what)); }
  uint64_t Random(uint64_t below) { return rng_() % below; }
  bool Chance(double p) { return std::uniform_real_distribution<double>(0, 1)(rng_) < p; }
  TimeNs Ms(uint64_t low, uint64_t high) { return (low + Random(high - low + 1)) * kMillisecond; }

  void Setup();
  absl::StatusOr<sharding::Plan> MakePlan(const sharding::PlanRequest& request) const;
  void PlanWeather();
  void PlanClients();
  void PlanDrains();

  // Nodes.
  void StartNode(size_t index);
  void Drain(size_t index);
  void KillNode(size_t index, bool silently);
  void HangNode(size_t index, TimeNs how_long);
  void CutControl(size_t index);
  void Heartbeat(size_t index, uint64_t life);
  size_t NodeOf(const std::string& name) const;
  Node* NodeOfLink(net::LinkId link);
  void DeliverFrame(size_t index, stage::StepFrame frame);
  void RunFrame(size_t index, stage::StepFrame frame);
  void SendResult(size_t from, stage::StepResult result);
  void SendFrame(const std::string& from, size_t to, stage::StepFrame frame);
  // Carries a message over the ordered link `name`, with the link's faults.
  void Carry(const std::string& name, const std::function<void()>& deliver);

  // The pool.
  void Pump();
  void Obey(coordinator::PoolAction::Any action);
  void OnAssign(const coordinator::PoolAction::Assign& assign);
  void OnRelease(const coordinator::PoolAction::Release& release);
  void CheckServing();
  void OnToken(const coordinator::SequenceUpdate& update);
  void OnFail(const coordinator::PoolAction::Fail& fail);
  void OnDrained(const coordinator::PoolAction::DrainAnswer& answer);
  void Submit(uint64_t id);
  Request MakeRequest(uint64_t id);
  std::vector<int32_t> MakePrompt(uint32_t n);
  void CheckRest();
  void Violation(const std::string& text);

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
  uint64_t open_port_ = 0;  // counts the ports that were opened; frames of an older one are lost
  std::string port_worker_;
  Epoch port_epoch_;
  std::map<uint64_t, Epoch> assigned_epoch_;  // the highest epoch of each link
  std::map<uint64_t, TimeNs> control_time_;   // of each link's last assignment
  bool tight_ = false;                        // no machine has memory for two stages
  bool served_ = false;                       // the pool served before
  std::set<Epoch> beside_epochs_;             // that were assigned beside one that serves
  std::map<size_t, std::vector<uint8_t>> last_hidden_;
  Report report_;
};

}  // namespace lanyard::sim
