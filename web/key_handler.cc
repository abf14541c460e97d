#include "web/key_handler.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "web/errors.h"
#include "web/json_body.h"

namespace lanyard::web {
namespace {

using coordinator::ApiKeyInfo;
using coordinator::ApiKeys;
using nlohmann::ordered_json;

ordered_json Time(const std::optional<int64_t>& time) { return time.has_value() ? ordered_json(*time) : ordered_json(nullptr); }

ordered_json InfoJson(const ApiKeyInfo& info) {
  return {{"id", info.id},
          {"name", info.name},
          {"created_unix_s", info.created_unix_s},
          {"expires_unix_s", Time(info.expires_unix_s)},
          {"last_used_unix_s", Time(info.last_used_unix_s)},
          {"revoked_unix_s", Time(info.revoked_unix_s)}};
}

void SendJson(ResponseWriter& writer, const ordered_json& value, int http_status = 200) {
  Response response;
  response.status = http_status;
  response.body = value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  response.headers.emplace_back("Cache-Control", "no-store");
  writer.Send(std::move(response));
}

void SendError(ResponseWriter& writer, absl::Status status) {
  // Of a 404 here the code is not the table's: no model is meant.
  if (absl::IsNotFound(status)) return writer.Send(ErrorResponse(404, StdView(status.message()), "key_not_found"));
  writer.Send(ToResponse(status));
}

bool HasKeys(const ApiKeys* keys, ResponseWriter& writer) {
  if (keys == nullptr) SendError(writer, Unavailable("This server keeps no API keys."));
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
  if (!created.ok()) return SendError(writer, created.status());
  ordered_json out = InfoJson(created->info);
  out["key"] = created->key;
  SendJson(writer, out, 201);
}

void ListKeys(ApiKeys* keys, ResponseWriter& writer) {
  if (!HasKeys(keys, writer)) return;
  const auto list = keys->List();
  if (!list.ok()) return SendError(writer, list.status());
  ordered_json out = ordered_json::array();
  for (const ApiKeyInfo& info : *list) out.push_back(InfoJson(info));
  SendJson(writer, {{"keys", std::move(out)}});
}

void RevokeKey(ApiKeys* keys, const Request& request, ResponseWriter& writer) {
  if (!HasKeys(keys, writer)) return;
  const auto info = keys->Revoke(request.suffix);
  if (!info.ok()) return SendError(writer, info.status());
  SendJson(writer, InfoJson(*info));
}

}  // namespace lanyard::web
