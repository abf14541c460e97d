// This is the only file of this room that includes Beast's parser.
#include "web/session.h"

#include <poll.h>

#include <boost/asio/post.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "web/browser.h"
#include "web/errors.h"
#include "web/openai_format.h"

namespace lanyard::web {

namespace beast = boost::beast;
namespace http = boost::beast::http;

namespace {

using Parser = http::request_parser<http::string_body>;

constexpr std::chrono::milliseconds kPollInterval{250};
constexpr std::chrono::milliseconds kLingerTimeout{5'000};
constexpr std::chrono::milliseconds kGoodbyeTimeout{1'000};
constexpr size_t kCompletionThreads = 4;
constexpr size_t kQueryThreads = 2;
constexpr size_t kControlThreads = 4;    // draining a worker takes one until it is planned
constexpr size_t kHeadBytes = 4 << 10;   // size of one read
constexpr size_t kBodyBytes = 64 << 10;  // size of one read
constexpr size_t kMaxLingering = 64;
constexpr size_t kMaxLargeWaiting = 64;

std::string_view View(beast::string_view s) { return {s.data(), s.size()}; }

// A server with few connections, as tests have it, keeps half of them at most.
size_t ReservedOf(const ServerLimits& limits) {
  return std::min(limits.reserved_connections, limits.max_connections / 2);
}

Response ParseError(const beast::error_code& ec, const ServerLimits& limits) {
  if (ec == http::error::body_limit) {
    return ErrorResponse(
        413, absl::StrCat("The request body is larger than ", limits.max_body_bytes, " bytes."),
        "request_too_large");
  }
  if (ec == http::error::header_limit) {
    return ErrorResponse(
        431,
        absl::StrCat("The request headers are larger than ", limits.max_header_bytes, " bytes."),
        "headers_too_large");
  }
  return ErrorResponse(400,
                       absl::StrCat("This is not a well-formed HTTP/1.1 request (", ec.message(),
                                    "). Is the URL's scheme http?"),
                       "malformed_request");
}

// Bodies are read as they are.
std::optional<Response> CheckCoding(beast::string_view content) {
  if (content.empty() || beast::iequals(content, "identity")) return std::nullopt;
  Response response = ErrorResponse(
      415,
      absl::StrCat("Bodies in Content-Encoding '", AbslView(View(content).substr(0, 40)),
                   "' are not read by this server; send the body as it is."),
      "unsupported_encoding");
  response.headers.emplace_back("Accept-Encoding", "identity");
  return response;
}

// Whether it is certain where the body ends. A body that some proxy sees and this server does not
// would be read as the next request, so the connection ends with any refusal of this.
std::optional<Response> CheckFraming(const Parser::value_type& message) {
  const size_t codings = message.count(http::field::transfer_encoding);
  if (codings == 0) return std::nullopt;
  if (codings > 1 || message.version() < 11) {
    return ErrorResponse(400,
                         codings > 1 ? "The request has several Transfer-Encoding headers; send "
                                       "'chunked' alone, or a Content-Length."
                                     : "HTTP/1.0 has no Transfer-Encoding; send a Content-Length.",
                         "malformed_request");
  }
  const beast::string_view coding = message[http::field::transfer_encoding];
  if (beast::iequals(coding, "chunked")) return std::nullopt;
  return ErrorResponse(501,
                       absl::StrCat("The Transfer-Encoding '", AbslView(View(coding).substr(0, 40)),
                                    "' is not known to this server; send 'chunked' alone, or a "
                                    "Content-Length."),
                       "unsupported_encoding");
}

}  // namespace

struct Session::Head {
  Parser parser;
  Reply reply;
  std::string path;
  Router::Match match;
  Caller caller;
  std::shared_ptr<void> large;  // its place among the large bodies
};

ServerCore::ServerCore(const ServerOptions& o, Router r, HostPolicy h)
    : options(o),
      router(std::move(r)),
      hosts(std::move(h)),
      gate({.open = o.open,
            .keys = o.keys,
            .admin_of = o.admin_of,
            .failure_burst = o.limits.failed_keys_per_second,
            .failures_per_second = o.limits.failed_keys_per_second}),
      shares(o.limits.max_connections - ReservedOf(o.limits), o.open),
      large_bodies(o.limits.large_bodies, kMaxLargeWaiting),
      completions(kCompletionThreads),
      queries(kQueryThreads),
      control(kControlThreads) {}

asio::thread_pool& ServerCore::HandlersOf(Lane lane) {
  switch (lane) {
    case Lane::kCompletion:
      return completions;
    case Lane::kControl:
      return control;
    case Lane::kQuick:
      break;
  }
  return queries;
}

Session::Session(ServerCore* server, tcp::socket socket, const std::string& client)
    : server_(*server),
      limits_(server->options.limits),
      client_(client),
      transport_(std::move(socket)),
      wake_(server->io) {
  server_.sessions.insert(this);
  server_.n_sessions.store(server_.sessions.size());
  SetRank(Rank::kStranger);
}

Session::~Session() {
  if (exchange_ != nullptr) exchange_->Detach();
  LeaveShare();
  SetRank(Rank::kBusy);
  server_.sessions.erase(this);
  server_.n_sessions.store(server_.sessions.size());
  if (server_.stopping && server_.sessions.empty()) server_.drained.set_value();
}

void Session::SetRank(Rank rank) {
  if (guest_.has_value())
    (rank_ == Rank::kStranger ? server_.strangers : server_.idle).Remove(*guest_);
  guest_.reset();
  rank_ = rank;
  if (rank == Rank::kStranger) guest_ = server_.strangers.Add(client_, this);
  if (rank == Rank::kIdle) guest_ = server_.idle.Add(client_, this);
}

void Session::LeaveShare() {
  if (share_.has_value()) server_.shares.Leave(*share_);
  share_.reset();
}

asio::awaitable<void> Session::Run(bool refuse) {
  auto self = shared_from_this();
  if (refuse) {
    SetRank(Rank::kBusy);  // it counts as lingering and no longer as a stranger
    if (server_.options.tls || server_.lingering >= kMaxLingering) co_return;
    ++server_.lingering;
    Response response = ErrorResponse(
        503, absl::StrCat("Too many connections (limit ", limits_.max_connections, ")."),
        "too_many_connections");
    response.headers.emplace_back("Retry-After", "1");
    Reply reply;
    reply.request_id = NewRequestId();
    co_await Refuse(response, reply);
    --server_.lingering;
    co_return;
  }
  if (server_.options.tls) {
    const bool secure = co_await StartTls();
    if (!secure) co_return;
  }
  bool first = true;
  while (!shut_) {
    const bool more = co_await ServeOne(first);
    if (!more) break;
    first = false;
  }
  if (!shut_) co_await transport_.SayGoodbye(kGoodbyeTimeout);
}

asio::awaitable<bool> Session::StartTls() {
  transport_.ExpireAfter(limits_.handshake_timeout);
  const Transport::Greeting greeting = co_await transport_.StartTls(server_.options.tls());
  if (greeting == Transport::Greeting::kPlaintext) {
    const Response response = ErrorResponse(
        400, "This port speaks HTTPS; the URL starts with https://.", "https_required");
    Reply reply;
    reply.request_id = NewRequestId();
    co_await Refuse(response, reply);
  }
  co_return greeting == Transport::Greeting::kTls && !shut_;
}

asio::awaitable<bool> Session::FillBuffer(size_t bytes) {
  const size_t had = buffer_.size();
  buffer_.resize(had + bytes);
  auto [ec, n] = co_await transport_.Read(asio::buffer(buffer_.data() + had, bytes));
  buffer_.resize(had + n);
  co_return !ec;
}

// Until a byte of a request is there. Empty lines before it are none (RFC 9112, 2.2), and do not
// make the wait longer.
asio::awaitable<bool> Session::AwaitRequest(bool first) {
  transport_.ExpireAfter(first ? limits_.header_timeout : limits_.idle_timeout);
  for (size_t skipped = 0; skipped <= limits_.max_header_bytes;) {
    const size_t start = std::min(buffer_.find_first_not_of("\r\n"), buffer_.size());
    buffer_.erase(0, start);
    skipped += start;
    if (!buffer_.empty()) co_return true;
    const bool some = co_await FillBuffer(kHeadBytes);
    if (!some) co_return false;
  }
  co_return false;
}

asio::awaitable<bool> Session::ReadHead(bool first, Head* head) {
  const bool some = co_await AwaitRequest(first);
  if (!some) co_return false;
  Parser& parser = head->parser;
  parser.header_limit(static_cast<uint32_t>(limits_.max_header_bytes));
  parser.body_limit(limits_.max_body_bytes);
  transport_.ExpireAfter(limits_.header_timeout);
  beast::error_code ec;
  while (!parser.is_header_done()) {
    const size_t used = parser.put(asio::buffer(buffer_), ec);
    buffer_.erase(0, used);
    if (ec && ec != http::error::need_more) break;
    if (parser.is_header_done()) break;
    const bool more = co_await FillBuffer(kHeadBytes);
    if (!more) co_return false;
  }
  if (ec && ec != http::error::need_more) {
    const Response malformed = ParseError(ec, limits_);
    co_await Refuse(malformed, head->reply);
    co_return false;
  }
  const auto& message = parser.get();
  Reply& reply = head->reply;
  if (const std::string_view id = View(message["x-request-id"]); IsGoodRequestId(id))
    reply.request_id = std::string(id);
  reply.head = message.method() == http::verb::head;
  reply.keep_alive = message.keep_alive() && !shut_;
  reply.chunked = message.version() >= 11;
  co_return true;
}

// Whom and what the request is for, and whether a browser may ask that.
std::optional<Response> Session::ScreenTarget(Head* head) {
  const auto& message = head->parser.get();
  Target target;
  if (!ParseTarget(View(message.target()), &target)) {
    return ErrorResponse(400, "The request's path is malformed.", "malformed_request");
  }
  head->path = std::move(target.path);
  if (message.version() >= 11 && message.count(http::field::host) != 1) {
    return ErrorResponse(400, "The request has no Host header, or several.", "malformed_request");
  }
  // Of two hosts the target's counts (RFC 9112, 3.2.2), and neither may be another's.
  std::string_view host = View(message[http::field::host]);
  std::string guard = CheckHost(host, server_.hosts);
  if (guard.empty() && !target.authority.empty()) {
    host = target.authority;
    guard = CheckHost(host, server_.hosts);
  }
  if (!guard.empty()) return ErrorResponse(403, guard, "misdirected_request");
  const bool several = message.count(http::field::origin) > 1;
  BrowserVerdict browser =
      JudgeBrowser({.method = View(message.method_string()),
                    .path = head->path,
                    .host = host,
                    .origin = several ? "several" : View(message[http::field::origin]),
                    .fetch_site = View(message["sec-fetch-site"]),
                    .content_type = View(message[http::field::content_type]),
                    .requested_method = View(message["access-control-request-method"]),
                    .requested_headers = View(message["access-control-request-headers"])},
                   server_.hosts);
  head->reply.headers = std::move(browser.headers);
  return std::move(browser.answer);
}

std::optional<Response> Session::ScreenCaller(Head* head) {
  const auto& message = head->parser.get();
  Credentials credentials{.peer_certificate_pem = transport_.peer_certificate_pem(),
                          .client = client_};
  const auto collect = [&](beast::string_view name, std::vector<std::string_view>* out) {
    const auto [begin, end] = message.equal_range(name);
    for (auto field = begin; field != end; ++field) out->push_back(View(field->value()));
  };
  collect("authorization", &credentials.authorization);
  collect("x-api-key", &credentials.api_keys);
  collect("api-key", &credentials.api_keys);  // Azure's name of it
  head->match = server_.router.Find(View(message.method_string()), head->path);
  const Route* const route = head->match.route;
  Gate::Verdict verdict = server_.gate.Enter(
      credentials, route != nullptr ? std::optional(route->access) : std::nullopt, MonotonicNow());
  head->caller = std::move(verdict.caller);
  // Until it holds a place, it makes room when there is no stranger who could.
  if (head->caller.kind != Caller::Kind::kNobody) SetRank(Rank::kIdle);
  if (verdict.refused.has_value()) return std::move(verdict.refused);
  if (route == nullptr) return std::move(head->match.error);
  return std::nullopt;
}

std::optional<Response> Session::Screen(Head* head) {
  const auto& message = head->parser.get();
  if (static_cast<size_t>(std::distance(message.begin(), message.end())) > limits_.max_headers) {
    return ErrorResponse(431, absl::StrCat("More than ", limits_.max_headers, " request headers."),
                         "headers_too_large");
  }
  if (auto refused = ScreenTarget(head); refused.has_value()) return refused;
  if (auto refused = ScreenCaller(head); refused.has_value()) return refused;
  if (auto refused = CheckCoding(message[http::field::content_encoding]); refused.has_value())
    return refused;
  return TakePlace(head);
}

// A completion takes a place of its caller's share, an administrator's request one of those that no
// completion gets; other requests hold none, since they are over at once.
std::optional<Response> Session::TakePlace(Head* head) {
  const Route& route = *head->match.route;
  if (route.access == Access::kAdmin) SetRank(Rank::kBusy);
  if (route.lane != Lane::kCompletion) return std::nullopt;
  const std::string name = NameOf(head->caller);
  const Shares::Verdict verdict = server_.shares.Enter(name);
  if (verdict == Shares::Verdict::kEntered) {
    share_ = name;
    SetRank(Rank::kBusy);
    return std::nullopt;
  }
  const bool own = verdict == Shares::Verdict::kShareIsFull;
  Response full = own ? ErrorResponse(429,
                                      absl::StrCat("You have ", server_.shares.most_of_one(),
                                                   " requests open with this key, and no key may "
                                                   "have more at once; wait until one of them has "
                                                   "ended."),
                                      "too_many_open_requests")
                      : ErrorResponse(503,
                                      absl::StrCat("All ", server_.shares.places(),
                                                   " places for requests are taken; ask again "
                                                   "in a moment."),
                                      "too_many_connections");
  full.headers.emplace_back("Retry-After", own ? "5" : "2");
  return full;
}

asio::awaitable<bool> Session::ServeOne(bool first) {
  Head head;
  head.reply.request_id = NewRequestId();
  const bool have_head = co_await ReadHead(first, &head);
  if (!have_head) co_return false;
  std::optional<Response> refused = CheckFraming(head.parser.get());
  const bool framed = !refused.has_value();
  if (framed) refused = Screen(&head);
  if (refused.has_value()) {
    // Its body, if there is one, is not read: the connection ends.
    const bool whole = framed && head.parser.is_done();
    if (!whole || (!head.reply.keep_alive && !buffer_.empty())) {
      co_await Refuse(*refused, head.reply);
      co_return false;
    }
    const bool sent = co_await SendNow(*refused, head.reply);
    co_return sent&& head.reply.keep_alive;
  }
  const bool have_body = co_await ReadBody(&head);
  bool more = false;
  if (have_body) {
    exchange_ = Dispatch(&head);
    more = co_await Answer(exchange_, head.reply);
    exchange_.reset();
  }
  LeaveShare();
  if (rank_ == Rank::kBusy && !shut_) SetRank(Rank::kIdle);
  co_return more&& head.reply.keep_alive;
}

asio::awaitable<bool> Session::EnterLarge(Head* head) {
  transport_.ExpireNever();  // it is not the client that is slow
  auto entered = std::make_shared<bool>(false);
  const uint64_t number =
      server_.large_bodies.Ask(NameOf(head->caller), [entered, weak = weak_from_this()] {
        *entered = true;
        if (const auto self = weak.lock()) self->wake_.cancel();
      });
  // The last who lets go of it may be in another thread.
  head->large = std::shared_ptr<void>(&server_, [&server = server_, number](void*) {
    asio::post(server.io, [&server, number] { server.large_bodies.Leave(number); });
  });
  const auto end = std::chrono::steady_clock::now() + limits_.large_body_wait;
  while (number != 0 && !*entered && !shut_ && !PeerClosed()) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= end) break;
    wake_.expires_at(std::min(end, now + kPollInterval));
    co_await wake_.async_wait(kToken);
  }
  if (*entered) co_return !shut_;
  if (shut_ || PeerClosed()) co_return false;
  head->large.reset();
  Response busy = ErrorResponse(
      429,
      absl::StrCat("Requests of more than ", limits_.large_body_bytes,
                   " bytes are read one after another, and too many others of yours or of other "
                   "keys wait; send it again in a few seconds, or a shorter one."),
      "too_many_large_requests");
  busy.headers.emplace_back("Retry-After", "5");
  co_await Refuse(busy, head->reply);
  co_return false;
}

asio::awaitable<bool> Session::ReadBody(Head* head) {
  Parser& parser = head->parser;
  parser.eager(true);
  bool asked = false;
  transport_.ExpireAfter(limits_.body_timeout);
  beast::error_code ec;
  while (!parser.is_done()) {
    const uint64_t bytes =
        std::max<uint64_t>(parser.content_length().value_or(0), parser.get().body().size());
    if (bytes > limits_.large_body_bytes && head->large == nullptr) {
      const bool entered = co_await EnterLarge(head);
      if (!entered) co_return false;
      transport_.ExpireAfter(limits_.body_timeout);
    }
    size_t used = 0;
    if (!buffer_.empty()) used = parser.put(asio::buffer(buffer_), ec);
    buffer_.erase(0, used);
    if (ec && ec != http::error::need_more) break;
    if (parser.is_done() || (used > 0 && !buffer_.empty())) continue;
    if (!asked && beast::iequals(parser.get()[http::field::expect], "100-continue")) {
      asked = true;
      static const std::string kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
      const bool sent = co_await WriteAll(kContinue);
      if (!sent) co_return false;
      transport_.ExpireAfter(limits_.body_timeout);
    }
    // After a time-out the socket is closed: no one is left to be told.
    const bool more = co_await FillBuffer(kBodyBytes);
    if (!more) co_return false;
  }
  if (!ec || parser.is_done()) co_return true;
  const Response malformed = ParseError(ec, limits_);
  co_await Refuse(malformed, head->reply);
  co_return false;
}

std::shared_ptr<Exchange> Session::Dispatch(Head* head) {
  auto request = std::make_shared<Request>();
  request->method = std::string(View(head->parser.get().method_string()));
  request->path = std::move(head->path);
  request->suffix = head->match.suffix;
  request->request_id = head->reply.request_id;
  request->body = std::move(head->parser.get().body());
  request->caller = caller_ = head->caller;
  auto weak = weak_from_this();
  auto exchange = std::make_shared<Exchange>(limits_.max_queued_bytes, [&io = server_.io, weak] {
    asio::post(io, [weak] {
      if (auto self = weak.lock()) self->OnWake();
    });
  });
  asio::post(
      server_.HandlersOf(head->match.route->lane),
      [request, exchange, route = head->match.route, large = std::move(head->large)] {
        if (exchange->Gone()) return;  // the client left while others were handled
        try {
          route->handler(*request, exchange);
        } catch (const std::exception&
                     e) {  // bad_alloc and the like: this request ends and the server goes on
          LogError("request ", request->request_id, ": ", e.what());
          exchange->Send(ErrorResponse(
              500, "The request failed inside the server; its log says why.", "internal_error"));
        }
      });
  return exchange;
}

void Session::CheckCaller() {
  if (exchange_ == nullptr || server_.gate.StillMay(caller_, transport_.peer_certificate_pem()))
    return;
  const absl::Status gone =
      absl::UnauthenticatedError("The credentials of this request were revoked or have expired.");
  exchange_->Abort(ToResponse(gone), SseEvent(ToErrorJson(gone)));
}

bool Session::PeerClosed() {
  pollfd fd{};
  fd.fd = transport_.socket().native_handle();
  fd.events = POLLRDHUP;
  return ::poll(&fd, 1, 0) > 0 && (fd.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
}

// There is something to take. A write that a slow client delays must not hide that its queue is
// full.
void Session::OnWake() {
  wake_.cancel();
  if (exchange_ != nullptr && exchange_->overflowed()) transport_.Close();
}

// Notices a client that leaves while its answer is being made.
void Session::Watch(std::shared_ptr<Exchange> exchange) {
  transport_.socket().async_wait(tcp::socket::wait_read,
                                 [self = shared_from_this(), exchange](beast::error_code ec) {
                                   if (ec || self->exchange_ != exchange) return;
                                   if (!self->PeerClosed()) {
                                     self->poll_peer_ = true;  // the next request is already here
                                   } else {
                                     exchange->ClientGone();
                                     self->shut_ = true;
                                     self->transport_.Close();
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
    if (!out.empty()) continue;  // more may have come meanwhile, and its wake had nothing to cancel
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
  transport_.socket().cancel(ignored);  // ends the watch
  if (!ok) transport_.Close();
  co_return ok && (reply.chunked || !head_sent);
}

asio::awaitable<bool> Session::SendNow(const Response& response, const Reply& reply) {
  const std::string bytes = Serialize(response, reply);
  const bool ok = co_await WriteAll(bytes);
  co_return ok;
}

asio::awaitable<void> Session::Refuse(const Response& response, Reply reply) {
  reply.keep_alive = false;
  const bool sent = co_await SendNow(response, reply);
  if (sent) co_await Linger();
}

// Writes a piece at a time, so that the time-out means that there is no progress, and not that the
// client is slow.
asio::awaitable<bool> Session::WriteAll(const std::string& bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    transport_.ExpireAfter(limits_.write_timeout);
    auto [ec, n] =
        co_await transport_.WriteSome(asio::buffer(bytes.data() + done, bytes.size() - done));
    if (ec) co_return false;
    done += n;
  }
  transport_.ExpireNever();
  co_return true;
}

// Lets the client read an answer that was given before its request was read: to close with unread
// bytes would reset it. The client is told first that nothing else comes, so that it need not wait.
asio::awaitable<void> Session::Linger() {
  co_await transport_.SayGoodbye(kLingerTimeout);
  beast::error_code ignored;
  transport_.socket().shutdown(tcp::socket::shutdown_send, ignored);
  size_t left = 64u << 20;
  buffer_.resize(kBodyBytes);
  while (left > 0 && !shut_) {
    auto [ec, n] = co_await transport_.Discard(asio::buffer(buffer_));
    if (ec) break;
    left -= std::min(left, n);
  }
}

void Session::Drop() {
  SetRank(Rank::kBusy);  // so that it is not dropped again
  shut_ = true;
  transport_.Close();
  wake_.cancel();
}

void Session::Shutdown() {
  shut_ = true;
  if (exchange_ == nullptr) {
    transport_.Close();
  } else {
    wake_.cancel();
  }
}

}  // namespace lanyard::web
