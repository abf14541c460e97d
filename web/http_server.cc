// The only file of this room with Beast and Asio in it: it takes 15 to 20 s to compile.
#include "web/http_server.h"

#include <poll.h>
#include <sys/resource.h>

#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <future>
#include <random>
#include <thread>
#include <unordered_set>
#include <utility>

#include "base/log.h"
#include "web/api.h"
#include "web/errors.h"
#include "web/exchange.h"

namespace lanyard::web {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using Parser = http::request_parser<http::string_body>;

constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
constexpr std::chrono::milliseconds kPollInterval{250};
constexpr size_t kHandlerThreads = 4;

std::string_view View(beast::string_view s) { return {s.data(), s.size()}; }

std::string NewRequestId() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return absl::StrFormat("%016x%08x", generator(), static_cast<uint32_t>(generator()));
}

bool IsGoodRequestId(std::string_view id) {
  if (id.empty() || id.size() > 64) return false;
  for (const char c : id) {
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '_' && c != '.') return false;
  }
  return true;
}

// What the connection needs to know of a request once the handler has the rest.
struct Reply {
  std::string request_id;
  bool head = false;        // no body goes out
  bool keep_alive = false;
  bool chunked = true;      // false: HTTP/1.0, the end of the connection is the end of the stream
};

std::string StatusLine(int status) {
  return absl::StrCat("HTTP/1.1 ", status, " ", AbslView(ReasonPhrase(status)), "\r\n");
}

std::string Serialize(const Response& response, const Reply& reply) {
  std::string out = StatusLine(response.status);
  absl::StrAppend(&out, "Content-Type: ", response.content_type, "\r\nContent-Length: ", response.body.size(),
                  "\r\nx-request-id: ", reply.request_id, "\r\n");
  for (const auto& [name, value] : response.headers) absl::StrAppend(&out, name, ": ", value, "\r\n");
  out += reply.keep_alive ? "\r\n" : "Connection: close\r\n\r\n";
  if (!reply.head) out += response.body;
  return out;
}

std::string StreamHead(const Reply& reply) {
  std::string out = StatusLine(200);
  absl::StrAppend(&out, "Content-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n",
                  "X-Accel-Buffering: no\r\nx-request-id: ", reply.request_id, "\r\n");
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

Response ParseError(const beast::error_code& ec, const ServerLimits& limits) {
  if (ec == http::error::body_limit) {
    return ErrorResponse(413, absl::StrCat("The request body is larger than ", limits.max_body_bytes, " bytes."),
                         "request_too_large");
  }
  if (ec == http::error::header_limit) {
    return ErrorResponse(431, absl::StrCat("The request headers are larger than ", limits.max_header_bytes, " bytes."),
                         "headers_too_large");
  }
  return ErrorResponse(400, absl::StrCat("This is not a well-formed HTTP/1.1 request (", ec.message(),
                                         "). Is the URL's scheme http?"), "malformed_request");
}

// "host:port" to an endpoint.
absl::StatusOr<tcp::endpoint> ParseListen(const std::string& listen) {
  const size_t colon = listen.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos || colon + 1 == listen.size() || listen.size() - colon > 6) {
    return InvalidArgument("the HTTP address '", listen, "' is not ADDRESS:PORT; for example 127.0.0.1:8080");
  }
  for (size_t i = colon + 1; i < listen.size(); ++i) {
    if (listen[i] < '0' || listen[i] > '9') {
      return InvalidArgument("the port of the HTTP address '", listen, "' is not a number; for example 127.0.0.1:8080");
    }
    port = port * 10 + static_cast<uint32_t>(listen[i] - '0');
  }
  if (port > 65535) return InvalidArgument("port ", port, " of the HTTP address '", listen, "' is above 65535");
  std::string host = listen.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  if (host == "localhost") host = "127.0.0.1";
  beast::error_code ec;
  const asio::ip::address address = asio::ip::make_address(host, ec);
  if (ec) return InvalidArgument("the HTTP address '", listen, "' does not start with an IP address or localhost");
  return tcp::endpoint(address, static_cast<uint16_t>(port));
}

