#include "worker/link_probe.h"

#include <algorithm>
#include <vector>

#include "net/limits.h"
#include "net/reach.h"

namespace lanyard::worker {
namespace {

constexpr int kSmallPings = 20;
constexpr int kLargePings = 4;
constexpr size_t kSmallBytes = 64;
constexpr size_t kLargeBytes = size_t{1} << 20;
constexpr int kSmallTimeoutMs = 1000;
constexpr int kLargeTimeoutMs = 3000;
static_assert(kSmallPings + kLargePings <= net::kMaxProbePings);
static_assert(kLargeBytes <= net::kMaxProbePingBytes);
static_assert(kSmallPings * kSmallBytes + kLargePings * kLargeBytes <= net::kMaxProbeBytes);

absl::Status PingSmall(net::RemoteStage& stage, net::LinkDiagnosis* out) {
  const std::vector<uint8_t> payload(kSmallBytes, 0x5a);
  std::vector<int64_t> times;
  for (int i = 0; i < kSmallPings; ++i) {
    ASSIGN_OR_RETURN(const int64_t ns, stage.PingNs(payload, kSmallTimeoutMs));
    times.push_back(ns);
  }
  std::sort(times.begin(), times.end());
  out->rtt_min_ns = static_cast<uint64_t>(times.front());
  out->rtt_median_ns = static_cast<uint64_t>(times[times.size() / 2]);
  return absl::OkStatus();
}

// The echo comes back only when all has arrived: the time beyond an empty round trip is the
// payload's, twice.
void PingLarge(net::RemoteStage& stage, net::LinkDiagnosis* out) {
  const std::vector<uint8_t> payload(kLargeBytes, 0x5a);
  int64_t best = 0;
  for (int i = 0; i < kLargePings; ++i) {
    const absl::StatusOr<int64_t> ns = stage.PingNs(payload, kLargeTimeoutMs);
    if (!ns.ok()) {
      out->large_lost = best == 0;
      break;
    }
    if (best == 0 || *ns < best) best = *ns;
  }
  if (best == 0) return;
  const int64_t moving = std::max<int64_t>(1, best - static_cast<int64_t>(out->rtt_min_ns));
  out->bytes_per_second =
      2.0 * static_cast<double>(kLargeBytes) * kSecond / static_cast<double>(moving);
}

}  // namespace

net::LinkDiagnosis ProbeLink(const LinkProbeOptions& options, const net::DiagnoseTarget& target) {
  net::LinkDiagnosis out;
  out.worker = target.worker;
  const absl::StatusOr<net::Reached> reached =
      net::Reach(target.address, options.connect_timeout_ms);
  out.status = reached.status();
  if (!reached.ok()) return out;
  out.connect_ns = reached->connect_ns;
  out.mtu_bytes = reached->mtu_bytes;
  net::RemoteStageOptions to;
  to.address = target.address;
  to.from = options.worker;
  to.credential = options.credential;
  to.node = target.node;
  to.probe = true;
  const std::unique_ptr<net::RemoteStage> stage = net::RemoteStage::Connect(to);
  out.status = stage->WaitReady(options.connect_timeout_ms);
  if (out.status.ok()) out.status = PingSmall(*stage, &out);
  if (out.status.ok()) PingLarge(*stage, &out);
  return out;
}

LinkProber::LinkProber(
    LinkProbeOptions options,
    std::function<void(net::DiagnoseRequest, std::vector<net::LinkDiagnosis>)> done)
    : options_(std::move(options)), done_(std::move(done)), thread_([this] { Loop(); }) {}

LinkProber::~LinkProber() {
  {
    MutexLock lock(&mu_);
    stop_ = true;
    cv_.NotifyAll();
  }
  thread_.join();
}

void LinkProber::Start(net::DiagnoseRequest request) {
  MutexLock lock(&mu_);
  waiting_ = std::move(request);
  cv_.NotifyAll();
}

std::vector<net::LinkDiagnosis> LinkProber::Measure(const net::DiagnoseRequest& request) {
  const TimeNs end = MonotonicNow() + options_.budget;
  std::vector<net::LinkDiagnosis> out;
  for (const net::DiagnoseTarget& target : request.targets) {
    bool stop = false;
    {
      MutexLock lock(&mu_);
      stop = stop_;
    }
    if (stop) break;
    if (MonotonicNow() < end) {
      out.push_back(ProbeLink(options_, target));
    } else {
      net::LinkDiagnosis& late = out.emplace_back();
      late.worker = target.worker;
      late.status = absl::CancelledError("not measured: the others took all the time");
    }
  }
  return out;
}

void LinkProber::Loop() {
  while (true) {
    net::DiagnoseRequest request;
    {
      MutexLock lock(&mu_);
      while (!stop_ && !waiting_.has_value()) cv_.Wait(&mu_);
      if (stop_) return;
      request = *std::move(waiting_);
      waiting_.reset();
    }
    std::vector<net::LinkDiagnosis> links = Measure(request);
    done_(std::move(request), std::move(links));
  }
}

}  // namespace lanyard::worker
