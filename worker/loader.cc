#include "worker/loader.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <set>
#include <span>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "engine/room.h"
#include "model/memory.h"
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

// What was read for the stage, over what is in memory already and is not read again.
class KeptSource final : public model::TensorSource {
 public:
  KeptSource(std::shared_ptr<const model::TensorSource> read,
             std::shared_ptr<const model::TensorSource> rows,
             std::shared_ptr<const model::Manifest> manifest, const std::vector<std::string>& kept)
      : read_(std::move(read)), rows_(std::move(rows)), manifest_(std::move(manifest)) {
    for (const std::string& name : kept) {
      for (const model::TensorInfo& tensor : manifest_->Find(name)->tensors)
        kept_[tensor.name] = &tensor;
    }
  }
  const model::TensorInfo* Find(std::string_view name) const override {
    const auto it = kept_.find(name);
    return it == kept_.end() ? read_->Find(name) : it->second;
  }
  absl::Status Read(std::string_view name, uint64_t offset, std::span<uint8_t> out) const override {
    if (!kept_.contains(name)) return read_->Read(name, offset, out);
    if (rows_ != nullptr && rows_->Find(name) != nullptr) return rows_->Read(name, offset, out);
    return Internal("tensor '", AbslView(name), "' is in memory and was not verified on disk");
  }

 private:
  const std::shared_ptr<const model::TensorSource> read_, rows_;
  const std::shared_ptr<const model::Manifest> manifest_;
  std::map<std::string, const model::TensorInfo*, std::less<>> kept_;
};

// Two hosts may have the stage for a moment, the abandoned one of an earlier epoch and that of the
// present one. Nothing of the earlier one runs once it is stopped.
class OneAtATime final : public engine::LocalStage {
 public:
  explicit OneAtATime(std::unique_ptr<engine::LocalStage> stage) : stage_(std::move(stage)) {}

  absl::StatusOr<engine::StageOutput> Run(const stage::StepFrame& frame,
                                          std::stop_token stop) override {
    MutexLock lock(&mu_);
    if (stop.stop_requested()) return absl::CancelledError("the step was cancelled");
    return stage_->Run(frame, stop);
  }
  const engine::StageMemory& memory() const override { return stage_->memory(); }
  bool lost() const override { return stage_->lost(); }

 private:
  Mutex mu_;
  const std::unique_ptr<engine::LocalStage> stage_;
};

model::StageDuty DutyOf(const stage::StageSpec& spec) {
  model::StageDuty out;
  out.layer_begin = spec.layers.begin;
  out.layer_end = spec.layers.end;
  out.samples = spec.samples;
  return out;
}

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

void Loader::Load(net::Assignment assignment, Epoch keep) {
  Push(Job{std::move(assignment), keep, std::stop_source()});
}
void Loader::Cancel() { Push(std::nullopt); }
void Loader::Unload(Epoch keep) { Push(Job{std::nullopt, keep, std::stop_source()}); }

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
    if (!job.assignment) {
      shelf_.LetGo();
      Free(job.keep);
      if (held_.empty()) shelf_.Clear();
      continue;
    }
    LoadOutcome outcome = Run(*std::move(job.assignment), job.keep, job.stop.get_token());
    // It is reported under the lock: a load that was replaced must not report after its replacement
    // was asked for.
    MutexLock lock(&mu_);
    if (!job.stop.stop_requested()) events_->OnLoadEnded(std::move(outcome));
  }
}

void Loader::Free(Epoch keep, const LoadedStage* again) {
  std::erase_if(held_, [&](const Held& held) {
    return held.stage.get() != again &&
           std::find(held.epochs.begin(), held.epochs.end(), keep) == held.epochs.end();
  });
  TrimMalloc();
}

LoadOutcome Loader::Run(net::Assignment assignment, Epoch keep, std::stop_token stop) {
  LoadOutcome outcome;
  auto loaded = LoadStage(assignment, keep, stop, &outcome.fetched_bytes);
  outcome.status = loaded.status();
  if (loaded.ok() && *loaded != nullptr && !assignment.spec.samples) {
    auto next = ConnectNext(assignment, stop);
    outcome.status = next.status();
    outcome.next_unreachable = !next.ok();
    if (next.ok()) {
      outcome.next = *std::move(next);
      outcome.next_link = next_link_;
    }
  }
  if (outcome.status.ok()) outcome.loaded = *std::move(loaded);
  outcome.assignment = std::move(assignment);
  return outcome;
}

