// An HTTP server over a FakeGenerator, for client tests: prints its URL, ends when stdin does or
// when asked to stop.
//   fake_server [TICK_US [LISTEN]] [--keys FILE] [--tls CERTIFICATE KEY CA]
// Without --keys it is open. With --tls a client certificate of the CA is an administrator's.
#include <openssl/ssl.h>
#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "coordinator/access/key_ring.h"
#include "coordinator/state/store.h"
#include "web/http_server.h"
#include "web/testing/fake_generator.h"

namespace {

using namespace lanyard;  // NOLINT: a main

std::shared_ptr<SSL_CTX> Context(const char* certificate, const char* key, const char* authority) {
  std::shared_ptr<SSL_CTX> context(SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
  SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  if (SSL_CTX_use_certificate_chain_file(context.get(), certificate) != 1 ||
      SSL_CTX_use_PrivateKey_file(context.get(), key, SSL_FILETYPE_PEM) != 1 ||
      SSL_CTX_load_verify_file(context.get(), authority) != 1) {
    std::fprintf(stderr, "cannot read %s, %s or %s\n", certificate, key, authority);
    std::exit(1);
  }
  return context;
}

int Serve(const web::ServerOptions& options, web::FakeGenerator& generator) {
  const auto server = web::HttpServer::Start(options, &generator);
  if (!server.ok()) {
    std::fprintf(stderr, "%s\n", server.status().ToString().c_str());
    return 1;
  }
  std::printf("%s\n", (*server)->url().c_str());
  std::fflush(stdout);
  while (!generator.shutdown_requested()) {
    pollfd fd{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    if (::poll(&fd, 1, 50) > 0) {
      char byte;
      if (::read(STDIN_FILENO, &byte, 1) <= 0) break;
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  web::ServerOptions options;
  options.listen = "127.0.0.1:0";
  options.open = true;
  std::unique_ptr<coordinator::Store> store;
  std::unique_ptr<coordinator::KeyRing> keys;
  std::vector<std::string> plain;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--keys" && i + 1 < argc) {
      store = *coordinator::Store::Open(argv[++i]);
      keys = *coordinator::KeyRing::Open(store.get());
      options.keys = keys.get();
      options.open = false;
    } else if (word == "--tls" && i + 3 < argc) {
      options.tls = [context = Context(argv[i + 1], argv[i + 2], argv[i + 3])] { return context; };
      options.admin_of = [](const std::string&) -> absl::StatusOr<std::string> {
        return std::string("admin");
      };
      i += 3;
    } else {
      plain.push_back(word);
    }
  }
  if (plain.size() > 1) options.listen = plain[1];
  web::FakeGenerator generator{
      std::chrono::microseconds(plain.empty() ? 1000 : std::atoi(plain[0].c_str()))};
  return Serve(options, generator);
}
