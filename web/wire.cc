#include "web/wire.h"

#include <cctype>
#include <cstdint>
#include <random>

#include "base/status.h"
#include "web/errors.h"

namespace lanyard::web {
namespace {

std::string StatusLine(int status) {
  return absl::StrCat("HTTP/1.1 ", status, " ", AbslView(ReasonPhrase(status)), "\r\n");
}

using Headers = std::vector<std::pair<std::string, std::string>>;

void AppendHeaders(std::string* out, const Headers& headers) {
  for (const auto& [name, value] : headers) absl::StrAppend(out, name, ": ", value, "\r\n");
}

}  // namespace

std::string NewRequestId() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return absl::StrFormat("%016x%08x", generator(), static_cast<uint32_t>(generator()));
}

bool IsGoodRequestId(std::string_view id) {
  if (id.empty() || id.size() > 64) return false;
  for (const char c : id) {
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '_' && c != '.')
      return false;
  }
  return true;
}

std::string Serialize(const Response& response, const Reply& reply) {
  std::string out = StatusLine(response.status);
  if (response.status != 204) {  // which never has a body
    absl::StrAppend(&out, "Content-Type: ", response.content_type,
                    "\r\nContent-Length: ", response.body.size(), "\r\n");
  }
  absl::StrAppend(&out, "x-request-id: ", reply.request_id, "\r\n");
  AppendHeaders(&out, response.headers);
  AppendHeaders(&out, reply.headers);
  out += reply.keep_alive ? "\r\n" : "Connection: close\r\n\r\n";
  if (!reply.head) out += response.body;
  return out;
}

std::string StreamHead(const Reply& reply) {
  std::string out = StatusLine(200);
  absl::StrAppend(&out,
                  "Content-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n",
                  "X-Accel-Buffering: no\r\nx-request-id: ", reply.request_id, "\r\n");
  AppendHeaders(&out, reply.headers);
  if (reply.chunked) out += "Transfer-Encoding: chunked\r\n";
  out += reply.keep_alive ? "\r\n" : "Connection: close\r\n\r\n";
  return out;
}

void AppendChunk(std::string* out, std::string_view bytes, const Reply& reply) {
  if (bytes.empty()) return;
  if (!reply.chunked) {
    *out += bytes;
  } else {
    absl::StrAppend(out, absl::StrFormat("%x\r\n", bytes.size()), AbslView(bytes), "\r\n");
  }
}

}  // namespace lanyard::web
