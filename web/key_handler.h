// /admin/v1/keys: creates, lists and revokes API keys.
#pragma once

#include <memory>

#include "coordinator/access/api_keys.h"
#include "web/http.h"

namespace lanyard::web {

// `keys` may be null (in a server without a store); then every answer is a 503. POST {"name",
// "ttl_seconds"?}: 201 with the key's info and "key", its text, this once.
void CreateKey(coordinator::ApiKeys* keys, const Request& request, ResponseWriter& writer);
// GET answers {"keys": [{"id", "name", "created_unix_s", "expires_unix_s", "last_used_unix_s",
// "revoked_unix_s"}]}; null means never.
void ListKeys(coordinator::ApiKeys* keys, ResponseWriter& writer);
// DELETE .../{name or id} answers with the key's info.
void RevokeKey(coordinator::ApiKeys* keys, const Request& request, ResponseWriter& writer);

}  // namespace lanyard::web
