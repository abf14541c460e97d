// What a message between two workers costs: one way = half a ping-pong over RemoteStage and StageServer, the route of a
// frame (same stream, writer and reader), between two processes on loopback. `net_bench [--json] [--rounds N]`.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "net/stage_server.h"

namespace {

using lanyard::Epoch;
using lanyard::PlanId;

class NullSink : public lanyard::net::FrameSink {
 public:
  absl::Status AcceptStream(const lanyard::net::StreamFrom&) override { return absl::OkStatus(); }
  void OnFrame(lanyard::stage::StepFrame) override {}
  void OnBadFrame(const lanyard::net::StreamFrom&, lanyard::StepId, uint32_t, const absl::Status&) override {}
};

// The other worker: serves until its parent closes the pipe.
int Serve(int address_fd, int stop_fd) {
  NullSink sink;
  auto server = lanyard::net::StageServer::Start({}, &sink);
  if (!server.ok()) return 1;
  const std::string address = (*server)->address();
  if (write(address_fd, address.data(), address.size()) < 0) return 1;
  close(address_fd);
  char byte;
  while (read(stop_fd, &byte, 1) > 0) {
  }
  return 0;
}

double Percentile(std::vector<int64_t>* ns, double p) {
  std::sort(ns->begin(), ns->end());
  return static_cast<double>((*ns)[static_cast<size_t>(p * static_cast<double>(ns->size() - 1))]) / 2000.0;
}

int Measure(const std::string& address, int rounds, bool json) {
  const auto stage = lanyard::net::RemoteStage::Connect({address, "bench", PlanId(1), Epoch(1), 1, nullptr, {}, {}});
  if (const absl::Status ready = stage->WaitReady(5000); !ready.ok()) {
    std::fprintf(stderr, "net_bench: %s\n", std::string(ready.message()).c_str());
    return 1;
  }
  std::string out;
  for (const size_t bytes : {64, 8192, 16384, 262144}) {
    const std::vector<uint8_t> payload(bytes, 0x5a);
    const int n = bytes > 100000 ? rounds / 4 : rounds;
    std::vector<int64_t> ns;
    for (int i = -n / 10; i < n; ++i) {  // the first tenth warms up
      const auto ping = stage->PingNs(payload, 5000);
      if (!ping.ok()) {
        std::fprintf(stderr, "net_bench: %s\n", std::string(ping.status().message()).c_str());
        return 1;
      }
      if (i >= 0) ns.push_back(*ping);
    }
    const double p50 = Percentile(&ns, 0.5);
    const double p99 = Percentile(&ns, 0.99);
    if (json) {
      out += absl::StrFormat("%s{\"bytes\":%d,\"p50_us\":%.1f,\"p99_us\":%.1f,\"rounds\":%d}", out.empty() ? "" : ",",
                             bytes, p50, p99, n);
    } else {
      std::printf("%8zu bytes   one way p50 %7.1f us   p99 %7.1f us   (%d ping-pongs)\n", bytes, p50, p99, n);
    }
  }
  if (json) std::printf("[%s]\n", out.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  bool json = false;
  int rounds = 4000;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--json") == 0) {
      json = true;
    } else if (std::strcmp(argv[i], "--rounds") == 0 && i + 1 < argc) {
      rounds = std::max(20, std::atoi(argv[++i]));
    } else {
      std::fprintf(stderr, "usage: net_bench [--json] [--rounds N]\n");
      return 2;
    }
  }
  int address_pipe[2];
  int stop_pipe[2];
  if (pipe(address_pipe) != 0 || pipe(stop_pipe) != 0) return 1;
  const pid_t child = fork();  // before gRPC starts any thread
  if (child < 0) return 1;
  if (child == 0) {
    close(address_pipe[0]);
    close(stop_pipe[1]);
    _exit(Serve(address_pipe[1], stop_pipe[0]));
  }
  close(address_pipe[1]);
  close(stop_pipe[0]);
  char buffer[256];
  std::string address;
  for (ssize_t n; (n = read(address_pipe[0], buffer, sizeof(buffer))) > 0;) address.append(buffer, static_cast<size_t>(n));
  const int rc = address.empty() ? 1 : Measure(address, rounds, json);
  close(stop_pipe[1]);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  return rc;
}
