// The sender's end of StageService.Frames.
#include <atomic>
#include <unordered_map>

#include "base/clock.h"
#include "base/mutex.h"
#include "base/version.h"
#include "identity/certificate.h"
#include "lanyard/v1/stage.grpc.pb.h"
#include "net/channel.h"
#include "net/control.h"
#include "net/convert_stage.h"
#include "net/stream.h"

namespace lanyard::net {
namespace {

Target ToWorker(const RemoteStageOptions& options) {
  return {options.address, options.credential,
          identity::TlsName(identity::Role::kWorker, options.node)};
}

class RemoteStageImpl final : public RemoteStage {
 public:
  explicit RemoteStageImpl(const RemoteStageOptions& options)
      : options_(options),
        stub_(v1::StageService::NewStub(MakeChannel(ToWorker(options), kMaxReplyBytes))),
        link_({[this](v1::FrameReply& reply) { OnReply(reply); },
               [this](const absl::Status& status) { OnClosed(status); }}) {}

  ~RemoteStageImpl() override {
    MutexLock lock(&mu_);
    silent_ = true;
  }

  void Start() {
    link_.Start([this](grpc::ClientContext* context, auto* reactor) {
      stub_->async()->Frames(context, reactor);
    });
    auto message = std::make_unique<v1::FrameMessage>();
    v1::StreamHello* hello = message->mutable_hello();
    hello->set_protocol(kProtocolVersion);
    hello->set_version(kVersion);
    hello->set_from(options_.from);
    hello->set_plan(options_.plan.value);
    hello->set_epoch(options_.epoch.value);
    hello->set_stage(options_.stage);
    hello->set_probe(options_.probe);
    link_.Send(std::move(message))
        .IgnoreError();  // a stream that closed already says so by on_closed
  }

  absl::Status Send(stage::StepFrame frame) override {
    {
      MutexLock lock(&mu_);
      if (state_ == State::kClosed) return why_;
    }
    auto message = std::make_unique<v1::FrameMessage>();
    RETURN_IF_ERROR(ToProto(frame, message->mutable_frame()));
    absl::Status sent = link_.Send(std::move(message));
    if (sent.ok()) return sent;
    return Annotate(sent, absl::StrCat("stage ", options_.stage, " at ", options_.address));
  }

  bool ready() const override {
    MutexLock lock(&mu_);
    return state_ == State::kReady;
  }

  absl::Status WaitReady(int timeout_ms) override {
    const TimeNs end = MonotonicNow() + timeout_ms * kMillisecond;
    MutexLock lock(&mu_);
    while (state_ == State::kConnecting) {
      const TimeNs left = end - MonotonicNow();
      if (left <= 0) {
        return absl::DeadlineExceededError(
            absl::StrCat("stage ", options_.stage, " at ", options_.address,
                         " did not welcome the stream within ", timeout_ms, " ms"));
      }
      cv_.WaitFor(&mu_, std::chrono::nanoseconds(left));
    }
    return state_ == State::kReady ? absl::OkStatus() : why_;
  }

  absl::StatusOr<int64_t> PingNs(std::span<const uint8_t> payload, int timeout_ms) override {
    RETURN_IF_ERROR(CheckReady());
    auto message = std::make_unique<v1::FrameMessage>();
    message->mutable_ping()->set_payload(payload.data(), payload.size());
    const TimeNs start = MonotonicNow();
    const TimeNs end = start + timeout_ms * kMillisecond;
    uint64_t id = 0;
    {
      MutexLock lock(&mu_);
      id = next_ping_++;
      pings_[id] = 0;
    }
    message->mutable_ping()->set_id(id);
    absl::Status status = link_.Send(std::move(message));
    MutexLock lock(&mu_);
    while (status.ok() && pings_[id] == 0) {
      const TimeNs left = end - MonotonicNow();
      if (state_ != State::kReady) {
        status = why_;
      } else if (left <= 0) {
        status = absl::DeadlineExceededError(
            absl::StrCat("no pong from ", options_.address, " in ", timeout_ms, " ms"));
      } else {
        cv_.WaitFor(&mu_, std::chrono::nanoseconds(left));
      }
    }
    const TimeNs at = pings_[id];
    pings_.erase(id);
    if (!status.ok()) return status;
    return at - start;
  }

 private:
  enum class State { kConnecting, kReady, kClosed };

  absl::Status CheckReady() const {
    MutexLock lock(&mu_);
    if (state_ == State::kReady) return absl::OkStatus();
    if (state_ == State::kClosed) return why_;
    return Unavailable("stage ", options_.stage, " at ", options_.address,
                       " has not welcomed the stream yet");
  }

  void OnReply(const v1::FrameReply& reply) {
    if (reply.has_welcome()) {
      const absl::Status status = FromWireCode(reply.welcome().code(), reply.welcome().message());
      {
        MutexLock lock(&mu_);
        if (state_ == State::kConnecting && status.ok()) state_ = State::kReady;
        if (!status.ok()) refused_ = status;
        cv_.NotifyAll();
      }
      if (!status.ok()) link_.Cancel();
    } else if (reply.has_pong()) {
      MutexLock lock(&mu_);
      const auto it = pings_.find(reply.pong().id());
      if (it != pings_.end()) it->second = MonotonicNow();
      cv_.NotifyAll();
    }
  }

  void OnClosed(const absl::Status& status) {
    absl::Status why = status.ok() ? Unavailable("the other side ended the stream") : status;
    bool silent = false;
    {
      MutexLock lock(&mu_);
      if (!refused_.ok()) why = refused_;
      why = Annotate(why, absl::StrCat("stage ", options_.stage, " at ", options_.address));
      state_ = State::kClosed;
      why_ = why;
      silent = silent_;
      cv_.NotifyAll();
    }
    if (!silent && options_.on_closed) options_.on_closed(why);
  }

  const RemoteStageOptions options_;
  mutable Mutex mu_;
  CondVar cv_;
  State state_ ABSL_GUARDED_BY(mu_) = State::kConnecting;
  absl::Status why_ ABSL_GUARDED_BY(mu_);
  absl::Status refused_ ABSL_GUARDED_BY(mu_);
  bool silent_ ABSL_GUARDED_BY(mu_) = false;
  uint64_t next_ping_ ABSL_GUARDED_BY(mu_) = 1;
  std::unordered_map<uint64_t, TimeNs> pings_ ABSL_GUARDED_BY(mu_);  // 0: no pong yet
  std::unique_ptr<v1::StageService::Stub> stub_;
  ClientLink<v1::FrameMessage, v1::FrameReply>
      link_;  // the last member: it is destroyed first and waits for its callbacks
};

}  // namespace

std::unique_ptr<RemoteStage> RemoteStage::Connect(const RemoteStageOptions& options) {
  auto stage = std::make_unique<RemoteStageImpl>(options);
  stage->Start();
  return stage;
}

}  // namespace lanyard::net
