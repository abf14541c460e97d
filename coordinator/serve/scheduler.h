// Decides which rows run next: admission, continuous batching, chunked prefill beside decode, KV
// blocks, preemption. It is a state machine without I/O or clock. A sequence's tokens are its log:
// its KV can be dropped and made again at any time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/status.h"
#include "coordinator/serve/kv_pool.h"
#include "stage/types.h"

namespace lanyard::coordinator {

inline constexpr uint64_t kBytesInFlight = uint64_t{48} << 20;

struct SchedulerOptions {
  uint32_t max_running = 256;   // sequences that have KV at once
  uint32_t max_waiting = 1024;  // with more, Submit says ResourceExhausted
  // Of one caller (API key), so that there is always room for another one.
  uint32_t max_running_of_one = 192;
  uint32_t max_waiting_of_one = 512;
  uint32_t prefill_rows = 512;  // rows of prompts in a step while no sequence decodes
  // While one does, prompts get as many rows as they can have without its next token waiting for
  // longer than this, by the measured time of a row; mixed_rows until that is known.
  TimeNs decode_latency = 100 * kMillisecond;
  uint32_t mixed_rows = 256;
  // What all stages together may have been sent and not answered, by the size of a row between two
  // of them (PipelineShape): wherever it piles up, a stream's queue takes it, so that a slow stage
  // slows the others and nothing is refused. One step is always on its way.
  uint64_t bytes_in_flight = kBytesInFlight;
  // A step is cut into frames of this size, so that transfer and compute overlap.
  uint32_t frame_rows = stage::kStepFrameRows;
  // Where one stage embeds and samples, the next decode step is sent before the tokens of the last
  // one are home (see stage::LastTokens). This costs a row for every sequence that ends unforeseen.
  bool run_ahead = true;
  // What was read once is not read again while its KV is there (see KvPool).
  bool keep_prefixes = true;
  // A sequence that was on its way at so many suspicious losses of a pipeline, without a token
  // between, may be what breaks it. From then on it runs alone, so that it is known; after so many
  // it ends.
  uint32_t alone_after = 2;
  uint32_t max_losses = 4;
  std::vector<int32_t> eos_ids;  // each of them ends a sequence
};

// What a serving pipeline offers. The KV is empty when it starts.
struct PipelineShape {
  uint32_t n_stages = 1;
  uint32_t context = 0;  // tokens of one sequence
  std::vector<KvGroup> groups;
  uint64_t row_bytes = 0;  // of a row between two stages; 0: it takes nothing
};

struct SequenceSpec {
  SeqId id;
  std::string caller;  // whose share it counts against (the id of an API key)
  std::string tenant;  // who may see by an answer's haste what was asked before; now one for all
  std::vector<int32_t> prompt;
  uint32_t max_tokens = 0;  // counts the completion alone; UINT32_MAX: up to the context
  stage::SampleSpec sample;
  uint32_t top = 0;
  bool ignore_eos = false;
  TimeNs deadline = 0;  // see EndOverdue; 0: it has none
};

enum class SequenceEnd { kEos, kLength };

struct SequenceTimes {
  TimeNs arrived = 0;
  TimeNs started = 0;  // when its first rows were scheduled
  TimeNs first_token = 0;
};

// A token that a sequence gained. `end` is set with the last one.
struct SequenceUpdate {
  stage::TokenOut out;
  uint32_t prompt_tokens = 0;
  uint32_t completion_tokens = 0;  // this one included
  uint32_t cached_tokens = 0;      // of the prompt, those that had been read before
  std::optional<SequenceEnd> end;
  SequenceTimes times;
};

struct SequenceFailure {
  SeqId id;
  absl::Status status;
};

struct SequenceView {
  SeqId id;
  std::string state;  // "queued" "prefill" "decode"
  uint32_t prompt_tokens = 0;
  uint32_t prefilled_tokens = 0;
  uint32_t completion_tokens = 0;
  TimeNs arrived = 0;
};

struct Step {
  StepId id;
  std::vector<stage::StepBatch> frames;
};

// Who goes first. Every caller has the same share of the rows and of the places: the next place
// goes to the caller with the fewest running sequences, the next rows of prompts to the one that
// had the fewest rows. Of one caller's sequences those that ran before come first, then the
// shortest prompts; one that waits grows shorter by a row a millisecond, so that none waits for
// ever.
//
// Not thread-safe.
class Scheduler {
 public:
  explicit Scheduler(SchedulerOptions options);

  // ResourceExhausted: the queue is full. OutOfRange: prompt + 1 does not fit the context (when one
  // is known).
  absl::Status Submit(SequenceSpec spec, TimeNs now);
  // Forgets the sequence. Its blocks are freed once no step in flight touches them. Unknown ids are
  // fine.
  void Cancel(SeqId id);

