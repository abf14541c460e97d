// The only file of this room with Beast in it: its parser alone, over plain sockets, which have simple time-outs.
#include "cli/http_client.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/basic_parser.hpp>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/environment.h"

namespace lanyard::cli {
namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;

constexpr size_t kMaxBodyBytes = 64u << 20;  // of an answer that is kept whole
constexpr int kPollMs = 100;                 // how often *stop is looked at

// Hands headers and body bytes on as they come.
class ReplyParser : public http::basic_parser<false> {
 public:
  ReplyParser(HttpReply* reply, std::function<bool(int, std::string_view)> sink)
      : reply_(reply), sink_(std::move(sink)) {
    eager(true);
    header_limit(64u << 10);
    body_limit(boost::none);
  }
  bool stopped() const { return stopped_; }

 private:
  void on_request_impl(http::verb, beast::string_view, beast::string_view, int, beast::error_code&) override {}
  void on_response_impl(int code, beast::string_view, int, beast::error_code&) override { reply_->status = code; }
  void on_field_impl(http::field, beast::string_view name, beast::string_view value, beast::error_code&) override {
    std::string key(name.data(), name.size());
    std::transform(key.begin(), key.end(), key.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    reply_->headers[key] = std::string(value.data(), value.size());
  }
  void on_header_impl(beast::error_code&) override {}
  void on_body_init_impl(const boost::optional<std::uint64_t>&, beast::error_code&) override {}
  std::size_t on_body_impl(beast::string_view bytes, beast::error_code& ec) override { return Body(bytes, ec); }
  void on_chunk_header_impl(std::uint64_t, beast::string_view, beast::error_code&) override {}
  std::size_t on_chunk_body_impl(std::uint64_t, beast::string_view bytes, beast::error_code& ec) override {
    return Body(bytes, ec);
  }
  void on_finish_impl(beast::error_code&) override {}

  std::size_t Body(beast::string_view bytes, beast::error_code& ec) {
    if (!stopped_ && !sink_(reply_->status, {bytes.data(), bytes.size()})) {
      stopped_ = true;
      ec = http::error::end_of_stream;
    }
    return bytes.size();
  }

  HttpReply* reply_;
  std::function<bool(int, std::string_view)> sink_;
  bool stopped_ = false;
};

// Closes at the end of a call; closing early is what tells the pool to cancel.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// Waits until the socket is ready for `events`.
absl::Status WaitFor(int fd, short events, int timeout_ms, const std::atomic<bool>* stop) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  while (true) {
    if (stop != nullptr && stop->load()) return absl::CancelledError("interrupted");
    pollfd p{.fd = fd, .events = events, .revents = 0};
    const int n = ::poll(&p, 1, kPollMs);
    if (n > 0) return absl::OkStatus();
    if (n < 0 && errno != EINTR) return Internal("poll: ", std::strerror(errno));
    if (std::chrono::steady_clock::now() >= end) {
      return absl::DeadlineExceededError(absl::StrCat("no answer within ", timeout_ms / 1000, " s"));
    }
  }
}

}  // namespace

absl::StatusOr<HttpClient> HttpClient::Create(Options options) {
  if (options.url.empty()) options.url = EnvironmentOr("LANYARD_URL", "http://127.0.0.1:8080");
  if (options.api_key.empty()) options.api_key = EnvironmentOr("LANYARD_API_KEY", "");
  while (!options.url.empty() && options.url.back() == '/') options.url.pop_back();
  // The base URL of OpenAI clients ends in /v1; both are understood.
  if (options.url.size() > 3 && options.url.compare(options.url.size() - 3, 3, "/v1") == 0) {
    options.url.resize(options.url.size() - 3);
  }
  const std::string prefix = "http://";
  if (options.url.rfind("https://", 0) == 0) {
    return InvalidArgument("the URL ", options.url, " asks for TLS, which is not supported yet; use http://");
  }
  if (options.url.find("://") == std::string::npos) options.url = prefix + options.url;
  if (options.url.rfind(prefix, 0) != 0) return InvalidArgument("the URL ", options.url, " does not start with http://");
  std::string host = options.url.substr(prefix.size());
  std::string port = "80";
  const size_t bracket = host.find(']');
  const size_t colon = host.find(':', bracket == std::string::npos ? 0 : bracket);
  if (colon != std::string::npos) {
    port = host.substr(colon + 1);
    host.resize(colon);
  }
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  if (host.empty() || port.empty() || port.size() > 5 || port.find_first_not_of("0123456789") != std::string::npos ||
      host.find_first_of("/?#@ \r\n") != std::string::npos) {
    return InvalidArgument("the URL ", options.url, " is not of the form http://HOST:PORT");
  }
  for (const char c : options.api_key) {
    if (static_cast<unsigned char>(c) <= ' ' || c == 0x7f) {
      return InvalidArgument("the API key holds spaces or control characters");
    }
  }
  return HttpClient(std::move(options), std::move(host), std::move(port));
}