// A thousand connections need more descriptors than the usual soft limit of 1024.
void RaiseDescriptorLimit(size_t wanted) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted) return;
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, wanted);
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) LogWarning("cannot raise the limit of open files to ", wanted);
}

class Session;

// Fields without a comment belong to the I/O thread. What sessions touch at their end stands before `io`, which ends them.
struct Core {
  Core(const ServerOptions& o, coordinator::Generator* generator)
      : options(o), router(MakeRouter(generator)), acceptor(io), accept_pause(io), handlers(kHandlerThreads) {}

  asio::awaitable<void> Accept();

  const ServerOptions options;
  const Router router;  // any thread
  bool loopback = true;
  std::string address;
  std::unordered_set<Session*> sessions;
  std::atomic<size_t> n_sessions{0};
  bool stopping = false;
  std::promise<void> drained;  // set when stopping and the last session has gone
  asio::io_context io{1};
  tcp::acceptor acceptor;
  asio::steady_timer accept_pause;
  asio::thread_pool handlers;
  std::thread io_thread;
};

// One connection. Lives on the I/O thread; the coroutine Run holds it alive.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(Core* server, tcp::socket socket)
      : server_(*server), limits_(server->options.limits), stream_(std::move(socket)), wake_(server->io) {
    server_.sessions.insert(this);
    server_.n_sessions.store(server_.sessions.size());
  }
  ~Session() {
    if (exchange_ != nullptr) exchange_->Detach();
    server_.sessions.erase(this);
    server_.n_sessions.store(server_.sessions.size());
    if (server_.stopping && server_.sessions.empty()) server_.drained.set_value();
  }

  asio::awaitable<void> Run(bool refuse);
  // The server stops: an answer that is complete may still go out, everything else ends now.
  void Shutdown();

 private:
  // False: the connection is to be closed.
  asio::awaitable<bool> ServeOne(bool first);
  asio::awaitable<bool> ReadBody(Parser& parser, const Reply& reply);
  asio::awaitable<bool> Answer(std::shared_ptr<Exchange> exchange, const Reply& reply);
  asio::awaitable<bool> SendNow(const Response& response, Reply reply);
  asio::awaitable<bool> WriteAll(const std::string& bytes);
  asio::awaitable<void> Linger();
  std::shared_ptr<Exchange> Dispatch(Parser& parser, const Router::Match& match, std::string path, const Reply& reply);
  void OnWake();
  void Watch(std::shared_ptr<Exchange> exchange);
  bool PeerClosed();

  Core& server_;
  const ServerLimits& limits_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  asio::steady_timer wake_;             // cancelled when there is something to do for Answer
  std::shared_ptr<Exchange> exchange_;  // while an answer is being made
  bool poll_peer_ = false;              // pipelined bytes hide the peer's close from the reactor
  bool shut_ = false;
};

asio::awaitable<void> Session::Run(bool refuse) {
  auto self = shared_from_this();
  if (refuse) {
    Response response = ErrorResponse(503, absl::StrCat("Too many connections (limit ", limits_.max_connections, ")."),
                                      "too_many_connections");
    response.headers.emplace_back("Retry-After", "1");
    Reply reply;
    reply.request_id = NewRequestId();
    if (co_await SendNow(response, reply)) co_await Linger();
    co_return;
  }
  bool first = true;
  while (!shut_) {
    const bool more = co_await ServeOne(first);
    if (!more) break;
    first = false;
  }
}

