#include "coordinator/pool_runner.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/field_error.h"
#include "base/log.h"
#include "coordinator/serve/request_check.h"
#include "identity/credential.h"

namespace lanyard::coordinator {
namespace {

constexpr TimeNs kTick = 50 * kMillisecond;
constexpr TimeNs kPortPatience = 3 * kSecond;
constexpr uint32_t kDefaultContext = 4096;

absl::Status Stopping() {
  return Unavailable("the coordinator is stopping; ask again when it is back");
}

int64_t UnixMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

PoolOptions MakeOptions(const PoolRunnerOptions& options, const ServedModel& model,
                        Epoch last_epoch) {
  PoolOptions pool;
  DeploymentOptions& deployment = pool.deployment;
  deployment.scheduler = options.scheduler;
  deployment.scheduler.eos_ids = model.eos_ids;
  RolloutOptions& rollout = deployment.rollout;
  rollout.manifest = model.manifest;
  const model::ModelShape& shape = model.manifest->shape;
  rollout.numerics = options.numerics.For(shape.float_weights);
  rollout.context = options.context > 0 ? std::min(options.context, shape.context_length)
                                        : std::min(kDefaultContext, shape.context_length);
  rollout.users = options.users;
  rollout.max_rows = deployment.scheduler.frame_rows;
  rollout.expect_workers = options.expect_workers;
  rollout.last_epoch = last_epoch;
  pool.drained = {options.drained.begin(), options.drained.end()};
  if (options.security.credential != nullptr)
    rollout.coordinator_node = options.security.credential->Get()->self.node;
  return pool;
}

}  // namespace

PoolRunner::PoolRunner(PoolRunnerOptions options, std::shared_ptr<const ServedModel> model,
                       PoolOptions pool, StateDirectory state)
    : options_(std::move(options)),
      model_(std::move(model)),
      state_(std::move(state)),
      parts_(model_->file, model_->manifest),
      metrics_(model_->id),
      machine_(std::move(pool)) {}

absl::StatusOr<std::unique_ptr<PoolRunner>> PoolRunner::Start(
    PoolRunnerOptions options, std::shared_ptr<const ServedModel> model) {
  if (options.context > 0) RETURN_IF_ERROR(model->CheckContext(options.context));
  ASSIGN_OR_RETURN(StateDirectory state, StateDirectory::Open(options.state_directory));
  ASSIGN_OR_RETURN(const Epoch last_epoch, state.LastEpoch());
  PoolOptions pool = MakeOptions(options, *model, last_epoch);
  auto runner = std::unique_ptr<PoolRunner>(
      new PoolRunner(std::move(options), std::move(model), std::move(pool), std::move(state)));
  runner->planner_ = std::make_unique<PlanThread>(
      runner->options_.make_plan, [r = runner.get()](DeploymentId deployment, uint64_t job,
                                                     absl::StatusOr<sharding::Plan> made) {
        r->OnPlanned(deployment, job, std::move(made));
      });
  // Events may come at once; they wait in the queue.
  ASSIGN_OR_RETURN(runner->server_,
                   runner->options_.serve({runner->options_.listen, runner->options_.security,
                                           runner->options_.limits, runner->options_.join},
                                          runner.get(), &runner->parts_));
  runner->thread_ = std::thread([r = runner.get()] { r->Loop(); });
  return runner;
}

PoolRunner::~PoolRunner() {
  {
    MutexLock lock(&queue_mu_);
    stopping_ = true;
    queue_cv_.NotifyOne();
  }
  if (thread_.joinable()) thread_.join();
  planner_.reset();
  ports_.clear();
  server_.reset();
}

void PoolRunner::CutOff(const std::string& node, const std::vector<std::string>& all_revoked) {
  server_->CutOff(node, all_revoked);
}

absl::Status PoolRunner::SetDrained(const std::string& worker, bool drained) {
  auto answer = std::make_shared<std::promise<absl::Status>>();
  std::future<absl::Status> said = answer->get_future();
  const bool heard = Push([this, worker, drained, answer](TimeNs now) {
    if (ended_) return answer->set_value(Stopping());
    if (drained) {
      drains_.emplace(worker, std::move(*answer));
      WithMachine([&](PoolMachine& m) { m.Drain(worker, now); });
      return;
    }
    WithMachine([&](PoolMachine& m) { m.Undrain(worker, now); });
    answer->set_value(absl::OkStatus());
  });
  if (!heard) return Stopping();
  return said.get();
}

void PoolRunner::OnPlanned(DeploymentId deployment, uint64_t job,
                           absl::StatusOr<sharding::Plan> made) {
  Push([this, deployment, job, made = std::move(made)](TimeNs now) {
    WithMachine([&](PoolMachine& m) { m.OnPlanned(deployment, job, made, now); });
  });
}

void PoolRunner::OnWorkerEvent(net::LinkId link, net::WorkerEvent event) {
  Push([this, link, event = std::move(event)](TimeNs now) {
    WithMachine([&](PoolMachine& m) { m.OnWorkerEvent(link, event, now); });
    if (const auto* diagnosis = std::get_if<net::Diagnosis>(&event)) {
      diagnoser_.OnDiagnosis(link, *diagnosis, UnixMs());
      GoOnDiagnosing(now);
    }
  });
}

void PoolRunner::OnWorkerGone(net::LinkId link, const absl::Status& why) {
  Push([this, link, why](TimeNs now) {
    WithMachine([&](PoolMachine& m) { m.OnWorkerGone(link, why, now); });
    diagnoser_.OnGone(link);
  });
}

void PoolRunner::OnResult(stage::StepResult result) {
  Push([this, result = std::move(result)](TimeNs now) mutable {
    // The next step is sent before the texts of this one are made (see Obey), so that the stages
    // need not wait for them.
    WithMachine([&](PoolMachine& m) {
      m.OnResult(std::move(result), now);
      m.Pump(now);
    });
  });
}

bool PoolRunner::Push(Event event) {
  {
    MutexLock lock(&queue_mu_);
    if (stopping_) return false;
    queue_.push_back(std::move(event));
  }
  queue_cv_.NotifyOne();  // not under the lock, which the loop would wait for at once
  return true;
}

template <typename F>
void PoolRunner::WithMachine(const F& f) {
  std::vector<PoolAction::Any> actions;
  {
    MutexLock lock(&mu_);
    f(machine_);
    actions = machine_.TakeActions();
  }
  Obey(std::move(actions));
}

void PoolRunner::Loop() {
  TimeNs next_tick = MonotonicNow();
  while (true) {
    std::vector<Event> events;
    bool stopping = false;
    turned_.store(MonotonicNow(), std::memory_order_relaxed);
    {
      MutexLock lock(&queue_mu_);
      while (queue_.empty() && !stopping_) {
        const TimeNs wait = next_tick - MonotonicNow();
        if (wait <= 0 || !queue_cv_.WaitFor(&queue_mu_, std::chrono::nanoseconds(wait))) break;
      }
      events.swap(queue_);
      stopping = stopping_;
    }
    const TimeNs began = MonotonicNow();
    for (Event& event : events) event(MonotonicNow());
    // Only now, when the last requests have come in, so that they are answered too.
    if (stopping) break;
    // Every message that has arrived is read before silence is judged.
    if (const TimeNs now = MonotonicNow(); now >= next_tick) {
      next_tick = now + kTick;
      WithMachine([now](PoolMachine& m) { m.OnTick(now); });
      WatchPorts(now);
      GoOnDiagnosing(now);
    }
    WithMachine([](PoolMachine& m) { m.Pump(MonotonicNow()); });
    const TimeNs ended = MonotonicNow();
    metrics_.OnTurn(ended - began);
    if (const auto line = lag_.OnTurn(began, ended)) LogWarning(*line);
  }
  EndAll();
}

void PoolRunner::Diagnose(const std::string& node,
                          std::function<void(absl::StatusOr<PoolDiagnosis>)> done) {
  const bool heard = Push([this, node, done](TimeNs now) {
    if (ended_) return done(Stopping());
    std::map<std::string, Member> members;
    {
      MutexLock lock(&mu_);
      members = machine_.membership().members();
    }
    diagnoser_.Start(members, node, done, now);
    GoOnDiagnosing(now);
  });
  if (!heard) done(Stopping());
}

void PoolRunner::GoOnDiagnosing(TimeNs now) {
  if (!diagnoser_.busy()) return;
  if (const auto ask = diagnoser_.Next(now, UnixMs())) server_->Diagnose(ask->link, ask->request);
  diagnoser_.OnTick(now, UnixMs());
}

void PoolRunner::EndAnswers() {
  StopAdmitting();
  auto done = std::make_shared<std::promise<void>>();
  std::future<void> told = done->get_future();
  const bool heard = Push([this, done](TimeNs) {
    std::vector<SeqId> ids;
    for (const auto& [id, open] : open_) ids.push_back(id);
    EndAll();
    done->set_value();
    // The workers need not go on with what nobody gets.
    WithMachine([&ids](PoolMachine& m) {
      for (const SeqId id : ids) m.Cancel(id);
    });
  });
  if (heard) told.wait();
}

void PoolRunner::EndAll() {
  ended_ = true;
  diagnoser_.Abort(Stopping());
  for (auto& [id, open] : open_) open.answer->OnError(Stopping());
  open_.clear();
  for (auto& [worker, answer] : drains_) answer.set_value(Stopping());
  drains_.clear();
}

void PoolRunner::Obey(std::vector<PoolAction::Any> actions) {
  const auto texts =
      std::stable_partition(actions.begin(), actions.end(), [](const PoolAction::Any& action) {
        return !std::holds_alternative<PoolAction::Token>(action) &&
               !std::holds_alternative<PoolAction::Fail>(action);
      });
  for (auto it = actions.begin(); it != texts; ++it) ObeyNetwork(std::move(*it));
  for (auto it = texts; it != actions.end(); ++it) {
    if (auto* token = std::get_if<PoolAction::Token>(&*it)) {
      OnToken(token->update);
    } else if (auto* fail = std::get_if<PoolAction::Fail>(&*it)) {
      EndWithError(fail->id, fail->status);
    }
  }
}

void PoolRunner::ObeyNetwork(PoolAction::Any action) {
  if (auto* send = std::get_if<PoolAction::Send>(&action)) {
    SendFrame(send->deployment, std::move(send->frame));
  } else if (auto* welcome = std::get_if<PoolAction::Welcome>(&action)) {
    server_->Welcome(welcome->link);
  } else if (auto* refuse = std::get_if<PoolAction::Refuse>(&action)) {
    server_->Refuse(refuse->link, refuse->why);
  } else if (auto* close = std::get_if<PoolAction::CloseLink>(&action)) {
    server_->Close(close->link);
  } else if (auto* use = std::get_if<PoolAction::UseEpoch>(&action)) {
    const absl::Status saved = state_.SaveEpoch(use->epoch);
    if (!saved.ok()) LogError("epoch ", use->epoch.value, " is not kept: ", saved.message());
  } else if (auto* assign = std::get_if<PoolAction::Assign>(&action)) {
    server_->Assign(assign->link, std::move(assign->assignment));
  } else if (auto* release = std::get_if<PoolAction::Release>(&action)) {
    server_->Release(release->link, release->plan);
  } else if (auto* open = std::get_if<PoolAction::OpenPort>(&action)) {
    OpenPort(*open);
  } else if (auto* closed = std::get_if<PoolAction::ClosePort>(&action)) {
    ports_.erase(closed->deployment);
  } else if (auto* plan = std::get_if<PoolAction::MakePlan>(&action)) {
    planner_->Post(plan->deployment, std::move(plan->job));
  } else if (auto* drained = std::get_if<PoolAction::DrainAnswer>(&action)) {
    for (auto it = drains_.find(drained->worker); it != drains_.end();
         it = drains_.find(drained->worker)) {
      it->second.set_value(drained->status);
      drains_.erase(it);
    }
  } else if (auto* log = std::get_if<PoolAction::Log>(&action)) {
    WriteLog(log->warning ? LogLevel::kWarning : LogLevel::kInfo, log->text);
  }
}

void PoolRunner::OpenPort(const PoolAction::OpenPort& open) {
  net::RemoteStageOptions options;
  options.address = open.address;
  options.from = "coordinator";
  options.plan = open.plan;
  options.epoch = open.epoch;
  options.stage = 0;
  options.credential = options_.security.credential;
  options.node = open.node;
  options.on_closed = [this, deployment = open.deployment, epoch = open.epoch](
                          const absl::Status& why) { OnPortClosed(deployment, epoch, why); };
  Port& port = ports_[open.deployment];
  port.stage = options_.connect(options);
  port.epoch = open.epoch;
  port.opened = MonotonicNow();
}

void PoolRunner::OnPortClosed(DeploymentId deployment, Epoch epoch, const absl::Status& why) {
  Push([this, deployment, epoch, why](TimeNs now) {
    WithMachine([&](PoolMachine& m) { m.OnPortClosed(deployment, epoch, why, now); });
  });
}

void PoolRunner::WatchPorts(TimeNs now) {
  for (auto& [deployment, port] : ports_) {
    if (port.opened == 0 || now - port.opened < kPortPatience) continue;
    const absl::Status ready = port.stage->WaitReady(0);
    port.opened = 0;
    if (!ready.ok()) OnPortClosed(deployment, port.epoch, ready);
  }
}

void PoolRunner::SendFrame(DeploymentId deployment, stage::StepFrame frame) {
  const auto port = ports_.find(deployment);
  if (port == ports_.end() || frame.epoch != port->second.epoch) return;
  const absl::Status sent = port->second.stage->Send(std::move(frame));
  if (!sent.ok()) OnPortClosed(deployment, port->second.epoch, sent);
}

absl::Status PoolRunner::Reserve(size_t prompt_tokens) {
  MutexLock lock(&mu_);
  if (!machine_.admits()) return machine_.NotServing(MonotonicNow());
  RETURN_IF_ERROR(CheckPromptFits(prompt_tokens, machine_.context()));
  const Scheduler& scheduler = machine_.scheduler();
  RETURN_IF_ERROR(CheckQueueHasRoom(scheduler.n_waiting() + reserved_, scheduler.max_waiting(),
                                    scheduler.room_in(MonotonicNow())));
  ++reserved_;
  return absl::OkStatus();
}

absl::StatusOr<SequenceSpec> PoolRunner::MakeSpec(const GenerateRequest& request,
                                                  TokenSink* sink) const {
  if (!request.model.empty() && request.model != model_->id) {
    return NotFound("the model '", Shortened(request.model),
                    "' does not exist here; this pool serves '", model_->id, "'");
  }
  RETURN_IF_ERROR(CheckRequest(request));
  SequenceSpec spec;
  if (request.timeout != 0) spec.deadline = MonotonicNow() + request.timeout;
  if (!admitting_.load()) return Stopping();
  PromptLimits limits;
  limits.stop = [sink] { return sink->Abandoned(); };
  {
    MutexLock lock(&mu_);
    if (!machine_.admits()) return machine_.NotServing(MonotonicNow());
    limits.context = machine_.context();
  }
  ASSIGN_OR_RETURN(spec.prompt, model_->Encode(request, limits));
  if (spec.prompt.empty())
    return BadField("prompt", "the prompt is empty; it must hold a token at least",
                    "invalid_value");
  spec.caller = request.caller;
  spec.max_tokens = request.max_tokens.value_or(UINT32_MAX);
  spec.sample = request.sample;
  spec.top = request.logprobs ? request.top_logprobs : 0;
  spec.ignore_eos = request.ignore_eos;
  return spec;
}

absl::StatusOr<SeqId> PoolRunner::Start(const GenerateRequest& request,
                                        std::shared_ptr<TokenSink> sink) {
  absl::StatusOr<SequenceSpec> made = MakeSpec(request, sink.get());
  absl::Status status = made.ok() ? Reserve(made->prompt.size()) : made.status();
  if (!status.ok()) {
    // web/errors says "messages" of a prompt that is too long, unless it hears of another field.
    if (absl::IsOutOfRange(status) &&
        !std::holds_alternative<std::vector<ChatMessage>>(request.prompt))
      status.SetPayload(kFieldParamKey, absl::Cord("prompt"));
    return status;
  }
  SequenceSpec& spec = *made;
  {
    MutexLock lock(&mu_);
    spec.id = SeqId(next_id_++);
    request_ids_[spec.id] = request.request_id;
  }
  const SeqId id = spec.id;
  auto fresh = std::make_shared<NewRequest>();
  fresh->answer = std::make_unique<Answer>(
      model_->tokenizer.get(), request, static_cast<uint32_t>(spec.prompt.size()), std::move(sink));
  fresh->spec = std::move(spec);
  if (!Push([this, fresh](TimeNs now) { Admit(std::move(*fresh), now); })) {
    return Stopping();
  }
  return id;
}

void PoolRunner::Admit(NewRequest request, TimeNs now) {
  const SeqId id = request.spec.id;
  open_[id].answer = std::move(request.answer);
  absl::Status status;
  {
    MutexLock lock(&mu_);
    --reserved_;
    status = ended_ ? Stopping() : machine_.Submit(std::move(request.spec), now);
  }
  if (status.ok()) return;
  EndWithError(id, status);  // the pool changed since Start
}

void PoolRunner::Cancel(SeqId id) {
  Push([this, id](TimeNs) {
    WithMachine([id](PoolMachine& m) { m.Cancel(id); });
    End(id, "abort");
  });
}

void PoolRunner::OnToken(const SequenceUpdate& update) {
  const auto it = open_.find(update.out.seq);
  if (it == open_.end()) return;
  Open& open = it->second;
  const TimeNs now = MonotonicNow();
  metrics_.OnToken(update, open.last_token, now);
  open.last_token = now;
  open.times = update.times;
  switch (open.answer->OnToken(update)) {
    case Answer::Next::kGoOn:
      return;
    case Answer::Next::kStopped: {
      MutexLock lock(&mu_);
      machine_.Cancel(update.out.seq);
      break;
    }
    case Answer::Next::kEnded:
      break;
  }
  // The books come first, so that a client that is told the end finds it counted.
  const bool length = open.answer->reason() == FinishReason::kLength;
  if (const auto answer = End(update.out.seq, length ? "length" : "stop")) answer->Finish();
}

std::unique_ptr<Answer> PoolRunner::End(SeqId id, const std::string& reason) {
  const auto it = open_.find(id);
  if (it == open_.end()) return nullptr;
  std::unique_ptr<Answer> answer = std::move(it->second.answer);
  metrics_.OnEnd(reason, answer->usage(), it->second.times, MonotonicNow());
  open_.erase(it);
  MutexLock lock(&mu_);
  request_ids_.erase(id);
  return answer;
}

void PoolRunner::EndWithError(SeqId id, const absl::Status& status) {
  // A deadline that the client named is no error of the pool.
  const char* const reason = absl::IsDeadlineExceeded(status) ? "abort" : "error";
  if (const auto answer = End(id, reason)) answer->OnError(status);
}

PoolStatus PoolRunner::Status() const {
  PoolStatus status;
  {
    MutexLock lock(&mu_);
    status = machine_.Status(MonotonicNow());
    for (RequestStatus& request : status.requests) {
      const auto it = request_ids_.find(SeqId(std::stoull(request.request_id)));
      if (it != request_ids_.end() && !it->second.empty()) request.request_id = it->second;
    }
  }
  status.model = model_->id;
  status.model_digest = model_->manifest->digest;
  status.model_bytes = model_->bytes;
  status.created_unix_s = model_->created_unix_s;
  return status;
}

ModelIdentity PoolRunner::Model() const {
  const stage::NumericsId numerics = options_.numerics.For(model_->manifest->shape.float_weights);
  return {model_->id, model_->manifest->digest, numerics.ToString()};
}

std::string PoolRunner::MetricsText() const {
  PoolTotals totals;
  {
    MutexLock lock(&mu_);
    totals.running = machine_.scheduler().n_running();
    totals.waiting = machine_.scheduler().n_waiting();
    totals.steps_in_flight = machine_.scheduler().steps_in_flight();
    totals.preemptions = machine_.scheduler().preemptions();
    totals.ignored_results = machine_.ignored_results();
  }
  return metrics_.Text(Status(), totals);
}

void PoolRunner::RequestShutdown() {
  if (options_.on_shutdown) options_.on_shutdown();
}

}  // namespace lanyard::coordinator
