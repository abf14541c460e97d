#include "web/api.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "base/field_error.h"
#include "base/status.h"
#include "base/version.h"
#include "web/cluster_handler.h"
#include "web/completion_handler.h"
#include "web/doctor_handler.h"
#include "web/errors.h"
#include "web/json_answer.h"
#include "web/key_handler.h"

namespace lanyard::web {
namespace {

using coordinator::Generator;
using coordinator::NodeDevice;
using coordinator::NodeStatus;
using coordinator::PoolStatus;
using coordinator::RequestStatus;
using nlohmann::ordered_json;

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
  writer.Send(ToResponse(NotFound("The model '", request.suffix.substr(0, 200),
                                  "' does not exist; this pool serves '", status.model,
                                  "' (GET /v1/models lists it).")));
}

// For example "Loading model smollm2: loading; w1 41%, w2 joined".
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
  if (status.ready_in_s) absl::StrAppend(&text, "; about ", *status.ready_in_s, " s to go");
  return text;
}

void Ready(const Generator& generator, ResponseWriter& writer) {
  const PoolStatus status = generator.Status();
  if (status.ready) return SendJson(writer, {{"status", "ready"}});
  absl::Status not_ready = Unavailable(ProgressText(status));
  if (status.ready_in_s) not_ready = WithRetryAfter(std::move(not_ready), *status.ready_in_s);
  writer.Send(ToResponse(not_ready));
}