absl::StatusOr<std::shared_ptr<LoadedStage>> Loader::LoadStage(const net::Assignment& assignment,
                                                               Epoch keep, std::stop_token stop,
                                                               uint64_t* fetched_bytes) {
  const auto same = std::find_if(held_.begin(), held_.end(), [&](const Held& held) {
    return !held.stage->stage->lost() && SameDuty(*held.stage, assignment);
  });
  if (same != held_.end()) {
    std::shared_ptr<LoadedStage> loaded = same->stage;
    if (assignment.mode == net::AssignMode::kFetch) return nullptr;
    std::erase_if(same->epochs, [&](Epoch epoch) { return epoch != keep; });
    same->epochs.push_back(assignment.spec.epoch);
    Free(keep, loaded.get());
    return loaded;
  }
  auto loaded = MakeStage(assignment, keep, std::move(stop), fetched_bytes);
  // The load that replaces one that was stopped may want the same.
  if (!absl::IsCancelled(loaded.status())) shelf_.LetGo();
  return loaded;
}

Loader::Kept Loader::Keep(const net::Assignment& assignment, std::vector<std::string> parts) {
  const model::Manifest& manifest = *assignment.manifest;
  const stage::StageSpec& spec = assignment.spec;
  Kept out;
  if (std::exchange(shelf_digest_, manifest.digest) != manifest.digest) shelf_.Clear();
  // Cards hold weights in their own memory, which goes with the stage.
  if (!options_.stage.devices.empty()) {
    out.parts.read = std::move(parts);
    return out;
  }
  for (const Held& held : held_) {
    if (spec.embeds && held.stage->rows != nullptr && held.stage->digest == manifest.digest)
      out.rows = held.stage->rows;
  }
  std::set<std::string_view> wanted;
  for (const std::string& name : parts) {
    if (const model::Part* part = manifest.Find(name); part != nullptr)
      for (const model::TensorInfo& tensor : part->tensors) wanted.insert(tensor.name);
  }
  shelf_.Hold([&](std::string_view tensor) { return wanted.contains(tensor); });
  for (std::string& name : parts) {
    const model::Part* part = manifest.Find(name);
    const bool embedding = name == "embed";
    bool kept = part != nullptr;
    if (embedding && spec.embeds) kept = kept && out.rows != nullptr;
    const bool packed = !embedding || (spec.samples && manifest.shape.tied_output);
    if (kept && packed) {
      kept = std::all_of(part->tensors.begin(), part->tensors.end(),
                         [&](const auto& tensor) { return shelf_.Has(tensor.name); });
    }
    (kept ? out.parts.kept : out.parts.read).push_back(std::move(name));
  }
  return out;
}

absl::StatusOr<std::shared_ptr<LoadedStage>> Loader::MakeStage(const net::Assignment& assignment,
                                                               Epoch keep, std::stop_token stop,
                                                               uint64_t* fetched_bytes) {
  const model::Manifest& manifest = *assignment.manifest;
  const stage::StageSpec& spec = assignment.spec;
  const bool fetch = assignment.mode == net::AssignMode::kFetch;
  const std::vector<std::string> parts =
      model::PartsOfStage(manifest, spec.layers.begin, spec.layers.end, spec.embeds, spec.samples);
  Kept kept = Keep(assignment, parts);
  if (!fetch) {
    Free(keep);  // before the new one, since two stages need not fit
    kept.options = options_.stage;
    kept.options.shelf = &shelf_;
    // Checked and built by the same figures.
    kept.options.devices = engine::WithRoomOfNow(kept.options.devices);
    RETURN_IF_ERROR(CheckMemory(assignment, parts, kept.options));
  }
  // Verifying or fetching counts as the first half of the progress, building the stage as the
  // second.
  ProgressGate gate(
      [&](uint64_t done, uint64_t total) { events_->OnLoadProgress(spec.plan, done, total); });
  const TimeNs start = MonotonicNow();
  ASSIGN_OR_RETURN(const Weights weights, store_.Prepare(manifest, kept.parts, options_.fetch, stop,
                                                         [&](uint64_t done, uint64_t total) {
                                                           gate(fetch ? done : done / 2, total);
                                                         }));
  *fetched_bytes = weights.fetched_bytes;
  if (stop.stop_requested()) return absl::CancelledError("loading was stopped");
  if (fetch) return nullptr;
  ASSIGN_OR_RETURN(std::shared_ptr<LoadedStage> loaded,
                   Build(assignment, weights, kept, stop, [&](uint64_t done, uint64_t total) {
                     gate(total / 2 + done / 2, total);
                   }));
  held_.push_back({loaded, {spec.epoch}});
  for (const engine::StageMemory::OnDevice& on : loaded->stage->memory().devices) {
    LogInfo(on.name, ": layers [", on.layers.begin, ", ", on.layers.end, ")",
            on.head ? " and the head" : "", ", ", FormatSize(on.memory.total()));
  }
  LogInfo("stage ", spec.index, " of ", spec.n_stages, ": layers [", spec.layers.begin, ", ",
          spec.layers.end, ")", spec.embeds ? ", embeds" : "", spec.samples ? ", samples" : "",
          ": ", FormatSize(loaded->stage->memory().total()), " from ", weights.origin, " (",
          FormatSize(weights.fetched_bytes), " fetched, ", kept.parts.kept.size(), " of ",
          parts.size(), " parts were in memory) in ", (MonotonicNow() - start) / kMillisecond,
          " ms");
  return loaded;
}

