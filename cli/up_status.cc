#include "cli/up_status.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/size.h"
#include "base/status.h"
#include "cli/pool_json.h"
#include "cli/table.h"

namespace lanyard::cli {
namespace {

using nlohmann::ordered_json;

// Returns the value of a key, or `fallback` when it is missing or of another type.
template <typename T>
T Get(const ordered_json& object, const char* key, T fallback) {
  const auto it = object.find(key);
  if (it == object.end()) return fallback;
  if constexpr (std::is_same_v<T, std::string>) {
    return it->is_string() ? it->get<std::string>() : fallback;
  } else if constexpr (std::is_same_v<T, bool>) {
    return it->is_boolean() ? it->get<bool>() : fallback;
  } else {
    return it->is_number_unsigned() ? it->get<T>() : fallback;
  }
}

NodeView ParseNode(const ordered_json& n) {
  NodeView out;
  out.name = Get(n, "name", std::string());
  out.state = Get(n, "state", std::string());
  out.pid = Get(n, "pid", uint64_t{0});
  out.has_stage = Get(n, "has_stage", false);
  if (const auto layers = n.find("layers");
      layers != n.end() && layers->is_array() && layers->size() == 2 &&
      (*layers)[0].is_number_unsigned() && (*layers)[1].is_number_unsigned()) {
    out.layers.emplace((*layers)[0].get<uint32_t>(), (*layers)[1].get<uint32_t>());
  }
  out.embeds = Get(n, "embeds", false);
  out.samples = Get(n, "samples", false);
  out.gguf_bytes = Get(n, "gguf_bytes", uint64_t{0});
  out.weights_bytes = Get(n, "weights_bytes", uint64_t{0});
  out.kv_bytes = Get(n, "kv_bytes", uint64_t{0});
  out.buffer_bytes = Get(n, "buffer_bytes", uint64_t{0});
  out.memory_bytes = Get(n, "memory_bytes", uint64_t{0});
  out.load_done_bytes = Get(n, "load_done_bytes", uint64_t{0});
  out.load_total_bytes = Get(n, "load_total_bytes", uint64_t{0});
  return out;
}

// Orders by stage: first the one that embeds, then by layer, then the head, and those without a
// stage last.
std::vector<NodeView> InStageOrder(std::vector<NodeView> nodes) {
  const auto rank = [](const NodeView& n) -> uint64_t {
    if (!n.has_stage) return UINT64_MAX;
    if (n.layers.has_value()) return uint64_t{n.layers->first} + 1;
    return n.embeds ? 0 : UINT64_MAX - 1;
  };
  std::stable_sort(nodes.begin(), nodes.end(),
                   [&](const NodeView& a, const NodeView& b) { return rank(a) < rank(b); });
  return nodes;
}

std::string LayerText(const NodeView& n) {
  if (!n.has_stage) return "none (spare)";
  std::string out;
  if (n.embeds) out += "embedding, ";
  if (n.layers.has_value()) out += absl::StrCat(n.layers->first, "-", n.layers->second, ", ");
  if (n.samples) out += "head, ";
  if (out.size() >= 2) out.resize(out.size() - 2);
  return out;
}

// What most people need first.
std::string HowToAsk(const PoolAccess& access) {
  const ClientAccess& c = access.clients;
  std::string out;
  if (!c.open) absl::StrAppend(&out, "The API key is in ", c.key_file);
  if (!c.ca.empty()) absl::StrAppend(&out, ", the CA certificate in ", c.ca);
  if (!out.empty()) out += "\n";
  for (const ClientLine& line : ClientLines(c)) {
    if (line.client == "curl" || line.client == "openai")
      absl::StrAppend(&out, "  ", line.line, "\n");
  }
  const std::string how =
      access.admin.empty() ? "--url " + c.url : "--admin " + ShellWord(access.admin);
  absl::StrAppend(&out, "  lanyard run ", how, "\n");
  if (c.open) return out;
  absl::StrAppend(&out, "Node, requests, desktop programs: lanyard clients ", how, "\n");
  out += StoreNote(c);
  if (!c.ca.empty() && !c.constrained) {
    absl::StrAppend(&out,
                    "The CA of this pool is older than name constraints: do not put it into a "
                    "system's store. One that may: lanyard clients --new-ca ",
                    how, "\n");
  }
  return out;
}

}  // namespace

std::optional<PoolView> ParsePoolView(std::string_view text) {
  const ordered_json s =
      ordered_json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!s.is_object()) return std::nullopt;
  PoolView out;
  out.ready = Get(s, "ready", false);
  out.state = Get(s, "state", std::string());
  out.why = Get(s, "why", std::string());
  out.model = Get(s, "model", std::string());
  out.context = Get(s, "context", 0u);
  if (const auto lines = s.find("plan_why"); lines != s.end() && lines->is_array()) {
    for (const auto& line : *lines) {
      if (line.is_string())
        out.plan_why += (out.plan_why.empty() ? "  " : "\n  ") + line.get<std::string>();
    }
  }
  if (const auto nodes = s.find("nodes"); nodes != s.end() && nodes->is_array()) {
    for (const auto& node : *nodes) {
      if (node.is_object()) out.nodes.push_back(ParseNode(node));
    }
  }
  return out;
}

std::string UpJson(const PoolView& view, const PoolAccess& access, pid_t coordinator,
                   const std::vector<std::pair<std::string, pid_t>>& workers) {
  const auto or_null = [](const std::string& text) {
    return text.empty() ? ordered_json(nullptr) : ordered_json(text);
  };
  ordered_json out = {{"url", access.clients.url}};
  out["api_key"] = or_null(access.api_key);
  out["ca"] = or_null(access.clients.ca);
  out["ca_bundle"] = or_null(access.clients.bundle);
  out["admin"] = or_null(access.admin);
  out["clients"] = ClientLinesJson(access.clients);
  out["model"] = view.model;
  out["context"] = view.context;
  out["pids"] = {{"coordinator", coordinator}};
  out["workers"] = ordered_json::array();
  for (const NodeView& n : InStageOrder(view.nodes)) {
    auto pid = static_cast<pid_t>(n.pid);
    for (const auto& [name, started] : workers) {
      if (name == n.name) pid = started;
    }
    ordered_json worker = {{"name", n.name}, {"pid", pid}, {"layers", nullptr}};
    if (n.layers.has_value())
      worker["layers"] = ordered_json::array({n.layers->first, n.layers->second});
    worker["embeds"] = n.embeds;
    worker["samples"] = n.samples;
    worker["bytes"] = n.gguf_bytes;
    out["workers"].push_back(std::move(worker));
  }
  return OneLine(out);
}

std::string UpText(const PoolView& view, const PoolAccess& access, const std::string& logs) {
  Table table({"WORKER", "LAYERS", ">MODEL BYTES", ">WEIGHTS", ">KV", ">BUFFERS", ">LIMIT"});
  for (const NodeView& n : InStageOrder(view.nodes)) {
    table.AddRow({n.name, LayerText(n), FormatSize(n.gguf_bytes), FormatSize(n.weights_bytes),
                  FormatSize(n.kv_bytes), FormatSize(n.buffer_bytes),
                  n.memory_bytes > 0 ? FormatSize(n.memory_bytes) : "-"});
  }
  return absl::StrCat("Model ", view.model, ", context ", view.context, " tokens\n",
                      table.ToString(), "\nReady at ", access.clients.url, " (logs in ", logs,
                      ")\n", HowToAsk(access));
}

}  // namespace lanyard::cli
