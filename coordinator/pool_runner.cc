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
constexpr int kPortWaitMs = 1000;
constexpr uint32_t kDefaultContext = 4096;

int64_t UnixMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

PoolOptions MakeOptions(const PoolRunnerOptions& options, const ServedModel& model,
                        Epoch last_epoch) {
  PoolOptions pool;
  pool.scheduler = options.scheduler;
  pool.scheduler.eos_ids = model.eos_ids;
  pool.placement.manifest = model.manifest;
  const model::ModelShape& shape = model.manifest->shape;
  pool.placement.numerics = options.numerics.For(shape.float_weights);
  pool.placement.context = options.context > 0 ? std::min(options.context, shape.context_length)
                                               : std::min(kDefaultContext, shape.context_length);
  pool.placement.users = options.users;
  pool.placement.max_rows = pool.scheduler.frame_rows;
  pool.placement.expect_workers = options.expect_workers;
  pool.placement.last_epoch = last_epoch;
  pool.placement.drained = {options.drained.begin(), options.drained.end()};
  if (options.security.credential != nullptr)
    pool.placement.coordinator_node = options.security.credential->Get()->self.node;
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
  port_.reset();
  server_.reset();
}

void PoolRunner::CutOff(const std::string& node, const std::vector<std::string>& all_revoked) {
  server_->CutOff(node, all_revoked);
}

absl::Status PoolRunner::SetDrained(const std::string& worker, bool drained) {
  MutexLock lock(&mu_);
  if (drained) return machine_.Drain(worker);
  machine_.Undrain(worker, MonotonicNow());
  return absl::OkStatus();
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
    for (Event& event : events) event(MonotonicNow());
    // Only now, when the last requests have come in, so that they are answered too.
    if (stopping) break;
    // Every message that has arrived is read before silence is judged.
    if (const TimeNs now = MonotonicNow(); now >= next_tick) {
      next_tick = now + kTick;
      WithMachine([now](PoolMachine& m) { m.OnTick(now); });
      GoOnDiagnosing(now);
    }
    WithMachine([](PoolMachine& m) { m.Pump(MonotonicNow()); });
  }
  EndAll();
}

void PoolRunner::Diagnose(const std::string& node,
                          std::function<void(absl::StatusOr<PoolDiagnosis>)> done) {
  const bool heard = Push([this, node, done](TimeNs now) {
    std::map<std::string, Member> members;
    {
      MutexLock lock(&mu_);
      members = machine_.membership().members();
    }
    diagnoser_.Start(members, node, done, now);
    GoOnDiagnosing(now);
  });
  if (!heard) done(Unavailable("the coordinator is stopping"));
}

void PoolRunner::GoOnDiagnosing(TimeNs now) {
  if (!diagnoser_.busy()) return;
  if (const auto ask = diagnoser_.Next(now, UnixMs())) server_->Diagnose(ask->link, ask->request);
  diagnoser_.OnTick(now, UnixMs());
}

void PoolRunner::EndAll() {
  diagnoser_.Abort(Unavailable("the coordinator is stopping"));
  for (auto& [id, open] : open_) open.answer->OnError(Unavailable("the coordinator is stopping"));
  open_.clear();
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
    SendFrame(std::move(send->frame));
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
  } else if (std::get_if<PoolAction::ClosePort>(&action)) {
    port_.reset();
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
  options.on_closed = [this, epoch = open.epoch](const absl::Status& why) {
    Push([this, epoch, why](TimeNs now) {
      WithMachine([&](PoolMachine& m) { m.OnPortClosed(epoch, why, now); });
    });
  };
  port_ = options_.connect(options);
  port_epoch_ = open.epoch;
  const absl::Status ready = port_->WaitReady(kPortWaitMs);
  if (!ready.ok()) {
    Push([this, epoch = open.epoch, ready](TimeNs now) {
      WithMachine([&](PoolMachine& m) { m.OnPortClosed(epoch, ready, now); });
    });
  }
}

void PoolRunner::SendFrame(stage::StepFrame frame) {
  if (port_ == nullptr || frame.epoch != port_epoch_) return;
  const absl::Status sent = port_->Send(std::move(frame));
  if (sent.ok()) return;
  Push([this, epoch = port_epoch_, sent](TimeNs now) {
    WithMachine([&](PoolMachine& m) { m.OnPortClosed(epoch, sent, now); });
  });
}

absl::Status PoolRunner::Reserve(size_t prompt_tokens) {
  MutexLock lock(&mu_);
  if (!machine_.admits()) return machine_.NotServing();
  RETURN_IF_ERROR(CheckPromptFits(prompt_tokens, machine_.context()));
  const Scheduler& scheduler = machine_.scheduler();
  RETURN_IF_ERROR(CheckQueueHasRoom(scheduler.n_waiting() + reserved_, scheduler.max_waiting()));
  ++reserved_;
  return absl::OkStatus();
}

absl::StatusOr<SequenceSpec> PoolRunner::MakeSpec(const GenerateRequest& request) const {
  if (!request.model.empty() && request.model != model_->id) {
    return NotFound("the model '", Shortened(request.model), "' does not exist here; this pool serves '",
                    model_->id, "'");
  }
  RETURN_IF_ERROR(CheckRequest(request));
  if (!admitting_.load())
    return Unavailable("the coordinator is stopping; ask again when it is back");
  {
    MutexLock lock(&mu_);
    if (!machine_.admits()) return machine_.NotServing();
  }
  SequenceSpec spec;
  ASSIGN_OR_RETURN(spec.prompt, model_->Encode(request));
  if (spec.prompt.empty())
    return BadField("prompt", "the prompt is empty; it must hold a token at least",
                    "invalid_value");
  spec.max_tokens = request.max_tokens.value_or(UINT32_MAX);
  spec.sample = request.sample;
  spec.top = request.logprobs ? request.top_logprobs : 0;
  spec.ignore_eos = request.ignore_eos;
  return spec;
}

absl::StatusOr<SeqId> PoolRunner::Start(const GenerateRequest& request,
                                        std::shared_ptr<TokenSink> sink) {
  ASSIGN_OR_RETURN(SequenceSpec spec, MakeSpec(request));
  RETURN_IF_ERROR(Reserve(spec.prompt.size()));
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
    return Unavailable("the coordinator is stopping");
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
    status = machine_.Submit(std::move(request.spec), now);
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
  if (const auto answer = End(id, "error")) answer->OnError(status);
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