absl::StatusOr<std::shared_ptr<LoadedStage>> Loader::Build(const net::Assignment& assignment,
                                                           const Weights& weights, const Kept& kept,
                                                           std::stop_token stop,
                                                           const Progress& progress) {
  const model::Manifest& manifest = *assignment.manifest;
  const stage::StageSpec& spec = assignment.spec;
  auto loaded = std::make_shared<LoadedStage>();
  loaded->digest = manifest.digest;
  loaded->spec = spec;
  if (spec.embeds) loaded->rows = kept.rows != nullptr ? kept.rows : weights.source;
  const auto source = std::make_shared<StoppableSource>(
      std::make_shared<KeptSource>(weights.source, kept.rows, assignment.manifest, kept.parts.kept),
      stop);
  loaded->source = source;
  auto stage =
      options_.factory.create(manifest.shape, spec, *loaded->source, kept.options, progress);
  if (absl::IsResourceExhausted(stage.status()))
    return net::WithCause(stage.status(), net::LoadCause::kMemory);
  RETURN_IF_ERROR(stage.status());
  loaded->stage = std::make_unique<OneAtATime>(*std::move(stage));
  source->Disarm();
  TrimMalloc();
  return loaded;
}

// What is in memory and stays there, without the weights that the new stage shares with it.
uint64_t Loader::HeldBytesBeside(const net::Assignment& assignment) const {
  uint64_t bytes = 0;
  for (const Held& held : held_) {
    const engine::StageMemory& memory = held.stage->stage->memory();
    bytes += memory.total();
    if (!options_.stage.devices.empty() || held.stage->digest != assignment.manifest->digest)
      continue;
    bytes -= std::min(memory.weights,
                      model::SharedWeightsBytes(*assignment.manifest, DutyOf(held.stage->spec),
                                                DutyOf(assignment.spec)));
  }
  return bytes;
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
  const uint64_t beside = HeldBytesBeside(assignment);
  const uint64_t total = plan.total() + options_.base_bytes + beside;
  if (total <= options_.memory_bytes) return absl::OkStatus();
  const std::string serves =
      beside == 0 ? "" : absl::StrCat(" + ", FormatSize(beside), " of the stage that serves");
  return net::WithCause(
      ResourceExhausted("worker '", options_.worker, "': stage ", assignment.spec.index, " needs ",
                        FormatSize(plan.weights), " of weights + ", FormatSize(plan.kv),
                        " of KV + ", FormatSize(plan.buffers), " of buffers + ",
                        FormatSize(options_.base_bytes), " of the process itself", serves, " = ",
                        FormatSize(total), ", its limit (--memory) is ",
                        FormatSize(options_.memory_bytes)),
      net::LoadCause::kMemory);
}

absl::StatusOr<std::unique_ptr<net::RemoteStage>> Loader::ConnectNext(
    const net::Assignment& assignment, std::stop_token stop) {
  const TimeNs end = MonotonicNow() + options_.connect_timeout_ms * kMillisecond;
  net::RemoteStageOptions options;
  options.address = assignment.next_address;
  options.credential = options_.credential;
  options.node = assignment.next_node;
  options.from = options_.worker;
  options.plan = assignment.spec.plan;
  options.epoch = assignment.spec.epoch;
  options.stage = assignment.spec.index + 1;
  // The next worker loads at the same time and is often ready a moment later: streams stand still
  // meanwhile, so that the first tries follow each other quickly.
  const TimeNs soon = MonotonicNow() + 2 * kSecond;
  for (int wait_ms = 10;; wait_ms = std::min(2 * wait_ms, MonotonicNow() < soon ? 40 : 300)) {
    // An attempt that fails also calls on_closed; the owner recognises it by its number.
    next_link_ = NextLinkId(next_link_.value + 1);
    options.on_closed = [events = events_, link = next_link_](const absl::Status& why) {
      events->OnNextClosed(link, why);  // the stage may outlive this loader
    };
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
