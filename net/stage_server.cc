#include "net/stage_server.h"

#include "base/version.h"
#include "lanyard/v1/stage.grpc.pb.h"
#include "net/channel.h"
#include "net/convert_control.h"
#include "net/convert_stage.h"
#include "net/stream.h"

namespace lanyard::net {
namespace {

// A stream that can only be refused.
class RefusedFrames final : public grpc::ServerBidiReactor<v1::FrameMessage, v1::FrameReply> {
 public:
  explicit RefusedFrames(const absl::Status& status) { Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

class FrameLink final : public ServerLink<v1::FrameMessage, v1::FrameReply> {
 public:
  FrameLink(FrameSink* sink, LiveCount* live) : sink_(sink), live_(live) {}
  ~FrameLink() override { live_->Remove(); }

 protected:
  void OnMessage(v1::FrameMessage& message) override {
    if (ended_) return;
    if (!greeted_) {
      Greet(message);
    } else if (message.has_frame()) {
      TakeFrame(message.frame());
    } else if (message.has_ping()) {
      auto reply = std::make_unique<v1::FrameReply>();
      reply->mutable_pong()->Swap(message.mutable_ping());
      if (!Send(std::move(reply)).ok()) Stop(ResourceExhausted("pings faster than their answers are read"));
    } else {
      Stop(InvalidArgument("a message without a frame or ping that this version knows"));
    }
  }
  void OnClosed() override {}

 private:
  void Greet(const v1::FrameMessage& message) {
    const v1::StreamHello& hello = message.hello();
    absl::Status status = message.has_hello() ? CheckVersions(hello.protocol(), hello.version())
                                              : InvalidArgument("the first message of a stream must be its hello");
    if (status.ok()) status = CheckWorkerName(hello.from());
    if (status.ok()) {
      from_ = {hello.from(), PlanId(hello.plan()), Epoch(hello.epoch()), hello.stage()};
      status = sink_->AcceptStream(from_);
    }
    auto reply = std::make_unique<v1::FrameReply>();
    reply->mutable_welcome()->set_code(ToWireCode(status));
    reply->mutable_welcome()->set_message(CleanText(StdView(status.message())));
    Send(std::move(reply)).IgnoreError();
    greeted_ = status.ok();
    if (!status.ok()) Stop(status);
  }

  void TakeFrame(const v1::StepFrame& in) {
    absl::StatusOr<stage::StepFrame> frame = FromProto(in);
    if (frame.ok() && (frame->plan != from_.plan || frame->epoch != from_.epoch || frame->stage != from_.stage)) {
      frame = InvalidArgument("frame of plan ", in.plan(), " epoch ", in.epoch(), " stage ", in.stage(),
                              " on a stream of plan ", from_.plan.value, " epoch ", from_.epoch.value, " stage ",
                              from_.stage);
    }
    if (frame.ok()) {
      sink_->OnFrame(*std::move(frame));
      return;
    }
    sink_->OnBadFrame(from_, StepId(in.step()), in.frame(), frame.status());
    Stop(frame.status());
  }

  void Stop(const absl::Status& why) {
    ended_ = true;
    End(why);
  }

  FrameSink* const sink_;
  LiveCount* const live_;
  StreamFrom from_;  // only OnMessage touches these: gRPC calls it one message at a time
  bool greeted_ = false;
  bool ended_ = false;
};

class StageServerImpl final : public StageServer, public v1::StageService::CallbackService {
 public:
  explicit StageServerImpl(FrameSink* sink) : sink_(sink) {}
  ~StageServerImpl() override {
    if (bound_.server != nullptr) bound_.server->Shutdown(std::chrono::system_clock::now());
    live_.WaitZero();
  }

  absl::Status Listen(const ServerOptions& options) {
    ASSIGN_OR_RETURN(bound_, StartServer(options, {this}, kMaxFrameMessageBytes));
    return absl::OkStatus();
  }

  grpc::ServerBidiReactor<v1::FrameMessage, v1::FrameReply>* Frames(grpc::CallbackServerContext* context) override {
    if (!live_.Add(kMaxStreams)) {
      return new RefusedFrames(ResourceExhausted("this worker has ", kMaxStreams, " streams open already"));
    }
    auto link = std::make_shared<FrameLink>(sink_, &live_);
    link->Begin(context);
    return link.get();
  }

  std::string address() const override { return bound_.address; }

 private:
  FrameSink* const sink_;
  LiveCount live_;
  BoundServer bound_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<StageServer>> StageServer::Start(const ServerOptions& options, FrameSink* sink) {
  auto server = std::make_unique<StageServerImpl>(sink);
  RETURN_IF_ERROR(server->Listen(options));
  return server;
}

}  // namespace lanyard::net
