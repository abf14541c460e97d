// Decides which rows run next: admission, continuous batching, chunked prefill beside decode, KV
// blocks, preemption. A state machine without I/O or clock. A sequence's tokens are its log: its KV
// can be dropped and made again at any time.
#pragma once

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
#include "coordinator/serve/planted_bugs.h"
#include "stage/types.h"

namespace lanyard::coordinator {

struct SchedulerOptions {
  uint32_t max_running = 256;   // sequences with KV at once
  uint32_t max_waiting = 1024;  // beyond it Submit says ResourceExhausted
  uint32_t prefill_rows = 512;  // rows of a step that only prefills
  uint32_t mixed_rows =
      256;  // rows of a step that also decodes: bounds what decoding waits for prefill
  uint32_t frame_rows =
      stage::kStepFrameRows;  // a step is cut into frames so that transfer and compute overlap
  // Where one stage embeds and samples: the next decode step is sent before the tokens of the last
  // are home (see stage::LastTokens). Costs a row of every sequence that ends unforeseen.
  bool run_ahead = true;
  std::vector<int32_t> eos_ids;  // any of them ends a sequence
  bool replay_lost =
      false;  // sequences of a lost pipeline run again from their tokens instead of failing
  PlantedBugs bugs;
};

// What a serving pipeline offers. The KV is empty when it starts.
struct PipelineShape {
  uint32_t n_stages = 1;
  uint32_t context = 0;  // tokens of one sequence
  std::vector<KvGroup> groups;
};

struct SequenceSpec {
  SeqId id;
  std::vector<int32_t> prompt;
  uint32_t max_tokens = 0;  // UINT32_MAX: up to the context
  stage::SampleSpec sample;
  uint32_t top = 0;
  bool ignore_eos = false;
};

enum class SequenceEnd { kEos, kLength };

struct SequenceTimes {
  TimeNs arrived = 0;
  TimeNs started = 0;  // first rows scheduled
  TimeNs first_token = 0;
};

// A token that a sequence gained. `end` is set with its last one.
struct SequenceUpdate {
  stage::TokenOut out;
  uint32_t prompt_tokens = 0;
  uint32_t completion_tokens = 0;  // this one included
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

// Not thread-safe.
class Scheduler {
 public:
  explicit Scheduler(SchedulerOptions options);

  // ResourceExhausted when the queue is full, OutOfRange when prompt + 1 does not fit the context
  // (when one is known).
  absl::Status Submit(SequenceSpec spec, TimeNs now);
  // Forgets the sequence. Its blocks are free once no step in flight touches them. Unknown ids are
  // fine.
  void Cancel(SeqId id);

  // A pipeline with empty KV serves from now on. Returns sequences that do not fit its context.
  std::vector<SequenceFailure> OnPipelineReady(const PipelineShape& shape);
  // KV and steps in flight are gone. Returns the ids that the pipeline carried: they have ended
  // (none with replay_lost or `carry`: they run again from their tokens, before all that wait).
  std::vector<SeqId> OnPipelineLost(bool carry = false);
  // While `hold`, nothing that waits begins to run.
  void Hold(bool hold) { hold_ = hold; }

  // The next step, or nullopt: nothing to do, or as many steps in flight as there are stages (one
  // more behind one that only decodes, where one stage is all: it need not wait for this side
  // between two tokens).
  std::optional<Step> NextStep(TimeNs now);
  // One frame came back. `tokens` answer its outputs in order. Unknown frames are ignored.
  std::vector<SequenceUpdate> CommitFrame(StepId step, uint32_t frame,
                                          const std::vector<stage::TokenOut>& tokens, TimeNs now);
  // One frame failed: its sequences have ended. Returns those that were not already gone.
  std::vector<SeqId> FailFrame(StepId step, uint32_t frame);

  // Ends everything that waits (not what runs): for a pool that does not come back.
  std::vector<SeqId> FailWaiting(TimeNs arrived_before);

