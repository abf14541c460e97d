#include "web/http_server.h"

#include <sys/resource.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <thread>
#include <utility>

#include "base/listen_check.h"
#include "base/log.h"
#include "web/api.h"
#include "web/browser.h"
#include "web/session.h"

namespace lanyard::web {
namespace {

constexpr std::chrono::milliseconds kSweepInterval{
    250};  // a revoked caller is answered no longer than this
constexpr int kSweepsAFlush = 240;

// A thousand connections need more descriptors than the usual soft limit of 1024.
void RaiseDescriptorLimit(size_t wanted) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted) return;
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, wanted);
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
    LogWarning("cannot raise the limit of open files to ", wanted);
}

// Whether the address may be listened on like that.
absl::Status CheckExposure(const ListenAddress& address, const ServerOptions& options,
                           bool secure) {
  if (address.loopback) return absl::OkStatus();
  if (options.open) {
    return InvalidArgument("without keys (--http-open) HTTP listens on this machine only, but '",
                           options.listen,
                           "' can be reached by others; listen on 127.0.0.1, or leave --http-open "
                           "out and give out keys: ",
                           "lanyard key create NAME");
  }
  if (!secure) {
    return InvalidArgument("the HTTP address '", options.listen,
                           "' can be reached by other machines, which takes TLS and API ",
                           "keys, and there ", options.tls ? "are no keys" : "is no certificate",
                           "; listen on 127.0.0.1");
  }
  if (address.is_public && !options.public_address) {
    return InvalidArgument(
        "the HTTP address '", options.listen,
        "' can be reached from the internet; give --public if that ",
        "is meant, else listen on an address of the house (such as 192.168.1.10)");
  }
  return absl::OkStatus();
}

}  // namespace

struct HttpServer::Impl : ServerCore {
  Impl(const ServerOptions& o, Router r, HostPolicy h)
      : ServerCore(o, std::move(r), std::move(h)), acceptor(io), accept_pause(io), sweep(io) {}

  absl::Status Listen();
  asio::awaitable<void> Accept();
  asio::awaitable<void> Sweep();
  bool MakeRoom(const std::string& client);

  std::string address;
  tcp::acceptor acceptor;
  asio::steady_timer accept_pause;
  asio::steady_timer sweep;
  std::thread io_thread;
};

absl::Status HttpServer::Impl::Listen() {
  boost::system::error_code ec;
  const tcp::endpoint endpoint(asio::ip::make_address(hosts.listen.host, ec), hosts.listen.port);
  if (!ec) acceptor.open(endpoint.protocol(), ec);
  if (!ec) acceptor.set_option(tcp::acceptor::reuse_address(true), ec);
  if (!ec) acceptor.bind(endpoint, ec);
  if (!ec) acceptor.listen(asio::socket_base::max_listen_connections, ec);
  if (ec) {
    return Unavailable(
        "cannot listen for HTTP on ", options.listen, ": ", ec.message(),
        ec == asio::error::address_in_use ? "; choose another port, or 0 for a free one" : "");
  }
  const tcp::endpoint bound = acceptor.local_endpoint(ec);
  const std::string host = bound.address().to_string();
  address = absl::StrCat(bound.address().is_v6() ? "[" + host + "]" : host, ":", bound.port());
  return absl::OkStatus();
}

// Returns false when no room can be made.
bool HttpServer::Impl::MakeRoom(const std::string& client) {
  if (strangers.CountOf(client) >= options.limits.max_strangers_per_client)
    strangers.OldestOf(client)->Drop();
  if (sessions.size() < options.limits.max_connections) return true;
  Session* oldest = strangers.OldestOfMost();
  if (oldest == nullptr) oldest = idle.OldestOfMost();
  if (oldest != nullptr) oldest->Drop();
  return oldest != nullptr;
}

