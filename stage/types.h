// The pipeline's words: numerics, stage duties, a step's rows, hidden states, results. It is plain
// data without threads or sockets. What comes over the wire is checked by ValidateFrame
// (stage/validate.h) before anything is computed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "base/status.h"
#include "base/version.h"

namespace lanyard::stage {

// Tokens of one KV block. Attention walks the positions of a sequence in chunks of this size, so it
// is part of the numerics.
inline constexpr uint32_t kKvBlockTokens = 32;
// The most rows of one frame. A longer step is several frames, each of which is valid by itself.
inline constexpr uint32_t kMaxFrameRows = 512;
// The rows of the frames into which the scheduler cuts a step, so that transfer and compute
// overlap. It sizes the buffers of stages.
inline constexpr uint32_t kStepFrameRows = 128;

// kF16 has f16 mantissas and one power of two for each row.
enum class WireType : uint8_t { kF32 = 0, kF16 = 1 };
enum class KvType : uint8_t { kF32 = 0, kF16 = 1, kQ8 = 2 };
// kFast runs on tensor cores; see CheckFastAttention.
enum class AttentionForm : uint8_t { kExact = 0, kFast = 1 };

// Within one numerics id every result is bit-equal, whatever machine, batch, chunk or cut computed
// it. With fast attention this holds on cards of one generation.
struct NumericsId {
  uint32_t version = kNumericsVersion;
  KvType kv = KvType::kF16;
  WireType wire = WireType::kF16;
  AttentionForm attention = AttentionForm::kExact;
  friend bool operator==(const NumericsId&, const NumericsId&) = default;
  std::string ToString() const;  // "n1-kv.f16-wire.f16", "n1-kv.f16-wire.f16-attn.fast"
};

std::string KvTypeName(KvType type);                // "f32" "f16" "q8"
std::string WireTypeName(WireType type);            // "f32" "f16"
std::string AttentionFormName(AttentionForm form);  // "exact" "fast"
absl::StatusOr<KvType> ParseKvType(std::string_view s);
absl::StatusOr<WireType> ParseWireType(std::string_view s);
absl::StatusOr<AttentionForm> ParseAttentionForm(std::string_view s);

// What a user asks for. The rest follows a model's weights: f32 KV and wire for float weights, f16
// for quantised ones.
struct NumericsChoice {
  std::optional<KvType> kv;
  std::optional<WireType> wire;
  AttentionForm attention = AttentionForm::kExact;
  NumericsId For(bool float_weights) const;
};

struct AttentionHeads {
  uint32_t n_heads = 0;
  uint32_t n_kv_heads = 0;
  uint32_t head_dim = 0;
};
// Says whether a fast form of these heads over this KV exists at all; whether a device has it, the
// device says. FailedPrecondition says what is in the way and what to do.
absl::Status CheckFastAttention(const AttentionHeads& heads, KvType kv);

// Layers [begin, end), 0-based.
struct LayerRange {
  uint32_t begin = 0;
  uint32_t end = 0;
  friend bool operator==(const LayerRange&, const LayerRange&) = default;
  uint32_t size() const { return end - begin; }
};

// One stage's duty in a plan.
struct StageSpec {
  PlanId plan;
  Epoch epoch;
  uint32_t index = 0;  // 0 .. n_stages-1
  uint32_t n_stages = 1;
  NumericsId numerics;
  LayerRange layers;                   // may be empty for a stage of the head only
  bool embeds = false;                 // first stage: token ids -> hidden
  bool samples = false;                // last stage: hidden -> tokens
  std::vector<uint32_t> group_blocks;  // KV blocks of each state group of the model; the same in
                                       // every stage of a plan
  uint32_t max_context = 0;            // tokens of one sequence
  uint32_t max_rows = kMaxFrameRows;
};

// How a token is drawn. The draw is a function of (seed, position) alone.
struct SampleSpec {
  float temperature = 1;  // 0 is greedy (ties to the lower id)
  uint32_t top_k = 0;     // 0: off
  float top_p = 1;        // (0, 1]
  float min_p = 0;        // [0, 1]
  uint64_t seed = 0;
};

// What the last stage returns for one row.
struct OutputRequest {
  uint32_t row = 0;  // index within the run
  SampleSpec sample;
  uint32_t top = 0;  // number of the largest logits wanted, descending, ties to the lower id
  std::vector<int32_t> want;  // logits of these ids
};

// The block table of one state group for one sequence: logical blocks first, first+1, ... are these
// pool blocks. Logical block i holds positions [i*32, i*32+32). A sliding group lists only the
// blocks that its window still sees.
struct BlockTable {
  uint32_t first = 0;
  std::vector<uint32_t> blocks;
};

// Consecutive positions of one sequence. A run is self-contained: workers keep no table of
// sequences.
struct SeqRun {
  SeqId seq;
  uint32_t pos = 0;  // position of the first row
  uint32_t n_rows = 0;
  std::vector<int32_t> tokens;     // n_rows ids for the first stage; empty for the others
  std::vector<BlockTable> tables;  // one entry for each state group
  std::vector<OutputRequest> outputs;
  // Not 0: instead of `tokens`, the run has the one token that this earlier step drew for the row
  // before (see LastTokens). Only a run of one row may have it, on a stage that embeds and samples.
  StepId token_of{};
};

// A range of a step's rows.
struct StepBatch {
  StepId step;
  uint32_t frame = 0;  // index among the n_frames of this step, in order
  uint32_t n_frames = 1;
  std::vector<SeqRun> runs;  // rows are numbered run after run

