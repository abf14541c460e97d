// What /metrics shows. Names are vLLM's where they fit, so that its Grafana board works, and begin
// with lanyard_ where vLLM has none.
#pragma once

#include <string>

#include "base/clock.h"
#include "base/metrics.h"
#include "coordinator/serve/generator.h"
#include "coordinator/serve/scheduler.h"

namespace lanyard::coordinator {

// The totals that the state machines keep.
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

  // `last` is when the sequence's previous token came (0: this is the first one).
  void OnToken(const SequenceUpdate& update, TimeNs last, TimeNs now);
  // `reason` is "stop", "length", "abort" or "error".
  void OnEnd(const std::string& reason, const Usage& usage, const SequenceTimes& times, TimeNs now);
  // A turn of the pool's loop took this long.
  void OnTurn(TimeNs took);
  std::string Text(const PoolStatus& status, const PoolTotals& totals);

 private:
  void SetNodes(const PoolStatus& status);

  Metrics metrics_;
};

}  // namespace lanyard::coordinator
