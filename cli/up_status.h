// What `lanyard up` reads from GET /admin/v1/status and prints when the pool is ready.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/client_lines.h"

namespace lanyard::cli {

struct NodeView {
  std::string name;
  std::string state;
  uint64_t pid = 0;
  bool has_stage = false;
  std::optional<std::pair<uint32_t, uint32_t>> layers;  // first and last
  bool embeds = false;
  bool samples = false;
  uint64_t gguf_bytes = 0;
  uint64_t weights_bytes = 0;
  uint64_t kv_bytes = 0;
  uint64_t buffer_bytes = 0;
  uint64_t memory_bytes = 0;
  uint64_t load_done_bytes = 0;
  uint64_t load_total_bytes = 0;
};

struct PoolView {
  bool ready = false;
  std::string state;
  std::string why;
  std::string plan_why;  // lines
  std::string model;
  uint32_t context = 0;
  std::vector<NodeView> nodes;
};

// nullopt for anything that is not a status object. Missing keys are empty.
std::optional<PoolView> ParsePoolView(std::string_view json);

// How clients reach the pool.
struct PoolAccess {
  ClientAccess clients;
  std::string api_key = {};  // empty when everybody may use it (--http-open)
  std::string admin = {};    // the administrator's folder; likewise
};

// One line without its newline; the keys are those in `lanyard up --help`. Workers come in the
// order of the stages.
std::string UpJson(const PoolView& view, const PoolAccess& access, pid_t coordinator,
                   const std::vector<std::pair<std::string, pid_t>>& workers);
// The plan as a table, the URL, where key and CA lie, and commands that work as they stand. The key
// itself is not in it.
std::string UpText(const PoolView& view, const PoolAccess& access, const std::string& logs);

}  // namespace lanyard::cli
