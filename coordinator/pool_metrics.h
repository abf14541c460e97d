// What /metrics shows: vLLM's names where they fit (its Grafana board works), lanyard_ for what
// vLLM lacks.
#pragma once

#include <string>

#include "base/clock.h"
#include "base/metrics.h"
#include "coordinator/serve/generator.h"
#include "coordinator/serve/scheduler.h"

namespace lanyard::coordinator {

// Totals that the state machines keep.
struct PoolTotals {
  uint32_t running = 0;
  uint32_t waiting = 0;
  uint32_t steps_in_flight = 0;
  uint64_t preemptions = 0;
  uint64_t ignored_results = 0;
};

// Thread-safe.
class PoolMetrics {
 public:
  explicit PoolMetrics(const std::string& model);

  // `last` is when the sequence's token before this one came (0: it is the first).
  void OnToken(const SequenceUpdate& update, TimeNs last, TimeNs now);
  // reason: "stop" "length" "abort" "error".
  void OnEnd(const std::string& reason, const Usage& usage, const SequenceTimes& times, TimeNs now);
  std::string Text(const PoolStatus& status, const PoolTotals& totals);

 private:
  void SetNodes(const PoolStatus& status);

  Metrics metrics_;
};

}  // namespace lanyard::coordinator
