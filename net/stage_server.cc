#include "net/stage_server.h"

#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/proto_buffer_writer.h>

#include "lanyard/v1/stage.grpc.pb.h"
#include "net/channel.h"
#include "net/convert_control.h"
#include "net/convert_stage.h"
#include "net/frame_scan.h"
#include "net/limits.h"
#include "net/stream.h"
#include "net/versions.h"

namespace lanyard::net {
namespace {

// A stream that can only be refused.
class RefusedFrames final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  explicit RefusedFrames(const absl::Status& status) { Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

// It takes bytes and not messages, so that they are looked over before protobuf allocates for them.
class FrameLink final : public ServerLink<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  FrameLink(FrameSink* sink, LiveCount* live, LiveCount* probes, std::unique_ptr<PeerGuard> guard)
      : sink_(sink), live_(live), probes_(probes), guard_(std::move(guard)) {}
  ~FrameLink() override {
    guard_.reset();  // its table goes with the server, which waits for live_ alone
    if (probe_) probes_->Remove();
    live_->Remove();
  }

 protected:
  void OnMessage(grpc::ByteBuffer& bytes) override {
    if (ended_) return;
    if (const absl::Status allowed = guard_->Check(); !allowed.ok()) {
      Stop(allowed);
      return;
    }
    const absl::Status parsed = Parse(&bytes);
    if (!parsed.ok()) {
      if (greeted_ && !probe_) sink_->OnBadFrame(from_, StepId(), 0, parsed);
      Stop(parsed);
    } else if (!greeted_) {
      Greet(message_);
    } else if (message_.has_frame() && !probe_) {
      TakeFrame(message_.frame());
    } else if (message_.has_ping() && !MayPing(message_.ping().payload().size())) {
      Stop(ResourceExhausted("more pings, or larger ones, than a probe may send"));
    } else if (message_.has_ping()) {
      v1::FrameReply reply;
      reply.mutable_pong()->Swap(message_.mutable_ping());
      if (!SendReply(reply).ok())
        Stop(ResourceExhausted("pings faster than their answers are read"));
    } else {
      Stop(InvalidArgument("a message without a frame or ping that this version knows"));
    }
  }
  void OnClosed() override {}

 private:
  absl::Status Parse(grpc::ByteBuffer* bytes) {
    {
      grpc::ProtoBufferReader reader(bytes);
      RETURN_IF_ERROR(ScanFrameMessage(&reader));
    }
    return FromGrpc(grpc::SerializationTraits<v1::FrameMessage>::Deserialize(bytes, &message_));
  }

  // The coordinator or a worker may probe, whatever stage is held here: it only gets its own bytes
  // back.
  absl::Status AcceptProbe() {
    if (guard_->peer().has_value() && guard_->peer()->role == identity::Role::kAdmin) {
      return absl::PermissionDeniedError("an administrator's machine has nothing to measure here");
    }
    probe_ = probes_->Add(kMaxProbes);
    return probe_ ? absl::OkStatus()
                  : ResourceExhausted(kMaxProbes, " measurements of this worker run already");
  }

  bool MayPing(size_t bytes) {
    if (!probe_) return true;
    pinged_bytes_ += bytes;
    return ++pings_ <= kMaxProbePings && bytes <= kMaxProbePingBytes &&
           pinged_bytes_ <= kMaxProbeBytes;
  }

  absl::Status SendReply(const v1::FrameReply& reply) {
    auto bytes = std::make_unique<grpc::ByteBuffer>();
    bool own = false;
    RETURN_IF_ERROR(
        FromGrpc(grpc::SerializationTraits<v1::FrameReply>::Serialize(reply, bytes.get(), &own)));
    return Send(std::move(bytes));
  }

  void Greet(const v1::FrameMessage& message) {
    const v1::StreamHello& hello = message.hello();
    absl::Status status = message.has_hello()
                              ? CheckNeighbourProgram({hello.protocol(), hello.version()})
                              : InvalidArgument("the first message of a stream must be its hello");
    if (status.ok()) status = CheckWorkerName(hello.from());
    if (status.ok()) {
      from_ = {hello.from(), PlanId(hello.plan()), Epoch(hello.epoch()), hello.stage(),
               guard_->peer()};
      status = hello.probe() ? AcceptProbe() : sink_->AcceptStream(from_);
    }
    v1::FrameReply reply;
    reply.mutable_welcome()->set_code(ToWireCode(status));
    reply.mutable_welcome()->set_message(CleanText(StdView(status.message())));
    SendReply(reply).IgnoreError();
    greeted_ = status.ok();
    if (!status.ok()) Stop(status);
  }

  void TakeFrame(const v1::StepFrame& in) {
    absl::StatusOr<stage::StepFrame> frame = FromProto(in);
    if (frame.ok() &&
        (frame->plan != from_.plan || frame->epoch != from_.epoch || frame->stage != from_.stage)) {
      frame = InvalidArgument("frame of plan ", in.plan(), " epoch ", in.epoch(), " stage ",
                              in.stage(), " on a stream of plan ", from_.plan.value, " epoch ",
                              from_.epoch.value, " stage ", from_.stage);
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
  LiveCount* const probes_;
  std::unique_ptr<PeerGuard> guard_;
  v1::FrameMessage message_;  // only OnMessage uses these: gRPC calls it for one message at a time
  StreamFrom from_;
  bool greeted_ = false;
  bool probe_ = false;
  int pings_ = 0;  // pings of a probe
  size_t pinged_bytes_ = 0;
  bool ended_ = false;
};

class StageServerImpl final
    : public StageServer,
      public v1::StageService::WithRawCallbackMethod_Frames<v1::StageService::Service> {
 public:
  explicit StageServerImpl(FrameSink* sink) : sink_(sink) {}
  ~StageServerImpl() override {
    bound_.Shutdown();
    live_.WaitZero();
  }

  absl::Status Listen(const ServerOptions& options) {
    return bound_.Start(options, {this}, kMaxFrameMessageBytes);
  }

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Frames(
      grpc::CallbackServerContext* context) override {
    absl::StatusOr<std::unique_ptr<PeerGuard>> guard = bound_.Guard(*context);
    if (!guard.ok()) return new RefusedFrames(guard.status());
    if ((*guard)->peer().has_value() && (*guard)->peer()->role == identity::Role::kAdmin) {
      return new RefusedFrames(
          absl::PermissionDeniedError("an administrator has no frames for a worker"));
    }
    if (!live_.Add(kMaxStreams)) {
      return new RefusedFrames(
          ResourceExhausted("this worker has ", kMaxStreams, " streams open already"));
    }
    auto link = std::make_shared<FrameLink>(sink_, &live_, &probes_, *std::move(guard));
    link->Begin(context);
    return link.get();
  }

  std::string address() const override { return bound_.address(); }
  void CutOff(const std::string& node) override { bound_.CutOff(node); }

 private:
  FrameSink* const sink_;
  LiveCount live_;
  LiveCount probes_;
  BoundServer bound_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<StageServer>> StageServer::Start(const ServerOptions& options,
                                                                FrameSink* sink) {
  auto server = std::make_unique<StageServerImpl>(sink);
  RETURN_IF_ERROR(server->Listen(options));
  return server;
}

}  // namespace lanyard::net
