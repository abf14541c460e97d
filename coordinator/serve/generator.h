// The front door of the pool for web/ (and for tests): through it an answer is started, its text
// received and cancelled, and the pool's state asked for.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/status.h"
#include "stage/types.h"

namespace lanyard::coordinator {

// What a request may hold; web/ reads requests by them, request_check.h checks what comes here.
inline constexpr size_t kMaxStops = 256;
inline constexpr size_t kMaxStopBytes = 4096;    // of one
inline constexpr uint32_t kMaxTopLogprobs = 20;  // OpenAI's
inline constexpr uint32_t kMaxRequestTokens = std::numeric_limits<int32_t>::max();

struct ChatMessage {
  std::string role;
  std::string content;  // text parts already joined
  std::string name;
};

struct GenerateRequest {
  // A chat (which goes through the model's template), a raw text, or token ids.
  std::variant<std::vector<ChatMessage>, std::string, std::vector<int32_t>> prompt;
  std::string model;                   // empty, or the id of a served model; NotFound otherwise
  std::optional<uint32_t> max_tokens;  // absent: up to the context
  stage::SampleSpec sample;            // seed chosen by the caller
  std::vector<std::string> stop;       // at most kMaxStops, none empty, never emitted
  bool ignore_eos = false;
  // Nanoseconds from its arrival in which its answer must be whole; 0: it may take what it takes.
  TimeNs timeout = 0;
  // Of a raw text: texts of control tokens in it become those tokens. A chat's never do.
  bool parse_special = true;
  // How hard a model that thinks is asked to; empty: nothing was asked. A chat's.
  std::string reasoning_effort;
  uint32_t top_logprobs = 0;  // at most kMaxTopLogprobs; 0: none are reported
  bool logprobs = false;
  std::string request_id;  // for the log
  std::string caller;      // id of the API key, by which the pool is shared out; empty: nobody's
};

enum class FinishReason { kStop, kLength };

struct Usage {
  uint32_t prompt_tokens = 0;
  uint32_t completion_tokens = 0;
  uint32_t cached_tokens = 0;  // of the prompt, those that were not read again
};

// Log probabilities of one emitted token.
struct TokenLogprob {
  int32_t id = -1;
  std::string bytes;
  float logprob = 0;
  std::vector<std::pair<std::string, float>> top;
};

// Receives one answer. It is called from the pool's thread, in order: any number of OnText, then
// one OnDone or one OnError, and nothing after that. An implementation must only enqueue. Text
// never splits a UTF-8 character and never holds a stop string.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void OnText(std::string text, std::vector<TokenLogprob> logprobs) = 0;
  virtual void OnDone(FinishReason reason, Usage usage) = 0;
  // The pool's typed errors: Unavailable (a worker was lost, and the text names it; or the pool is
  // not ready), ResourceExhausted (the queue is full), DeadlineExceeded.
  virtual void OnError(const absl::Status& status, Usage usage) = 0;
  // Whether nobody waits for the answer any more. Thread-safe; Start asks while it reads a prompt.
  virtual bool Abandoned() { return false; }
};

// A card of a node; rates are measured, 0 where they are not known.
struct NodeDevice {
  std::string name;
  std::string model;
  uint64_t memory_bytes = 0;  // memory that stages may use
  double speed = 0;
  double read_bytes_per_second = 0;
  double int8_ops_per_second = 0;
  double f16_ops_per_second = 0;
  double to_device_bytes_per_second = 0;
  double to_host_bytes_per_second = 0;
};

struct NodeStatus {
  std::string name;
  std::string state;  // "joined" "loading" "ready" "draining" (drained, but has layers yet)
                      // "drained" "lost"
  std::string why =
      {};  // one sentence when no plan uses it, or less of it: why, and what changes that
  std::string address;
  std::string version;
  std::string isa;
  uint64_t pid = 0;
  uint32_t threads = 0;
  double speed = 0;
  double slowness = 1;  // times longer than `speed` promises, where it is a straggler
  uint64_t memory_bytes = 0;
  uint64_t resident_bytes = 0;
  double busy = 0;
  double heartbeat_age_s = 0;
  bool drained = false;  // also set while the worker is lost
  // Why it last failed to load, since it last served; null: it did not fail.
  struct LoadFailure {
    std::string cause;  // "disk_full" and the like (cluster/health.h)
    std::string what;
    std::string next;    // what to do
    uint32_t times = 0;  // 0: it passes by itself
    std::string why;     // in the worker's words
  };
  std::optional<LoadFailure> load_failure = {};
  bool has_stage = false;
  stage::LayerRange layers;
  bool embeds = false;
  bool samples = false;
  uint64_t gguf_bytes = 0;  // file bytes of the parts that it holds
  uint64_t weights_bytes = 0;
  uint64_t kv_bytes = 0;
  uint64_t buffer_bytes = 0;
  uint64_t fetched_bytes = 0;
  uint64_t load_done_bytes = 0;
  uint64_t load_total_bytes = 0;
  std::vector<NodeDevice> devices = {};
};

