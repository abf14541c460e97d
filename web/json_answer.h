// Whole answers in JSON.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "base/status.h"
#include "coordinator/serve/generator.h"
#include "web/http.h"

namespace lanyard::web {

// Writes the value on one line; bytes that are not UTF-8 are replaced.
std::string Dump(const nlohmann::ordered_json& value);

// null: it did not fail. For every answer that tells of a machine.
nlohmann::ordered_json LoadFailureJson(const coordinator::NodeStatus& node);

void SendJson(ResponseWriter& writer, const nlohmann::ordered_json& value, int http_status = 200);

// Sends an answer of the administrators' routes: it must not be cached, and a 404 has the code
// `not_found_code` instead of the table's (no model is meant).
void SendAdminJson(ResponseWriter& writer, const nlohmann::ordered_json& value,
                   int http_status = 200);
void SendAdminError(ResponseWriter& writer, const absl::Status& status,
                    std::string_view not_found_code);

}  // namespace lanyard::web
