// `lanyard list`, `ps`, `node status` and `stop`: what a pool serves and what it does, and how to
// end it.
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "base/size.h"
#include "cli/cli.h"
#include "cli/connection.h"
#include "cli/http_client.h"
#include "cli/pool_json.h"
#include "cli/running_pools.h"
#include "cli/table.h"
#include "cli/text.h"

namespace lanyard::cli {
namespace {

using nlohmann::ordered_json;

constexpr int kStopTries = 100;  // a tenth of a second each

struct NodeOptions {
  HttpClient::Options http;
  std::string name;
  bool json = false;
  bool no_wait = false;
};

std::string Bytes(const ordered_json& object, const char* key) {
  return FormatSize(Count(object, key));
}

// Says what a node computes, for example "0-9, embeds".
std::string Duty(const ordered_json& node) {
  std::string out = "-";
  const auto& layers = List(node, "layers");
  if (layers.size() == 2) out = absl::StrCat(layers[0].dump(), "-", layers[1].dump());
  if (node.value("embeds", ordered_json(false)) == true) out += " +embed";
  if (node.value("samples", ordered_json(false)) == true) out += " +head";
  return out;
}

// With an API key there is less to see than for an administrator; those values are null.
absl::StatusOr<ordered_json> ModelsOf(const HttpClient& client) {
  ASSIGN_OR_RETURN(const HttpReply reply, client.Get("/admin/v1/status"));
  ordered_json models = ordered_json::array();
  if (reply.status != 403) {
    ASSIGN_OR_RETURN(const ordered_json status, ObjectOf(client, reply));
    models.push_back({{"id", Text(status, "model")},
                      {"bytes", Count(status, "model_bytes")},
                      {"context", Count(status, "context")},
                      {"state", Text(status, "state")},
                      {"digest", Text(status, "model_digest")}});
    return models;
  }
  ASSIGN_OR_RETURN(const ordered_json served, GetJson(client, "/v1/models"));
  for (const ordered_json& model : List(served, "data")) {
    if (!model.is_object()) continue;
    models.push_back({{"id", Text(model, "id")},
                      {"bytes", nullptr},
                      {"context", Count(model, "max_model_len")},
                      {"state", nullptr},
                      {"digest", nullptr}});
  }
  return models;
}

int ListModels(const NodeOptions& o) {
  const auto client = HttpClient::Create(o.http);
  if (!client.ok()) return Fail(client.status());
  const auto models = ModelsOf(*client);
  if (!models.ok()) return Fail(models.status());
  if (o.json) {
    Print({{"models", *models}});
    return kOk;
  }
  Table table({"MODEL", ">SIZE", ">CONTEXT", "STATE"});
  for (const ordered_json& model : *models) {
    table.AddRow({Text(model, "id"), model["bytes"].is_null() ? "-" : Bytes(model, "bytes"),
                  Text(model, "context"), model["state"].is_null() ? "-" : Text(model, "state")});
  }
  PrintTable(table, "The pool serves no model.");
  return kOk;
}

int ListRequests(const NodeOptions& o) {
  const auto client = HttpClient::Create(o.http);
  if (!client.ok()) return Fail(client.status());
  const auto status = GetJson(*client, "/admin/v1/status");
  if (!status.ok()) return Fail(status.status());
  if (o.json) {
    Print({{"requests", List(*status, "requests")}});
    return kOk;
  }
  Table table({"REQUEST", "STATE", ">PROMPT", ">PREFILLED", ">TOKENS", ">AGE"});
  for (const auto& r : List(*status, "requests")) {
    table.AddRow({Text(r, "request_id"), Text(r, "state"), Text(r, "prompt_tokens"),
                  Text(r, "prefilled_tokens"), Text(r, "completion_tokens"),
                  FormatSeconds(Real(r, "age_s"))});
  }
  PrintTable(table, "No request is running or waiting.");
  return kOk;
}

// Nothing, where all are of one version. Others work together too, so it is no complaint.
void PrintVersions(const ordered_json& nodes) {
  std::map<std::string, std::string> names;  // by version
  for (const auto& n : nodes) {
    if (Text(n, "version").empty()) continue;  // it is away since before the coordinator started
    std::string& list = names[Text(n, "version")];
    list += (list.empty() ? "" : ", ") + Text(n, "name");
  }
  if (names.size() < 2) return;
  std::printf("Workers of several versions serve together:\n");
  for (const auto& [version, list] : names)
    std::printf("  %s: %s\n", version.c_str(), list.c_str());
}

void PrintPool(const ordered_json& status) {
  std::printf("Pool: %s, model %s (%s), context %s tokens, %s, epoch %s\n",
              Text(status, "state").c_str(), Text(status, "model").c_str(),
              Bytes(status, "model_bytes").c_str(), Text(status, "context").c_str(),
              Text(status, "numerics").c_str(), Text(status, "epoch").c_str());
  if (const std::string why = Text(status, "why"); !why.empty()) std::printf("%s\n", why.c_str());
  Table table({"NODE", "STATE", "LAYERS", ">WEIGHTS", ">KV", ">BUFFERS", ">RESIDENT", ">LIMIT",
               "ISA", ">THREADS", ">BUSY", ">SEEN"});
  for (const auto& n : List(status, "nodes")) {
    table.AddRow({Text(n, "name"), Text(n, "state"), Duty(n), Bytes(n, "weights_bytes"),
                  Bytes(n, "kv_bytes"), Bytes(n, "buffer_bytes"), Bytes(n, "resident_bytes"),
                  Bytes(n, "memory_bytes"), Text(n, "isa"), Text(n, "threads"),
                  absl::StrFormat("%.0f%%", 100 * Real(n, "busy")),
                  FormatSeconds(Real(n, "heartbeat_age_s")) + " ago"});
  }
  PrintTable(table, "No worker has joined this pool.");
  for (const auto& n : List(status, "nodes")) {
    if (const std::string why = Text(n, "why"); !why.empty()) {
      std::printf("%s (%s): %s\n", Text(n, "name").c_str(), Text(n, "state").c_str(), why.c_str());
    }
    const auto failure = n.find("load_failure");
    if (failure == n.end() || !failure->is_object()) continue;
    std::printf("%s failed to load: %s (%s)\n  What to do: %s\n", Text(n, "name").c_str(),
                Text(*failure, "what").c_str(), Text(*failure, "why").c_str(),
                Text(*failure, "next").c_str());
  }
  PrintVersions(List(status, "nodes"));
}

void PrintNode(const ordered_json& node) {
  for (const auto& [key, value] : node.items()) {
    std::string text = value.is_string() ? value.get<std::string>()
                       : value.is_null() ? "-"
                                         : value.dump();
    const bool bytes = key.size() > 6 && key.compare(key.size() - 6, 6, "_bytes") == 0 &&
                       value.is_number_unsigned();
    if (bytes) text += " (" + FormatSize(value.get<uint64_t>()) + ")";
    std::printf("%-18s %s\n", key.c_str(), Printable(text, Keep::kNothing).c_str());
  }
}

int NodeStatus(const NodeOptions& o) {
  const auto client = HttpClient::Create(o.http);
  if (!client.ok()) return Fail(client.status());
  auto status = GetJson(*client, "/admin/v1/status");
  if (!status.ok()) return Fail(status.status());
  if (o.name.empty()) {
    status->erase("requests");
    o.json ? Print(*status) : PrintPool(*status);
    return kOk;
  }
  std::string names;
  for (const auto& node : List(*status, "nodes")) {
    if (Text(node, "name") == o.name) {
      o.json ? Print(node) : PrintNode(node);
      return kOk;
    }
    names += (names.empty() ? "" : ", ") + Text(node, "name");
  }
  return Fail(NotFound("the pool at ", client->url(), " has no node '", o.name,
                       "'; its nodes are: ", names.empty() ? "none" : names));
}

// Waits until the pool is gone: its coordinator and, of a pool of `lanyard up`, everything that
// goes with it, so that its state directory and its port can be used again at once.
absl::Status WaitUntilStopped(const HttpClient& client, const std::optional<RunningPool>& pool) {
  bool answers = true;
  for (int i = 0; i < kStopTries; ++i) {
    answers = answers && client.Get("/livez").ok();
    if (!answers && !(pool.has_value() && HoldsState(*pool))) return absl::OkStatus();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  if (answers) {
    return absl::DeadlineExceededError(
        absl::StrCat("the pool at ", client.url(), " still answers ", kStopTries / 10,
                     " s after it was asked to stop\n  Look at it with: lanyard node status"));
  }
  return absl::DeadlineExceededError(
      absl::StrCat("the pool at ", client.url(), " answers no more, but its lanyard up (process ",
                   pool->pid, ") still runs after ", kStopTries / 10, " s\n  Its logs lie in ",
                   pool->state, "/logs; end it with: kill ", pool->pid));
}

int Stop(const NodeOptions& o) {
  const auto client = HttpClient::Create(o.http);
  if (!client.ok()) return Fail(client.status());
  const std::optional<RunningPool> pool = RunningPoolAt(client->url());
  const auto reply = client->Post("/admin/v1/stop", "{}");
  if (!reply.ok()) return Fail(reply.status());
  if (const absl::Status status = StatusOfReply(*reply); !status.ok()) return Fail(status);
  if (!o.no_wait) {
    if (const absl::Status gone = WaitUntilStopped(*client, pool); !gone.ok()) return Fail(gone);
  }
  if (o.json) {
    Print({{"stopped", !o.no_wait}});
  } else {
    std::printf("%s\n", !o.no_wait ? "The pool has stopped." : "The pool stops.");
  }
  return kOk;
}

}  // namespace

void RegisterNode(CLI::App& app) {
  const auto options = std::make_shared<NodeOptions>();
  options->http.silence_timeout_ms = 10'000;
  const char* kJson = "One line of JSON instead of a table";

  CLI::App* list =
      AddCommand(app, "list", "Lists the models that a pool serves",
                 "  lanyard list\n  lanyard list --json\n"
                 "      {\"models\":[{\"id\",\"bytes\",\"context\",\"state\",\"digest\"}]} (with "
                 "an API key instead of an "
                 "administrator's\n      certificate bytes, state and digest are null)",
                 [options] { return ListModels(*options); });
  list->alias("ls");
  AddConnectionFlags(list, &options->http);
  list->add_flag("--json", options->json, kJson);

  CLI::App* ps = AddCommand(
      app, "ps", "Lists the requests that a pool is working on",
      "  lanyard ps\n  lanyard ps --json\n"
      "      {\"requests\":[{\"request_id\",\"state\",\"prompt_tokens\",\"prefilled_tokens\","
      "\"completion_tokens\",\"age_s\"}]}",
      [options] { return ListRequests(*options); });
  AddConnectionFlags(ps, &options->http);
  ps->add_flag("--json", options->json, kJson);

  CLI::App* node = AddCommand(app, "node", "Machines of a pool",
                              "  lanyard node status\n  lanyard node status w1 --json", nullptr);
  node->require_subcommand(1);
  CLI::App* status =
      AddCommand(*node, "status", "Shows the machines of a pool and what each holds",
                 "  lanyard node status\n  lanyard node status w1\n  lanyard node status --json\n"
                 "      the pool's state and "
                 "{\"nodes\":[{\"name\",\"state\",\"layers\",\"weights_bytes\",...}]}",
                 [options] { return NodeStatus(*options); });
  status->add_option("NAME", options->name, "One machine only, with all that is known of it");
  AddConnectionFlags(status, &options->http);
  status->add_flag("--json", options->json, kJson);

  CLI::App* stop =
      AddCommand(app, "stop", "Stops a pool cleanly",
                 "  lanyard stop\n  lanyard stop --pool smollm2\n  lanyard stop --state DIR",
                 [options] { return Stop(*options); });
  AddConnectionFlags(stop, &options->http);
  stop->add_option("--state", options->http.pool,
                   "The pool that `lanyard up --state` was given this directory for")
      ->excludes("--pool", "--url", "--admin");
  stop->add_flag("--no-wait", options->no_wait, "Do not wait until the pool has stopped");
  stop->add_flag("--json", options->json, kJson);
}

}  // namespace lanyard::cli