void Version(ResponseWriter& writer) {
  SendJson(writer,
           {{"version", kVersion}, {"protocol", kProtocolVersion}, {"numerics", kNumericsVersion}});
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
  ordered_json out = {{"name", n.name},
                      {"state", n.state},
                      {"why", n.why},
                      {"address", n.address},
                      {"version", n.version},
                      {"isa", n.isa},
                      {"pid", n.pid},
                      {"threads", n.threads},
                      {"speed", n.speed},
                      {"slowness", n.slowness},
                      {"memory_bytes", n.memory_bytes},
                      {"resident_bytes", n.resident_bytes},
                      {"busy", n.busy},
                      {"heartbeat_age_s", n.heartbeat_age_s},
                      {"drained", n.drained},
                      {"has_stage", n.has_stage}};
  out["load_failure"] = LoadFailureJson(n);
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

// Who belongs to the cluster, and what its clients trust.
std::vector<Route> ClusterRoutes(coordinator::ClusterAdmin* cluster) {
  using Writer = std::shared_ptr<ResponseWriter>;
  const Access admin = Access::kAdmin;
  return {
      {"GET", "/admin/v1/tokens", admin, "join tokens that can still be used, without their text",
       [cluster](const Request&, Writer w) { ListTokens(cluster, *w); }},
      {"POST", "/admin/v1/tokens", admin,
       "a new join token; its text is in this answer and nowhere else",
       [cluster](const Request& r, Writer w) { CreateToken(cluster, r, *w); }},
      {"DELETE", "/admin/v1/tokens/*", admin, "withdraws a join token",
       [cluster](const Request& r, Writer w) { RevokeToken(cluster, r, *w); }},
      {"GET", "/admin/v1/members", admin, "who belongs to the cluster, and who was revoked",
       [cluster](const Request&, Writer w) { ListMembers(cluster, *w); }},
      {"DELETE", "/admin/v1/members/*", admin,
       "revokes a node, by name or id: within a second it sends and receives nothing",
       [cluster](const Request& r, Writer w) { RevokeMember(cluster, r, *w); }},
      {"GET", "/admin/v1/https", admin, "what clients need to trust this server: URL, CA, names",
       [cluster](const Request&, Writer w) { ShowHttps(cluster, *w); }},
      {"POST", "/admin/v1/https/ca", admin,
       "a new CA of HTTPS, for this pool's names only; every client must be given it",
       [cluster](const Request&, Writer w) { NewHttpsCa(cluster, *w); }},
      {"POST", "/admin/v1/drains/*", admin,
       "drains a worker, by name or id: its layers go to others, and no plan uses it",
       [cluster](const Request& r, Writer w) { SetDrained(cluster, r, true, *w); }},
      {"DELETE", "/admin/v1/drains/*", admin, "takes a drained worker back",
       [cluster](const Request& r, Writer w) { SetDrained(cluster, r, false, *w); }},
  };
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
  for (const RequestStatus& request : status.requests)
    out["requests"].push_back(RequestJson(request));
  return Dump(out);
}

Router MakeRouter(Generator* g, coordinator::ApiKeys* keys, coordinator::ClusterAdmin* cluster) {
  using Writer = std::shared_ptr<ResponseWriter>;
  const Access pub = Access::kPublic;
  const Access user = Access::kUser;
  const Access admin = Access::kAdmin;
  std::vector<Route> routes = {
      {"GET", "/health", pub, "the constant `{\"status\":\"ok\"}`: the program runs",
       [](const Request&, Writer w) {
         SendJson(*w, {{"status", "ok"}});
       },
       Lane::kControl},
      {"GET", "/livez", user, "the same",
       [](const Request&, Writer w) {
         SendJson(*w, {{"status", "ok"}});
       },
       Lane::kControl},
      {"GET", "/readyz", user, "200 when it answers, else 503 with how far loading is",
       [g](const Request&, Writer w) { Ready(*g, *w); }},
      {"GET", "/version", user, "version, protocol, numerics",
       [](const Request&, Writer w) { Version(*w); }},
      {"GET", "/metrics", user, "Prometheus text; counts and times, no names and no texts",
       [g](const Request&, Writer w) { Metrics(*g, *w); }},
      {"GET", "/v1/models", user, "what is served",
       [g](const Request&, Writer w) { ListModels(*g, *w); }},
      {"GET", "/v1/models/*", user, "one model",
       [g](const Request& r, Writer w) { GetModel(*g, r, *w); }},
      {"POST", "/v1/chat/completions", user, "OpenAI's",
       [g](Request& r, Writer w) { HandleChatCompletion(g, r, std::move(w)); }, Lane::kCompletion},
      {"POST", "/v1/completions", user, "OpenAI's",
       [g](Request& r, Writer w) { HandleTextCompletion(g, r, std::move(w)); }, Lane::kCompletion},
      {"GET", "/admin/v1/status", admin,
       "the pool: state, plan and its reasons, machines, requests, KV blocks",
       [g](const Request&, Writer w) {
         Response response;
         response.body = StatusJson(g->Status());
         w->Send(std::move(response));
       }},
      {"GET", "/admin/v1/doctor", admin,
       "asks every machine how it is and measures the ways between them; up to a minute",
       [g](const Request& r, Writer w) { Diagnose(g, r, std::move(w)); }},
      {"GET", "/admin/v1/doctor/*", admin, "the same of one machine, and the ways to and from it",
       [g](const Request& r, Writer w) { Diagnose(g, r, std::move(w)); }},
      {"POST", "/admin/v1/stop", admin, "a clean stop",
       [g](const Request&, Writer w) { Stop(g, *w); }},
      {"GET", "/admin/v1/keys", admin, "every API key, without its text",
       [keys](const Request&, Writer w) { ListKeys(keys, *w); }},
      {"POST", "/admin/v1/keys", admin,
       "a new API key; its text is in this answer and nowhere else",
       [keys](const Request& r, Writer w) { CreateKey(keys, r, *w); }},
      {"DELETE", "/admin/v1/keys/*", admin,
       "revokes a key, by name or id; what it is being answered ends within a second",
       [keys](const Request& r, Writer w) { RevokeKey(keys, r, *w); }},
  };
  for (Route& route : ClusterRoutes(cluster)) routes.push_back(std::move(route));
  for (Route& route : routes) {
    if (route.access == admin) route.lane = Lane::kControl;
  }
  return Router(std::move(routes));
}

}  // namespace lanyard::web