  uint32_t n_running() const { return static_cast<uint32_t>(running_.size()); }
  uint32_t max_waiting() const { return options_.max_waiting; }
  uint32_t n_waiting() const { return static_cast<uint32_t>(waiting_.size()); }
  uint32_t steps_in_flight() const { return static_cast<uint32_t>(steps_.size()); }
  uint64_t preemptions() const { return preemptions_; }
  uint32_t context() const { return ready_ ? shape_.context : 0; }
  uint32_t kv_blocks_total() const { return pool_ ? pool_->total() : 0; }
  uint32_t kv_blocks_used() const { return pool_ ? pool_->used() : 0; }
  bool idle() const { return sequences_.empty() && steps_.empty(); }
  std::vector<SequenceView> View() const;

 private:
  enum class State {
    kWaiting,  // holds no blocks
    kRunning,
    kPreempting,  // back to waiting once its steps in flight are home
    kGone,        // finished, cancelled or failed; leaves once its steps in flight are home
  };
  struct Sequence {
    SequenceSpec spec;
    uint64_t order = 0;  // of arrival
    State state = State::kWaiting;
    std::vector<int32_t> tokens;   // prompt, then what was sampled
    uint32_t max_tokens = 0;       // prompt + completion
    uint32_t scheduled = 0;        // positions that are in the KV or on their way
    uint64_t last_step = 0;        // has the row before `scheduled`
    std::set<uint32_t> in_flight;  // first positions of its runs
    KvTables tables;
    SequenceTimes times;

    uint32_t length() const { return static_cast<uint32_t>(tokens.size()); }
    // One more than length() when the row of a token that is still being drawn is on its way.
    uint32_t remaining() const { return scheduled > length() ? 0 : length() - scheduled; }
    bool prefilling() const { return length() == spec.prompt.size() || remaining() > 1; }
    // Every known token is on its way, and the one that the last step draws will not be the last of
    // its sequence.
    bool can_run_ahead() const { return scheduled == length() && length() + 1 < max_tokens; }
  };
  struct Chunk {
    Sequence* sequence;
    uint32_t pos;
    uint32_t n_rows;
    StepId token_of;  // draws the token at pos, when it is not known yet
  };
  struct RunRef {
    SeqId id;
    uint32_t pos;
  };
  struct InFlight {
    std::vector<std::vector<RunRef>> frames;
    std::vector<bool> done;
    uint32_t open = 0;
    bool prefills = false;  // has rows of a prompt (or of a replay), and may so take long
  };

  void Admit(TimeNs now);
  bool runs_ahead() const { return options_.run_ahead && shape_.n_stages == 1; }
  bool MayAddStep() const;
  bool FitsBesideRunning(const Sequence& sequence) const;
  std::vector<Chunk> PickDecode();
  void PickPrefill(std::vector<Chunk>* chunks);
  // Makes room for up to n_rows rows; preempts the youngest when not even one fits. Returns the
  // rows that fit now.
  uint32_t MakeRoom(Sequence* sequence, uint32_t n_rows);
  void Take(Sequence* sequence, uint32_t n_rows, std::vector<Chunk>* chunks);
  Step BuildStep(const std::vector<Chunk>& chunks, bool prefills);
  stage::SeqRun MakeRun(const Chunk& chunk, uint32_t pos, uint32_t n_rows) const;

  // Marks the frame's runs as home and returns them; empty when the frame is not in flight.
  std::vector<RunRef> CloseFrame(StepId step, uint32_t frame);
  std::optional<SequenceUpdate> Append(Sequence* sequence, const stage::TokenOut& out, TimeNs now);
  void Preempt(Sequence* sequence);
  void End(Sequence* sequence);
  // Frees what a sequence no longer needs, and lets it leave or wait again when its last step is
  // home.
  void Settle(Sequence* sequence);
  Sequence* Find(SeqId id);

  const SchedulerOptions options_;
  bool ready_ = false;
  bool hold_ = false;
  PipelineShape shape_;
  std::unique_ptr<KvPool> pool_;
  std::map<SeqId, std::unique_ptr<Sequence>> sequences_;
  std::map<uint64_t, Sequence*> running_;  // by arrival
  std::map<uint64_t, Sequence*> waiting_;  // by arrival
  std::set<Sequence*> draining_;           // kPreempting or kGone, steps in flight
  std::map<StepId, InFlight> steps_;
  uint64_t next_order_ = 1;
  uint64_t next_step_ = 1;  // never used again in this coordinator's life
  uint64_t preemptions_ = 0;
};

}  // namespace lanyard::coordinator
