#include "cli/up_status.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/size.h"
#include "base/status.h"
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

// Quotes a text as one word of a shell.
std::string ShellWord(const std::string& text) {
  const auto plain = [](unsigned char c) {
    return std::isalnum(c) != 0 || std::strchr("/._-+:,@%=", c) != nullptr;
  };
  if (!text.empty() && std::all_of(text.begin(), text.end(), plain)) return text;
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

constexpr char kQuestion[] =
    R"(/v1/chat/completions -d '{"messages":[{"role":"user","content":"Hello!"}]}')";

std::string HowToAsk(const PoolAccess& access) {
  if (access.key_file.empty())
    return absl::StrCat("  curl ", access.url, kQuestion, "\n  lanyard run --url ", access.url,
                        "\n");
  const std::string key = ShellWord(access.key_file);
  const std::string ca = ShellWord(access.ca);
  // The key goes by file: among curl's arguments it would stand in the process list.
  return absl::StrCat("The API key is in ", access.key_file, ", the CA certificate in ", access.ca,
                      "\n  sed 's/^/Authorization: Bearer /' ", key, " | curl --cacert ", ca,
                      " -H @- ", access.url, kQuestion, "\n  OPENAI_BASE_URL=", access.url,
                      "/v1 OPENAI_API_KEY=\"$(cat ", key, ")\" SSL_CERT_FILE=", ca,
                      " python3 YOUR_PROGRAM.py", "\n  lanyard run --admin ",
                      ShellWord(access.admin), "\n");
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
  ordered_json out = {{"url", access.url}};
  out["api_key"] = or_null(access.api_key);
  out["ca"] = or_null(access.ca);
  out["admin"] = or_null(access.admin);
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
  return out.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

std::string UpText(const PoolView& view, const PoolAccess& access, const std::string& logs) {
  Table table({"WORKER", "LAYERS", ">MODEL BYTES", ">WEIGHTS", ">KV", ">BUFFERS", ">LIMIT"});
  for (const NodeView& n : InStageOrder(view.nodes)) {
    table.AddRow({n.name, LayerText(n), FormatSize(n.gguf_bytes), FormatSize(n.weights_bytes),
                  FormatSize(n.kv_bytes), FormatSize(n.buffer_bytes),
                  n.memory_bytes > 0 ? FormatSize(n.memory_bytes) : "-"});
  }
  return absl::StrCat("Model ", view.model, ", context ", view.context, " tokens\n",
                      table.ToString(), "\nReady at ", access.url, " (logs in ", logs, ")\n",
                      HowToAsk(access));
}

}  // namespace lanyard::cli
