#include "web/api.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "base/status.h"
#include "base/version.h"
#include "web/completion_handler.h"
#include "web/errors.h"

namespace lanyard::web {
namespace {

using coordinator::Generator;
using coordinator::NodeStatus;
using coordinator::PoolStatus;
using coordinator::RequestStatus;
using nlohmann::ordered_json;

std::string Dump(const ordered_json& value) {
  return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

void SendJson(ResponseWriter& writer, const ordered_json& value, int http_status = 200) {
  Response response;
  response.status = http_status;
  response.body = Dump(value);
  writer.Send(std::move(response));
}

ordered_json ModelJson(const PoolStatus& status) {
  return {{"id", status.model},
          {"object", "model"},
          {"created", status.created_unix_s},
          {"owned_by", "lanyard"},
          {"max_model_len", status.context}};
}

void ListModels(const Generator& generator, ResponseWriter& writer) {
  const PoolStatus status = generator.Status();
  ordered_json data = ordered_json::array();
  if (!status.model.empty()) data.push_back(ModelJson(status));
  SendJson(writer, {{"object", "list"}, {"data", std::move(data)}});
}

void GetModel(const Generator& generator, const Request& request, ResponseWriter& writer) {
  const PoolStatus status = generator.Status();
  if (request.suffix == status.model) return SendJson(writer, ModelJson(status));
  writer.Send(ToResponse(NotFound("The model '", request.suffix.substr(0, 200), "' does not exist; this pool serves '",
                                  status.model, "' (GET /v1/models lists it).")));
}

// "Loading model smollm2: loading; w1 41%, w2 joined"
std::string ProgressText(const PoolStatus& status) {
  std::string text = absl::StrCat("Loading model ", status.model, ": ", status.state);
  if (!status.why.empty()) absl::StrAppend(&text, " (", status.why, ")");
  const char* separator = "; ";
  for (const NodeStatus& node : status.nodes) {
    absl::StrAppend(&text, separator, node.name, " ", node.state);
    if (node.load_total_bytes > 0 && node.state == "loading") {
      absl::StrAppend(&text, " ", 100 * node.load_done_bytes / node.load_total_bytes, "%");
    }
    separator = ", ";
  }
  return text;
}

// llama.cpp's shape, which its clients know; the code is a number here.
void Health(const Generator& generator, ResponseWriter& writer) {
  const PoolStatus status = generator.Status();
  if (status.ready) return SendJson(writer, {{"status", "ok"}});
  Response response;
  response.status = 503;
  response.headers.emplace_back("Retry-After", "2");
  response.body = Dump(
      {{"error", {{"code", 503}, {"message", ProgressText(status)}, {"type", "unavailable_error"}}}});
  writer.Send(std::move(response));
}

void Ready(const Generator& generator, ResponseWriter& writer) {
  const PoolStatus status = generator.Status();
  if (status.ready) return SendJson(writer, {{"status", "ready"}});
  writer.Send(ToResponse(Unavailable(ProgressText(status))));
}

void Version(ResponseWriter& writer) {
  SendJson(writer, {{"version", kVersion}, {"protocol", kProtocolVersion}, {"numerics", kNumericsVersion}});
}

void Metrics(const Generator& generator, ResponseWriter& writer) {
  Response response;
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  response.body = generator.MetricsText();
  writer.Send(std::move(response));
}

void Stop(Generator* generator, ResponseWriter& writer) {
  SendJson(writer, {{"status", "stopping"}}, 202);
  generator->RequestShutdown();
}

ordered_json NodeJson(const NodeStatus& n) {
  ordered_json out = {{"name", n.name},       {"state", n.state},     {"address", n.address}, {"version", n.version},
                      {"isa", n.isa},         {"pid", n.pid},         {"threads", n.threads}, {"speed", n.speed},
                      {"memory_bytes", n.memory_bytes}, {"resident_bytes", n.resident_bytes}, {"busy", n.busy},
                      {"heartbeat_age_s", n.heartbeat_age_s}, {"has_stage", n.has_stage}};
  out["layers"] = nullptr;
  if (n.has_stage && n.layers.end > n.layers.begin) {
    out["layers"] = ordered_json::array({n.layers.begin, n.layers.end - 1});
  }
  out["embeds"] = n.embeds;
  out["samples"] = n.samples;
  out["gguf_bytes"] = n.gguf_bytes;
  out["weights_bytes"] = n.weights_bytes;
  out["kv_bytes"] = n.kv_bytes;
  out["buffer_bytes"] = n.buffer_bytes;
  out["fetched_bytes"] = n.fetched_bytes;
  out["load_done_bytes"] = n.load_done_bytes;
  out["load_total_bytes"] = n.load_total_bytes;
  out["devices"] = ordered_json::array();
  for (const coordinator::NodeDevice& d : n.devices) {
    out["devices"].push_back({{"name", d.name},
                              {"model", d.model},
                              {"memory_bytes", d.memory_bytes},
                              {"speed", d.speed},
                              {"read_bytes_per_second", d.read_bytes_per_second},
                              {"int8_ops_per_second", d.int8_ops_per_second},
                              {"f16_ops_per_second", d.f16_ops_per_second},
                              {"to_device_bytes_per_second", d.to_device_bytes_per_second},
                              {"to_host_bytes_per_second", d.to_host_bytes_per_second}});
  }
  return out;
}

ordered_json RequestJson(const RequestStatus& r) {
  return {{"request_id", r.request_id},
          {"state", r.state},
          {"prompt_tokens", r.prompt_tokens},
          {"prefilled_tokens", r.prefilled_tokens},
          {"completion_tokens", r.completion_tokens},
          {"age_s", r.age_s}};
}

}  // namespace

std::string StatusJson(const PoolStatus& status) {
  ordered_json out = {{"ready", status.ready},
                      {"state", status.state},
                      {"why", status.why},
                      {"model", status.model},
                      {"model_digest", status.model_digest},
                      {"model_bytes", status.model_bytes},
                      {"created_unix_s", status.created_unix_s},
                      {"context", status.context},
                      {"numerics", status.numerics},
                      {"epoch", status.epoch},
                      {"plan_why", status.plan_why},
                      {"kv_blocks_total", status.kv_blocks_total},
                      {"kv_blocks_used", status.kv_blocks_used}};
  out["nodes"] = ordered_json::array();
  for (const NodeStatus& node : status.nodes) out["nodes"].push_back(NodeJson(node));
  out["requests"] = ordered_json::array();
  for (const RequestStatus& request : status.requests) out["requests"].push_back(RequestJson(request));
  return Dump(out);
}

Router MakeRouter(Generator* g) {
  using Writer = std::shared_ptr<ResponseWriter>;
  const Access pub = Access::kPublic;
  const Access user = Access::kUser;
  const Access admin = Access::kAdmin;
  return Router({
      {"GET", "/health", pub, [g](const Request&, Writer w) { Health(*g, *w); }},
      {"GET", "/readyz", pub, [g](const Request&, Writer w) { Ready(*g, *w); }},
      {"GET", "/livez", pub, [](const Request&, Writer w) { SendJson(*w, {{"status", "ok"}}); }},
      {"GET", "/version", pub, [](const Request&, Writer w) { Version(*w); }},
      {"GET", "/metrics", pub, [g](const Request&, Writer w) { Metrics(*g, *w); }},
      {"GET", "/v1/models", user, [g](const Request&, Writer w) { ListModels(*g, *w); }},
      {"GET", "/v1/models/*", user, [g](const Request& r, Writer w) { GetModel(*g, r, *w); }},
      {"POST", "/v1/chat/completions", user,
       [g](const Request& r, Writer w) { HandleChatCompletion(g, r, std::move(w)); }},
      {"POST", "/v1/completions", user,
       [g](const Request& r, Writer w) { HandleTextCompletion(g, r, std::move(w)); }},
      {"GET", "/admin/v1/status", admin,
       [g](const Request&, Writer w) {
         Response response;
         response.body = StatusJson(g->Status());
         w->Send(std::move(response));
       }},
      {"POST", "/admin/v1/stop", admin, [g](const Request&, Writer w) { Stop(g, *w); }},
  });
}

}  // namespace lanyard::web
