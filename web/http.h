// Plain HTTP words for handlers, without sockets or Beast. A handler gets a Request and answers
// through a ResponseWriter.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace lanyard::web {

// The caller, as the Gate found out.
struct Caller {
  enum class Kind { kNobody, kUser, kAdmin };
  Kind kind = Kind::kNobody;
  std::string key_id;  // id of the API key
  std::string admin;   // the administrator's name in the certificate
};

// By which callers share the server out: the key, or the administrator, who has none.
inline std::string NameOf(const Caller& caller) {
  return caller.key_id.empty() ? "admin " + caller.admin : caller.key_id;
}

struct Request {
  std::string method;  // "GET"
  std::string path;    // percent-decoded, without the query
  // The rest of the path after a prefix route: the model's id in /v1/models/{id}.
  std::string suffix;
  std::string body;
  std::string request_id;  // ours, or the client's X-Request-Id if it is well-formed
  Caller caller;
};

struct Response {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>>
      headers;  // besides Content-*, x-request-id and Connection
};

// Takes the answer of one request: either one Send, or BeginStream, any number of Write, then End.
// Thread-safe; a call only queues and never blocks. Calls after the end, or after the client left,
// are ignored.
class ResponseWriter {
 public:
  virtual ~ResponseWriter() = default;
  virtual void Send(Response response) = 0;
  // Begins a 200 with text/event-stream; pings are sent while nothing is written.
  virtual void BeginStream() = 0;
  // Takes whole server-sent events. What a slow client has not read is bounded
  // (ServerLimits::max_queued_bytes); beyond that the client counts as gone.
  virtual void Write(std::string events) = 0;
  virtual void End() = 0;
  // `callback` is called once if the client leaves before the answer has ended, and at once if it
  // has already left. None of the writer's locks is held meanwhile.
  virtual void OnGone(std::function<void()> callback) = 0;
  // Whether the client has left or the answer was ended from outside: nothing more will be read.
  virtual bool Gone() = 0;
};

}  // namespace lanyard::web