asio::awaitable<bool> Session::ServeOne(bool first) {
  if (buffer_.size() == 0) {
    stream_.expires_after(first ? limits_.header_timeout : limits_.idle_timeout);
    auto [ec, n] = co_await stream_.async_read_some(buffer_.prepare(4096), kToken);
    if (ec) co_return false;
    buffer_.commit(n);
  }
  Parser parser;
  parser.header_limit(static_cast<uint32_t>(limits_.max_header_bytes));
  parser.body_limit(limits_.max_body_bytes);
  Reply reply;
  reply.request_id = NewRequestId();
  stream_.expires_after(limits_.header_timeout);
  auto [ec, n] = co_await http::async_read_header(stream_, buffer_, parser, kToken);
  if (ec == beast::error::timeout || ec == http::error::end_of_stream || ec == http::error::partial_message) {
    co_return false;
  }
  if (ec) {
    const Response response = ParseError(ec, limits_);
    if (co_await SendNow(response, reply)) co_await Linger();
    co_return false;
  }
  const auto& head = parser.get();
  if (const std::string_view id = View(head["x-request-id"]); IsGoodRequestId(id)) reply.request_id = std::string(id);
  reply.head = head.method() == http::verb::head;
  reply.keep_alive = head.keep_alive() && !shut_;
  reply.chunked = head.version() >= 11;

  Response refused;
  refused.status = 0;
  Router::Match match;
  std::string path;
  const bool path_ok = DecodePath(View(head.target()), &path);
  const std::string guard =
      CheckHostAndOrigin(View(head[http::field::host]), View(head[http::field::origin]), server_.loopback);
  if (static_cast<size_t>(std::distance(head.begin(), head.end())) > limits_.max_headers) {
    refused = ErrorResponse(431, absl::StrCat("More than ", limits_.max_headers, " request headers."),
                            "headers_too_large");
  } else if (!path_ok) {
    refused = ErrorResponse(400, "The request's path is malformed.", "malformed_request");
  } else if (head.version() >= 11 && head.find(http::field::host) == head.end()) {
    refused = ErrorResponse(400, "The request has no Host header.", "malformed_request");
  } else if (!guard.empty()) {
    refused = ErrorResponse(403, guard, "misdirected_request");
  } else {
    match = server_.router.Find(View(head.method_string()), path);
    if (match.route == nullptr) refused = match.error;
  }
  if (refused.status != 0) {
    // Its body, if any, is not read: the connection ends.
    reply.keep_alive = reply.keep_alive && parser.is_done();
    const bool sent = co_await SendNow(refused, reply);
    if (sent && !reply.keep_alive) co_await Linger();
    co_return sent && reply.keep_alive;
  }
  if (!parser.is_done()) {
    const bool read = co_await ReadBody(parser, reply);
    if (!read) co_return false;
  }
  exchange_ = Dispatch(parser, match, std::move(path), reply);
  const bool more = co_await Answer(exchange_, reply);
  exchange_.reset();
  co_return more && reply.keep_alive;
}

asio::awaitable<bool> Session::ReadBody(Parser& parser, const Reply& reply) {
  if (beast::iequals(parser.get()[http::field::expect], "100-continue")) {
    static const std::string kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
    if (!co_await WriteAll(kContinue)) co_return false;
  }
  stream_.expires_after(limits_.body_timeout);
  auto [ec, n] = co_await http::async_read(stream_, buffer_, parser, kToken);
  if (!ec) co_return true;
  Response response;
  if (ec == beast::error::timeout) {
    // The time-out has closed the socket: there is nobody to tell.
    co_return false;
  }
  response = ParseError(ec, limits_);
  Reply closing = reply;
  closing.keep_alive = false;
  if (co_await SendNow(response, closing)) co_await Linger();
  co_return false;
}

std::shared_ptr<Exchange> Session::Dispatch(Parser& parser, const Router::Match& match, std::string path,
                                            const Reply& reply) {
  auto request = std::make_shared<Request>();
  request->method = std::string(View(parser.get().method_string()));
  request->path = std::move(path);
  request->suffix = match.suffix;
  request->authorization = std::string(View(parser.get()[http::field::authorization]));
  request->request_id = reply.request_id;
  request->body = std::move(parser.get().body());
  auto weak = weak_from_this();
  auto exchange = std::make_shared<Exchange>(limits_.max_queued_bytes, [&io = server_.io, weak] {
    asio::post(io, [weak] {
      if (auto self = weak.lock()) self->OnWake();
    });
  });
  asio::post(server_.handlers, [request, exchange, route = match.route, &options = server_.options] {
    absl::Status allowed = options.authorize ? options.authorize(*request, route->access) : absl::OkStatus();
    if (!allowed.ok()) return exchange->Send(ToResponse(allowed));
    try {
      route->handler(*request, exchange);
    } catch (const std::exception& e) {  // bad_alloc and the like: this request ends, the server does not
      LogError("request ", request->request_id, ": ", e.what());
      exchange->Send(ErrorResponse(500, "The request failed inside the server; its log says why.", "internal_error"));
    }
  });
  return exchange;
}

