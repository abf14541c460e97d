#include "web/cluster_handler.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "web/json_answer.h"
#include "web/json_body.h"

namespace lanyard::web {
namespace {

using coordinator::ClusterAdmin;
using nlohmann::ordered_json;

constexpr char kNotFoundCode[] = "not_found";
constexpr int64_t kDefaultTtlSeconds = 3600;

ordered_json InfoJson(const coordinator::JoinTokenInfo& info) {
  return {{"id", info.id},
          {"role", info.role},
          {"created_unix_s", info.created_unix_s},
          {"expires_unix_s", info.expires_unix_s},
          {"uses", info.uses},
          {"used", info.used}};
}

ordered_json InfoJson(const coordinator::MemberInfo& info) {
  return {{"id", info.id},
          {"name", info.name},
          {"role", info.role},
          {"joined_unix_s", info.joined_unix_s},
          {"certificate_ends_unix_s", info.certificate_ends_unix_s},
          {"revoked_unix_s", info.revoked_unix_s.has_value() ? ordered_json(*info.revoked_unix_s)
                                                             : ordered_json(nullptr)},
          {"from", info.from},
          {"drained_unix_s", info.drained_unix_s.has_value() ? ordered_json(*info.drained_unix_s)
                                                             : ordered_json(nullptr)},
          {"quarantine", info.quarantine}};
}

ordered_json InfoJson(const coordinator::HttpsInfo& info) {
  return {{"url", info.url},
          {"ca", info.ca_pem.empty() ? ordered_json(nullptr) : ordered_json(info.ca_pem)},
          {"house", info.house},
          {"constrained", info.constrained},
          {"names", info.names}};
}

bool HasCluster(const ClusterAdmin* cluster, ResponseWriter& writer) {
  if (cluster == nullptr)
    SendAdminError(writer, Unavailable("This pool runs in plaintext: nobody joins it."),
                   kNotFoundCode);
  return cluster != nullptr;
}

absl::StatusOr<coordinator::NewJoinToken> Create(ClusterAdmin* cluster, const std::string& text) {
  ASSIGN_OR_RETURN(const auto body, ParseJsonObject(text.empty() ? "{}" : text));
  const Fields fields(body);
  ASSIGN_OR_RETURN(const std::string role, fields.String("role"));
  ASSIGN_OR_RETURN(const auto ttl,
                   fields.Integer("ttl_seconds", 1, std::numeric_limits<int32_t>::max()));
  ASSIGN_OR_RETURN(const auto uses, fields.Integer("uses", 1, std::numeric_limits<int32_t>::max()));
  return cluster->CreateToken(role.empty() ? "worker" : role, ttl.value_or(kDefaultTtlSeconds),
                              static_cast<uint32_t>(uses.value_or(1)));
}

}  // namespace

void CreateToken(ClusterAdmin* cluster, const Request& request, ResponseWriter& writer) {
  if (!HasCluster(cluster, writer)) return;
  const auto made = Create(cluster, request.body);
  if (!made.ok()) return SendAdminError(writer, made.status(), kNotFoundCode);
  ordered_json out = InfoJson(made->info);
  out["token"] = made->token;
  out["join"] = made->join_address;
  out["line"] = (made->info.role == "admin" ? "lanyard join " : "lanyard-worker --join ") +
                made->join_address + " --token " + made->token;
  SendAdminJson(writer, out, 201);
}

void ListTokens(ClusterAdmin* cluster, ResponseWriter& writer) {
  if (!HasCluster(cluster, writer)) return;
  const auto list = cluster->ListTokens();
  if (!list.ok()) return SendAdminError(writer, list.status(), kNotFoundCode);
  ordered_json out = ordered_json::array();
  for (const auto& info : *list) out.push_back(InfoJson(info));
  SendAdminJson(writer, {{"tokens", std::move(out)}});
}

void RevokeToken(ClusterAdmin* cluster, const Request& request, ResponseWriter& writer) {
  if (!HasCluster(cluster, writer)) return;
  const absl::Status status = cluster->RevokeToken(request.suffix);
  if (!status.ok()) return SendAdminError(writer, status, kNotFoundCode);
  SendAdminJson(writer, {{"id", request.suffix}});
}

void ListMembers(ClusterAdmin* cluster, ResponseWriter& writer) {
  if (!HasCluster(cluster, writer)) return;
  const auto list = cluster->Members();
  if (!list.ok()) return SendAdminError(writer, list.status(), kNotFoundCode);
  ordered_json out = ordered_json::array();
  for (const auto& info : *list) out.push_back(InfoJson(info));
  SendAdminJson(writer, {{"members", std::move(out)}});
}

void SetDrained(ClusterAdmin* cluster, const Request& request, bool drained,
                ResponseWriter& writer) {
  if (!HasCluster(cluster, writer)) return;
  const auto info = cluster->SetDrained(request.suffix, drained);
  if (!info.ok()) return SendAdminError(writer, info.status(), kNotFoundCode);
  SendAdminJson(writer, InfoJson(*info));
}

void RevokeMember(ClusterAdmin* cluster, const Request& request, ResponseWriter& writer) {
  if (!HasCluster(cluster, writer)) return;
  const auto info = cluster->Revoke(request.suffix);
  if (!info.ok()) return SendAdminError(writer, info.status(), kNotFoundCode);
  SendAdminJson(writer, InfoJson(*info));
}

void ShowHttps(ClusterAdmin* cluster, ResponseWriter& writer) {
  if (HasCluster(cluster, writer)) SendAdminJson(writer, InfoJson(cluster->Https()));
}

void NewHttpsCa(ClusterAdmin* cluster, ResponseWriter& writer) {
  if (!HasCluster(cluster, writer)) return;
  const auto info = cluster->NewHttpsCa();
  if (!info.ok()) return SendAdminError(writer, info.status(), kNotFoundCode);
  SendAdminJson(writer, InfoJson(*info), 201);
}

}  // namespace lanyard::web
