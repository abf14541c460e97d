// The pool in the real world: one thread with an event queue around PoolMachine, the gRPC server,
// the stream to the first stage, and the Generator that web/ sees.
#pragma once

#include <atomic>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/mutex.h"
#include "coordinator/cluster/diagnoser.h"
#include "coordinator/cluster/weights.h"
#include "coordinator/loop_lag.h"
#include "coordinator/plan_thread.h"
#include "coordinator/pool.h"
#include "coordinator/pool_metrics.h"
#include "coordinator/serve/answer.h"
#include "coordinator/serve/generator.h"
#include "coordinator/serve/served_model.h"
#include "coordinator/state/state_dir.h"
#include "net/control.h"

namespace lanyard::coordinator {

struct PoolRunnerOptions {
  std::string listen = "127.0.0.1:7300";  // gRPC
  net::Security security = {};            // plaintext on loopback only
  net::AcceptLimits limits = {};
  net::JoinHandler join = {};
  std::string state_directory;  // the folder where epochs are kept
  uint32_t expect_workers = 0;  // 0: plan once no worker joined for a second
  uint32_t context = 0;         // 0: the model's context, at most 4096
  uint32_t users = sharding::kDefaultUsers;
  std::vector<std::string> drained = {};  // workers that were drained in an earlier life
  stage::NumericsChoice numerics;
  SchedulerOptions scheduler = {};    // its eos_ids are the model's
  std::function<void()> on_shutdown;  // asked by RequestShutdown; any thread
  // The network; tests put a pool of their own in its place.
  std::function<absl::StatusOr<std::unique_ptr<net::CoordinatorServer>>(
      const net::ServerOptions&, net::CoordinatorEvents*, net::PartProvider*)>
      serve = net::CoordinatorServer::Start;
  std::function<std::unique_ptr<net::RemoteStage>(const net::RemoteStageOptions&)> connect =
      net::RemoteStage::Connect;
  PlanFn make_plan = sharding::MakePlan;
};

class PoolRunner final : public Generator, private net::CoordinatorEvents {
 public:
  static absl::StatusOr<std::unique_ptr<PoolRunner>> Start(
      PoolRunnerOptions options, std::shared_ptr<const ServedModel> model);
  // Ends every answer with Unavailable and closes every link.
  ~PoolRunner() override;

  // When the pool's loop last turned, for the code that supervises the process. Any thread.
  TimeNs last_turn() const { return turned_.load(std::memory_order_relaxed); }
  // From now on no request is taken; the running ones go on.
  void StopAdmitting() { admitting_.store(false); }
  // Ends every answer with Unavailable, those that wait too, and whatever else waits for the pool;
  // what comes later is refused likewise. Returns once the sinks were told: a front that is stopped
  // after that still sends it. Any thread but the pool's.
  void EndAnswers();

  std::string grpc_address() const { return server_->address(); }
  // A node was revoked: its connections end, its stages go to others, and the other workers are
  // told. Any thread.
  void CutOff(const std::string& node, const std::vector<std::string>& all_revoked);

  // From now on plans leave the worker out, or may use it again (PoolMachine::Drain). It waits
  // until that is planned. Any thread but the pool's.
  absl::Status SetDrained(const std::string& worker, bool drained);

  absl::StatusOr<SeqId> Start(const GenerateRequest& request,
                              std::shared_ptr<TokenSink> sink) override;
  void Cancel(SeqId id) override;
  PoolStatus Status() const override;
  ModelIdentity Model() const override;
  std::string MetricsText() const override;
  void Diagnose(const std::string& node,
                std::function<void(absl::StatusOr<PoolDiagnosis>)> done) override;
  void RequestShutdown() override;

 private:
  struct Open {  // an open answer, as the pool's thread sees it
    std::unique_ptr<Answer> answer;
    TimeNs last_token = 0;
    SequenceTimes times;
  };
  struct NewRequest {
    SequenceSpec spec;
    std::unique_ptr<Answer> answer;
  };
  using Event = std::function<void(TimeNs now)>;

  PoolRunner(PoolRunnerOptions options, std::shared_ptr<const ServedModel> model, PoolOptions pool,
             StateDirectory state);

  // net::CoordinatorEvents, called from gRPC's threads.
  void OnWorkerEvent(net::LinkId link, net::WorkerEvent event) override;
  void OnWorkerGone(net::LinkId link, const absl::Status& why) override;
  void OnResult(stage::StepResult result) override;

  void OnPlanned(DeploymentId deployment, uint64_t job, absl::StatusOr<sharding::Plan> made);

  absl::StatusOr<SequenceSpec> MakeSpec(const GenerateRequest& request, TokenSink* sink) const;
  // Checks the queue and readiness, and reserves a place in the queue.
  absl::Status Reserve(size_t prompt_tokens);
  // Returns false while the runner stops: the event will not be handled.
  bool Push(Event event);
  void Loop();
  // Runs `f` on the machine and carries out the actions that it gives.
  template <typename F>
  void WithMachine(const F& f);
  // Sends what goes to the network first, then tells the answers; each in order.
  void Obey(std::vector<PoolAction::Any> actions);
  void ObeyNetwork(PoolAction::Any action);
  void OpenPort(const PoolAction::OpenPort& open);
  void OnPortClosed(DeploymentId deployment, Epoch epoch, const absl::Status& why);
  // Gives up on first stages that do not open their port.
  void WatchPorts(TimeNs now);
  void SendFrame(DeploymentId deployment, stage::StepFrame frame);
  void Admit(NewRequest request, TimeNs now);
  void OnToken(const SequenceUpdate& update);
  // Closes the books on an answer and returns it; null when it is not open.
  std::unique_ptr<Answer> End(SeqId id, const std::string& reason);
  void EndWithError(SeqId id, const absl::Status& status);
  void EndAll();
  bool ended_ = false;  // EndAll was called
  // Asks the next machine while a diagnosis runs.
  void GoOnDiagnosing(TimeNs now);

  const PoolRunnerOptions options_;
  const std::shared_ptr<const ServedModel> model_;
  const StateDirectory state_;
  GgufPartProvider parts_;
  mutable PoolMetrics metrics_;

  std::atomic<TimeNs> turned_{0};
  std::atomic<bool> admitting_{true};

  mutable Mutex mu_;  // never held while a sink, a stream or the server is called
  PoolMachine machine_ ABSL_GUARDED_BY(mu_);
  std::map<SeqId, std::string> request_ids_ ABSL_GUARDED_BY(mu_);
  uint64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  // Requests that are between Start and the pool's thread.
  uint32_t reserved_ ABSL_GUARDED_BY(mu_) = 0;

  Mutex queue_mu_;
  CondVar queue_cv_;
  std::vector<Event> queue_ ABSL_GUARDED_BY(queue_mu_);
  bool stopping_ ABSL_GUARDED_BY(queue_mu_) = false;

  // Touched by the pool's thread only.
  std::unordered_map<SeqId, Open> open_;
  struct Port {
    std::unique_ptr<net::RemoteStage> stage;
    Epoch epoch;
    TimeNs opened = 0;
  };
  std::map<DeploymentId, Port> ports_;                             // to the first stages
  std::multimap<std::string, std::promise<absl::Status>> drains_;  // by worker
  Diagnoser diagnoser_;
  LoopLag lag_;

  std::unique_ptr<net::CoordinatorServer> server_;
  std::unique_ptr<PlanThread> planner_;
  std::thread thread_;
};

}  // namespace lanyard::coordinator
