// JSON of a pool's /admin routes, which is read without trust: values of an unexpected type become
// empty, so that a table does not fail on a newer server.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "base/status.h"
#include "cli/http_client.h"

namespace lanyard::cli {

// Returns the object that a call answered with, or the error that the answer stands for.
absl::StatusOr<nlohmann::ordered_json> ObjectOf(const HttpClient& client,
                                                const absl::StatusOr<HttpReply>& reply);
absl::StatusOr<nlohmann::ordered_json> GetJson(const HttpClient& client, const std::string& path);

std::string Text(const nlohmann::ordered_json& object, const char* key);
uint64_t Count(const nlohmann::ordered_json& object, const char* key);
double Real(const nlohmann::ordered_json& object, const char* key);
const nlohmann::ordered_json& List(const nlohmann::ordered_json& object, const char* key);

// "2026-11-25 14:05", in this machine's zone; `none` for null.
std::string DateText(const nlohmann::ordered_json& object, const char* key, const char* none);
// Escapes a name for a path, since it may hold anything that was typed.
std::string EscapeForPath(const std::string& text);

// On one line. Bytes that are no UTF-8, which names and paths of elsewhere may hold, are replaced.
template <typename Json>
std::string OneLine(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// Prints one line on stdout.
void Print(const nlohmann::ordered_json& value);

}  // namespace lanyard::cli
