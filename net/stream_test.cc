// RemoteStage against StageServer over loopback.
#include <gtest/gtest.h>

#include "base/clock.h"
#include "base/mutex.h"
#include "base/version.h"
#include "lanyard/v1/stage.grpc.pb.h"
#include "net/channel.h"
#include "net/convert_stage.h"
#include "net/limits.h"
#include "net/stage_server.h"
#include "net/testing_sinks.h"
#include "net/testing_util.h"

namespace lanyard::net {
namespace {

using testing::Closed;
using testing::RecordingSink;

class StreamTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = StageServer::Start({}, &sink_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  RemoteStageOptions Options() {
    return {server_->address(), "w0", PlanId(7), Epoch(9), 1, closed_.callback(), {}, {}};
  }

  RecordingSink sink_;
  Closed closed_;
  std::unique_ptr<StageServer> server_;
};

TEST_F(StreamTest, FramesArriveInOrderAndWhole) {
  const auto stage = RemoteStage::Connect(Options());
  ASSERT_TRUE(stage->WaitReady(5000).ok());
  EXPECT_TRUE(stage->ready());
  EXPECT_EQ(sink_.from().from, "w0");
  EXPECT_EQ(sink_.from().epoch, Epoch(9));
  for (uint64_t i = 0; i < 200; ++i) {
    stage::StepFrame frame = testing::SampleFrame();
    frame.batch.step = StepId(i);
    ASSERT_TRUE(stage->Send(std::move(frame)).ok());
  }
  ASSERT_TRUE(testing::WaitFor([&] { return sink_.frames().size() == 200; }));
  const auto frames = sink_.frames();
  for (uint64_t i = 0; i < 200; ++i) EXPECT_EQ(frames[i].batch.step, StepId(i));
  EXPECT_EQ(frames[17].hidden.data, testing::SampleFrame().hidden.data);
  EXPECT_EQ(closed_.times(), 0);
}

TEST_F(StreamTest, PingsComeBack) {
  const auto stage = RemoteStage::Connect(Options());
  ASSERT_TRUE(stage->WaitReady(5000).ok());
  const std::vector<uint8_t> payload(8192, 1);
  for (int i = 0; i < 20; ++i) {
    const auto ns = stage->PingNs(payload, 2000);
    ASSERT_TRUE(ns.ok()) << ns.status();
    EXPECT_GT(*ns, 0);
  }
}

TEST_F(StreamTest, ProbesArePingsAloneAndBounded) {
  sink_.Refuse(absl::FailedPreconditionError("no stage here"));  // which does not concern a probe
  RemoteStageOptions options = Options();
  options.probe = true;
  const std::vector<uint8_t> small(64, 1), large(kMaxProbePingBytes, 1),
      too_large(kMaxProbePingBytes + 1, 1);
  {
    const auto stage = RemoteStage::Connect(options);
    ASSERT_TRUE(stage->WaitReady(5000).ok());
    for (int i = 0; i < kMaxProbePings; ++i) ASSERT_TRUE(stage->PingNs(small, 2000).ok()) << i;
    EXPECT_FALSE(stage->PingNs(small, 2000).ok());  // one too many
  }
  {
    const auto stage = RemoteStage::Connect(options);
    ASSERT_TRUE(stage->WaitReady(5000).ok());
    for (size_t i = 0; i < kMaxProbeBytes / large.size(); ++i)
      ASSERT_TRUE(stage->PingNs(large, 5000).ok()) << i;
    EXPECT_FALSE(stage->PingNs(small, 2000).ok());  // all bytes are used
  }
  {
    const auto stage = RemoteStage::Connect(options);
    ASSERT_TRUE(stage->WaitReady(5000).ok());
    EXPECT_FALSE(stage->PingNs(too_large, 5000).ok());
  }
  {
    const auto stage = RemoteStage::Connect(options);
    ASSERT_TRUE(stage->WaitReady(5000).ok());
    stage->Send(testing::SampleFrame()).IgnoreError();
    EXPECT_TRUE(testing::WaitFor([&] { return !stage->ready(); }));  // a frame ends it
  }
  EXPECT_TRUE(sink_.frames().empty());
}

TEST_F(StreamTest, FewProbesAtOnce) {
  RemoteStageOptions options = Options();
  options.probe = true;
  std::vector<std::unique_ptr<RemoteStage>> open;
  for (int i = 0; i < kMaxProbes; ++i) {
    open.push_back(RemoteStage::Connect(options));
    ASSERT_TRUE(open.back()->WaitReady(5000).ok());
  }
  EXPECT_TRUE(absl::IsResourceExhausted(RemoteStage::Connect(options)->WaitReady(5000)));
  EXPECT_TRUE(RemoteStage::Connect(Options())
                  ->WaitReady(5000)
                  .ok());  // those with frames have their own count
  open.pop_back();
  EXPECT_TRUE(
      testing::WaitFor([&] { return RemoteStage::Connect(options)->WaitReady(5000).ok(); }));
}

TEST_F(StreamTest, RefusedStreamSaysWhy) {
  sink_.Refuse(absl::FailedPreconditionError("epoch 9 is over, this worker is at 10"));
  const auto stage = RemoteStage::Connect(Options());
  const absl::Status status = stage->WaitReady(5000);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(status.message().find("epoch 9 is over"), absl::string_view::npos);
  ASSERT_TRUE(testing::WaitFor([&] { return closed_.times() == 1; }));
  EXPECT_TRUE(absl::IsFailedPrecondition(stage->Send(testing::SampleFrame())));
}

TEST_F(StreamTest, WhatIsSentBeforeTheWelcomeArrivesInOrder) {
  const auto stage = RemoteStage::Connect(Options());
  for (uint64_t step = 1; step <= 20; ++step) {
    stage::StepFrame frame = testing::SampleFrame();
    frame.batch.step = StepId(step);
    ASSERT_TRUE(stage->Send(std::move(frame)).ok());
  }
  ASSERT_TRUE(testing::WaitFor([&] { return sink_.frames().size() == 20; }));
  for (uint64_t i = 0; i < 20; ++i) EXPECT_EQ(sink_.frames()[i].batch.step, StepId(i + 1));
}

TEST_F(StreamTest, WhereNobodyListensSendingSaysSoInTheEnd) {
  const auto stage = RemoteStage::Connect(
      {"127.0.0.1:1", "w0", PlanId(7), Epoch(9), 1, closed_.callback(), {}, {}});
  EXPECT_TRUE(absl::IsUnavailable(stage->WaitReady(5000)));  // nothing listens on port 1
  EXPECT_TRUE(absl::IsUnavailable(stage->Send(testing::SampleFrame())));
  EXPECT_TRUE(testing::WaitFor([&] { return closed_.times() == 1; }));
}

TEST_F(StreamTest, ServerGoneIsNoticedAtOnce) {
  const auto stage = RemoteStage::Connect(Options());
  ASSERT_TRUE(stage->WaitReady(5000).ok());
  const auto start = std::chrono::steady_clock::now();
  server_.reset();
  ASSERT_TRUE(testing::WaitFor([&] { return closed_.times() == 1; }));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
  EXPECT_FALSE(stage->Send(testing::SampleFrame()).ok());
}

TEST_F(StreamTest, DestroyedStageNeverCallsBack) {
  {
    const auto stage = RemoteStage::Connect(Options());
    ASSERT_TRUE(stage->WaitReady(5000).ok());
  }
  { const auto never_ready = RemoteStage::Connect(Options()); }
  server_.reset();
  EXPECT_EQ(closed_.times(), 0);
}

TEST_F(StreamTest, FrameOfAnotherEpochEndsTheStream) {
  const auto stage = RemoteStage::Connect(Options());
  ASSERT_TRUE(stage->WaitReady(5000).ok());
  stage::StepFrame frame = testing::SampleFrame();
  frame.epoch = Epoch(8);
  ASSERT_TRUE(stage->Send(std::move(frame)).ok());
  ASSERT_TRUE(testing::WaitFor([&] { return closed_.times() == 1; }));
  EXPECT_TRUE(absl::IsInvalidArgument(closed_.why())) << closed_.why();
  EXPECT_TRUE(sink_.frames().empty());
}

TEST_F(StreamTest, QueueIsBoundedInBytes) {
  const auto stage = RemoteStage::Connect(Options());
  ASSERT_TRUE(stage->WaitReady(5000).ok());
  sink_.blocked_ = true;
  stage::StepFrame frame = testing::SampleFrame();
  frame.hidden = {stage::WireType::kF32, 3, 1 << 20, {}};
  frame.hidden.data.resize(stage::Hidden::BytesFor(stage::WireType::kF32, 3, 1 << 20));
  absl::Status status;
  int sent = 0;
  for (; sent < 50 && status.ok(); ++sent) status = stage->Send(frame);
  sink_.blocked_ = false;
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_GE(sent, 5);
}

// A sender that keeps to no rule: each stream ends with an error, and the others go on.
TEST_F(StreamTest, HostileSendersOnlyEndTheirOwnStream) {
  const auto good = RemoteStage::Connect(Options());
  ASSERT_TRUE(good->WaitReady(5000).ok());
  const auto stub = v1::StageService::NewStub(MakeChannel({server_->address()}, 1 << 20));
  const auto end_of = [&](const std::vector<v1::FrameMessage>& messages) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
    const auto stream = stub->Frames(&context);
    for (const v1::FrameMessage& message : messages) stream->Write(message);
    v1::FrameReply reply;
    while (stream->Read(&reply)) {
    }
    return stream->Finish().error_code();
  };
  v1::FrameMessage hello;
  hello.mutable_hello()->set_protocol(kProtocolVersion);
  hello.mutable_hello()->set_version(kVersion);
  hello.mutable_hello()->set_from("w9");
  hello.mutable_hello()->set_plan(7);
  hello.mutable_hello()->set_epoch(9);
  hello.mutable_hello()->set_stage(1);
  v1::FrameMessage frame;
  ASSERT_TRUE(ToProto(testing::SampleFrame(), frame.mutable_frame()).ok());
  v1::FrameMessage bomb;
  for (int i = 0; i <= kMaxFrameSubmessages; ++i) bomb.mutable_frame()->add_runs();
  v1::FrameMessage old = hello;
  old.mutable_hello()->set_protocol(kProtocolVersion + 2);
  v1::FrameMessage nameless = hello;
  nameless.mutable_hello()->set_from("no/such name");

