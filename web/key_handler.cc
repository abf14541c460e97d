#include "web/key_handler.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "web/json_answer.h"
#include "web/json_body.h"

namespace lanyard::web {
namespace {

using coordinator::ApiKeyInfo;
using coordinator::ApiKeys;
using nlohmann::ordered_json;

constexpr char kKeyNotFoundCode[] = "key_not_found";

ordered_json Time(const std::optional<int64_t>& time) {
  return time.has_value() ? ordered_json(*time) : ordered_json(nullptr);
}

ordered_json InfoJson(const ApiKeyInfo& info) {
  return {{"id", info.id},
          {"name", info.name},
          {"created_unix_s", info.created_unix_s},
          {"expires_unix_s", Time(info.expires_unix_s)},
          {"last_used_unix_s", Time(info.last_used_unix_s)},
          {"revoked_unix_s", Time(info.revoked_unix_s)}};
}

bool HasKeys(const ApiKeys* keys, ResponseWriter& writer) {
  if (keys == nullptr)
    SendAdminError(writer, Unavailable("This server keeps no API keys."), kKeyNotFoundCode);
  return keys != nullptr;
}

}  // namespace

void CreateKey(ApiKeys* keys, const Request& request, ResponseWriter& writer) {
  if (!HasKeys(keys, writer)) return;
  const auto created = [&]() -> absl::StatusOr<coordinator::NewApiKey> {
    ASSIGN_OR_RETURN(const auto body, ParseJsonObject(request.body));
    const Fields fields(body);
    ASSIGN_OR_RETURN(const std::string name, fields.String("name"));
    ASSIGN_OR_RETURN(const auto ttl, fields.Integer("ttl_seconds", INT64_MIN, INT64_MAX));
    return keys->Create(name, ttl);
  }();
  if (!created.ok()) return SendAdminError(writer, created.status(), kKeyNotFoundCode);
  ordered_json out = InfoJson(created->info);
  out["key"] = created->key;
  SendAdminJson(writer, out, 201);
}

void ListKeys(ApiKeys* keys, ResponseWriter& writer) {
  if (!HasKeys(keys, writer)) return;
  const auto list = keys->List();
  if (!list.ok()) return SendAdminError(writer, list.status(), kKeyNotFoundCode);
  ordered_json out = ordered_json::array();
  for (const ApiKeyInfo& info : *list) out.push_back(InfoJson(info));
  SendAdminJson(writer, {{"keys", std::move(out)}});
}

void RevokeKey(ApiKeys* keys, const Request& request, ResponseWriter& writer) {
  if (!HasKeys(keys, writer)) return;
  const auto info = keys->Revoke(request.suffix);
  if (!info.ok()) return SendAdminError(writer, info.status(), kKeyNotFoundCode);
  SendAdminJson(writer, InfoJson(*info));
}

}  // namespace lanyard::web
