// This is the only file of this room that includes Beast: its parser alone, over plain sockets,
// which have simple time-outs.
#include "cli/http_client.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/basic_parser.hpp>
#include <cctype>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "base/api_key.h"
#include "base/environment.h"
#include "cli/admin_folder.h"
#include "cli/running_pools.h"
#include "net/channel.h"

namespace lanyard::cli {
namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;

constexpr size_t kMaxBodyBytes = 64u << 20;  // for an answer that is kept whole

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
  void on_request_impl(http::verb, beast::string_view, beast::string_view, int,
                       beast::error_code&) override {}
  void on_response_impl(int code, beast::string_view, int, beast::error_code&) override {
    reply_->status = code;
  }
  void on_field_impl(http::field, beast::string_view name, beast::string_view value,
                     beast::error_code&) override {
    std::string key(name.data(), name.size());
    std::transform(key.begin(), key.end(), key.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    reply_->headers[key] = std::string(value.data(), value.size());
  }
  void on_header_impl(beast::error_code&) override {}
  void on_body_init_impl(const boost::optional<std::uint64_t>&, beast::error_code&) override {}
  std::size_t on_body_impl(beast::string_view bytes, beast::error_code& ec) override {
    return Body(bytes, ec);
  }
  void on_chunk_header_impl(std::uint64_t, beast::string_view, beast::error_code&) override {}
  std::size_t on_chunk_body_impl(std::uint64_t, beast::string_view bytes,
                                 beast::error_code& ec) override {
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

// A key of ours says by itself whether it was mistyped, and others that a header can carry are the
// server's to judge. The words are the same in both cases.
absl::Status CheckApiKey(const std::string& key) {
  for (const char c : key) {
    if (static_cast<unsigned char>(c) <= ' ' || static_cast<unsigned char>(c) >= 0x7f)
      return NotAnApiKey();
  }
  if (key.compare(0, kApiKeyPrefix.size(), kApiKeyPrefix) != 0) return absl::OkStatus();
  return ApiKeyText::Parse(key).status();
}

}  // namespace

absl::StatusOr<PoolUrl> ParsePoolUrl(std::string_view text) {
  std::string rest(text);
  while (!rest.empty() && rest.back() == '/') rest.pop_back();
  if (rest.size() > 3 && rest.compare(rest.size() - 3, 3, "/v1") == 0) rest.resize(rest.size() - 3);
  PoolUrl out;
  if (const size_t scheme = rest.find("://"); scheme != std::string::npos) {
    const std::string name = absl::AsciiStrToLower(rest.substr(0, scheme));
    if (name != "http" && name != "https") {
      return InvalidArgument("the URL ", AbslView(text),
                             " does not start with http:// or https://");
    }
    out.secure = name == "https";
    rest.erase(0, scheme + 3);
  }
  out.url = (out.secure ? "https://" : "http://") + rest;
  out.port = out.secure ? "443" : "80";
  if (rest.find_first_of("/?#@ \r\n") != std::string::npos) {
    // It may hold a password, which is not shown.
    const std::string shown =
        rest.find('@') == std::string::npos ? absl::StrCat(" '", AbslView(text), "'") : "";
    return InvalidArgument("the URL", shown,
                           " is not of the form https://HOST:PORT; it takes no path but /v1, and "
                           "no user or password (see --api-key)");
  }
  const size_t bracket = rest.find(']');
  const size_t colon = rest.find(':', bracket == std::string::npos ? 0 : bracket);
  if (colon != std::string::npos) {
    out.port = rest.substr(colon + 1);
    rest.resize(colon);
  }
  if (rest.size() > 2 && rest.front() == '[' && rest.back() == ']')
    rest = rest.substr(1, rest.size() - 2);
  if (rest.empty())
    return InvalidArgument("the URL '", AbslView(text), "' is not of the form https://HOST:PORT");
  out.host = std::move(rest);
  uint32_t port = 0;
  const bool digits = out.port.find_first_not_of("0123456789") == std::string::npos;
  if (!digits || !absl::SimpleAtoi(out.port, &port) || port < 1 || port > 65535) {
    return InvalidArgument("the URL ", AbslView(text), " has the port '", out.port,
                           "'; ports are numbers from 1 to 65535");
  }
  return out;
}

absl::StatusOr<HttpClient> HttpClient::Create(Options options) {
  RETURN_IF_ERROR(FindPool(&options));
  if (options.url.empty()) {
    return Unavailable("no pool was found: none of lanyard up runs on this machine, and no address",
                       " was given", HowToFindAPool());
  }
  const auto environment_or = [&](const char* name, const char* fallback) {
    return options.look_around ? EnvironmentOr(name, fallback) : std::string(fallback);
  };
  if (options.api_key.empty()) options.api_key = environment_or("LANYARD_API_KEY", "");
  if (options.tls.ca.empty()) options.tls.ca = environment_or("LANYARD_CA", "");
  if (options.tls.cert.empty() && options.tls.key.empty()) {
    options.tls.cert = environment_or("LANYARD_CERT", "");
    options.tls.key = environment_or("LANYARD_CERT_KEY", "");
  }
  ASSIGN_OR_RETURN(PoolUrl url, ParsePoolUrl(options.url));
  options.url = url.url;
  RETURN_IF_ERROR(CheckApiKey(options.api_key));
  if (!url.secure && !options.api_key.empty() && !net::IsLoopbackHost(url.host)) {
    return absl::PermissionDeniedError(absl::StrCat(
        "the API key would go to ", url.host, " over http://, where everybody between ",
        "can read it; it was not sent\n  Use https://, or leave the key out ",
        "(--api-key, LANYARD_API_KEY)."));
  }
  SocketOptions socket;
  if (url.secure) {
    ASSIGN_OR_RETURN(socket.tls, MakeTlsContext(options.tls));
  }
  socket.host = std::move(url.host);
  socket.port = std::move(url.port);
  socket.url = options.url;
  socket.connect_timeout_ms = options.connect_timeout_ms;
  socket.silence_timeout_ms = options.silence_timeout_ms;
  socket.stop = options.stop;
  socket.tls_name = options.tls_name;
  socket.files = options.tls;
  return HttpClient(std::move(options), std::move(socket));
}

absl::StatusOr<HttpReply> HttpClient::Call(std::string_view method, const std::string& path,
                                           const std::string& body, const BodySink& sink) const {
  ASSIGN_OR_RETURN(const auto socket, HttpSocket::Connect(socket_));
  std::string request =
      absl::StrCat(AbslView(method), " ", path,
                   " HTTP/1.1\r\nHost: ", options_.url.substr(options_.url.find("://") + 3),
                   "\r\nUser-Agent: lanyard\r\nConnection: close\r\n");
  if (!options_.api_key.empty())
    absl::StrAppend(&request, "Authorization: Bearer ", options_.api_key, "\r\n");
  if (method == "POST") {
    absl::StrAppend(&request, "Content-Type: application/json\r\nContent-Length: ", body.size(),
                    "\r\n");
  }
  absl::StrAppend(&request, "\r\n", body);
  RETURN_IF_ERROR(socket->Send(request));
  HttpReply reply;
  ReplyParser parser(&reply, sink);
  std::string buffer;
  char piece[64 << 10];
  while (!parser.is_done()) {
    ASSIGN_OR_RETURN(const size_t n, socket->Receive(piece, sizeof(piece)));
    beast::error_code ec;
    if (n == 0) {
      if (parser.got_some()) parser.put_eof(ec);
      if (parser.is_done() && !ec) break;
      return Unavailable("the pool at ", options_.url,
                         " closed the connection in the middle of an answer",
                         "\n  Look at it with: lanyard node status");
    }
    buffer.append(piece, n);
    while (!buffer.empty() && !parser.is_done()) {
      const size_t used = parser.put(boost::asio::buffer(buffer), ec);
      if (parser.stopped()) return reply;
      buffer.erase(0, used);
      if (ec == http::error::need_more || used == 0) break;
      if (ec) break;
    }
    if (ec && ec != http::error::need_more) {
      return Internal("what answers at ", options_.url, " does not speak HTTP/1.1 (", ec.message(),
                      ")");
    }
  }
  return reply;
}

absl::StatusOr<HttpReply> HttpClient::Whole(std::string_view method, const std::string& path,
                                            const std::string& body) const {
  std::string answer;
  ASSIGN_OR_RETURN(HttpReply reply, Call(method, path, body, [&](int, std::string_view bytes) {
                     answer += bytes;
                     return answer.size() <= kMaxBodyBytes;
                   }));
  reply.body = std::move(answer);
  return reply;
}

absl::StatusOr<HttpReply> HttpClient::Get(const std::string& path) const {
  return Whole("GET", path, "");
}
absl::StatusOr<HttpReply> HttpClient::Delete(const std::string& path) const {
  return Whole("DELETE", path, "");
}
absl::StatusOr<HttpReply> HttpClient::Post(const std::string& path,
                                           const std::string& json_body) const {
  return Whole("POST", path, json_body);
}

absl::Status HttpClient::Stream(const std::string& path, const std::string& json_body,
                                const std::function<bool(std::string_view)>& on_data) const {
  SseReader reader;
  std::string error_body;
  ASSIGN_OR_RETURN(HttpReply reply,
                   Call("POST", path, json_body, [&](int status, std::string_view bytes) {
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
  const nlohmann::json body =
      nlohmann::json::parse(reply.body, nullptr, /*allow_exceptions=*/false);
  if (body.is_object() && body.contains("error") && body["error"].is_object() &&
      body["error"].contains("message") && body["error"]["message"].is_string()) {
    message = body["error"]["message"].get<std::string>();
  }
  switch (reply.status) {
    case 400:
    case 413:
      return InvalidArgument(message);
    case 409:
      return absl::AlreadyExistsError(message);
    case 401:
      return absl::UnauthenticatedError(message);
    case 403:
      return absl::PermissionDeniedError(message);
    case 404:
      return NotFound(message);
    case 429:
      return ResourceExhausted(message);
    case 503:
      return FailedPrecondition(message);  // it was reached, so not Unavailable
    case 504:
      return absl::DeadlineExceededError(message);
    default:
      return Internal(message);
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
