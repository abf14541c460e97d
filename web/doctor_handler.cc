#include "web/doctor_handler.h"

#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/version.h"
#include "web/json_answer.h"

namespace lanyard::web {
namespace {

using coordinator::NodeDiagnosis;
using coordinator::PoolDiagnosis;
using coordinator::PoolStatus;
using nlohmann::ordered_json;

ordered_json NodeJson(const coordinator::NodeStatus& node, const NodeDiagnosis* found) {
  ordered_json out = {{"name", node.name},
                      {"state", node.state},
                      {"address", node.address},
                      {"version", node.version},
                      {"slowness", node.slowness},
                      {"memory_bytes", node.memory_bytes},
                      {"resident_bytes", node.resident_bytes},
                      {"heartbeat_age_s", node.heartbeat_age_s}};
  out["load_failure"] = LoadFailureJson(node);
  const NodeDiagnosis unknown;
  const NodeDiagnosis& d = found != nullptr ? *found : unknown;
  out["error"] = found != nullptr ? d.error : "it is not joined now";
  out["clock_skew_s"] = d.clock_skew_s;
  out["clock_error_s"] = d.clock_error_s;
  out["available_bytes"] = d.available_bytes;
  out["disk_free_bytes"] = d.disk_free_bytes;
  out["certificate_ends_unix_s"] = d.certificate_ends_unix_s;
  out["key_mode"] = d.key_mode;
  return out;
}

ordered_json LinkJson(const coordinator::LinkReport& link) {
  return {{"from", link.from},
          {"to", link.to},
          {"error", std::string(link.status.message())},
          {"code", absl::StatusCodeToString(link.status.code())},
          {"connect_ms", link.connect_ms},
          {"rtt_min_ms", link.rtt_min_ms},
          {"rtt_median_ms", link.rtt_median_ms},
          {"bytes_per_second", link.bytes_per_second},
          {"mtu_bytes", link.mtu_bytes},
          {"large_lost", link.large_lost}};
}

ordered_json ReportJson(const PoolStatus& status, const PoolDiagnosis& diagnosis,
                        const std::string& only) {
  std::map<std::string, const NodeDiagnosis*> by_name;
  for (const NodeDiagnosis& node : diagnosis.nodes) by_name[node.name] = &node;
  ordered_json out = {{"version", kVersion},
                      {"protocol", kProtocolVersion},
                      {"unix_ms", diagnosis.unix_ms},
                      {"state", status.state},
                      {"why", status.why}};
  out["nodes"] = ordered_json::array();
  for (const auto& node : status.nodes) {
    if (!only.empty() && node.name != only) continue;
    const auto found = by_name.find(node.name);
    out["nodes"].push_back(NodeJson(node, found == by_name.end() ? nullptr : found->second));
  }
  out["links"] = ordered_json::array();
  for (const auto& link : diagnosis.links) out["links"].push_back(LinkJson(link));
  return out;
}

}  // namespace

void Diagnose(coordinator::Generator* generator, const Request& request,
              std::shared_ptr<ResponseWriter> writer) {
  generator->Diagnose(request.suffix,
                      [generator, writer = std::move(writer),
                       node = request.suffix](absl::StatusOr<PoolDiagnosis> diagnosis) {
                        if (!diagnosis.ok())
                          return SendAdminError(*writer, diagnosis.status(), "not_found");
                        SendAdminJson(*writer, ReportJson(generator->Status(), *diagnosis, node));
                      });
}

}  // namespace lanyard::web
