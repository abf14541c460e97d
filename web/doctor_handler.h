// GET /admin/v1/doctor[/NODE] answers what the pool's machines say of themselves and of the ways
// between them. `lanyard doctor` draws the conclusions.
#pragma once

#include <memory>

#include "coordinator/serve/generator.h"
#include "web/http.h"

namespace lanyard::web {

// {"version", "protocol", "unix_ms", "state", "why", "nodes": [{"name", "state", "address",
// "version", "memory_bytes", "resident_bytes", "heartbeat_age_s", "error": "" or why it did not
// answer, "clock_skew_s", "clock_error_s", "available_bytes", "disk_free_bytes",
// "certificate_ends_unix_s", "key_mode"}], "links": [{"from", "to", "error", "code", "connect_ms",
// "rtt_min_ms", "rtt_median_ms", "bytes_per_second", "mtu_bytes", "large_lost"}]}. The answer comes
// later.
void Diagnose(coordinator::Generator* generator, const Request& request,
              std::shared_ptr<ResponseWriter> writer);

}  // namespace lanyard::web
