#include "coordinator/pool_metrics.h"

#include <vector>

namespace lanyard::coordinator {
namespace {

using Description = Metrics::Description;

// The bounds are those of vLLM's v1/metrics/loggers.py, so that its dashboards and alerts keep
// their meaning.
const std::vector<double> kFirstTokenBuckets = {0.001, 0.005, 0.01, 0.02,  0.04,  0.06,  0.08, 0.1,
                                                0.25,  0.5,   0.75, 1.0,   2.5,   5.0,   7.5,  10.0,
                                                20.0,  40.0,  80.0, 160.0, 640.0, 2560.0};
const std::vector<double> kBetweenBuckets = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,
                                             0.3,  0.4,   0.5,  0.75,  1.0, 2.5,  5.0,
                                             7.5,  10.0,  20.0, 40.0,  80.0};
const std::vector<double> kRequestBuckets = {0.3,  0.5,   0.8,   1.0,   1.5,   2.0,    2.5,
                                             5.0,  10.0,  15.0,  20.0,  30.0,  40.0,   50.0,
                                             60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0};
const std::vector<double> kTokenBuckets = {1,   2,    5,    10,   20,    50,    100,   200,
                                           500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};

const std::vector<double> kLagBuckets = {0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05,
                                         0.1,    0.25,   0.5,   1.0,   2.5};

constexpr Description kRunning{"vllm:num_requests_running", "Requests that hold KV."};
constexpr Description kWaiting{"vllm:num_requests_waiting", "Requests in the queue."};
constexpr Description kKvUsage{"vllm:kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1."};
constexpr Description kPreemptions{"vllm:num_preemptions_total",
                                   "Requests whose KV was given up and made again."};
constexpr Description kPromptTokens{"vllm:prompt_tokens_total",
                                    "Prompt tokens of requests that got a first token."};
constexpr Description kPrefixQueries{"vllm:prefix_cache_queries_total",
                                     "Prompt tokens that were looked up in the KV."};
constexpr Description kPrefixHits{"vllm:prefix_cache_hits_total",
                                  "Of these, those that did not have to be read again."};
constexpr Description kGenerationTokens{"vllm:generation_tokens_total", "Tokens generated."};
constexpr Description kSuccess{"vllm:request_success_total", "Requests that ended, by reason."};
constexpr Description kFirstToken{"vllm:time_to_first_token_seconds",
                                  "From arrival to the first token."};
constexpr Description kBetween{"vllm:inter_token_latency_seconds",
                               "Between two tokens of one request."};
constexpr Description kEndToEnd{"vllm:e2e_request_latency_seconds", "From arrival to the end."};
constexpr Description kQueue{"vllm:request_queue_time_seconds",
                             "From arrival to the first rows scheduled."};
constexpr Description kPrefill{"vllm:request_prefill_time_seconds",
                               "From the first rows scheduled to the first token."};
constexpr Description kDecode{"vllm:request_decode_time_seconds",
                              "From the first token to the end."};
constexpr Description kInference{"vllm:request_inference_time_seconds",
                                 "From the first rows scheduled to the end."};
constexpr Description kRequestPrompt{"vllm:request_prompt_tokens", "Prompt tokens of a request."};
constexpr Description kRequestGeneration{"vllm:request_generation_tokens",
                                         "Generated tokens of a request."};
constexpr Description kReady{"lanyard_pool_ready", "1 while the pool serves."};
constexpr Description kEpoch{"lanyard_epoch",
                             "Epoch of the plan; rises whenever the stages are assigned anew."};
constexpr Description kSteps{"lanyard_steps_in_flight", "Steps on their way through the stages."};
constexpr Description kIgnored{"lanyard_results_ignored_total",
                               "Stale, repeated or foreign results."};
constexpr Description kFailed{"lanyard_requests_failed_total",
                              "Requests that ended with an error of the pool."};
constexpr Description kLag{"lanyard_pool_loop_lag_seconds",
                           "Time of one turn of the pool's thread, which whatever arrives "
                           "meanwhile waits for; above 0.1 s something is wrong."};
constexpr Description kNodeUp{"lanyard_node_up",
                              "1 while the worker is in the pool, 0 once it is lost."};
constexpr Description kNodeLayers{"lanyard_node_layers", "Layers that the worker holds."};
constexpr Description kNodeResident{"lanyard_node_resident_bytes",
                                    "Resident memory of the worker."};
constexpr Description kNodeLimit{"lanyard_node_memory_limit_bytes",
                                 "Memory that the worker may take."};
constexpr Description kNodeBusy{"lanyard_node_busy",
                                "Share of the last interval that the worker computed, 0 to 1."};
constexpr Description kNodeKv{"lanyard_node_kv_bytes", "KV memory of the worker's stage."};
constexpr Description kFetched{"lanyard_weights_fetched_bytes",
                               "Weights fetched from the coordinator for this plan."};

double Seconds(TimeNs t) { return static_cast<double>(t) / kSecond; }

}  // namespace

