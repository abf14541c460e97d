#include "net/coordinator_client.h"

#include <atomic>

#include "base/mutex.h"
#include "base/version.h"
#include "identity/certificate.h"
#include "lanyard/v1/control.grpc.pb.h"
#include "lanyard/v1/stage.grpc.pb.h"
#include "net/channel.h"
#include "net/convert_control.h"
#include "net/convert_stage.h"
#include "net/stream.h"
#include "net/versions.h"

namespace lanyard::net {
namespace {

Target ToCoordinator(const Endpoint& coordinator) {
  return {coordinator.address, coordinator.credential,
          identity::TlsName(identity::Role::kCoordinator, "")};
}

class ControlClientImpl final : public ControlClient {
 public:
  ControlClientImpl(const Endpoint& coordinator, ControlSink* sink)
      : sink_(sink),
        last_heard_(MonotonicNow()),
        stub_(v1::CoordinatorService::NewStub(
            MakeChannel(ToCoordinator(coordinator), kMaxControlMessageBytes))),
        link_({[this](v1::CoordinatorMessage& message) { OnMessage(message); },
               [this](const absl::Status& status) {
                 sink_->OnControlClosed(
                     status.ok() ? Unavailable("the coordinator ended the stream") : status);
               }}) {}

  void Start(const WorkerHello& hello) {
    link_.Start([this](grpc::ClientContext* context, auto* reactor) {
      stub_->async()->Join(context, reactor);
    });
    Send(hello).IgnoreError();  // a stream that closed already says so by OnControlClosed
  }

  absl::Status Send(const WorkerEvent& event) override {
    auto message = std::make_unique<v1::WorkerMessage>();
    ToProto(event, message.get());
    return link_.Send(std::move(message));
  }

  void Leave(const std::string& reason, int timeout_ms) override {
    Send(Leaving{reason}).IgnoreError();
    link_.Finish(timeout_ms);
  }

  TimeNs last_heard() const override { return last_heard_.load(std::memory_order_relaxed); }

 private:
  void OnMessage(const v1::CoordinatorMessage& message) {
    last_heard_.store(MonotonicNow(), std::memory_order_relaxed);
    switch (message.body_case()) {
      case v1::CoordinatorMessage::kWelcome: {
        const absl::Status status =
            CheckWorkerProgram({}, {message.welcome().protocol(), message.welcome().version()});
        if (status.ok()) {
          sink_->OnWelcome();
        } else {
          sink_->OnRefused(status, true);
        }
        break;
      }
      case v1::CoordinatorMessage::kRefused: {
        absl::Status why = FromWireCode(message.refused().code(), message.refused().message());
        if (why.ok()) why = absl::UnknownError("refused without a reason");
        sink_->OnRefused(why, message.refused().final());
        break;
      }
      case v1::CoordinatorMessage::kAssign: {
        absl::StatusOr<Assignment> assignment = FromProto(message.assign());
        if (assignment.ok()) {
          sink_->OnAssign(*std::move(assignment));
        } else {
          sink_->OnBadAssign(PlanId(message.assign().spec().plan()),
                             Epoch(message.assign().spec().epoch()), assignment.status());
        }
        break;
      }
      case v1::CoordinatorMessage::kRelease:
        sink_->OnRelease(PlanId(message.release().plan()));
        break;
      case v1::CoordinatorMessage::kRevoked: {
        const auto& nodes = message.revoked().nodes();
        sink_->OnRevoked({nodes.begin(), nodes.end()});
        break;
      }
      case v1::CoordinatorMessage::kDiagnose: {
        absl::StatusOr<DiagnoseRequest> request = FromProto(message.diagnose());
        if (request.ok()) sink_->OnDiagnose(*std::move(request));  // a malformed one gets no answer
        break;
      }
      case v1::CoordinatorMessage::kHeartbeat:
      case v1::CoordinatorMessage::BODY_NOT_SET:
        break;  // a sign of life, or a message of a later version
    }
  }

  ControlSink* const sink_;
  std::atomic<TimeNs> last_heard_;
  std::unique_ptr<v1::CoordinatorService::Stub> stub_;
  // The last member, so it is destroyed first.
  ClientLink<v1::WorkerMessage, v1::CoordinatorMessage> link_;
};

class ResultClientImpl final : public ResultClient {
 public:
  ResultClientImpl(const Endpoint& coordinator, const std::string& worker,
                   std::function<void(const absl::Status&)> on_closed)
      : address_(coordinator.address),
        worker_(worker),
        on_closed_(std::move(on_closed)),
        stub_(v1::ResultService::NewStub(MakeChannel(ToCoordinator(coordinator), kMaxReplyBytes))),
        link_({[this](v1::FrameReply& reply) { OnReply(reply); },
               [this](const absl::Status& status) { OnClosed(status); }}) {}

  ~ResultClientImpl() override {
    MutexLock lock(&mu_);
    silent_ = true;
  }

  void Start() {
    link_.Start([this](grpc::ClientContext* context, auto* reactor) {
      stub_->async()->Results(context, reactor);
    });
    auto message = std::make_unique<v1::ResultMessage>();
    v1::StreamHello* hello = message->mutable_hello();
    hello->set_protocol(kProtocolVersion);
    hello->set_version(kVersion);
    hello->set_from(worker_);
    link_.Send(std::move(message)).IgnoreError();
  }