  EXPECT_EQ(end_of({frame}), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(end_of({v1::FrameMessage()}), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(end_of({bomb}), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(end_of({hello, bomb}), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(end_of({hello, hello}), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(end_of({old}), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(end_of({nameless}), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(sink_.frames().empty());
  ASSERT_TRUE(good->Send(testing::SampleFrame()).ok());
  EXPECT_TRUE(testing::WaitFor([&] { return sink_.frames().size() == 1; }));
}

TEST_F(StreamTest, AStreamWithoutAFirstMessageIsEndedAndAQuietOneIsNot) {
  const auto greeted = RemoteStage::Connect(Options());
  ASSERT_TRUE(greeted->WaitReady(5000).ok());
  const auto channel = MakeChannel({server_->address()}, 1 << 20);
  auto stub = v1::StageService::NewStub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::milliseconds(4 * kFirstMessageMs));
  const auto stream = stub->Frames(&context);
  const TimeNs begin = MonotonicNow();
  v1::FrameReply reply;
  EXPECT_FALSE(stream->Read(&reply));
  const TimeNs waited = MonotonicNow() - begin;
  stream->Finish().ok();
  EXPECT_GE(waited, (kFirstMessageMs - 100) * kMillisecond);
  EXPECT_LT(waited, 3 * kFirstMessageMs * kMillisecond);
  ASSERT_TRUE(
      greeted->PingNs(std::vector<uint8_t>(64, 1), 2000).ok());  // silent as long, after its hello
  EXPECT_EQ(closed_.times(), 0);
}

TEST_F(StreamTest, PortInUseNamesAddressAndErrno) {
  const auto second = StageServer::Start({server_->address()}, &sink_);
  ASSERT_FALSE(second.ok());
  EXPECT_TRUE(absl::IsUnavailable(second.status()));
  EXPECT_NE(second.status().message().find(server_->address()), absl::string_view::npos);
  EXPECT_NE(second.status().message().find("Address already in use"), absl::string_view::npos);
}

TEST_F(StreamTest, OnlyLoopbackWithoutTls) {
  EXPECT_TRUE(absl::IsPermissionDenied(StageServer::Start({"0.0.0.0:0"}, &sink_).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(StageServer::Start({"nonsense"}, &sink_).status()));
  EXPECT_TRUE(IsLoopbackHost("localhost"));
  EXPECT_TRUE(IsLoopbackHost("127.1.2.3"));
  EXPECT_TRUE(IsLoopbackHost("[::1]"));
  EXPECT_FALSE(IsLoopbackHost("127.evil.example"));
  EXPECT_FALSE(IsLoopbackHost("10.0.0.1"));
}

}  // namespace
}  // namespace lanyard::net