  // From now on a pipeline with empty KV serves. Returns the sequences that do not fit its context.
  std::vector<SequenceFailure> OnPipelineReady(const PipelineShape& shape);
  // KV and steps in flight are gone. What ran waits, before all that waited, and runs again from
  // its tokens when a pipeline is ready: a sequence's tokens are its log. `suspicious` says that a
  // request may be the reason. Returns the ids of those that ended because they broke the pipeline
  // (max_losses).
  std::vector<SeqId> OnPipelineLost(bool suspicious);
  // While `hold` is set, no waiting sequence begins to run.
  void Hold(bool hold) { hold_ = hold; }

  // Returns the next step. nullopt: there is nothing to do, or as many steps are in flight as there
  // are stages. (Where one stage is all, one more may follow a step that only decodes, so that the
  // stage need not wait for this side between two tokens.)
  std::optional<Step> NextStep(TimeNs now);
  // One frame came back. `tokens` answer its outputs in order; one with an error is left out (see
  // Fail). Unknown frames are ignored.
  std::vector<SequenceUpdate> CommitFrame(StepId step, uint32_t frame,
                                          const std::vector<stage::TokenOut>& tokens, TimeNs now);
  // One frame failed: its sequences have ended. Returns the ids of those that had not already left.
  std::vector<SeqId> FailFrame(StepId step, uint32_t frame);
  // Ends a sequence alone: no token could be drawn for it. False: it had already left.
  bool Fail(SeqId id);

  // Ends every waiting sequence (not the running ones): for a pool that does not come back.
  std::vector<SeqId> FailWaiting(TimeNs arrived_before);

  // Ends those whose deadline has passed, whether they wait or run.
  struct Overdue {
    SeqId id;
    uint32_t completion_tokens = 0;
  };
  std::vector<Overdue> EndOverdue(TimeNs now);

  // How long it takes until one of those that wait begins, by how they began lately.
  TimeNs room_in(TimeNs now) const { return starts_.Next(now); }
  uint32_t n_running() const { return static_cast<uint32_t>(running_.size()); }
  uint32_t max_waiting() const { return options_.max_waiting; }
  uint32_t n_waiting() const { return static_cast<uint32_t>(waiting_.size()); }
  uint32_t steps_in_flight() const { return static_cast<uint32_t>(steps_.size()); }
  // How long it would take to read the running sequences again, by the measured time of a row.
  TimeNs ReplayTime() const;
  uint64_t preemptions() const { return preemptions_; }
  uint32_t context() const { return ready_ ? shape_.context : 0; }
  uint32_t kv_blocks_total() const { return pool_ ? pool_->total() : 0; }
  uint32_t kv_blocks_used() const { return pool_ ? pool_->used() : 0; }
  uint32_t kv_blocks_kept() const { return pool_ ? pool_->kept() : 0; }
  bool idle() const { return sequences_.empty() && steps_.empty(); }
  std::vector<SequenceView> View() const;

 private:
  // How often a waiting sequence begins, while others wait behind it.
  class Pace {
   public:
    void OnStart(TimeNs now, bool others_wait);
    // Expected time from now until the next one; a second when nothing is known.
    TimeNs Next(TimeNs now) const;

   private:
    TimeNs last_ = 0;  // the last start; 0: nobody waited behind it
    double gap_ns_ = 0;
  };
  // A caller's share.
  struct Share {
    Pace starts;
    uint32_t running = 0;  // sequences with KV
    double served = 0;  // rows that it had; a caller that comes back starts level with the others
  };
  enum class State {
    kWaiting,  // holds no blocks
    kRunning,
    kPreempting,  // goes back to waiting once its steps in flight are home
    kGone,        // finished, cancelled or failed; it leaves once its steps in flight are home
  };
  struct Sequence {
    SequenceSpec spec;
    Share* share = nullptr;
    uint64_t order = 0;  // order of arrival
    State state = State::kWaiting;
    std::vector<int32_t> tokens;   // the prompt, then the tokens that were sampled
    uint32_t max_tokens = 0;       // prompt + completion
    uint32_t scheduled = 0;        // positions that are in the KV or on their way
    uint64_t last_step = 0;        // the step that has the row before `scheduled`
    std::set<uint32_t> in_flight;  // first positions of its runs that are in flight
    KvTables tables;
    uint32_t cached = 0;    // positions that were read before it came
    uint32_t expected = 0;  // those that were there when it came
    bool failed = false;    // a frame with rows of it failed: its KV may be wrong
    SequenceTimes times;
    uint32_t losses = 0;  // of pipelines since its last token, each with rows of it on their way