  void OnResult(stage::StepResult result) override {
    auto message = std::make_unique<v1::ResultMessage>();
    ToProto(result, message->mutable_result());
    const absl::Status status = link_.Send(std::move(message));
    // A coordinator that does not read for 64 MiB is as good as gone; on_closed follows.
    if (absl::IsResourceExhausted(status)) link_.Cancel();
  }

  absl::Status WaitReady(int timeout_ms) override {
    const TimeNs end = MonotonicNow() + timeout_ms * kMillisecond;
    MutexLock lock(&mu_);
    while (!ready_ && why_.ok()) {
      const TimeNs left = end - MonotonicNow();
      if (left <= 0) {
        return absl::DeadlineExceededError(absl::StrCat("the coordinator at ", address_,
                                                        " did not welcome the results within ",
                                                        timeout_ms, " ms"));
      }
      cv_.WaitFor(&mu_, std::chrono::nanoseconds(left));
    }
    return why_;
  }

  void Finish(int timeout_ms) override {
    {
      MutexLock lock(&mu_);
      silent_ = true;
    }
    link_.Finish(timeout_ms);
  }

 private:
  void OnReply(const v1::FrameReply& reply) {
    if (!reply.has_welcome()) return;
    const absl::Status status = FromWireCode(reply.welcome().code(), reply.welcome().message());
    MutexLock lock(&mu_);
    if (status.ok()) {
      ready_ = true;
    } else {
      refused_ = status;  // the coordinator ends the stream after it
    }
    cv_.NotifyAll();
  }

  void OnClosed(const absl::Status& status) {
    absl::Status why = status.ok() ? Unavailable("the coordinator ended the stream") : status;
    bool silent = false;
    {
      MutexLock lock(&mu_);
      if (!refused_.ok()) why = refused_;
      why = Annotate(why, absl::StrCat("results to the coordinator at ", address_));
      why_ = why;
      silent = silent_;
      cv_.NotifyAll();
    }
    if (!silent && on_closed_) on_closed_(why);
  }

  const std::string address_;
  const std::string worker_;
  const std::function<void(const absl::Status&)> on_closed_;
  Mutex mu_;
  CondVar cv_;
  bool ready_ ABSL_GUARDED_BY(mu_) = false;
  bool silent_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status refused_ ABSL_GUARDED_BY(mu_);
  absl::Status why_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<v1::ResultService::Stub> stub_;
  ClientLink<v1::ResultMessage, v1::FrameReply> link_;  // the last member, so it is destroyed first
};

}  // namespace

std::unique_ptr<ControlClient> ControlClient::Connect(const Endpoint& coordinator,
                                                      const WorkerHello& hello, ControlSink* sink) {
  auto client = std::make_unique<ControlClientImpl>(coordinator, sink);
  client->Start(hello);
  return client;
}

std::unique_ptr<ResultClient> ResultClient::Connect(
    const Endpoint& coordinator, const std::string& worker,
    std::function<void(const absl::Status& why)> on_closed) {
  auto client = std::make_unique<ResultClientImpl>(coordinator, worker, std::move(on_closed));
  client->Start();
  return client;
}

struct WeightClient::Impl {
  Endpoint coordinator;
};

WeightClient::WeightClient(const Endpoint& coordinator) : impl_(std::make_unique<Impl>()) {
  impl_->coordinator = coordinator;
}

WeightClient::~WeightClient() = default;

absl::Status WeightClient::Fetch(
    const std::string& sha256, uint64_t offset, std::stop_token stop,
    const std::function<absl::Status(std::span<const uint8_t>)>& take) {
  v1::FetchPartRequest request;
  request.set_sha256(sha256);
  request.set_offset(offset);
  grpc::ClientContext context;
  std::stop_callback cancel(stop, [&context] { context.TryCancel(); });
  // It makes a connection of its own, so that weights never queue before steps, for each part, with
  // the present certificate.
  const auto stub = v1::WeightService::NewStub(
      MakeChannel(ToCoordinator(impl_->coordinator), 4 * kWeightChunkBytes));
  const auto reader = stub->FetchPart(&context, request);
  v1::PartChunk chunk;
  absl::Status status = absl::OkStatus();
  while (status.ok() && reader->Read(&chunk)) {
    if (chunk.offset() != offset) {
      status = absl::DataLossError(absl::StrCat("part ", sha256.substr(0, 12),
                                                ": the coordinator sent offset ", chunk.offset(),
                                                ", wanted ", offset));
      break;
    }
    const std::string& data = chunk.data();
    status = take({reinterpret_cast<const uint8_t*>(data.data()), data.size()});
    offset += data.size();
  }
  if (!status.ok()) context.TryCancel();
  const grpc::Status end = reader->Finish();
  RETURN_IF_ERROR(status);
  if (stop.stop_requested()) return absl::CancelledError("fetching weights was stopped");
  return Annotate(FromGrpc(end), absl::StrCat("weights from ", impl_->coordinator.address));
}

}  // namespace lanyard::net
