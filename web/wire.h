// Writes responses as HTTP/1.1 bytes, without sockets or Beast.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "web/http.h"

namespace lanyard::web {

// What the connection needs to know of a request once the handler has taken the rest.
struct Reply {
  std::string request_id;
  bool head = false;  // no body is sent
  bool keep_alive = false;
  bool chunked = true;  // false: HTTP/1.0, the end of the connection is the end of the stream
  std::vector<std::pair<std::string, std::string>> headers = {};  // of whatever is answered
};

std::string NewRequestId();
// True for an X-Request-Id that we take from a client: up to 64 letters, digits, - _ and .
bool IsGoodRequestId(std::string_view id);

std::string Serialize(const Response& response, const Reply& reply);
std::string StreamHead(const Reply& reply);
void AppendChunk(std::string* out, std::string_view bytes, const Reply& reply);

}  // namespace lanyard::web
