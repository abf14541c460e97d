#include "worker/loader.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <span>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "engine/room.h"
#include "worker/process.h"

namespace lanyard::worker {
namespace {

// Passes at most ten reports a second on, and always the last one.
class ProgressGate {
 public:
  explicit ProgressGate(std::function<void(uint64_t, uint64_t)> report)
      : report_(std::move(report)) {}
  void operator()(uint64_t done, uint64_t total) {
    const TimeNs now = MonotonicNow();
    if (now - last_ < 100 * kMillisecond && done < total) return;
    last_ = now;
    report_(done, total);
  }

 private:
  const std::function<void(uint64_t, uint64_t)> report_;
  TimeNs last_ = 0;
};

// Ends a stage's construction when it is no longer wanted: its next read fails. Afterwards the
// reads (of embedding rows) go on for as long as the stage lives.
class StoppableSource final : public model::TensorSource {
 public:
  StoppableSource(std::shared_ptr<const model::TensorSource> source, std::stop_token stop)
      : source_(std::move(source)), stop_(std::move(stop)) {}
  void Disarm() { armed_.store(false); }

  const model::TensorInfo* Find(std::string_view name) const override {
    return source_->Find(name);
  }
  absl::Status Read(std::string_view name, uint64_t offset, std::span<uint8_t> out) const override {
    if (armed_.load(std::memory_order_relaxed) && stop_.stop_requested()) {
      return absl::CancelledError("loading was stopped");
    }
    return source_->Read(name, offset, out);
  }

 private:
  const std::shared_ptr<const model::TensorSource> source_;
  const std::stop_token stop_;
  std::atomic<bool> armed_{true};
};

// Two hosts may have the stage for a moment, the abandoned one of an earlier epoch and that of the
// present one.
class OneAtATime final : public engine::LocalStage {
 public:
  explicit OneAtATime(std::unique_ptr<engine::LocalStage> stage) : stage_(std::move(stage)) {}

  absl::StatusOr<engine::StageOutput> Run(const stage::StepFrame& frame,
                                          std::stop_token stop) override {
    MutexLock lock(&mu_);
    return stage_->Run(frame, stop);
  }
  const engine::StageMemory& memory() const override { return stage_->memory(); }
  bool lost() const override { return stage_->lost(); }

