// A small HTTP/1.1 client for the pool's API. It takes whole answers and server-sent events, with
// one connection a call. It blocks, with time-outs; a call ends early when *stop becomes true
// (Ctrl-C sets it). An instance may be used by one thread at a time.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "base/status.h"
#include "cli/http_socket.h"

namespace lanyard::cli {

struct HttpReply {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
};

// The address of a pool: "HOST:PORT", which is HTTPS, or with http:// or https:// in front, in any
// case. A base URL of OpenAI's clients, which ends in /v1, is one too.
struct PoolUrl {
  std::string url;  // "https://HOST:PORT", without a '/' at its end
  bool secure = true;
  std::string host;  // IPv6 without brackets
  std::string port;
};
// InvalidArgument says what is wrong with it.
absl::StatusOr<PoolUrl> ParsePoolUrl(std::string_view text);

class HttpClient {
 public:
  struct Options {
    std::string url;            // see ParsePoolUrl; empty: see FindPool (admin_folder.h)
    std::string api_key;        // empty: LANYARD_API_KEY; sent as a Bearer token when not empty
    std::string pool = {};      // of lanyard up, by name or state directory; instead of url
    std::string admin = {};     // an administrator's folder
    TlsFiles tls = {};          // of https; empty: LANYARD_CA, LANYARD_CERT with LANYARD_CERT_KEY
    std::string tls_name = {};  // what the server's certificate must be for; empty: the URL's host
    int connect_timeout_ms = 5'000;
    // The longest time without a byte from the server (streams ping every 10 s).
    int silence_timeout_ms = 600'000;
    const std::atomic<bool>* stop = nullptr;
    // false: empty fields stay empty, whatever the environment and the default folders hold.
    bool look_around = true;
  };
  // Unavailable when there is no pool to talk to; InvalidArgument for a malformed URL or files that
  // cannot be used, Unauthenticated for a mistyped key (NotAnApiKey), PermissionDenied for a key
  // that would travel unencrypted to another machine.
  static absl::StatusOr<HttpClient> Create(Options options);

  // Any HTTP status is a reply. Unavailable: no server answers (the text says what to do).
  // DeadlineExceeded and Cancelled are possible too; for errors of TLS see http_socket.h.
  absl::StatusOr<HttpReply> Get(const std::string& path) const;
  absl::StatusOr<HttpReply> Delete(const std::string& path) const;
  absl::StatusOr<HttpReply> Post(const std::string& path, const std::string& json_body) const;

  // POSTs and calls on_data with the data of every event until it returns false or the stream ends.
  // An answer that is not 200 becomes the status that fits (StatusOfReply).
  absl::Status Stream(const std::string& path, const std::string& json_body,
                      const std::function<bool(std::string_view data)>& on_data) const;

  const std::string& url() const { return options_.url; }

 private:
  HttpClient(Options options, SocketOptions socket)
      : options_(std::move(options)), socket_(std::move(socket)) {}
  using BodySink = std::function<bool(int status, std::string_view bytes)>;
  absl::StatusOr<HttpReply> Call(std::string_view method, const std::string& path,
                                 const std::string& body, const BodySink& sink) const;
  absl::StatusOr<HttpReply> Whole(std::string_view method, const std::string& path,
                                  const std::string& body) const;

  Options options_;
  SocketOptions socket_;
};

// OK for 2xx. Otherwise the error's message with the code that gives the right exit code: 401 and
// 403 mean denied, 404 not found, 504 timed out, everything else failed.
absl::Status StatusOfReply(const HttpReply& reply);

// Splits a stream of bytes into the data of server-sent events
// (https://html.spec.whatwg.org/#event-stream-interpretation): comments and other fields are
// dropped, several data lines are joined by a newline.
class SseReader {
 public:
  // Returns false as soon as on_data returns false.
  bool Feed(std::string_view bytes, const std::function<bool(std::string_view)>& on_data);

 private:
  bool Line(std::string_view line, const std::function<bool(std::string_view)>& on_data);
  std::string line_;
  std::string data_;
  bool has_data_ = false;
};

}  // namespace lanyard::cli
