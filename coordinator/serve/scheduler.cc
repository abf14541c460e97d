#include "coordinator/serve/scheduler.h"

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

#include "coordinator/serve/request_check.h"

namespace lanyard::coordinator {

Scheduler::Scheduler(SchedulerOptions options) : options_(std::move(options)) {}

Scheduler::Sequence* Scheduler::Find(SeqId id) {
  const auto it = sequences_.find(id);
  return it == sequences_.end() ? nullptr : it->second.get();
}

absl::Status Scheduler::Submit(SequenceSpec spec, TimeNs now) {
  if (spec.prompt.empty()) return InvalidArgument("the prompt has no tokens");
  RETURN_IF_ERROR(CheckQueueHasRoom(waiting_.size(), options_.max_waiting, room_in(now)));
  if (ready_) RETURN_IF_ERROR(CheckPromptFits(spec.prompt.size(), shape_.context));
  Share* const share = ShareOf(spec.caller);
  const auto waiting = std::count_if(waiting_.begin(), waiting_.end(),
                                     [&](const auto& w) { return w.second->share == share; });
  RETURN_IF_ERROR(CheckQueueHasRoom(static_cast<uint64_t>(waiting), options_.max_waiting_of_one,
                                    share->starts.Next(now)));
  auto sequence = std::make_unique<Sequence>();
  sequence->share = share;
  sequence->order = next_order_++;
  sequence->tokens = spec.prompt;
  const uint64_t wanted = uint64_t{sequence->length()} + spec.max_tokens;
  sequence->max_tokens =
      static_cast<uint32_t>(std::min<uint64_t>(wanted, std::numeric_limits<uint32_t>::max()));
  if (ready_) sequence->max_tokens = std::min(sequence->max_tokens, shape_.context);
  sequence->times.arrived = now;
  sequence->spec = std::move(spec);
  if (pool_) sequence->expected = pool_->Find({}, sequence->kv_tokens(), 0).end;
  waiting_[sequence->order] = sequence.get();
  sequences_[sequence->spec.id] = std::move(sequence);
  return absl::OkStatus();
}

void Scheduler::Pace::OnStart(TimeNs now, bool others_wait) {
  if (last_ != 0) {
    const auto gap = static_cast<double>(now - last_);
    gap_ns_ = gap_ns_ == 0 ? gap : 0.8 * gap_ns_ + 0.2 * gap;
  }
  last_ = others_wait ? now : 0;
}

TimeNs Scheduler::Pace::Next(TimeNs now) const {
  if (gap_ns_ == 0) return kSecond;
  // After a long pause the pace of before is not to be believed.
  return std::max(static_cast<TimeNs>(gap_ns_), last_ == 0 ? 0 : now - last_);
}

Scheduler::Share* Scheduler::ShareOf(const std::string& caller) {
  const auto [it, fresh] = shares_.try_emplace(caller);
  Share* const share = &it->second;
  // One without sequences must not have saved up rows.
  std::optional<double> least;
  bool active = false;
  for (const auto& [id, sequence] : sequences_) {
    active = active || sequence->share == share;
    if (!least || sequence->share->served < *least) least = sequence->share->served;
  }
  if (!active && least) share->served = std::max(share->served, *least);
  return share;
}

void Scheduler::SetRunning(Sequence* sequence) {
  running_[sequence->order] = sequence;
  ++sequence->share->running;
}

void Scheduler::LeaveRunning(Sequence* sequence) {
  if (running_.erase(sequence->order) > 0) --sequence->share->running;
}

void Scheduler::Cancel(SeqId id) {
  Sequence* sequence = Find(id);
  if (sequence == nullptr || sequence->state == State::kGone) return;
  End(sequence);
}

std::vector<SequenceFailure> Scheduler::OnPipelineReady(const PipelineShape& shape) {
  shape_ = shape;
  if (pool_ == nullptr) pool_ = std::make_unique<KvPool>(shape.groups, options_.keep_prefixes);
  shape_.context = std::min(shape_.context, pool_->CapacityTokens());
  ready_ = true;
  row_ns_ = 0;  // other stages have another pace
  std::vector<SequenceFailure> failures;
  for (auto& [id, sequence] : sequences_) {
    if (const absl::Status fits = CheckPromptFits(sequence->length(), shape_.context); !fits.ok()) {
      failures.push_back({id, Annotate(fits, "the pool came back with a shorter context")});
      continue;
    }
    sequence->max_tokens = std::min(sequence->max_tokens, shape_.context);
  }
  for (const SequenceFailure& failure : failures) End(Find(failure.id));
  return failures;
}

std::vector<SeqId> Scheduler::OnPipelineLost(bool suspicious) {
  ready_ = false;
  steps_.clear();
  draining_.clear();
  std::vector<SeqId> leaving, given_up;
  for (auto& [id, sequence] : sequences_) {
    if (suspicious && !sequence->in_flight.empty()) ++sequence->losses;
    sequence->tables = {};  // the pool of blocks goes with its pipeline
    sequence->in_flight.clear();
    sequence->scheduled = 0;
    sequence->expected = 0;
    if (sequence->times.first_token == 0) sequence->cached = 0;
    if (sequence->state == State::kWaiting) continue;
    LeaveRunning(sequence.get());
    if (sequence->state == State::kGone) {
      leaving.push_back(id);
    } else if (sequence->losses >= options_.max_losses) {
      leaving.push_back(id);
      given_up.push_back(id);
    } else {
      sequence->state = State::kWaiting;
      waiting_[sequence->order] = sequence.get();
    }
  }
  for (const SeqId id : leaving) sequences_.erase(id);
  pool_.reset();
  return given_up;
}

std::vector<SeqId> Scheduler::FailWaiting(TimeNs arrived_before) {
  std::vector<SeqId> failed;
  for (const auto& [order, sequence] : waiting_) {
    if (sequence->times.arrived < arrived_before) failed.push_back(sequence->spec.id);
  }
  for (const SeqId id : failed) End(Find(id));
  return failed;
}

std::vector<Scheduler::Overdue> Scheduler::EndOverdue(TimeNs now) {
  std::vector<Overdue> overdue;
  for (const auto& [id, sequence] : sequences_) {
    const TimeNs deadline = sequence->spec.deadline;
    if (sequence->state == State::kGone || deadline == 0 || now < deadline) continue;
    const auto prompt = static_cast<uint32_t>(sequence->spec.prompt.size());
    overdue.push_back({id, sequence->length() - prompt});
  }
  for (const Overdue& each : overdue) End(Find(each.id));
  return overdue;
}

bool Scheduler::FitsBesideRunning(const Sequence& sequence) const {
  if (running_.empty() && draining_.empty()) return true;
  const KvPool::Match match = pool_->Find(sequence.tables, sequence.kv_tokens(), 0);
  for (size_t g = 0; g < pool_->n_groups(); ++g) {
    // Each sequence gets one block more than it has now: room to grow before another one must be
    // preempted.
    uint64_t need = pool_->Need(g, sequence.length() + stage::kKvBlockTokens);
    for (const auto& [order, other] : running_) {
      need += pool_->Need(g, other->length() + stage::kKvBlockTokens);
    }
    for (const Sequence* other : draining_) {
      if (other->state == State::kPreempting) return false;  // it is older than every waiting one
      if (!other->tables.empty()) need += other->tables.groups[g].blocks.size();
    }
    need -= std::min<uint64_t>(need, pool_->shared(g) + match.held[g]);
    if (need > pool_->group_blocks(g)) return false;
  }
  return true;
}

int64_t Scheduler::Turn(const Sequence& sequence, TimeNs now) {
  return int64_t{sequence.length()} - std::max(sequence.scheduled, sequence.expected) -
         (now - sequence.times.arrived) / kMillisecond;
}

Scheduler::Sequence* Scheduler::NextToRun(TimeNs now) const {
  Sequence* best = nullptr;
  const auto key = [now](const Sequence& s) {
    const bool fresh = s.times.started == 0;
    return std::make_tuple(s.share->running, s.share->served, fresh, fresh ? Turn(s, now) : 0,
                           s.order);
  };
  for (const auto& [order, sequence] : waiting_) {
    if (sequence->share->running >= options_.max_running_of_one) continue;
    if (best == nullptr || key(*sequence) < key(*best)) best = sequence;
  }
  return best;
}

bool Scheduler::MakeRoomForShare(const Sequence& sequence) {
  if (sequence.share->running > 0) return false;
  Sequence* youngest = nullptr;
  for (const auto& [order, other] : running_) {
    if (other->share->running < 2) continue;
    if (youngest == nullptr || other->share->running >= youngest->share->running) youngest = other;
  }
  if (youngest == nullptr) return false;
  Preempt(youngest);
  return true;
}

void Scheduler::Admit(TimeNs now) {
  while (!hold_ && running_.size() < options_.max_running) {
    Sequence* sequence = NextToRun(now);
    if (sequence == nullptr) return;
    // What is preempted frees its blocks when its steps are home, at the latest.
    while (!FitsBesideRunning(*sequence)) {
      if (!draining_.empty() || !MakeRoomForShare(*sequence)) return;
    }
    waiting_.erase(sequence->order);
    sequence->state = State::kRunning;
    if (sequence->times.started == 0) sequence->times.started = now;
    starts_.OnStart(now, !waiting_.empty());
    sequence->share->starts.OnStart(
        now, std::any_of(waiting_.begin(), waiting_.end(),
                         [&](auto& w) { return w.second->share == sequence->share; }));
    SetRunning(sequence);
    Adopt(sequence);
  }
}

Scheduler::Sequence* Scheduler::Suspect() const {
  for (const auto& [order, sequence] : running_) {
    if (sequence->losses >= options_.alone_after) return sequence;
  }
  return nullptr;
}

bool Scheduler::OnlyInFlight(const Sequence& sequence) const {
  return std::none_of(sequences_.begin(), sequences_.end(), [&](const auto& other) {
    return other.second.get() != &sequence && !other.second->in_flight.empty();
  });
}

void Scheduler::Adopt(Sequence* sequence) {
  if (!sequence->in_flight.empty()) return;
  const uint32_t end = pool_->Adopt(&sequence->tables, sequence->kv_tokens(), sequence->scheduled);
  if (sequence->times.first_token == 0) sequence->cached += end - sequence->scheduled;
  sequence->scheduled = end;
}

bool Scheduler::OnTheirWay(const Sequence& sequence) const {
  const uint64_t step =
      pool_->AnnouncedBy(sequence.tables, sequence.kv_tokens(), sequence.scheduled);
  return step == next_step_ || steps_.contains(StepId(step));
}

std::vector<Scheduler::Chunk> Scheduler::PickDecode() {
  std::vector<Sequence*> ready;
  uint32_t decoding = 0;
  for (const auto& [order, sequence] : running_) {
    const bool ahead = runs_ahead() && sequence->can_run_ahead();
    if ((sequence->prefilling() && !ahead) || !MayRun(sequence)) continue;
    ++decoding;
    if (sequence->remaining() == 1 || ahead) ready.push_back(sequence);
  }
  // The sequence that waited longest comes first; the decoding ones are spread so that every stage
  // has work.
  std::sort(ready.begin(), ready.end(), [](const Sequence* a, const Sequence* b) {
    return a->last_step != b->last_step ? a->last_step < b->last_step : a->order < b->order;
  });
  const uint32_t share = (decoding + shape_.n_stages - 1) / shape_.n_stages;
  std::vector<Chunk> chunks;
  for (Sequence* sequence : ready) {
    if (chunks.size() >= std::min(share, options_.mixed_rows)) break;
    if (sequence->state != State::kRunning) continue;  // it was preempted for one before it
    if (MakeRoom(sequence, 1) != 1) continue;
    Take(sequence, 1, &chunks);
    sequence->share->served += 1;
  }
  return chunks;
}

TimeNs Scheduler::ReplayTime() const {
  constexpr double kRowGuess = kMillisecond;  // until one is measured
  uint64_t rows = 0;
  for (const auto& [order, sequence] : running_) rows += sequence->length();
  return static_cast<TimeNs>(static_cast<double>(rows) * (row_ns_ == 0 ? kRowGuess : row_ns_));
}

uint32_t Scheduler::PrefillRows(uint32_t n_decoding) const {
  if (n_decoding == 0) return options_.prefill_rows;
  if (row_ns_ == 0) return options_.mixed_rows;
  // The token of a decoding sequence passes every stage behind the steps that are there.
  const double rows = static_cast<double>(options_.decode_latency) / (row_ns_ * shape_.n_stages);
  const double least = std::min(options_.mixed_rows, stage::kKvBlockTokens);
  return static_cast<uint32_t>(std::clamp(rows, least, static_cast<double>(options_.prefill_rows)));
}

void Scheduler::PickPrefill(std::vector<Chunk>* chunks, TimeNs now) {
  struct Pick {
    Sequence* sequence;
    uint32_t rows = 0;   // that it gets
    bool waits = false;  // for another one's rows, which it can adopt when they are home
  };
  std::vector<Pick> picked;
  uint32_t n_decoding = 0;
  for (const auto& [order, sequence] : running_) {
    if (!sequence->prefilling()) ++n_decoding;
    if (!sequence->prefilling() || sequence->remaining() == 0 || !MayRun(sequence)) continue;
    Adopt(sequence);
    picked.push_back({sequence});
  }
  const uint32_t rows = static_cast<uint32_t>(chunks->size());
  // Those whose token is still being drawn count too (they run ahead).
  uint32_t budget = PrefillRows(std::max(n_decoding, rows));
  budget = std::min(budget, PromptRowsLeft());
  budget -= std::min(budget, rows);
  std::stable_sort(picked.begin(), picked.end(), [now](const auto& a, const auto& b) {
    return Turn(*a.sequence, now) < Turn(*b.sequence, now);
  });
  // Rows are dealt to the caller that had the fewest, a block at a time.
  while (budget > 0) {
    Pick* next = nullptr;
    for (Pick& one : picked) {
      if (one.waits || one.rows == one.sequence->remaining()) continue;
      if (next != nullptr && one.sequence->share->served >= next->sequence->share->served) continue;
      one.waits = one.rows == 0 && OnTheirWay(*one.sequence);
      if (!one.waits) next = &one;
    }
    if (next == nullptr) break;
    const uint32_t n =
        std::min({budget, next->sequence->remaining() - next->rows, stage::kKvBlockTokens});
    const uint32_t pos = next->sequence->scheduled + next->rows;
    pool_->Announce(&next->sequence->tables, next->sequence->kv_tokens(), pos, pos + n, next_step_);
    next->rows += n;
    next->sequence->share->served += n;
    budget -= n;
  }
  for (const auto& [sequence, n, waits] : picked) {
    if (n == 0 || sequence->state != State::kRunning) continue;  // it was preempted for another
    if (const uint32_t fit = MakeRoom(sequence, n); fit > 0) Take(sequence, fit, chunks);
  }
}

void Scheduler::PickOldest(std::vector<Chunk>* chunks) {
  for (const auto& [order, sequence] : running_) {
    if (!sequence->prefilling() || sequence->remaining() == 0) continue;
    const uint32_t n = std::min({sequence->remaining(), options_.prefill_rows, PromptRowsLeft()});
    if (const uint32_t fit = MakeRoom(sequence, n); fit > 0) Take(sequence, fit, chunks);
    return;
  }
}

uint32_t Scheduler::MakeRoom(Sequence* sequence, uint32_t n_rows) {
  while (true) {
    const uint32_t fit = pool_->RowsThatFit(sequence->tables, sequence->scheduled, n_rows);
    if (fit > 0) return fit;
    // Steps in flight will bring blocks: those of leaving sequences, or this sequence's own that
    // its window left behind.
    if (!draining_.empty() || !sequence->in_flight.empty()) return 0;
    Sequence* youngest = running_.rbegin()->second;
    if (youngest == sequence) return 0;  // it waits for the older ones
    Preempt(youngest);
  }
}

void Scheduler::Take(Sequence* sequence, uint32_t n_rows, std::vector<Chunk>* chunks) {
  const bool known = sequence->scheduled < sequence->length();
  chunks->push_back(
      {sequence, sequence->scheduled, n_rows, StepId(known ? 0 : sequence->last_step)});
  sequence->in_flight.insert(sequence->scheduled);
  sequence->scheduled += n_rows;
  sequence->last_step = next_step_;
  pool_->Grow(&sequence->tables, sequence->scheduled);
}

uint32_t Scheduler::RowsLeft() const {
  if (shape_.row_bytes == 0) return UINT32_MAX;
  uint64_t rows = options_.bytes_in_flight / shape_.row_bytes;
  for (const auto& [id, step] : steps_) {
    for (size_t i = 0; i < step.rows.size(); ++i)
      rows -= std::min<uint64_t>(rows, step.done[i] ? 0 : step.rows[i]);
  }
  return static_cast<uint32_t>(std::min<uint64_t>(rows, UINT32_MAX));
}

bool Scheduler::MayAddStep() const {
  // Every running sequence may want a row, and a prompt a block.
  const size_t least = std::max<size_t>(running_.size(), stage::kKvBlockTokens);
  if (!steps_.empty() && RowsLeft() < least) return false;
  if (steps_.size() < shape_.n_stages) return true;
  // The step ahead hides a round trip, which matters between two short steps. Behind one that
  // prefills it would hide little, and a newcomer would wait for two long steps instead of one.
  return runs_ahead() && steps_.size() == shape_.n_stages &&
         std::none_of(steps_.begin(), steps_.end(),
                      [](const auto& s) { return s.second.prefills; });
}

std::optional<Step> Scheduler::NextStep(TimeNs now) {
  if (!ready_ || !MayAddStep()) return std::nullopt;
  Admit(now);
  alone_ = Suspect();
  if (alone_ != nullptr && !OnlyInFlight(*alone_)) return std::nullopt;
  std::vector<Chunk> chunks = PickDecode();
  const size_t n_decode = chunks.size();
  PickPrefill(&chunks, now);
  alone_ = nullptr;
  if (chunks.empty() && steps_.empty()) PickOldest(&chunks);
  if (chunks.empty()) return std::nullopt;
  return BuildStep(chunks, chunks.size() > n_decode, now);
}

stage::SeqRun Scheduler::MakeRun(const Chunk& chunk, uint32_t pos, uint32_t n_rows) const {
  const Sequence& sequence = *chunk.sequence;
  stage::SeqRun run;
  run.seq = sequence.spec.id;
  run.pos = pos;
  run.n_rows = n_rows;
  if (pos < sequence.length()) {
    run.tokens.assign(sequence.tokens.begin() + pos, sequence.tokens.begin() + pos + n_rows);
  } else {
    run.token_of = chunk.token_of;
  }
  run.tables = pool_->TablesFor(sequence.tables, pos, n_rows);
  if (pos + n_rows >= sequence.length()) {
    run.outputs.push_back({n_rows - 1, sequence.spec.sample, sequence.spec.top, {}});
  }
  return run;
}

Step Scheduler::BuildStep(const std::vector<Chunk>& chunks, bool prefills, TimeNs now) {
  Step step;
  step.id = StepId(next_step_++);
  const uint32_t frame_rows = std::min(options_.frame_rows, stage::kMaxFrameRows);
  uint32_t space = 0;
  for (const Chunk& chunk : chunks) {
    uint32_t done = 0;
    while (done < chunk.n_rows) {
      if (space == 0) {
        step.frames.emplace_back();
        space = frame_rows;
      }
      const uint32_t n_rows = std::min(space, chunk.n_rows - done);
      step.frames.back().runs.push_back(MakeRun(chunk, chunk.pos + done, n_rows));
      chunk.sequence->in_flight.insert(chunk.pos + done);
      done += n_rows;
      space -= n_rows;
    }
  }
  InFlight& in_flight = steps_[step.id];
  in_flight.prefills = prefills;
  in_flight.submitted = now;
  for (uint32_t i = 0; i < step.frames.size(); ++i) {
    stage::StepBatch& frame = step.frames[i];
    frame.step = step.id;
    frame.frame = i;
    frame.n_frames = static_cast<uint32_t>(step.frames.size());
    in_flight.rows.push_back(frame.TotalRows());
    std::vector<RunRef>& refs = in_flight.frames.emplace_back();
    for (const stage::SeqRun& run : frame.runs) refs.push_back({run.seq, run.pos});
  }
  in_flight.done.assign(step.frames.size(), false);
  in_flight.open = static_cast<uint32_t>(step.frames.size());
  return step;
}

std::vector<Scheduler::RunRef> Scheduler::CloseFrame(StepId step, uint32_t frame) {
  const auto it = steps_.find(step);
  if (it == steps_.end() || frame >= it->second.frames.size() || it->second.done[frame]) return {};
  std::vector<RunRef> runs = it->second.frames[frame];
  it->second.done[frame] = true;
  if (--it->second.open == 0) steps_.erase(it);
  for (const RunRef& run : runs) {
    if (Sequence* sequence = Find(run.id)) sequence->in_flight.erase(run.pos);
  }
  return runs;
}

void Scheduler::Measure(const InFlight& step, uint32_t frame, TimeNs now) {
  const TimeNs before = std::exchange(last_commit_, now);
  if (frame >= step.rows.size() || step.rows[frame] < stage::kKvBlockTokens) return;
  // Frames follow each other at the pace of the slowest stage. The first one behind a pause took
  // the time of all stages.
  const bool behind = before > step.submitted;
  if (!behind && shape_.n_stages > 1) return;
  const double row_ns =
      static_cast<double>(now - std::max(before, step.submitted)) / step.rows[frame];
  row_ns_ = row_ns_ == 0 ? row_ns : 0.8 * row_ns_ + 0.2 * row_ns;
}

std::vector<SequenceUpdate> Scheduler::CommitFrame(StepId step, uint32_t frame,
                                                   const std::vector<stage::TokenOut>& tokens,
                                                   TimeNs now) {
  if (const auto it = steps_.find(step); it != steps_.end()) Measure(it->second, frame, now);
  const std::vector<RunRef> runs = CloseFrame(step, frame);
  std::vector<SequenceUpdate> updates;
  if (runs.empty()) return updates;
  for (const stage::TokenOut& out : tokens) {
    Sequence* sequence = Find(out.seq);
    if (sequence == nullptr || !out.status.ok()) continue;
    if (auto update = Append(sequence, out, now)) updates.push_back(std::move(*update));
  }
  for (const RunRef& run : runs) {
    if (Sequence* sequence = Find(run.id)) Settle(sequence);
  }
  return updates;
}

std::optional<SequenceUpdate> Scheduler::Append(Sequence* sequence, const stage::TokenOut& out,
                                                TimeNs now) {
  // A token belongs right behind the log; any other comes from a sequence that has ended.
  if (sequence->state == State::kGone || out.pos + 1 != sequence->length()) return std::nullopt;
  sequence->tokens.push_back(out.token);
  sequence->losses = 0;
  if (sequence->times.first_token == 0) sequence->times.first_token = now;
  SequenceUpdate update;
  update.out = out;
  update.prompt_tokens = static_cast<uint32_t>(sequence->spec.prompt.size());
  update.completion_tokens = sequence->length() - update.prompt_tokens;
  update.cached_tokens = sequence->cached;
  update.times = sequence->times;
  const bool eos = std::find(options_.eos_ids.begin(), options_.eos_ids.end(), out.token) !=
                   options_.eos_ids.end();
  if (eos && !sequence->spec.ignore_eos) {
    update.end = SequenceEnd::kEos;
  } else if (sequence->length() >= sequence->max_tokens) {
    update.end = SequenceEnd::kLength;
  }
  if (update.end) {
    LeaveRunning(sequence);
    sequence->state = State::kGone;
    draining_.insert(sequence);  // Settle lets it leave
  }
  return update;
}

std::vector<SeqId> Scheduler::FailFrame(StepId step, uint32_t frame) {
  std::vector<SeqId> failed;
  for (const RunRef& run : CloseFrame(step, frame)) {
    Sequence* sequence = Find(run.id);
    if (sequence == nullptr) continue;
    sequence->failed = true;
    if (sequence->state != State::kGone) {
      failed.push_back(run.id);
      End(sequence);
    } else {
      Settle(sequence);
    }
  }
  return failed;
}

bool Scheduler::Fail(SeqId id) {
  Sequence* sequence = Find(id);
  if (sequence == nullptr) return false;
  sequence->failed = true;
  if (sequence->state == State::kGone) return false;
  End(sequence);
  return true;
}

void Scheduler::Preempt(Sequence* sequence) {
  ++preemptions_;
  LeaveRunning(sequence);
  sequence->state = State::kPreempting;
  draining_.insert(sequence);
  Settle(sequence);
}

void Scheduler::End(Sequence* sequence) {
  waiting_.erase(sequence->order);
  LeaveRunning(sequence);
  sequence->state = State::kGone;
  draining_.insert(sequence);
  Settle(sequence);
}

void Scheduler::Settle(Sequence* sequence) {
  if (sequence->state == State::kRunning) {
    const uint32_t oldest =
        sequence->in_flight.empty() ? sequence->scheduled : *sequence->in_flight.begin();
    pool_->Keep(&sequence->tables, sequence->kv_tokens(), oldest);
    pool_->Trim(&sequence->tables, oldest);
    return;
  }
  if (!sequence->in_flight.empty()) return;
  if (pool_ && sequence->failed) pool_->Discard(&sequence->tables);
  if (pool_ && !sequence->failed) {
    pool_->Keep(&sequence->tables, sequence->kv_tokens(), sequence->scheduled);
    pool_->Release(&sequence->tables);
  }
  draining_.erase(sequence);
  if (sequence->state == State::kGone) {
    sequences_.erase(sequence->spec.id);
    return;
  }
  sequence->state = State::kWaiting;
  sequence->scheduled = 0;
  if (sequence->times.first_token == 0) sequence->cached = 0;
  waiting_[sequence->order] = sequence;
}

std::vector<SequenceView> Scheduler::View() const {
  std::vector<SequenceView> views;
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->state == State::kGone) continue;
    SequenceView& view = views.emplace_back();
    view.id = id;
    view.prompt_tokens = static_cast<uint32_t>(sequence->spec.prompt.size());
    view.completion_tokens = sequence->length() - view.prompt_tokens;
    view.prefilled_tokens =
        std::min(view.prompt_tokens,
                 sequence->in_flight.empty() ? sequence->scheduled : *sequence->in_flight.begin());
    view.state = sequence->state != State::kRunning ? "queued"
                 : view.completion_tokens > 0       ? "decode"
                                                    : "prefill";
    view.arrived = sequence->times.arrived;
  }
  return views;
}

}  // namespace lanyard::coordinator
