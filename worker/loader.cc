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

void Loader::Load(net::Assignment assignment) {
  Push(Job{std::move(assignment), std::stop_source()});
}
void Loader::Cancel() { Push(std::nullopt); }
void Loader::Unload() { Push(Job{std::nullopt, std::stop_source()}); }

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
      loaded_.reset();
      shelf_.Clear();
      TrimMalloc();
      continue;
    }
    LoadOutcome outcome = Run(*std::move(job.assignment), job.stop.get_token());
    // It is reported under the lock: a load that was replaced must not report after its replacement
    // was asked for.
    MutexLock lock(&mu_);
    if (!job.stop.stop_requested()) events_->OnLoadEnded(std::move(outcome));
  }
}

LoadOutcome Loader::Run(net::Assignment assignment, std::stop_token stop) {
  LoadOutcome outcome;
  outcome.status = LoadStage(assignment, stop, &outcome.fetched_bytes);
  if (outcome.status.ok() && !assignment.spec.samples) {
    auto next = ConnectNext(assignment, stop);
    outcome.status = next.status();
    outcome.next_unreachable = !next.ok();
    if (next.ok()) {
      outcome.next = *std::move(next);
      outcome.next_link = next_link_;
    }
  }
  if (outcome.status.ok()) outcome.loaded = loaded_;
  outcome.assignment = std::move(assignment);
  return outcome;
}

absl::Status Loader::LoadStage(const net::Assignment& assignment, std::stop_token stop,
                               uint64_t* fetched_bytes) {
  if (loaded_ != nullptr && !loaded_->stage->lost() && SameDuty(*loaded_, assignment))
    return absl::OkStatus();
  const absl::Status status = MakeStage(assignment, std::move(stop), fetched_bytes);
  // The load that replaces one that was stopped may want the same.
  if (!absl::IsCancelled(status)) shelf_.LetGo();
  return status;
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
  if (spec.embeds && loaded_ != nullptr && loaded_->digest == manifest.digest)
    out.rows = loaded_->rows;
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

absl::Status Loader::MakeStage(const net::Assignment& assignment, std::stop_token stop,
                               uint64_t* fetched_bytes) {
  const model::Manifest& manifest = *assignment.manifest;
  const stage::StageSpec& spec = assignment.spec;
  const std::vector<std::string> parts =
      model::PartsOfStage(manifest, spec.layers.begin, spec.layers.end, spec.embeds, spec.samples);
  const Kept kept = Keep(assignment, parts);
  loaded_.reset();  // before the new one, since two stages need not fit
  TrimMalloc();
  engine::StageOptions options = options_.stage;
  options.shelf = &shelf_;
  // Checked and built by the same figures.
  options.devices = engine::WithRoomOfNow(options.devices);
  RETURN_IF_ERROR(CheckMemory(assignment, parts, options));

  // Verifying or fetching counts as the first half of the progress, building the stage as the
  // second.
  ProgressGate gate(
      [&](uint64_t done, uint64_t total) { events_->OnLoadProgress(spec.plan, done, total); });
  const TimeNs start = MonotonicNow();
  ASSIGN_OR_RETURN(Weights weights,
                   store_.Prepare(manifest, kept.parts, options_.fetch, stop,
                                  [&](uint64_t done, uint64_t total) { gate(done / 2, total); }));
  *fetched_bytes = weights.fetched_bytes;
  if (stop.stop_requested()) return absl::CancelledError("loading was stopped");
  auto loaded = std::make_shared<LoadedStage>();
  loaded->digest = manifest.digest;
  loaded->spec = spec;
  if (spec.embeds) loaded->rows = kept.rows != nullptr ? kept.rows : weights.source;
  const auto source = std::make_shared<StoppableSource>(
      std::make_shared<KeptSource>(weights.source, kept.rows, assignment.manifest, kept.parts.kept),
      stop);
  loaded->source = source;
  auto stage = options_.factory.create(
      manifest.shape, spec, *loaded->source, options,
      [&](uint64_t done, uint64_t total) { gate(total / 2 + done / 2, total); });
  if (absl::IsResourceExhausted(stage.status()))
    return net::WithCause(stage.status(), net::LoadCause::kMemory);
  ASSIGN_OR_RETURN(loaded->stage, std::move(stage));
  source->Disarm();
  TrimMalloc();
  loaded_ = std::move(loaded);
  for (const engine::StageMemory::OnDevice& on : loaded_->stage->memory().devices) {
    LogInfo(on.name, ": layers [", on.layers.begin, ", ", on.layers.end, ")",
            on.head ? " and the head" : "", ", ", FormatSize(on.memory.total()));
  }
  LogInfo("stage ", spec.index, " of ", spec.n_stages, ": layers [", spec.layers.begin, ", ",
          spec.layers.end, ")", spec.embeds ? ", embeds" : "", spec.samples ? ", samples" : "",
          ": ", FormatSize(loaded_->stage->memory().total()), " from ", weights.origin, " (",
          FormatSize(weights.fetched_bytes), " fetched, ", kept.parts.kept.size(), " of ",
          parts.size(), " parts were in memory) in ", (MonotonicNow() - start) / kMillisecond,
          " ms");
  return absl::OkStatus();
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
  const uint64_t total = plan.total() + options_.base_bytes;
  if (total <= options_.memory_bytes) return absl::OkStatus();
  return net::WithCause(
      ResourceExhausted("worker '", options_.worker, "': stage ", assignment.spec.index, " needs ",
                        FormatSize(plan.weights), " of weights + ", FormatSize(plan.kv),
                        " of KV + ", FormatSize(plan.buffers), " of buffers + ",
                        FormatSize(options_.base_bytes),
                        " of the process itself = ", FormatSize(total),
                        ", its limit (--memory) is ", FormatSize(options_.memory_bytes)),
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
