#include "net/join.h"

#include <array>
#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <thread>

#include "base/log.h"
#include "base/version.h"
#include "identity/credential.h"
#include "identity/tls.h"
#include "lanyard/v1/join.pb.h"
#include "net/convert_control.h"
#include "net/status_codes.h"
#include "net/versions.h"

namespace lanyard::net {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using Stream = asio::ssl::stream<tcp::socket>;
constexpr auto kAsTuple = asio::as_tuple(asio::use_awaitable);
constexpr std::chrono::milliseconds kConversationTimeout{5'000};
constexpr unsigned char kAlpnWire[] = "\x0elanyard-join/1";
static_assert(sizeof(kAlpnWire) == sizeof(kJoinAlpn) + 1 && sizeof(kJoinAlpn) - 1 == 0x0e);

template <typename Message>
asio::awaitable<absl::Status> ReadMessage(Stream& stream, Message* out) {
  std::array<uint8_t, 4> head{};
  if (auto [ec, n] = co_await asio::async_read(stream, asio::buffer(head), kAsTuple); ec) {
    co_return Unavailable("the connection ended: ", ec.message());
  }
  const size_t size =
      size_t{head[0]} << 24 | size_t{head[1]} << 16 | size_t{head[2]} << 8 | head[3];
  if (size > kMaxJoinBytes)
    co_return InvalidArgument("a message of ", size, " bytes; at most ", kMaxJoinBytes);
  std::string bytes(size, '\0');
  if (auto [ec, n] = co_await asio::async_read(stream, asio::buffer(bytes), kAsTuple); ec) {
    co_return Unavailable("the connection ended: ", ec.message());
  }
  if (!out->ParseFromString(bytes))
    co_return InvalidArgument("a message that is none of this protocol's");
  co_return absl::OkStatus();
}

template <typename Message>
asio::awaitable<absl::Status> WriteMessage(Stream& stream, const Message& message) {
  const std::string body = message.SerializeAsString();
  const auto n = static_cast<uint32_t>(body.size());
  std::string bytes{static_cast<char>(n >> 24), static_cast<char>(n >> 16),
                    static_cast<char>(n >> 8), static_cast<char>(n)};
  bytes += body;
  if (auto [ec, written] = co_await asio::async_write(stream, asio::buffer(bytes), kAsTuple); ec) {
    co_return Unavailable("the connection ended: ", ec.message());
  }
  co_return absl::OkStatus();
}

// Asio's context takes over the reference.
asio::ssl::context AsioContext(const identity::SslContext& context) {
  SSL_CTX_up_ref(context.get());
  return asio::ssl::context(context.get());
}

absl::StatusOr<JoinRequest> RequestFromProto(const v1::JoinRequest& in) {
  RETURN_IF_ERROR(CheckWorkerProgram({in.protocol(), in.version()}));
  JoinRequest out;
  const bool token = !in.token_id().empty() || !in.token_secret().empty();
  if (token && (in.token_id().size() != 16 || in.token_secret().size() != 32))
    return InvalidArgument("a malformed token");
  if (token) RETURN_IF_ERROR(CheckWorkerName(in.name()));
  if (token && in.role() != 1 && in.role() != 2)
    return InvalidArgument("role ", in.role(), " cannot join");
  out.token_id = CleanText(in.token_id());
  out.token_secret = in.token_secret();
  out.role = in.role() == 2 ? identity::Role::kAdmin : identity::Role::kWorker;
  out.name = in.name();
  out.request_pem = in.request_pem();
  return out;
}

class JoinServerImpl final : public JoinServer {
 public:
  JoinServerImpl(std::shared_ptr<identity::LiveCredential> credential, JoinHandler handler)
      : credential_(std::move(credential)),
        handler_(std::move(handler)),
        work_(asio::make_work_guard(io_)) {
    thread_ = std::thread([this] { io_.run(); });
  }
  ~JoinServerImpl() override {
    io_.stop();
    thread_.join();
  }

  void Take(int fd, const std::string& peer) override {
    // It becomes a socket at once, so that it is closed whatever happens to this server. The family
    // does not matter for a connected one.
    tcp::socket socket(io_);
    boost::system::error_code ec;
    socket.assign(tcp::v4(), fd, ec);
    if (ec) {
      ::close(fd);
      return;
    }
    asio::post(io_, [this, socket = std::move(socket), peer]() mutable {
      asio::co_spawn(io_, Converse(std::move(socket), peer), asio::detached);
    });
  }

 private:
  asio::awaitable<void> Converse(tcp::socket socket, std::string peer) {
    const auto context = identity::MakeServerContext(*credential_->Get());
    if (!context.ok()) {
      LogError("joining: ", context.status().message());
      co_return;
    }
    SSL_CTX_set_alpn_select_cb(
        context->get(),
        [](SSL*, const unsigned char** out, unsigned char* out_size, const unsigned char* in,
           unsigned in_size, void*) {
          unsigned char* chosen = nullptr;
          const int found = SSL_select_next_proto(&chosen, out_size, kAlpnWire,
                                                  sizeof(kAlpnWire) - 1, in, in_size);
          *out = chosen;
          return found == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
        },
        nullptr);
    asio::ssl::context asio_context = AsioContext(*context);
    Stream stream(std::move(socket), asio_context);
    asio::steady_timer timer(io_, kConversationTimeout);
    timer.async_wait([&stream](const boost::system::error_code& ec) {
      boost::system::error_code ignored;
      if (!ec) stream.lowest_layer().close(ignored);
    });
    const absl::Status status = co_await Answer(stream, peer);
    if (!status.ok()) LogDebug("joining from ", peer, ": ", status.message());
    timer.cancel();
    co_await asio::post(io_,
                        // The timer's handler has run before `stream` is destroyed.
                        asio::use_awaitable);
  }

  absl::StatusOr<JoinReply> Handle(const v1::JoinRequest& message, const std::string& peer) {
    ASSIGN_OR_RETURN(JoinRequest request, RequestFromProto(message));
    request.from = peer;
    return handler_(request);
  }

  asio::awaitable<absl::Status> Answer(Stream& stream, const std::string& peer) {
    if (auto [ec] = co_await stream.async_handshake(Stream::server, kAsTuple); ec)
      co_return Unavailable(ec.message());
    v1::JoinRequest message;
    absl::Status status = co_await ReadMessage(stream, &message);
    if (absl::IsUnavailable(status)) co_return status;
    const absl::StatusOr<JoinReply> reply =
        status.ok() ? Handle(message, peer) : absl::StatusOr<JoinReply>(status);
    v1::JoinReply out;
    out.set_code(ToWireCode(reply.status()));
    out.set_message(CleanText(StdView(reply.status().message())));
    if (reply.ok()) {
      out.set_certificate_pem(reply->certificate_pem);
      out.set_name(reply->name);
      out.set_https(reply->https);
    }
    status = co_await WriteMessage(stream, out);
    if (!status.ok()) co_return status;
    co_await stream.async_shutdown(kAsTuple);
    co_return reply.status();
  }

  const std::shared_ptr<identity::LiveCredential> credential_;
  const JoinHandler handler_;
  asio::io_context io_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  std::thread thread_;
};

// One conversation from the node's side.
class Conversation {
 public:
  explicit Conversation(const JoinOptions& options) : options_(options), resolver_(io_) {}

  absl::StatusOr<Joined> Run() {
    ASSIGN_OR_RETURN(const identity::SslContext context, identity::MakeJoinContext());
    SSL_CTX_set_alpn_protos(context.get(), kAlpnWire, sizeof(kAlpnWire) - 1);
    asio::ssl::context asio_context = AsioContext(context);
    stream_.emplace(io_, asio_context);
    asio::co_spawn(io_, Talk(), [this](std::exception_ptr, absl::Status status) {
      status_ = std::move(status);
    });
    io_.run_for(std::chrono::milliseconds(options_.timeout_ms));
    const bool in_time = status_.has_value();
    if (!in_time) {
      boost::system::error_code ignored;
      resolver_.cancel();
      stream_->lowest_layer().close(ignored);
      io_.restart();
      io_.run_for(std::chrono::milliseconds(100));  // lets its coroutine end
      return absl::DeadlineExceededError(absl::StrCat("the coordinator at ", options_.address,
                                                      " did not answer within ",
                                                      options_.timeout_ms, " ms (", step_, ")"));
    }
    RETURN_IF_ERROR(*status_);
    return std::move(joined_);
  }

 private:
  asio::awaitable<absl::Status> Talk() {
    const size_t colon = options_.address.rfind(':');
    std::string host = options_.address.substr(0, colon);
    if (host.size() >= 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
    step_ = "looking up its name";
    auto [unknown, endpoints] =
        co_await resolver_.async_resolve(host, options_.address.substr(colon + 1), kAsTuple);
    if (unknown)
      co_return Unavailable("cannot find the coordinator's address ", options_.address, ": ",
                            unknown.message());
    step_ = "connecting";
    auto [refused, endpoint] =
        co_await asio::async_connect(stream_->lowest_layer(), endpoints, kAsTuple);
    if (refused) {
      co_return Unavailable("cannot reach the coordinator at ", options_.address, ": ",
                            refused.message(),
                            "; is it running, and does a firewall between lie in the way?");
    }
    step_ = "TLS handshake";
    if (auto [ec] = co_await stream_->async_handshake(Stream::client, kAsTuple); ec) {
      co_return Unavailable("what answers at ", options_.address,
                            " is no Lanyard coordinator, or it refuses this machine's ",
                            "network: ", ec.message());
    }
    const absl::StatusOr<identity::Peer> peer = identity::CheckCoordinatorChain(
        stream_->native_handle(), options_.ca_fingerprint, identity::WallNow(), &joined_.ca_pem);
    if (!peer.ok()) co_return Annotate(peer.status(), options_.address);
    if (options_.greet_only) co_return absl::OkStatus();
    step_ = "its answer";
    absl::Status status = co_await WriteMessage(*stream_, Message());
    v1::JoinReply reply;
    if (status.ok()) status = co_await ReadMessage(*stream_, &reply);
    if (status.ok()) status = FromWireCode(reply.code(), reply.message());
    joined_.reply = {reply.certificate_pem(), reply.name(), CleanText(reply.https())};
    co_return status;
  }

  v1::JoinRequest Message() const {
    v1::JoinRequest out;
    out.set_protocol(kProtocolVersion);
    out.set_version(kVersion);
    out.set_token_id(options_.request.token_id);
    out.set_token_secret(options_.request.token_secret);
    out.set_role(static_cast<uint32_t>(options_.request.role));
    out.set_name(options_.request.name);
    out.set_request_pem(options_.request.request_pem);
    return out;
  }

  const JoinOptions& options_;
  asio::io_context io_{1};
  tcp::resolver resolver_;
  std::optional<Stream> stream_;
  const char* step_ = "";
  std::optional<absl::Status> status_;
  Joined joined_;
};

}  // namespace

std::unique_ptr<JoinServer> JoinServer::Start(std::shared_ptr<identity::LiveCredential> credential,
                                              JoinHandler handler) {
  return std::make_unique<JoinServerImpl>(std::move(credential), std::move(handler));
}

absl::StatusOr<Joined> Join(const JoinOptions& options) {
  RETURN_IF_ERROR(CheckAddress(options.address));
  return Conversation(options).Run();
}

}  // namespace lanyard::net
