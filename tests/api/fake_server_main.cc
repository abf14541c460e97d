// An HTTP server over a FakeGenerator, for client tests: prints its URL, ends when stdin does or when asked to stop.
#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "web/http_server.h"
#include "web/testing/fake_generator.h"

int main(int argc, char** argv) {
  const int tick_us = argc > 1 ? std::atoi(argv[1]) : 1000;
  lanyard::web::FakeGenerator generator{std::chrono::microseconds(tick_us)};
  lanyard::web::ServerOptions options;
  options.listen = argc > 2 ? argv[2] : "127.0.0.1:0";
  auto server = lanyard::web::HttpServer::Start(options, &generator);
  if (!server.ok()) {
    std::fprintf(stderr, "%s\n", server.status().ToString().c_str());
    return 1;
  }
  std::printf("http://%s\n", (*server)->address().c_str());
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