    uint32_t length() const { return static_cast<uint32_t>(tokens.size()); }
    // It is one more than length() while the row of a token that is still being drawn is on its
    // way.
    uint32_t remaining() const { return scheduled > length() ? 0 : length() - scheduled; }
    bool prefilling() const { return length() == spec.prompt.size() || remaining() > 1; }
    KvTokens kv_tokens() const { return {spec.tenant, tokens}; }
    // True when every known token is on its way and the one that the last step draws will not be
    // the sequence's last.
    bool can_run_ahead() const { return scheduled == length() && length() + 1 < max_tokens; }
  };
  struct Chunk {
    Sequence* sequence;
    uint32_t pos;
    uint32_t n_rows;
    StepId token_of;  // the step that draws the token at pos, when that token is not known yet
  };
  struct RunRef {
    SeqId id;
    uint32_t pos;
  };
  struct InFlight {
    std::vector<std::vector<RunRef>> frames;
    std::vector<uint32_t> rows;  // of each frame
    TimeNs submitted = 0;
    std::vector<bool> done;
    uint32_t open = 0;
    bool prefills = false;  // has rows of a prompt (or of a replay), and may therefore take long
  };

  void Admit(TimeNs now);
  // The waiting sequence whose turn it is; null: none may run now.
  Sequence* NextToRun(TimeNs now) const;
  // Preempts sequences of the caller with the most, until one of a caller that has none fits.
  bool MakeRoomForShare(const Sequence& sequence);
  // Rows that a sequence still has to prefill, less those that its waiting counts for.
  static int64_t Turn(const Sequence& sequence, TimeNs now);
  void SetRunning(Sequence* sequence);
  void LeaveRunning(Sequence* sequence);
  Share* ShareOf(const std::string& caller);
  uint32_t PrefillRows(uint32_t n_decoding) const;
  void Measure(const InFlight& step, uint32_t frame, TimeNs now);
  bool runs_ahead() const { return options_.run_ahead && shape_.n_stages == 1; }
  bool MayAddStep() const;
  // Rows that may be sent beside those that are on their way.
  uint32_t RowsLeft() const;
  // The same for prompts, which a step that is sent anyway has a block of at least.
  uint32_t PromptRowsLeft() const { return std::max(RowsLeft(), stage::kKvBlockTokens); }
  bool FitsBesideRunning(const Sequence& sequence) const;
  std::vector<Chunk> PickDecode();
  // The sequence that must run alone; null: none.
  Sequence* Suspect() const;
  bool OnlyInFlight(const Sequence& sequence) const;
  bool MayRun(const Sequence* sequence) const { return alone_ == nullptr || alone_ == sequence; }
  void PickPrefill(std::vector<Chunk>* chunks, TimeNs now);
  // For when nothing else can go on: the oldest sequence may take the room of all others.
  void PickOldest(std::vector<Chunk>* chunks);
  // Takes the KV that is there for the sequence's next rows.
  void Adopt(Sequence* sequence);
  // Another sequence has the very rows that come next on their way.
  bool OnTheirWay(const Sequence& sequence) const;
  // Makes room for up to n_rows rows; preempts the youngest sequence when not even one row fits.
  // Returns the number of rows that fit now.
  uint32_t MakeRoom(Sequence* sequence, uint32_t n_rows);
  void Take(Sequence* sequence, uint32_t n_rows, std::vector<Chunk>* chunks);
  Step BuildStep(const std::vector<Chunk>& chunks, bool prefills, TimeNs now);
  stage::SeqRun MakeRun(const Chunk& chunk, uint32_t pos, uint32_t n_rows) const;

  // Marks the frame's runs as home and returns them. The result is empty when the frame is not in
  // flight.
  std::vector<RunRef> CloseFrame(StepId step, uint32_t frame);
  std::optional<SequenceUpdate> Append(Sequence* sequence, const stage::TokenOut& out, TimeNs now);
  void Preempt(Sequence* sequence);
  void End(Sequence* sequence);
  // Frees what a sequence no longer needs. When its last step is home, it leaves or waits again.
  void Settle(Sequence* sequence);
  Sequence* Find(SeqId id);

  const SchedulerOptions options_;
  bool ready_ = false;
  bool hold_ = false;
  PipelineShape shape_;
  std::unique_ptr<KvPool> pool_;
  std::map<std::string, Share> shares_;  // by caller
  Pace starts_;
  double row_ns_ = 0;  // measured time of a row of a prompt; 0: not known
  TimeNs last_commit_ = 0;
  std::map<SeqId, std::unique_ptr<Sequence>> sequences_;
  std::map<uint64_t, Sequence*> running_;  // by arrival
  std::map<uint64_t, Sequence*> waiting_;  // by arrival
  std::set<Sequence*> draining_;           // kPreempting or kGone, with steps in flight
  std::map<StepId, InFlight> steps_;
  const Sequence* alone_ = nullptr;  // of this step: nobody else is in it
  uint64_t next_order_ = 1;
  uint64_t next_step_ = 1;  // never used again in this coordinator's life
  uint64_t preemptions_ = 0;
};

}  // namespace lanyard::coordinator