asio::awaitable<void> HttpServer::Impl::Accept() {
  while (!stopping) {
    auto [ec, socket] = co_await acceptor.async_accept(kToken);
    if (stopping) co_return;
    if (ec) {
      // Mostly there are no descriptors left; the listener must survive this.
      LogWarning("cannot accept an HTTP connection: ", ec.message());
      accept_pause.expires_after(std::chrono::milliseconds(100));
      co_await accept_pause.async_wait(kToken);
      continue;
    }
    boost::system::error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    NoticeLostPeer(socket);
    const std::string client = ClientGroup(socket.remote_endpoint(ignored).address().to_string());
    const bool refuse = !MakeRoom(client);
    auto session = std::make_shared<Session>(this, std::move(socket), client);
    asio::co_spawn(
        io, [session, refuse]() -> asio::awaitable<void> { co_await session->Run(refuse); },
        [](std::exception_ptr error) {
          if (error) LogError("an HTTP connection ended with an exception");
        });
  }
}

asio::awaitable<void> HttpServer::Impl::Sweep() {
  for (int n = 1; !stopping; ++n) {
    sweep.expires_after(kSweepInterval);
    co_await sweep.async_wait(kToken);
    for (Session* session : sessions) session->CheckCaller();
    if (n % kSweepsAFlush == 0 && options.keys != nullptr) {
      asio::post(queries, [keys = options.keys] { keys->Flush(); });
    }
  }
}

absl::Status HttpServer::Check(const ServerOptions& options, bool secure) {
  ASSIGN_OR_RETURN(const ListenAddress listen, ParseListen(options.listen));
  RETURN_IF_ERROR(CheckExposure(listen, options, secure));
  return CheckCanListen(options.listen,
                        "stop it, or choose another port with --http (0: a free one)");
}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const ServerOptions& options,
                                                              coordinator::Generator* generator) {
  ASSIGN_OR_RETURN(const ListenAddress listen, ParseListen(options.listen));
  RETURN_IF_ERROR(CheckExposure(listen, options, options.tls && options.keys != nullptr));
  HostPolicy hosts{listen, options.host_names, static_cast<bool>(options.tls)};
  for (const std::string& origin : options.origins) {
    ASSIGN_OR_RETURN(hosts.origins.emplace_back(), ParseOrigin(origin));
  }
  if (options.open) {
    LogInfo("HTTP on ", options.listen,
            " asks for no key (--http-open): every program of this machine may use it");
  }
  RaiseDescriptorLimit(options.limits.max_connections + 1024);
  auto impl = std::make_unique<Impl>(options, MakeRouter(generator, options.keys, options.cluster),
                                     std::move(hosts));
  RETURN_IF_ERROR(impl->Listen());
  asio::co_spawn(impl->io, impl->Accept(), asio::detached);
  asio::co_spawn(impl->io, impl->Sweep(), asio::detached);
  impl->io_thread = std::thread([raw = impl.get()] { raw->io.run(); });
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() {
  std::future<void> drained = impl_->drained.get_future();
  asio::post(impl_->io, [impl = impl_.get()] {
    impl->stopping = true;
    boost::system::error_code ignored;
    impl->acceptor.close(ignored);
    impl->accept_pause.cancel();
    impl->sweep.cancel();
    if (impl->sessions.empty()) impl->drained.set_value();
    for (Session* session : impl->sessions) session->Shutdown();
  });
  // A handler in Generator::Start ends first, so that its answer can be cancelled.
  for (asio::thread_pool* pool : {&impl_->completions, &impl_->queries, &impl_->control})
    pool->join();
  drained.wait_for(std::chrono::seconds(2));
  impl_->io.stop();
  impl_->io_thread.join();
}

std::string HttpServer::address() const { return impl_->address; }
std::string HttpServer::url() const {
  return (impl_->options.tls ? "https://" : "http://") + impl_->address;
}
size_t HttpServer::connections() const { return impl_->n_sessions.load(); }

}  // namespace lanyard::web
