#include "tests/sim/world.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "base/version.h"

namespace lanyard::sim {
namespace {

using coordinator::PoolAction;

constexpr TimeNs kStormEnds = 42 * kSecond;  // after it every machine is up and every link is good
constexpr TimeNs kEnd = 140 * kSecond;

}  // namespace

WorldOptions OptionsFor(uint64_t seed) {
  WorldOptions options;
  options.seed = seed;
  options.weather = seed % 5 == 0   ? Weather::kCalm
                    : seed % 5 == 1 ? Weather::kTinyKv
                                    : Weather::kStormy;
  return options;
}

World::World(const WorldOptions& options)
    : options_(options), rng_(Mix(options.seed, 77)), drain_rng_(Mix(options.seed, 78)) {}

void World::Violation(const std::string& text) {
  if (report_.violations.size() < 5) {
    report_.violations.push_back(
        absl::StrCat("at ", static_cast<double>(now_) / kSecond, " s: ", text));
  }
}

void World::At(TimeNs time, std::function<void()> what) {
  events_.push({std::max(time, now_), next_event_++, std::move(what)});
}

void World::Setup() {
  model_.n_layers = 2 + static_cast<uint32_t>(Random(5));
  model_.windows = {0};
  if (Random(2) == 0) model_.windows.push_back(1 + static_cast<uint32_t>(Random(90)));
  for (uint32_t i = 0; i < model_.n_layers; ++i) {
    model_.group_of_layer.push_back(static_cast<uint32_t>(Random(model_.windows.size())));
  }
  context_ = 64 + static_cast<uint32_t>(Random(200));
  const bool tiny = options_.weather == Weather::kTinyKv || Random(3) == 0;
  for (const uint32_t window : model_.windows) {
    const uint32_t one = (window == 0 ? context_ + 31 : std::min(window + 62, context_ + 31)) / 32;
    const uint32_t spare = static_cast<uint32_t>(Random(tiny ? 4 : 40));
    group_blocks_.push_back(one + spare);
  }

  auto manifest = std::make_shared<model::Manifest>();
  manifest->shape.n_layers = model_.n_layers;
  manifest->shape.n_vocab = model_.n_vocab;
  manifest->shape.d_model = kHashColumns;
  for (const uint32_t window : model_.windows) {
    model::StateGroup group;
    group.kind = window == 0 ? model::StateKind::kFull : model::StateKind::kSliding;
    group.window = window;
    manifest->shape.groups.push_back(group);
  }
  for (uint32_t i = 0; i < model_.n_layers; ++i) {
    model::Part& part = manifest->parts.emplace_back();
    part.name = absl::StrCat("layer.", i);
    part.tensors.emplace_back().dims = {kLayerBytes / sizeof(float)};
  }
  const size_t n_nodes = 1 + Random(4);
  nodes_.resize(n_nodes);
  min_nodes_ = 1 + Random(std::min<size_t>(n_nodes, model_.n_layers));
  // Enough for any stage, and for two of them perhaps.
  const uint64_t layers = (model_.n_layers + min_nodes_ - 1) / min_nodes_;
  const uint64_t largest = layers * kLayerBytes + kKvBytes;
  memory_bytes_ = kBaseBytes + largest + drain_rng_() % (largest + 1);
  if (drain_rng_() % 8 == 0) old_nodes_ = drain_rng_() % (n_nodes + 1);

  coordinator::PoolOptions pool;
  pool.deployment.scheduler.eos_ids = {model_.eos};
  pool.deployment.scheduler.max_running = 1 + static_cast<uint32_t>(Random(12));
  pool.deployment.scheduler.max_waiting = 1 + static_cast<uint32_t>(Random(30));
  if (options_.weather == Weather::kTinyKv) {
    pool.deployment.scheduler.max_running += 2;
    pool.deployment.scheduler.max_waiting += 30;
  }
  pool.deployment.scheduler.frame_rows = 1 + static_cast<uint32_t>(Random(40));
  pool.deployment.scheduler.prefill_rows = 1 + static_cast<uint32_t>(Random(120));
  pool.deployment.scheduler.mixed_rows = 1 + static_cast<uint32_t>(Random(100));
  if (drain_rng_() % 2 == 0)
    pool.deployment.scheduler.bytes_in_flight = (1 + drain_rng_() % 200) * kHashColumns * 4;
  pool.deployment.pipeline.step_timeout = 10 * kSecond;
  pool.deployment.pipeline.first_timeout = 10 * kSecond;
  pool.deployment.pipeline.gap_timeout = kSecond;
  pool.deployment.rollout.manifest = manifest;
  pool.deployment.rollout.context = context_;
  pool.deployment.rollout.numerics.wire = stage::WireType::kF32;
  pool.deployment.rollout.max_rows = pool.deployment.scheduler.frame_rows;
  expects_all_ = Random(2) == 0;
  pool.deployment.rollout.expect_workers = expects_all_ ? static_cast<uint32_t>(n_nodes) : 0;
  pool.deployment.rollout.return_wait = 3 * kSecond;
  pool.deployment.rollout.improve_every = Ms(0, 20000);
  pool.deployment.quiet_after = Ms(0, 3000);
  pool.deployment.last_steps_patience = static_cast<TimeNs>(drain_rng_() % 500) * kMillisecond;
  if (drain_rng_() % 2 == 0) pool.deployment.last_steps_patience = 0;
  drain_patience_ = static_cast<TimeNs>(drain_rng_() % 4000) * kMillisecond;
  pool.deployment.drain_patience = drain_patience_;
  pool_ = std::make_unique<coordinator::PoolMachine>(std::move(pool));
}

absl::StatusOr<sharding::Plan> World::MakePlan(const sharding::PlanRequest& request) const {
  sharding::Plan plan;
  const size_t n = std::min<size_t>(request.machines.size(), model_.n_layers);
  if (n < min_nodes_) {
    plan.why.push_back("too few machines");
    return plan;
  }
  plan.fits = true;
  plan.context = context_;
  plan.group_blocks = group_blocks_;
  plan.token_ms = 100.0 / static_cast<double>(n);  // so that each machine more is worth it
  for (size_t i = 0; i < n; ++i) {
    sharding::PlannedStage& stage = plan.stages.emplace_back();
    stage.machine = request.machines[i].name;
    stage.layers = {static_cast<uint32_t>(model_.n_layers * i / n),
                    static_cast<uint32_t>(model_.n_layers * (i + 1) / n)};
    stage.embeds = i == 0;
    stage.samples = i + 1 == n;
    stage.weights_bytes = stage.layers.size() * kLayerBytes;
    stage.kv_bytes = kKvBytes;
  }
  return plan;
}

void World::PlanWeather() {
  for (size_t i = 0; i < nodes_.size(); ++i) {
    nodes_[i].slowness = (Storms() ? Random(4) : drain_rng_() % 4) == 0 ? 20 : 1;
    TimeNs when = Ms(0, 800) + now_;
    // A late one finds a pool that serves, and must not disturb it.
    if (!expects_all_ && i >= min_nodes_ && drain_rng_() % 2 == 0)
      when += static_cast<TimeNs>(4000 + drain_rng_() % 20000) * kMillisecond;
    At(when, [this, i] { StartNode(i); });
  }
  if (!Storms()) return;
  const double rate = Random(3) == 0 ? 0 : 0.002 * static_cast<double>(Random(10));
  faults_ = {rate * Random(2), rate * Random(2), rate * Random(2), rate * Random(2)};
  PlanFaults();
  At(kStormEnds, [this] {
    faults_ = {};
    for (size_t i = 0; i < nodes_.size(); ++i) {
      nodes_[i].slowness = 1;
      StartNode(i);
    }
  });
}

// Half of the lives drain workers, also in the middle of everything else; at last nobody is
// drained.
void World::PlanDrains() {
  const auto random = [this](uint64_t below) { return drain_rng_() % below; };
  if (random(2) == 0) return;
  const uint64_t n = 1 + random(4);
  for (uint64_t e = 0; e < n; ++e) {
    const size_t i = random(nodes_.size());
    const TimeNs when =
        2 * kSecond +
        static_cast<TimeNs>(random(2) == 0 ? random(4000) : random(30000)) * kMillisecond;
    At(when, [this, i] { Drain(i); });
    if (random(3) > 0) {
      At(when + static_cast<TimeNs>(random(8000)) * kMillisecond,
         [this, name = absl::StrCat("w", i)] {
           drained_.erase(name);
           pool_->Undrain(name, now_);
           Pump();
         });
    }
  }
  At(kStormEnds, [this] {
    for (const std::string& name : drained_) pool_->Undrain(name, now_);
    drained_.clear();
    Pump();
  });
}

void World::PlanClients() {
  const uint64_t n = 4 + Random(20);
  for (uint64_t id = 1; id <= n; ++id) {
    const bool crowd = options_.weather == Weather::kTinyKv;
    const TimeNs when = 4 * kSecond + Ms(0, crowd ? 100 : Random(2) == 0 ? 2000 : 30000);
    At(when, [this, id] { Submit(id); });
    if (Random(6) == 0) {
      At(when + Ms(0, 3000), [this, id] {
        const auto it = requests_.find(SeqId(id));
        if (it == requests_.end() || it->second.ended) return;
        it->second.ended = it->second.cancelled = true;
        ++report_.cancelled;
        pool_->Cancel(SeqId(id));
        Pump();
      });
    }
  }
  // Whatever happened: at last the pool serves again.
  At(100 * kSecond, [this] {
    Submit(1000);
    const auto it = requests_.find(SeqId(1000));
    if (it == requests_.end()) {
      Violation(absl::StrCat("the pool does not serve after the storm: ", pool_->rollout().why()));
    }
  });
}

// Most prompts begin like others: like a shared text, with one token changed perhaps, or like an
// earlier conversation with its answer.
std::vector<int32_t> World::MakePrompt(uint32_t n) {
  std::vector<int32_t> prompt;
  if (texts_.empty() || Random(4) == 0) {
    std::vector<int32_t>& text = texts_.emplace_back();
    for (uint32_t i = 0; i < context_; ++i) {
      text.push_back(static_cast<int32_t>(Random(model_.n_vocab)));
    }
  }
  const uint64_t kind = Random(4);
  if (kind > 0) prompt = texts_[Random(texts_.size())];
  if (kind == 3 && !requests_.empty()) {
    const Request& earlier = std::next(requests_.begin(), Random(requests_.size()))->second;
    prompt = earlier.spec.prompt;
    prompt.insert(prompt.end(), earlier.expected.begin(), earlier.expected.end());
  }
  if (kind == 2) prompt[Random(n)] = static_cast<int32_t>(Random(model_.n_vocab));
  prompt.resize(std::min<size_t>(prompt.size(), kind == 3 ? context_ : n));
  if (kind == 1 && n > 8) prompt.resize(n - Random(8));
  while (prompt.size() < n) prompt.push_back(static_cast<int32_t>(Random(model_.n_vocab)));
  return prompt;
}

World::Request World::MakeRequest(uint64_t id) {
  Request request;
  request.spec.id = SeqId(id);
  request.spec.caller = absl::StrCat("key", id % 3);
  // Short prompts that grow long are what a pool with hardly any KV has to preempt.
  const bool grows = options_.weather == Weather::kTinyKv;
  const bool long_prompt = !grows && Random(3) == 0;
  const uint32_t n_prompt = 1 + static_cast<uint32_t>(Random(long_prompt ? context_ : 40));
  request.spec.prompt = MakePrompt(n_prompt);
  request.spec.max_tokens = 1 + static_cast<uint32_t>(Random(grows ? context_ : 60));
  request.spec.sample.seed = rng_();
  request.spec.ignore_eos = grows || Random(2) == 0;
  request.submitted = now_;
  if (drain_rng_() % 8 == 0)
    request.spec.deadline = now_ + static_cast<TimeNs>(drain_rng_() % 15000) * kMillisecond;
  const uint32_t length = static_cast<uint32_t>(request.spec.prompt.size());
  const uint32_t most = context_ > length ? context_ - length : 0;
  request.expected = model_.Continue(request.spec.prompt, request.spec.sample,
                                     std::min(request.spec.max_tokens, most),
                                     request.spec.ignore_eos, &request.overflows);
  return request;
}

void World::Submit(uint64_t id) {
  Request request = MakeRequest(id);
  const absl::Status status = pool_->Submit(request.spec, now_);
  ++report_.requests;
  if (status.ok()) {
    requests_[SeqId(id)] = std::move(request);
  } else {
    ++report_.refused;
    const bool too_long = request.spec.prompt.size() + 1 > context_;
    if (status.code() == absl::StatusCode::kOutOfRange
            ? !too_long
            : !absl::IsUnavailable(status) && !absl::IsResourceExhausted(status)) {
      Violation(absl::StrCat("Submit said ", status.ToString()));
    }
    if (id == 1000 && too_long) requests_[SeqId(id)].ended = true;
  }
  Pump();
}

void World::OnToken(const coordinator::SequenceUpdate& update) {
  const auto it = requests_.find(update.out.seq);
  if (it == requests_.end()) return Violation("a token of an unknown request");
  Request& request = it->second;
  if (request.cancelled) return;
  if (request.ended) return Violation("a token after the end");
  if (request.seen >= request.expected.size() ||
      request.expected[request.seen] != update.out.token) {
    return Violation(
        absl::StrCat("request ", update.out.seq.value, " token ", request.seen, " is wrong"));
  }
  ++request.seen;
  ++report_.tokens;
  if (request.seen == 1) report_.cached += update.cached_tokens;
  if (update.cached_tokens >= request.spec.prompt.size()) Violation("all of a prompt was known");
  if (update.completion_tokens != request.seen) Violation("the count of tokens is wrong");
  if (!update.end) return;
  request.ended = true;
  ++report_.finished;
  const bool eos = update.out.token == model_.eos && !request.spec.ignore_eos;
  if (request.seen != request.expected.size() || request.overflows ||
      eos != (*update.end == coordinator::SequenceEnd::kEos)) {
    Violation(absl::StrCat("request ", update.out.seq.value, " ended at the wrong token"));
  }
}

void World::OnFail(const PoolAction::Fail& fail) {
  const auto it = requests_.find(fail.id);
  if (it == requests_.end()) return Violation("an error for an unknown request");
  Request& request = it->second;
  if (request.cancelled) return;
  if (request.ended) return Violation("an error after the end");
  request.ended = true;
  ++report_.failed;
  if (request.overflows && request.seen == request.expected.size() &&
      absl::StrContains(fail.status.message(), "is not finite")) {
    ++report_.overflowed;
  } else if (absl::IsDeadlineExceeded(fail.status)) {
    ++report_.overdue;
    if (request.spec.deadline == 0 || now_ < request.spec.deadline)
      Violation("a request ended before its deadline");
  } else if (!Storms()) {
    Violation(absl::StrCat("an error without a fault: ", fail.status.ToString()));
  } else if (absl::StrContains(fail.status.message(), "was lost") &&
             !absl::StrContains(fail.status.message(), "the pool is not ready") &&
             !absl::StrContains(fail.status.message(), "the pipeline stopped 4 times")) {
    Violation(absl::StrCat("a loss ended a request: ", fail.status.ToString()));
  } else if (!absl::IsUnavailable(fail.status)) {
    Violation(absl::StrCat("an error of the wrong type: ", fail.status.ToString()));
  }
}

void World::Pump() {
  for (int round = 0; round < 3; ++round) {
    for (PoolAction::Any& action : pool_->TakeActions()) Obey(std::move(action));
    pool_->Pump(now_);
  }
}

void World::Obey(PoolAction::Any action) {
  if (auto* a = std::get_if<PoolAction::Assign>(&action)) {
    OnAssign(*a);
  } else if (auto* a = std::get_if<PoolAction::Release>(&action)) {
    ToWorker(a->link, [plan = a->plan](worker::SessionId s) {
      return worker::MachineEvent::Released{s, plan};
    });
  } else if (auto* a = std::get_if<PoolAction::Welcome>(&action)) {
    ToWorker(a->link, [](worker::SessionId s) { return worker::MachineEvent::Welcomed{s}; });
  } else if (auto* a = std::get_if<PoolAction::CloseLink>(&action)) {
    if (!Storms()) Violation("a link was closed without a fault");
    CloseLink(a->link, absl::CancelledError("closed by the coordinator"));
  } else if (auto* a = std::get_if<PoolAction::Refuse>(&action)) {
    ToWorker(a->link, [why = a->why](worker::SessionId s) {
      return worker::MachineEvent::Refused{s, why, false};
    });
    CloseLink(a->link, a->why);
  } else if (auto* a = std::get_if<PoolAction::OpenPort>(&action)) {
    OpenPort(*a);
  } else if (std::get_if<PoolAction::ClosePort>(&action)) {
    if (port_ != nullptr) port_->left = true;
    port_.reset();
    CheckStop();
  } else if (auto* a = std::get_if<PoolAction::Send>(&action)) {
    SendToPort(std::move(a->frame));
  } else if (auto* a = std::get_if<PoolAction::Token>(&action)) {
    OnToken(a->update);
  } else if (auto* a = std::get_if<PoolAction::Fail>(&action)) {
    OnFail(*a);
  } else if (std::get_if<PoolAction::UseEpoch>(&action)) {
    ++report_.epochs;
  } else if (auto* a = std::get_if<PoolAction::MakePlan>(&action)) {
    // Made on another thread, while the world goes on.
    After(drain_rng_() % 3 == 0 ? 0 : static_cast<TimeNs>(drain_rng_() % 900) * kMillisecond,
          [this, deployment = a->deployment, job = a->job] {
            pool_->OnPlanned(deployment, job.id, MakePlan(job.request), now_);
            Pump();
          });
  } else if (auto* a = std::get_if<PoolAction::DrainAnswer>(&action)) {
    OnDrained(*a);
  }
}

// Without faults and drains a pool stops serving only where no request notices.
void World::CheckStop() {
  if (Storms() || !drained_since_.empty() || pool_->serving()) return;
  if (!pool_->scheduler().idle())
    Violation(absl::StrCat("it stopped serving: ", pool_->rollout().why()));
}

void World::CheckDeadlines() {
  for (const auto& [id, request] : requests_) {
    const TimeNs deadline = request.spec.deadline;
    if (!request.ended && deadline != 0 && now_ > deadline)
      Violation(absl::StrCat("request ", id.value, " outlived its deadline"));
  }
}

void World::CheckRest() {
  for (const auto& [id, request] : requests_) {
    if (!request.ended) Violation(absl::StrCat("request ", id.value, " never ended"));
  }
  const auto& scheduler = pool_->scheduler();
  if (!scheduler.idle()) Violation("the scheduler is not at rest");
  if (pool_->pipeline().frames_in_flight() != 0) Violation("frames are in flight for nobody");
  if (scheduler.kv_blocks_used() != 0) {
    Violation(absl::StrCat(scheduler.kv_blocks_used(), " KV blocks were never freed"));
  }
  CheckWorkersAtRest();
}

Report World::Run() {
  Setup();
  PlanWeather();
  PlanClients();
  PlanDrains();
  for (TimeNs t = now_; t < kEnd; t += 100 * kMillisecond) {
    At(t, [this] {
      pool_->OnTick(now_);
      Pump();
      CheckDeadlines();
    });
    At(t, [this] { SendBeats(); });
  }
  while (!events_.empty() && report_.violations.empty()) {
    Event event = events_.top();
    events_.pop();
    if (event.time > kEnd) break;
    now_ = event.time;
    event.what();
  }
  if (report_.violations.empty()) CheckRest();
  report_.preemptions = pool_->scheduler().preemptions();
  report_.improvements = pool_->rollout().improvements();
  report_.moves = pool_->rollout().moves();
  report_.ignored_results = pool_->ignored_results();
  return std::move(report_);
}

}  // namespace lanyard::sim