bool Session::PeerClosed() {
  pollfd fd{};
  fd.fd = stream_.socket().native_handle();
  fd.events = POLLRDHUP;
  return ::poll(&fd, 1, 0) > 0 && (fd.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
}

// There is something to take. A write that a slow client holds up must not hide that its queue is full.
void Session::OnWake() {
  wake_.cancel();
  if (exchange_ != nullptr && exchange_->overflowed()) stream_.close();
}

// Notices a client that leaves while its answer is being made.
void Session::Watch(std::shared_ptr<Exchange> exchange) {
  stream_.socket().async_wait(tcp::socket::wait_read, [self = shared_from_this(), exchange](beast::error_code ec) {
    if (ec || self->exchange_ != exchange) return;
    if (!self->PeerClosed()) {
      self->poll_peer_ = true;  // the next request is already here
    } else {
      exchange->ClientGone();
      self->shut_ = true;
      self->stream_.close();
    }
    self->wake_.cancel();
  });
}

asio::awaitable<bool> Session::Answer(std::shared_ptr<Exchange> exchange, const Reply& reply) {
  poll_peer_ = false;
  Watch(exchange);
  bool head_sent = false;
  bool ok = true;
  auto next_ping = std::chrono::steady_clock::now() + limits_.ping_interval;
  while (true) {
    Exchange::Taken taken = exchange->Take();
    if (shut_ && !taken.ended) ok = false;
    if (taken.overflow) {
      LogWarning("request ", reply.request_id, ": the client reads too slowly; cancelled");
      ok = false;
    }
    if (!ok) break;
    std::string out;
    if (taken.response.has_value()) {
      out = Serialize(*taken.response, reply);
    } else if (taken.streaming) {
      if (!head_sent) out = StreamHead(reply);
      head_sent = true;
      AppendChunk(&out, taken.events, reply);
      const auto now = std::chrono::steady_clock::now();
      if (out.empty() && !taken.ended && now >= next_ping) AppendChunk(&out, ": ping\n\n", reply);
      if (taken.ended && reply.chunked) out += "0\r\n\r\n";
    }
    if (!out.empty()) {
      next_ping = std::chrono::steady_clock::now() + limits_.ping_interval;
      ok = co_await WriteAll(out);
    }
    if (!ok || taken.ended) break;
    if (!out.empty()) continue;  // more may have come meanwhile; its wake had nothing to cancel
    auto until = taken.streaming ? next_ping : std::chrono::steady_clock::time_point::max();
    if (poll_peer_) until = std::min(until, std::chrono::steady_clock::now() + kPollInterval);
    wake_.expires_at(until);
    co_await wake_.async_wait(kToken);
    if (poll_peer_ && PeerClosed()) ok = false;
  }
  if (!ok) exchange->ClientGone();
  exchange->Detach();
  exchange_.reset();
  beast::error_code ignored;
  stream_.socket().cancel(ignored);  // the watch
  if (!ok) stream_.close();
  co_return ok && (reply.chunked || !head_sent);
}

asio::awaitable<bool> Session::SendNow(const Response& response, Reply reply) {
  const std::string bytes = Serialize(response, reply);
  const bool ok = co_await WriteAll(bytes);
  co_return ok;
}

// A piece at a time, so that the time-out means no progress rather than a slow client.
asio::awaitable<bool> Session::WriteAll(const std::string& bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    stream_.expires_after(limits_.write_timeout);
    auto [ec, n] = co_await stream_.async_write_some(asio::buffer(bytes.data() + done, bytes.size() - done), kToken);
    if (ec) co_return false;
    done += n;
  }
  stream_.expires_never();
  co_return true;
}