  uint32_t TotalRows() const;
};

// Hidden states, rows x cols, row-major little-endian. kF32 holds an f32 each. kF16 begins with an
// int8 exponent for each row, then come rows x cols f16; value = f16 * 2^exponent. A row that
// overflowed travels on as it is: it spoils no other row, and the last stage says so in its
// TokenOut.
struct Hidden {
  WireType type = WireType::kF32;
  uint32_t rows = 0;
  uint32_t cols = 0;
  std::vector<uint8_t> data;

  static uint64_t BytesFor(WireType type, uint32_t rows, uint32_t cols);
};

struct StepFrame {
  PlanId plan;
  Epoch epoch;
  uint32_t stage = 0;  // the stage that is to run it
  NumericsId numerics;
  StepBatch batch;
  Hidden hidden;  // empty (rows 0) for the stage that embeds
};

struct TokenOut {
  SeqId seq;
  uint32_t pos = 0;  // position of the row; the sampled token belongs at pos + 1
  int32_t token = -1;
  float logprob = 0;  // natural logarithm, for the token under temperature 1
  float lse = 0;      // log-sum-exp of the row's logits
  std::vector<std::pair<int32_t, float>> top;
  std::vector<float> want;  // in the order in which they were asked for
  // Not OK: no token could be drawn for this row (its values are not finite), and only seq and pos
  // count. It ends this sequence; the others of the frame are not touched.
  absl::Status status = absl::OkStatus();
};

// The last stage sends one for each frame; any stage that failed sends one too.
struct StepResult {
  PlanId plan;
  Epoch epoch;
  StepId step;
  uint32_t frame = 0;
  uint32_t stage = 0;
  std::string worker;
  absl::Status status;
  std::vector<TokenOut> tokens;
};

// Takes frames for one stage, in order. Send does not block for long: it queues, or says
// ResourceExhausted/Unavailable. It is implemented by net::RemoteStage, worker::StageHost and
// loopbacks in tests. Thread-safe.
class StagePort {
 public:
  virtual ~StagePort() = default;
  virtual absl::Status Send(StepFrame frame) = 0;
};

// Takes results at the coordinator. It is called from any thread; an implementation must only
// enqueue.
class ResultSink {
 public:
  virtual ~ResultSink() = default;
  virtual void OnResult(StepResult result) = 0;
};

}  // namespace lanyard::stage