absl::StatusOr<int> HttpClient::Connect() const {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int rc = ::getaddrinfo(host_.c_str(), port_.c_str(), &hints, &found); rc != 0) {
    return Unavailable("cannot reach the pool at ", options_.url, ": ", ::gai_strerror(rc),
                       "\n  Check the host's name in --url or LANYARD_URL.");
  }
  std::string why = "no address";
  absl::StatusOr<int> result = Unavailable("");
  for (addrinfo* a = found; a != nullptr && !result.ok(); a = a->ai_next) {
    Descriptor fd(::socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol));
    if (fd.get() < 0) continue;
    int error = ::connect(fd.get(), a->ai_addr, a->ai_addrlen) == 0 ? 0 : errno;
    if (error == EINPROGRESS || error == EINTR) {
      if (const absl::Status ready = WaitFor(fd.get(), POLLOUT, options_.connect_timeout_ms, options_.stop); !ready.ok()) {
        why = Str(ready.message());
        if (absl::IsCancelled(ready)) result = ready;
        continue;
      }
      socklen_t size = sizeof(error);
      ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    }
    if (error != 0) {
      why = std::strerror(error);
      continue;
    }
    const int on = 1;
    ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    result = fd.Release();
  }
  ::freeaddrinfo(found);
  if (!result.ok() && absl::IsUnavailable(result.status())) {
    return Unavailable("cannot reach the pool at ", options_.url, ": ", why,
                       "\n  Start one with: lanyard up --model FILE.gguf --workers 3",
                       "\n  or give the address of yours: --url http://HOST:PORT (or LANYARD_URL)");
  }
  return result;
}