 private:
  Mutex mu_;
  const std::unique_ptr<engine::LocalStage> stage_;
};

}  // namespace

bool SameDuty(const LoadedStage& loaded, const net::Assignment& assignment) {
  const stage::StageSpec& a = loaded.spec;
  const stage::StageSpec& b = assignment.spec;
  return loaded.digest == assignment.manifest->digest && a.layers == b.layers &&
         a.embeds == b.embeds && a.samples == b.samples && a.numerics == b.numerics &&
         a.group_blocks == b.group_blocks && a.max_context == b.max_context &&
         a.max_rows == b.max_rows;
}

Loader::Loader(LoaderOptions options, LoaderEvents* events)
    : options_(std::move(options)),
      events_(events),
      store_(options_.weights),
      thread_([this] { Loop(); }) {}

Loader::~Loader() {
  {
    MutexLock lock(&mu_);
    stopping_ = true;
    running_.request_stop();
    cv_.NotifyAll();
  }
  thread_.join();
}

void Loader::Load(net::Assignment assignment, std::shared_ptr<LoadedStage> keep) {
  Push(Job{std::move(assignment), std::move(keep), std::stop_source()});
}
void Loader::Cancel() { Push(std::nullopt); }
void Loader::Unload(std::shared_ptr<LoadedStage> keep) {
  Push(Job{std::nullopt, std::move(keep), std::stop_source()});
}

void Loader::Push(std::optional<Job> job) {
  MutexLock lock(&mu_);
  running_.request_stop();
  waiting_ = std::move(job);
  cv_.NotifyAll();
}

void Loader::Loop() {
  for (;;) {
    Job job;
    {
      MutexLock lock(&mu_);
      while (!waiting_ && !stopping_) cv_.Wait(&mu_);
      if (stopping_) return;
      job = *std::move(waiting_);
      waiting_.reset();
      running_ = job.stop;
    }
    // The worker that only fetches goes on with what it has.
    if (!job.assignment || job.assignment->mode != net::AssignMode::kFetch)
      Free(job.keep.get(), job.assignment ? &*job.assignment : nullptr);
    job.keep.reset();
    if (!job.assignment) continue;
    LoadOutcome outcome = Run(*std::move(job.assignment), job.stop.get_token());
    // It is reported under the lock: a load that was replaced must not report after its replacement
    // was asked for.
    MutexLock lock(&mu_);
    if (!job.stop.stop_requested()) events_->OnLoadEnded(std::move(outcome));
  }
}

void Loader::Free(const LoadedStage* keep, const net::Assignment* assignment) {
  const size_t freed = std::erase_if(loaded_, [&](const std::shared_ptr<LoadedStage>& loaded) {
    const bool same =
        assignment != nullptr && !loaded->stage->lost() && SameDuty(*loaded, *assignment);
    return loaded.get() != keep && !same;
  });
  if (freed > 0) TrimMalloc();
}

LoadOutcome Loader::Run(net::Assignment assignment, std::stop_token stop) {
  LoadOutcome outcome;
  auto loaded = LoadStage(assignment, stop, &outcome.fetched_bytes);
  outcome.status = loaded.status();
  if (loaded.ok() && *loaded != nullptr && !assignment.spec.samples) {
    auto next = ConnectNext(assignment, stop);
    outcome.status = next.status();
    outcome.next_unreachable = !next.ok();
    if (next.ok()) outcome.next = *std::move(next);
  }
  if (outcome.status.ok()) outcome.loaded = *std::move(loaded);
  outcome.assignment = std::move(assignment);
  return outcome;
}

absl::StatusOr<std::shared_ptr<LoadedStage>> Loader::LoadStage(const net::Assignment& assignment,
                                                               std::stop_token stop,
                                                               uint64_t* fetched_bytes) {
  const bool fetch = assignment.mode == net::AssignMode::kFetch;
  for (const auto& loaded : loaded_) {
    if (loaded->stage->lost() || !SameDuty(*loaded, assignment)) continue;
    return fetch ? std::shared_ptr<LoadedStage>() : loaded;
  }
  const model::Manifest& manifest = *assignment.manifest;
  const stage::StageSpec& spec = assignment.spec;
  const std::vector<std::string> parts =
      model::PartsOfStage(manifest, spec.layers.begin, spec.layers.end, spec.embeds, spec.samples);
  engine::StageOptions options = options_.stage;
  // Checked and built by the same figures.
  options.devices = engine::WithRoomOfNow(options.devices);
  if (!fetch) RETURN_IF_ERROR(CheckMemory(assignment, parts, options));

  // Verifying or fetching counts as the first half of the progress, building the stage as the
  // second.
  ProgressGate gate(
      [&](uint64_t done, uint64_t total) { events_->OnLoadProgress(spec.plan, done, total); });
  const TimeNs start = MonotonicNow();
  ASSIGN_OR_RETURN(const Weights weights, store_.Prepare(manifest, parts, options_.fetch, stop,
                                                         [&](uint64_t done, uint64_t total) {
                                                           gate(fetch ? done : done / 2, total);
                                                         }));
  *fetched_bytes = weights.fetched_bytes;
  if (stop.stop_requested()) return absl::CancelledError("loading was stopped");
  if (fetch) return std::shared_ptr<LoadedStage>();
  ASSIGN_OR_RETURN(std::shared_ptr<LoadedStage> loaded,
                   Build(assignment, weights, options, stop, [&](uint64_t done, uint64_t total) {
                     gate(total / 2 + done / 2, total);
                   }));
  LogInfo("stage ", spec.index, " of ", spec.n_stages, ": layers [", spec.layers.begin, ", ",
          spec.layers.end, ")", spec.embeds ? ", embeds" : "", spec.samples ? ", samples" : "",
          ": ", FormatSize(loaded->stage->memory().total()), " from ", weights.origin, " (",
          FormatSize(weights.fetched_bytes), " fetched) in ",
          (MonotonicNow() - start) / kMillisecond, " ms");
  return loaded;
}

absl::StatusOr<std::shared_ptr<LoadedStage>> Loader::Build(const net::Assignment& assignment,
                                                           const Weights& weights,
                                                           const engine::StageOptions& options,
                                                           std::stop_token stop,
                                                           const Progress& progress) {
  const model::Manifest& manifest = *assignment.manifest;
  const stage::StageSpec& spec = assignment.spec;
  auto loaded = std::make_shared<LoadedStage>();
  loaded->digest = manifest.digest;
  loaded->spec = spec;
  const auto source = std::make_shared<StoppableSource>(weights.source, stop);
  loaded->source = source;
  auto stage = options_.factory.create(manifest.shape, spec, *loaded->source, options, progress);
  if (absl::IsResourceExhausted(stage.status()))
    return net::WithCause(stage.status(), net::LoadCause::kMemory);
  RETURN_IF_ERROR(stage.status());
  loaded->stage = std::make_unique<OneAtATime>(*std::move(stage));
  source->Disarm();
  TrimMalloc();
  loaded_.push_back(loaded);
  for (const engine::StageMemory::OnDevice& on : loaded->stage->memory().devices) {
    LogInfo(on.name, ": layers [", on.layers.begin, ", ", on.layers.end, ")",
            on.head ? " and the head" : "", ", ", FormatSize(on.memory.total()));
  }
  return loaded;
}

absl::Status Loader::CheckMemory(const net::Assignment& assignment,
                                 const std::vector<std::string>& parts,
                                 const engine::StageOptions& options) const {
  std::vector<model::TensorInfo> tensors;
  for (const std::string& name : parts) {
    const model::Part* part = assignment.manifest->Find(name);
    if (part == nullptr) return Internal("the manifest has no part '", name, "'");
    tensors.insert(tensors.end(), part->tensors.begin(), part->tensors.end());
  }
  const engine::StageMemory plan =
      options_.factory.plan_memory(assignment.manifest->shape, assignment.spec, tensors, options);
  uint64_t beside = 0;
  for (const auto& loaded : loaded_) beside += loaded->stage->memory().total();
  const uint64_t total = plan.total() + options_.base_bytes + beside;
  if (total <= options_.memory_bytes) return absl::OkStatus();
  return net::WithCause(
      ResourceExhausted(
          "worker '", options_.worker, "': stage ", assignment.spec.index, " needs ",
          FormatSize(plan.weights), " of weights + ", FormatSize(plan.kv), " of KV + ",
          FormatSize(plan.buffers), " of buffers + ", FormatSize(options_.base_bytes),
          " of the process itself",
          beside == 0 ? "" : absl::StrCat(" + ", FormatSize(beside), " of the stage that serves"),
          " = ", FormatSize(total), ", its limit (--memory) is ",
          FormatSize(options_.memory_bytes)),
      net::LoadCause::kMemory);
}

absl::StatusOr<std::unique_ptr<net::RemoteStage>> Loader::ConnectNext(
    const net::Assignment& assignment, std::stop_token stop) {
  const TimeNs end = MonotonicNow() + options_.connect_timeout_ms * kMillisecond;
  const PlanId plan = assignment.spec.plan;
  const Epoch epoch = assignment.spec.epoch;
  net::RemoteStageOptions options;
  options.address = assignment.next_address;
  options.credential = options_.credential;
  options.node = assignment.next_node;
  options.from = options_.worker;
  options.plan = plan;
  options.epoch = epoch;
  options.stage = assignment.spec.index + 1;
  options.on_closed = [events = events_, plan, epoch](const absl::Status& why) {
    events->OnNextClosed(plan, epoch, why);  // the stage may outlive this loader
  };
  for (int wait_ms = 20;; wait_ms = std::min(2 * wait_ms, 300)) {
    // An attempt that fails also calls on_closed; the owner recognises it because the stage is not
    // ready yet.
    std::unique_ptr<net::RemoteStage> next = net::RemoteStage::Connect(options);
    const absl::Status status = next->WaitReady(500);
    if (status.ok()) return next;
    if (stop.stop_requested()) return absl::CancelledError("connecting was stopped");
    const bool again = absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
    if (!again || MonotonicNow() > end) {
      return Annotate(status,
                      absl::StrCat("worker '", options_.worker, "' cannot reach the next worker '",
                                   assignment.next_worker, "'"));
    }
    next.reset();
    std::this_thread::sleep_for(std::chrono::milliseconds(wait_ms));
  }
}

}  // namespace lanyard::worker