PoolMetrics::PoolMetrics(const std::string& model)
    : metrics_(Metrics::Labels{{"model_name", model}, {"engine", "0"}}) {
  for (const Description& counter : {kPreemptions, kPrefixQueries, kPrefixHits, kPromptTokens,
                                     kGenerationTokens, kIgnored, kFailed}) {
    metrics_.Declare(counter);
  }
  for (const char* reason : {"stop", "length", "abort"})
    metrics_.Declare(kSuccess, {{"finished_reason", reason}});
  metrics_.Declare(kFirstToken, kFirstTokenBuckets);
  metrics_.Declare(kBetween, kBetweenBuckets);
  for (const Description& histogram : {kEndToEnd, kQueue, kPrefill, kDecode, kInference}) {
    metrics_.Declare(histogram, kRequestBuckets);
  }
  metrics_.Declare(kLag, kLagBuckets);
  metrics_.Declare(kRequestPrompt, kTokenBuckets);
  metrics_.Declare(kRequestGeneration, kTokenBuckets);
}

void PoolMetrics::OnToken(const SequenceUpdate& update, TimeNs last, TimeNs now) {
  metrics_.Add(kGenerationTokens, 1);
  if (last != 0) {
    metrics_.Observe(kBetween, kBetweenBuckets, Seconds(now - last));
    return;
  }
  metrics_.Add(kPromptTokens, update.prompt_tokens);
  metrics_.Add(kPrefixQueries, update.prompt_tokens);
  metrics_.Add(kPrefixHits, update.cached_tokens);
  metrics_.Observe(kFirstToken, kFirstTokenBuckets, Seconds(now - update.times.arrived));
}

void PoolMetrics::OnEnd(const std::string& reason, const Usage& usage, const SequenceTimes& times,
                        TimeNs now) {
  if (reason == "error") {
    metrics_.Add(kFailed, 1);
    return;
  }
  metrics_.Add(kSuccess, 1, {{"finished_reason", reason}});
  if (reason == "abort" || times.first_token == 0) return;
  metrics_.Observe(kEndToEnd, kRequestBuckets, Seconds(now - times.arrived));
  metrics_.Observe(kQueue, kRequestBuckets, Seconds(times.started - times.arrived));
  metrics_.Observe(kPrefill, kRequestBuckets, Seconds(times.first_token - times.started));
  metrics_.Observe(kDecode, kRequestBuckets, Seconds(now - times.first_token));
  metrics_.Observe(kInference, kRequestBuckets, Seconds(now - times.started));
  metrics_.Observe(kRequestPrompt, kTokenBuckets, usage.prompt_tokens);
  metrics_.Observe(kRequestGeneration, kTokenBuckets, usage.completion_tokens);
}

void PoolMetrics::OnTurn(TimeNs took) { metrics_.Observe(kLag, kLagBuckets, Seconds(took)); }

void PoolMetrics::SetNodes(const PoolStatus& status) {
  for (const NodeStatus& node : status.nodes) {
    const Metrics::Labels labels = {{"node", node.name}};
    const bool up = node.state != "lost";
    metrics_.Set(kNodeUp, up ? 1 : 0, labels);
    metrics_.Set(kNodeLayers, node.has_stage ? node.layers.size() : 0, labels);
    metrics_.Set(kNodeResident, up ? static_cast<double>(node.resident_bytes) : 0, labels);
    metrics_.Set(kNodeLimit, static_cast<double>(node.memory_bytes), labels);
    metrics_.Set(kNodeBusy, up ? node.busy : 0, labels);
    metrics_.Set(kNodeKv, node.has_stage ? static_cast<double>(node.kv_bytes) : 0, labels);
    metrics_.Set(kFetched, static_cast<double>(node.fetched_bytes), labels);
  }
}

std::string PoolMetrics::Text(const PoolStatus& status, const PoolTotals& totals) {
  metrics_.Set(kReady, status.ready ? 1 : 0);
  metrics_.Set(kEpoch, static_cast<double>(status.epoch));
  metrics_.Set(kRunning, totals.running);
  metrics_.Set(kWaiting, totals.waiting);
  metrics_.Set(kSteps, totals.steps_in_flight);
  const double blocks = status.kv_blocks_total;
  metrics_.Set(kKvUsage, blocks > 0 ? status.kv_blocks_used / blocks : 0);
  metrics_.RaiseTo(kPreemptions, static_cast<double>(totals.preemptions));
  metrics_.RaiseTo(kIgnored, static_cast<double>(totals.ignored_results));
  SetNodes(status);
  return metrics_.Text();
}

}  // namespace lanyard::coordinator