// Lets the client read an answer that was given before its request was read: closing with unread bytes would reset it.
asio::awaitable<void> Session::Linger() {
  beast::error_code ignored;
  stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
  stream_.expires_after(std::chrono::seconds(5));
  size_t left = 64u << 20;
  std::string sink(64u << 10, '\0');
  while (left > 0 && !shut_) {
    auto [ec, n] = co_await stream_.async_read_some(asio::buffer(sink), kToken);
    if (ec) break;
    left -= std::min(left, n);
  }
}

void Session::Shutdown() {
  shut_ = true;
  if (exchange_ == nullptr) {
    stream_.close();
  } else {
    wake_.cancel();
  }
}

asio::awaitable<void> Core::Accept() {
  while (!stopping) {
    auto [ec, socket] = co_await acceptor.async_accept(kToken);
    if (stopping) co_return;
    if (ec) {
      // Out of descriptors, mostly: the listener must survive it.
      LogWarning("cannot accept an HTTP connection: ", ec.message());
      accept_pause.expires_after(std::chrono::milliseconds(100));
      co_await accept_pause.async_wait(kToken);
      continue;
    }
    beast::error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    const bool refuse = sessions.size() >= options.limits.max_connections;
    auto session = std::make_shared<Session>(this, std::move(socket));
    asio::co_spawn(io, [session, refuse]() -> asio::awaitable<void> { co_await session->Run(refuse); },
                   [](std::exception_ptr error) {
                     if (error) LogError("an HTTP connection ended with an exception");
                   });
  }
}

}  // namespace

struct HttpServer::Impl : Core {
  using Core::Core;
};

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const ServerOptions& options,
                                                              coordinator::Generator* generator) {
  ASSIGN_OR_RETURN(const tcp::endpoint endpoint, ParseListen(options.listen));
  if (!endpoint.address().is_loopback()) {
    if (!options.insecure_lan) {
      return InvalidArgument("the HTTP address '", options.listen, "' can be reached by other machines, and there is no ",
                             "TLS yet; listen on 127.0.0.1, or accept the risk with --insecure-lan");
    }
    LogWarning("HTTP on ", options.listen, " is open to the network without TLS or keys (--insecure-lan)");
  }
  auto impl = std::make_unique<Impl>(options, generator);
  impl->loopback = endpoint.address().is_loopback();
  RaiseDescriptorLimit(options.limits.max_connections + 1024);
  beast::error_code ec;
  impl->acceptor.open(endpoint.protocol(), ec);
  if (!ec) impl->acceptor.set_option(tcp::acceptor::reuse_address(true), ec);
  if (!ec) impl->acceptor.bind(endpoint, ec);
  if (!ec) impl->acceptor.listen(1024, ec);
  if (ec) {
    return Unavailable("cannot listen for HTTP on ", options.listen, ": ", ec.message(),
                       ec == asio::error::address_in_use ? "; choose another port, or 0 for a free one" : "");
  }
  const tcp::endpoint bound = impl->acceptor.local_endpoint(ec);
  const std::string host = bound.address().to_string();
  impl->address = absl::StrCat(bound.address().is_v6() ? "[" + host + "]" : host, ":", bound.port());
  asio::co_spawn(impl->io, impl->Accept(), asio::detached);
  impl->io_thread = std::thread([raw = impl.get()] { raw->io.run(); });
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() {
  std::future<void> drained = impl_->drained.get_future();
  asio::post(impl_->io, [impl = impl_.get()] {
    impl->stopping = true;
    beast::error_code ignored;
    impl->acceptor.close(ignored);
    impl->accept_pause.cancel();
    if (impl->sessions.empty()) impl->drained.set_value();
    for (Session* session : impl->sessions) session->Shutdown();
  });
  // A handler in Generator::Start ends first, so that its answer can be cancelled.
  impl_->handlers.join();
  drained.wait_for(std::chrono::seconds(2));
  impl_->io.stop();
  impl_->io_thread.join();
}

std::string HttpServer::address() const { return impl_->address; }
size_t HttpServer::connections() const { return impl_->n_sessions.load(); }

}  // namespace lanyard::web
