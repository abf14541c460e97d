// What a message between two workers costs: one way = half a ping-pong over RemoteStage and
// StageServer, the route of a frame (same stream, writer and reader), between two processes on
// loopback, with mutual TLS and in plaintext, interleaved. `net_bench [--json] [--rounds N]`.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "identity/authority.h"
#include "identity/credential.h"
#include "net/stage_server.h"

namespace {

using lanyard::Epoch;
using lanyard::PlanId;

class NullSink : public lanyard::net::FrameSink {
 public:
  absl::Status AcceptStream(const lanyard::net::StreamFrom&) override { return absl::OkStatus(); }
  void OnFrame(lanyard::stage::StepFrame) override {}
  void OnBadFrame(const lanyard::net::StreamFrom&, lanyard::StepId, uint32_t,
                  const absl::Status&) override {}
};

using Live = std::shared_ptr<lanyard::identity::LiveCredential>;

// Two workers of a cluster of their own.
struct Pair {
  Live sender, receiver;
};

absl::StatusOr<Live> MakeWorker(const lanyard::identity::Authority& ca, const std::string& name) {
  ASSIGN_OR_RETURN(const auto key, lanyard::identity::KeyPair::Generate());
  const auto now = lanyard::identity::WallNow();
  ASSIGN_OR_RETURN(
      std::string pem,
      ca.Issue(key.get(), {.role = lanyard::identity::Role::kWorker, .name = name}, now));
  ASSIGN_OR_RETURN(auto made, lanyard::identity::Credential::Make(key, std::move(pem),
                                                                  ca.certificate_pem(), now));
  return std::make_shared<lanyard::identity::LiveCredential>(std::move(made));
}

absl::StatusOr<Pair> MakePair() {
  ASSIGN_OR_RETURN(const auto ca,
                   lanyard::identity::Authority::Create(lanyard::identity::WallNow()));
  Pair pair;
  ASSIGN_OR_RETURN(pair.sender, MakeWorker(ca, "w0"));
  ASSIGN_OR_RETURN(pair.receiver, MakeWorker(ca, "w1"));
  return pair;
}

// The other worker: serves until its parent closes the pipe. Writes both addresses.
int Serve(const Pair& pair, int address_fd, int stop_fd) {
  NullSink sink;
  lanyard::net::ServerOptions tls;
  tls.security.credential = pair.receiver;
  auto secure = lanyard::net::StageServer::Start(tls, &sink);
  auto plain = lanyard::net::StageServer::Start({}, &sink);
  if (!secure.ok() || !plain.ok()) return 1;
  const std::string addresses = (*secure)->address() + " " + (*plain)->address();
  if (write(address_fd, addresses.data(), addresses.size()) < 0) return 1;
  close(address_fd);
  char byte;
  while (read(stop_fd, &byte, 1) > 0) {
  }
  return 0;
}

double Percentile(std::vector<int64_t>* ns, double p) {
  std::sort(ns->begin(), ns->end());
  return static_cast<double>((*ns)[static_cast<size_t>(p * static_cast<double>(ns->size() - 1))]) /
         2000.0;
}

using Stage = std::unique_ptr<lanyard::net::RemoteStage>;

absl::StatusOr<Stage> Connect(const std::string& address, const Live& from, const Live& to) {
  lanyard::net::RemoteStageOptions options;
  options.address = address;
  options.from = "w0";
  options.plan = PlanId(1);
  options.epoch = Epoch(1);
  options.stage = 1;
  options.credential = from;
  if (to != nullptr) options.node = to->Get()->self.node;
  Stage stage = lanyard::net::RemoteStage::Connect(options);
  RETURN_IF_ERROR(stage->WaitReady(5000));
  return stage;
}

constexpr int kBlock = 50;

// Both links take turns, a block each, so that what else the machine does hits both.
absl::Status Measure(const Stage& tls, const Stage& plain, int rounds, bool json) {
  std::string out;
  for (const size_t bytes : {64, 8192, 16384, 262144}) {
    const std::vector<uint8_t> payload(bytes, 0x5a);
    const int n = bytes > 100000 ? rounds / 4 : rounds;
    std::vector<int64_t> ns[2];
    for (int block = -n / kBlock / 10; block < n / kBlock; ++block) {  // the first tenth warms up
      for (const int kind : {0, 1}) {
        for (int i = 0; i < kBlock; ++i) {
          ASSIGN_OR_RETURN(const int64_t ping, (kind == 0 ? tls : plain)->PingNs(payload, 5000));
          if (block >= 0) ns[kind].push_back(ping);
        }
      }
    }
    const double p50 = Percentile(&ns[0], 0.5), p99 = Percentile(&ns[0], 0.99);
    const double plain_p50 = Percentile(&ns[1], 0.5), plain_p99 = Percentile(&ns[1], 0.99);
    if (json) {
      out += absl::StrFormat(
          "%s{\"bytes\":%d,\"p50_us\":%.1f,\"p99_us\":%.1f,\"plaintext_p50_us\":%.1f,"
          "\"plaintext_p99_us\":%.1f,\"rounds\":%d}",
          out.empty() ? "" : ",", bytes, p50, p99, plain_p50, plain_p99, n);
    } else {
      std::printf(
          "%8zu bytes   one way TLS p50 %7.1f us p99 %7.1f us   plaintext p50 %7.1f us p99 %7.1f "
          "us (%d ping-pongs)\n",
          bytes, p50, p99, plain_p50, plain_p99, n);
    }
  }
  if (json) std::printf("[%s]\n", out.c_str());
  return absl::OkStatus();
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
  const absl::StatusOr<Pair> pair = MakePair();
  if (!pair.ok()) return 1;
  int address_pipe[2];
  int stop_pipe[2];
  if (pipe(address_pipe) != 0 || pipe(stop_pipe) != 0) return 1;
  const pid_t child = fork();  // before gRPC starts any thread
  if (child < 0) return 1;
  if (child == 0) {
    close(address_pipe[0]);
    close(stop_pipe[1]);
    _exit(Serve(*pair, address_pipe[1], stop_pipe[0]));
  }
  close(address_pipe[1]);
  close(stop_pipe[0]);
  char buffer[256];
  std::string address;
  for (ssize_t n; (n = read(address_pipe[0], buffer, sizeof(buffer))) > 0;)
    address.append(buffer, static_cast<size_t>(n));
  const absl::Status measured = [&]() -> absl::Status {
    const size_t space = address.find(' ');
    if (space == std::string::npos) return lanyard::Unavailable("the other process did not start");
    ASSIGN_OR_RETURN(const Stage tls,
                     Connect(address.substr(0, space), pair->sender, pair->receiver));
    ASSIGN_OR_RETURN(const Stage plain, Connect(address.substr(space + 1), nullptr, nullptr));
    return Measure(tls, plain, rounds, json);
  }();
  if (!measured.ok())
    std::fprintf(stderr, "net_bench: %s\n", std::string(measured.message()).c_str());
  close(stop_pipe[1]);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  return measured.ok() ? 0 : 1;
}
