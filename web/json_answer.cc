#include "web/json_answer.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "web/errors.h"

namespace lanyard::web {

using nlohmann::ordered_json;

std::string Dump(const ordered_json& value) {
  return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

ordered_json LoadFailureJson(const coordinator::NodeStatus& node) {
  if (!node.load_failure) return nullptr;
  const auto& failure = *node.load_failure;
  return {{"cause", failure.cause},
          {"what", failure.what},
          {"next", failure.next},
          {"times", failure.times},
          {"why", failure.why}};
}

void SendJson(ResponseWriter& writer, const ordered_json& value, int http_status) {
  Response response;
  response.status = http_status;
  response.body = Dump(value);
  writer.Send(std::move(response));
}

void SendAdminJson(ResponseWriter& writer, const ordered_json& value, int http_status) {
  Response response;
  response.status = http_status;
  response.body = Dump(value);
  response.headers.emplace_back("Cache-Control", "no-store");
  writer.Send(std::move(response));
}

void SendAdminError(ResponseWriter& writer, const absl::Status& status,
                    std::string_view not_found_code) {
  if (absl::IsNotFound(status))
    return writer.Send(ErrorResponse(404, StdView(status.message()), not_found_code));
  writer.Send(ToResponse(status));
}

}  // namespace lanyard::web