struct RequestStatus {
  std::string request_id;
  std::string state;  // "queued" "prefill" "decode"
  uint32_t prompt_tokens = 0;
  uint32_t prefilled_tokens = 0;
  uint32_t completion_tokens = 0;
  double age_s = 0;
};

struct PoolStatus {
  bool ready = false;
  std::string state;  // "waiting for workers" "loading" "ready" "no plan fits"
  std::string why;    // one sentence when not ready
  // While it loads: in how many seconds it will be ready, by how fast it came forward until now.
  std::optional<int64_t> ready_in_s;
  std::string model;  // id
  std::string model_digest;
  uint64_t model_bytes = 0;
  int64_t created_unix_s = 0;
  uint32_t context = 0;  // tokens of one sequence, after shrinking
  std::string numerics;
  uint64_t epoch = 0;
  std::vector<std::string> plan_why;
  std::vector<NodeStatus> nodes;
  std::vector<RequestStatus> requests;
  uint32_t kv_blocks_total = 0;
  uint32_t kv_blocks_used = 0;
};

// What every answer names; it never changes while the pool runs.
struct ModelIdentity {
  std::string id;
  std::string digest;
  std::string numerics;
};

// What a machine of the pool says about itself when the coordinator asks (`lanyard doctor`).
struct NodeDiagnosis {
  std::string name;
  std::string error;             // why it gave no answer; then none of the fields below is known
  double clock_skew_s = 0;       // its clock minus the coordinator's
  double clock_error_s = 0;      // largest error of that figure (half the time of the messages)
  uint64_t available_bytes = 0;  // free memory of the machine
  uint64_t disk_free_bytes = 0;  // free bytes where weights are kept
  int64_t certificate_ends_unix_s = 0;  // 0: plaintext
  uint32_t key_mode = 0;                // permission bits of its key; 0: not known
};

// The way from one machine to another, as the first measured it; see net/diagnosis.h.
struct LinkReport {
  std::string from;
  std::string to;
  absl::Status status;
  double connect_ms = 0;
  double rtt_min_ms = 0;
  double rtt_median_ms = 0;
  double bytes_per_second = 0;
  uint32_t mtu_bytes = 0;
  bool large_lost = false;
};

struct PoolDiagnosis {
  int64_t unix_ms = 0;  // the coordinator's clock when the report was complete
  std::vector<NodeDiagnosis> nodes;
  std::vector<LinkReport> links;
};

// Thread-safe.
class Generator {
 public:
  virtual ~Generator() = default;
  // Checks the request, applies the template and tokenises in the caller's thread, then queues.
  // Errors before the first token come from here: InvalidArgument (bad values), OutOfRange (prompt
  // longer than the context: "This model's maximum context length is ..."), NotFound (model),
  // Unavailable (not ready), ResourceExhausted (queue full), Cancelled (the sink was abandoned).
  // Returns the id for Cancel.
  virtual absl::StatusOr<SeqId> Start(const GenerateRequest& request,
                                      std::shared_ptr<TokenSink> sink) = 0;
  // The client left: its rows leave the batch, its KV blocks are freed, and the sink is not called
  // again. Unknown ids are fine.
  virtual void Cancel(SeqId id) = 0;
  virtual PoolStatus Status() const = 0;
  // Quick, unlike Status, which lists every request.
  virtual ModelIdentity Model() const = 0;
  // Returns Prometheus text.
  virtual std::string MetricsText() const = 0;
  // Every machine says how it is and measures its ways to the others, one machine after another
  // (this takes up to a minute). With a `node`, that machine alone is asked, and the ways to and
  // from it are measured. `done` is called once, from any thread. NotFound: unknown node.
  // ResourceExhausted: another diagnosis runs. Unimplemented: there are no machines to ask.
  virtual void Diagnose(const std::string& node,
                        std::function<void(absl::StatusOr<PoolDiagnosis>)> done) {
    (void)node;
    done(absl::UnimplementedError("this pool has no machines that can be asked"));
  }
  // Asks the process to stop cleanly (lanyard stop).
  virtual void RequestShutdown() = 0;
};

}  // namespace lanyard::coordinator