absl::StatusOr<HttpReply> HttpClient::Call(std::string_view method, const std::string& path, const std::string& body,
                                           const BodySink& sink) const {
  ASSIGN_OR_RETURN(const int raw, Connect());
  const Descriptor fd(raw);
  std::string request = absl::StrCat(AbslView(method), " ", path, " HTTP/1.1\r\nHost: ",
                                     options_.url.substr(options_.url.find("://") + 3),
                                     "\r\nUser-Agent: lanyard\r\nConnection: close\r\n");
  if (!options_.api_key.empty()) absl::StrAppend(&request, "Authorization: Bearer ", options_.api_key, "\r\n");
  if (method == "POST") {
    absl::StrAppend(&request, "Content-Type: application/json\r\nContent-Length: ", body.size(), "\r\n");
  }
  absl::StrAppend(&request, "\r\n", body);
  size_t sent = 0;
  while (sent < request.size()) {
    const ssize_t n = ::send(fd.get(), request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
    if (n >= 0) {
      sent += static_cast<size_t>(n);
    } else if (errno == EAGAIN) {
      RETURN_IF_ERROR(WaitFor(fd.get(), POLLOUT, options_.silence_timeout_ms, options_.stop));
    } else if (errno != EINTR) {
      break;  // the answer may already be here: 413
    }
  }
  HttpReply reply;
  ReplyParser parser(&reply, sink);
  std::string buffer;
  char piece[64 << 10];
  while (!parser.is_done()) {
    RETURN_IF_ERROR(WaitFor(fd.get(), POLLIN, options_.silence_timeout_ms, options_.stop));
    const ssize_t n = ::recv(fd.get(), piece, sizeof(piece), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    beast::error_code ec;
    if (n <= 0) {
      if (parser.got_some()) parser.put_eof(ec);
      if (parser.is_done() && !ec) break;
      return Unavailable("the pool at ", options_.url, " closed the connection in the middle of an answer",
                         "\n  Look at it with: lanyard node status");
    }
    buffer.append(piece, static_cast<size_t>(n));
    while (!buffer.empty() && !parser.is_done()) {
      const size_t used = parser.put(boost::asio::buffer(buffer), ec);
      if (parser.stopped()) return reply;
      buffer.erase(0, used);
      if (ec == http::error::need_more || used == 0) break;
      if (ec) break;
    }
    if (ec && ec != http::error::need_more) {
      return Internal("what answers at ", options_.url, " does not speak HTTP/1.1 (", ec.message(), ")");
    }
  }
  return reply;
}

absl::StatusOr<HttpReply> HttpClient::Get(const std::string& path) const {
  std::string body;
  ASSIGN_OR_RETURN(HttpReply reply, Call("GET", path, "", [&](int, std::string_view bytes) {
                     body += bytes;
                     return body.size() <= kMaxBodyBytes;
                   }));
  reply.body = std::move(body);
  return reply;
}

absl::StatusOr<HttpReply> HttpClient::Post(const std::string& path, const std::string& json_body) const {
  std::string body;
  ASSIGN_OR_RETURN(HttpReply reply, Call("POST", path, json_body, [&](int, std::string_view bytes) {
                     body += bytes;
                     return body.size() <= kMaxBodyBytes;
                   }));
  reply.body = std::move(body);
  return reply;
}

absl::Status HttpClient::Stream(const std::string& path, const std::string& json_body,
                                const std::function<bool(std::string_view)>& on_data) const {
  SseReader reader;
  std::string error_body;
  ASSIGN_OR_RETURN(HttpReply reply, Call("POST", path, json_body, [&](int status, std::string_view bytes) {
                     if (status == 200) return reader.Feed(bytes, on_data);
                     error_body += bytes;
                     return error_body.size() <= kMaxBodyBytes;
                   }));
  reply.body = std::move(error_body);
  return StatusOfReply(reply);
}

absl::Status StatusOfReply(const HttpReply& reply) {
  if (reply.status >= 200 && reply.status < 300) return absl::OkStatus();
  std::string message = absl::StrCat("the pool answered with HTTP status ", reply.status);
  const nlohmann::json body = nlohmann::json::parse(reply.body, nullptr, /*allow_exceptions=*/false);
  if (body.is_object() && body.contains("error") && body["error"].is_object() && body["error"].contains("message") &&
      body["error"]["message"].is_string()) {
    message = body["error"]["message"].get<std::string>();
  }
  switch (reply.status) {
    case 400:
    case 413: return InvalidArgument(message);
    case 401: return absl::UnauthenticatedError(message);
    case 403: return absl::PermissionDeniedError(message);
    case 404: return NotFound(message);
    case 429: return ResourceExhausted(message);
    case 503: return FailedPrecondition(message);  // it was reached, so not Unavailable
    case 504: return absl::DeadlineExceededError(message);
    default: return Internal(message);
  }
}

bool SseReader::Feed(std::string_view bytes, const std::function<bool(std::string_view)>& on_data) {
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    if (end == std::string_view::npos) {
      line_ += bytes;
      return true;
    }
    line_ += bytes.substr(0, end);
    bytes.remove_prefix(end + 1);
    if (!line_.empty() && line_.back() == '\r') line_.pop_back();
    const bool more = Line(line_, on_data);
    line_.clear();
    if (!more) return false;
  }
  return true;
}

bool SseReader::Line(std::string_view line, const std::function<bool(std::string_view)>& on_data) {
  if (line.empty()) {
    if (!has_data_) return true;
    const std::string data = std::exchange(data_, "");
    has_data_ = false;
    return on_data(data);
  }
  if (line.substr(0, 5) != "data:") return true;
  line.remove_prefix(5);
  if (!line.empty() && line.front() == ' ') line.remove_prefix(1);
  if (has_data_) data_ += '\n';
  data_ += line;
  has_data_ = true;
  return true;
}

}  // namespace lanyard::cli
