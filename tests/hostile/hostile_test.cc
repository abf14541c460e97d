// A worker with a valid certificate sends altered hellos, control messages, results and frames to a
// coordinator's port and to a neighbour's, beside an honest worker. What the honest one sends must
// arrive unaltered; under ASan nothing may be touched that is not there. Long form, 10^6 messages:
// ./dev soak hostile.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <thread>

#include "base/version.h"
#include "coordinator/access/quarantine.h"
#include "identity/tls.h"
#include "lanyard/v1/control.grpc.pb.h"
#include "lanyard/v1/stage.grpc.pb.h"
#include "net/channel.h"
#include "net/convert_control.h"
#include "net/convert_stage.h"
#include "net/coordinator_client.h"
#include "net/limits.h"
#include "net/stage_server.h"
#include "net/testing_identity.h"
#include "net/testing_util.h"
#include "tests/hostile/mutate.h"

namespace lanyard::hostile {
namespace {

using net::testing::NodeOf;
using net::testing::WaitFor;
using ::testing::HasSubstr;

uint64_t Messages() {
  const char* soak = std::getenv("LANYARD_SOAK");
  return soak != nullptr && std::string(soak) == "1" ? 1'000'000 : 20'000;
}

// Welcomes everybody, and keeps what the honest worker's results say.
class Events final : public net::CoordinatorEvents {
 public:
  void OnWorkerEvent(net::LinkId link, net::WorkerEvent event) override {
    if (std::holds_alternative<net::WorkerHello>(event)) server->Welcome(link);
  }
  void OnWorkerGone(net::LinkId, const absl::Status&) override {}
  void OnResult(stage::StepResult result) override {
    if (result.worker != "honest") {
      ++from_evil;
      return;
    }
    MutexLock lock(&mu_);
    honest_.push_back(result.step.value);
  }
  std::vector<uint64_t> honest() {
    MutexLock lock(&mu_);
    return honest_;
  }
  net::CoordinatorServer* server = nullptr;
  std::atomic<uint64_t> from_evil{0};

 private:
  Mutex mu_;
  std::vector<uint64_t> honest_ ABSL_GUARDED_BY(mu_);
};

class Silent final : public net::ControlSink {
 public:
  void OnWelcome() override { welcomed = true; }
  void OnRefused(const absl::Status&, bool) override {}
  void OnAssign(net::Assignment) override {}
  void OnBadAssign(PlanId, Epoch, const absl::Status&) override {}
  void OnRelease(PlanId) override {}
  void OnRevoked(std::vector<std::string>) override {}
  void OnControlClosed(const absl::Status&) override { closed = true; }
  std::atomic<bool> welcomed{false}, closed{false};
};

// A neighbour's stage: the honest worker's frames must come in order and whole.
class Frames final : public net::FrameSink {
 public:
  static constexpr PlanId kHonestPlan{77};
  static stage::StepFrame Honest(uint64_t step) {
    stage::StepFrame frame = net::testing::SampleFrame();
    frame.plan = kHonestPlan;
    frame.batch.step = StepId(step);
    return frame;
  }
  absl::Status AcceptStream(const net::StreamFrom&) override { return absl::OkStatus(); }
  void OnFrame(stage::StepFrame frame) override {
    if (frame.plan != kHonestPlan) return;
    const stage::StepFrame expected = Honest(honest + 1);
    if (frame.batch.step != expected.batch.step || frame.hidden.data != expected.hidden.data ||
        frame.batch.runs.size() != expected.batch.runs.size()) {
      ++altered;
    }
    ++honest;
  }
  void OnBadFrame(const net::StreamFrom& from, StepId, uint32_t, const absl::Status&) override {
    if (from.plan == kHonestPlan) ++altered;
    ++bad;
  }
  std::atomic<uint64_t> honest{0}, altered{0}, bad{0};
};

class NoParts final : public net::PartProvider {
 public:
  absl::StatusOr<uint64_t> PartBytes(std::string_view) override { return NotFound("no such part"); }
  absl::Status ReadPart(std::string_view, uint64_t, std::span<uint8_t>) override {
    return NotFound("no such part");
  }
};

net::WorkerHello HelloOf(const std::string& name) {
  net::WorkerHello hello;
  hello.name = name;
  hello.version = kVersion;
  hello.protocol = kProtocolVersion;
  hello.stage_address = "127.0.0.1:7000";
  hello.memory_bytes = 1 << 30;
  hello.base_bytes = 1 << 20;
  hello.devices.push_back({"cuda", "cuda:0", "a card", 1 << 30, 2});
  return hello;
}

class HostileTest : public ::testing::Test {
 protected:
  void Listen(std::shared_ptr<const identity::PeerPolicy> policy) {
    net::ServerOptions options;
    options.security = {cluster_.Coordinator(), policy};
    coordinator_credential_ = options.security.credential;
    auto server = net::CoordinatorServer::Start(options, &events_, &parts_);
    ASSERT_TRUE(server.ok()) << server.status();
    coordinator_ = *std::move(server);
    events_.server = coordinator_.get();
    options.security = {neighbour_credential_, policy};
    auto stage = net::StageServer::Start(options, &frames_);
    ASSERT_TRUE(stage.ok()) << stage.status();
    neighbour_ = *std::move(stage);
  }
  std::shared_ptr<grpc::Channel> ToCoordinator() {
    return net::MakeChannel(
        {coordinator_->address(), evil_, identity::TlsName(identity::Role::kCoordinator, "")},
        net::kMaxControlMessageBytes);
  }
  std::shared_ptr<grpc::Channel> ToNeighbour() {
    const std::string name =
        identity::TlsName(identity::Role::kWorker, NodeOf(neighbour_credential_));
    return net::MakeChannel({neighbour_->address(), evil_, name}, net::kMaxControlMessageBytes);
  }

  // Sends altered messages of one kind until `count` were read or ended a stream; returns how many
  // streams were ended.
  template <typename Out, typename In, typename Open>
  uint64_t Attack(uint64_t count, const std::vector<Out>& good, const Out& hello, const Out& ping,
                  const Open& open) {
    uint64_t ended = 0;
    for (uint64_t sent = 0; sent < count;) {
      grpc::ClientContext context;
      auto stream = open(&context);
      Out first = hello;
      if (random_() % 16 == 0) Mutate(&first, &random_);
      In reply;
      bool up = stream->Write(first) && stream->Read(&reply);
      ++sent;
      while (up && sent < count) {
        Out message = good[random_() % good.size()];
        Mutate(&message, &random_);
        up = stream->Write(message) && stream->Write(ping) && stream->Read(&reply);
        ++sent;
      }
      context.TryCancel();
      ended += !up;
      while (stream->Read(&reply)) {
      }
      (void)stream->Finish();
    }
    return ended;
  }

  uint64_t AttackControl(uint64_t count);
  uint64_t AttackResults(uint64_t count);
  uint64_t AttackFrames(uint64_t count);

  const net::testing::TestCluster cluster_;
  const std::shared_ptr<identity::LiveCredential> evil_ = cluster_.Worker("evil");
  const std::shared_ptr<identity::LiveCredential> honest_ = cluster_.Worker("honest");
  const std::shared_ptr<identity::LiveCredential> neighbour_credential_ =
      cluster_.Worker("neighbour");
  std::shared_ptr<identity::LiveCredential> coordinator_credential_;
  Random random_{20261125};
  Events events_;
  NoParts parts_;
  Frames frames_;
  std::unique_ptr<net::CoordinatorServer> coordinator_;
  std::unique_ptr<net::StageServer> neighbour_;
};

v1::WorkerMessage ToMessage(const net::WorkerEvent& event) {
  v1::WorkerMessage out;
  net::ToProto(event, &out);
  return out;
}

template <typename M>
M StreamHello(const std::string& from, PlanId plan) {
  M out;
  v1::StreamHello* hello = out.mutable_hello();
  hello->set_protocol(kProtocolVersion);
  hello->set_version(kVersion);
  hello->set_from(from);
  hello->set_plan(plan.value);
  hello->set_epoch(9);
  hello->set_stage(1);
  return out;
}

template <typename M>
M PingMessage() {
  M out;
  out.mutable_ping();
  return out;
}

uint64_t HostileTest::AttackControl(uint64_t count) {
  const auto stub = v1::CoordinatorService::NewStub(ToCoordinator());
  net::DevicesChanged devices{HelloOf("evil").devices};
  const std::vector<v1::WorkerMessage> good = {
      ToMessage(net::Heartbeat{1 << 20, 0.5, 7}),
      ToMessage(net::LoadProgress{PlanId(1), 5, 10}),
      ToMessage(net::StageReady{PlanId(1), Epoch(1), 1, 2, 3, 4}),
      ToMessage(net::StageFailed{PlanId(1), Epoch(1), Unavailable("no")}),
      ToMessage(net::Leaving{"tired"}),
      ToMessage(devices),
      ToMessage(HelloOf("evil")),
  };
  return Attack<v1::WorkerMessage, v1::CoordinatorMessage>(
      count, good, ToMessage(HelloOf("evil")), good[0],
      [&](grpc::ClientContext* context) { return stub->Join(context); });
}

uint64_t HostileTest::AttackResults(uint64_t count) {
  Silent joined;
  const auto control =
      net::ControlClient::Connect({coordinator_->address(), evil_}, HelloOf("evil"), &joined);
  EXPECT_TRUE(WaitFor([&] { return joined.welcomed.load(); }));
  // A silent worker would be given up, and its results refused at their hello.
  const std::jthread beats([&control](const std::stop_token& stop) {
    for (; !stop.stop_requested(); std::this_thread::sleep_for(std::chrono::milliseconds(200))) {
      control->Send(net::Heartbeat{}).IgnoreError();
    }
  });
  const auto stub = v1::ResultService::NewStub(ToCoordinator());
  v1::ResultMessage result;
  stage::StepResult step;
  step.plan = PlanId(7);
  step.worker = "honest";  // it says so itself
  stage::TokenOut token;
  token.top = {{5, 1.0f}, {6, 0.5f}};
  token.want = {1, 2};
  step.tokens = {token, token};
  net::ToProto(step, result.mutable_result());
  return Attack<v1::ResultMessage, v1::FrameReply>(
      count, {result}, StreamHello<v1::ResultMessage>("evil", PlanId(7)),
      PingMessage<v1::ResultMessage>(),
      [&](grpc::ClientContext* context) { return stub->Results(context); });
}

uint64_t HostileTest::AttackFrames(uint64_t count) {
  const auto stub = v1::StageService::NewStub(ToNeighbour());
  v1::FrameMessage frame;
  EXPECT_TRUE(net::ToProto(net::testing::SampleFrame(), frame.mutable_frame()).ok());
  return Attack<v1::FrameMessage, v1::FrameReply>(
      count, {frame}, StreamHello<v1::FrameMessage>("evil", PlanId(7)),
      PingMessage<v1::FrameMessage>(),
      [&](grpc::ClientContext* context) { return stub->Frames(context); });
}

TEST_F(HostileTest, AlteredMessagesHurtNobodyElse) {
  Listen(nullptr);
  Silent joined;
  const auto control =
      net::ControlClient::Connect({coordinator_->address(), honest_}, HelloOf("honest"), &joined);
  ASSERT_TRUE(WaitFor([&] { return joined.welcomed.load(); }));
  std::atomic<int> closed{0};
  const auto on_closed = [&](const absl::Status&) { ++closed; };
  const auto results =
      net::ResultClient::Connect({coordinator_->address(), honest_}, "honest", on_closed);
  ASSERT_TRUE(results->WaitReady(5000).ok());
  net::RemoteStageOptions to;
  to.address = neighbour_->address();
  to.from = "honest";
  to.plan = Frames::kHonestPlan;
  to.epoch = Epoch(9);
  to.stage = 1;
  to.credential = honest_;
  to.node = NodeOf(neighbour_credential_);
  to.on_closed = on_closed;
  const auto frames = net::RemoteStage::Connect(to);
  ASSERT_TRUE(frames->WaitReady(5000).ok());

  std::atomic<bool> stop{false};
  uint64_t sent = 0;
  std::thread honest([&] {
    while (!stop) {
      if (!control->Send(net::Heartbeat{1 << 20, 0.5, sent}).ok()) break;
      ++sent;
      stage::StepResult result;
      result.step = StepId(sent);
      results->OnResult(std::move(result));
      if (!frames->Send(Frames::Honest(sent)).ok()) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  });
  const uint64_t each = Messages() / 3 + 1;
  const uint64_t ended_control = AttackControl(each);
  const uint64_t ended_results = AttackResults(each);
  const uint64_t ended_frames = AttackFrames(each);
  stop = true;
  honest.join();
  EXPECT_TRUE(WaitFor([&] { return events_.honest().size() == sent && frames_.honest == sent; }));
  const std::vector<uint64_t> got = events_.honest();
  for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], i + 1);
  EXPECT_EQ(frames_.altered, 0U);
  EXPECT_EQ(closed, 0);
  EXPECT_FALSE(joined.closed);
  // The alterations were not so mild that nothing was refused, nor so wild that nothing got
  // through.
  EXPECT_GT(ended_control, each / 50);
  EXPECT_GT(ended_results, each / 50);
  EXPECT_GT(ended_frames, each / 50);
  EXPECT_GT(events_.from_evil, each / 50);
  std::printf(
      "%lu altered messages; streams ended: control %lu, results %lu, frames %lu; honest messages: "
      "%lu\n",
      3 * each, ended_control, ended_results, ended_frames, 2 * sent);
}

TEST_F(HostileTest, WhoGoesOnIsQuarantinedWithinTwoSeconds) {
  const auto quarantine =
      std::make_shared<coordinator::Quarantine>(std::make_shared<net::testing::RevokedSet>());
  Listen(quarantine);
  const TimeNs start = MonotonicNow();
  Silent joined;
  const auto control =
      net::ControlClient::Connect({coordinator_->address(), evil_}, HelloOf("evil"), &joined);
  ASSERT_TRUE(WaitFor([&] { return joined.welcomed.load(); }));
  while (quarantine->Check(evil_->Get()->self).ok()) {
    ASSERT_LT(MonotonicNow() - start, 2 * kSecond);
    const auto stub = v1::CoordinatorService::NewStub(ToCoordinator());
    grpc::ClientContext context;
    const auto stream = stub->Join(&context);
    stream->Write(ToMessage(HelloOf("honest")));  // as another worker
    v1::CoordinatorMessage reply;
    while (stream->Read(&reply)) {
    }
    EXPECT_FALSE(stream->Finish().ok());
  }
  // What it has open ends with its next message.
  control->Send(net::Heartbeat{}).IgnoreError();
  EXPECT_TRUE(WaitFor([&] { return joined.closed.load(); }, 2000));
  EXPECT_LT(MonotonicNow() - start, 2 * kSecond);
  const auto stub = v1::CoordinatorService::NewStub(ToCoordinator());
  grpc::ClientContext context;
  const auto stream = stub->Join(&context);
  v1::CoordinatorMessage reply;
  EXPECT_FALSE(stream->Read(&reply));
  const grpc::Status refused = stream->Finish();
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_THAT(refused.error_message(), HasSubstr("quarantine"));
  EXPECT_TRUE(quarantine->Check(honest_->Get()->self).ok());
}

TEST_F(HostileTest, NoWorkerSpeaksForAnother) {
  Listen(nullptr);
  Silent joined;
  const auto control =
      net::ControlClient::Connect({coordinator_->address(), honest_}, HelloOf("honest"), &joined);
  ASSERT_TRUE(WaitFor([&] { return joined.welcomed.load(); }));
  const auto results = net::ResultClient::Connect({coordinator_->address(), evil_}, "honest",
                                                  [](const absl::Status&) {});
  EXPECT_THAT(std::string(results->WaitReady(5000).message()),
              HasSubstr("may not speak as worker 'honest'"));
  Silent as_honest;
  const auto other =
      net::ControlClient::Connect({coordinator_->address(), evil_}, HelloOf("honest"), &as_honest);
  ASSERT_TRUE(WaitFor([&] { return as_honest.closed.load(); }));
  EXPECT_FALSE(as_honest.welcomed);
  EXPECT_FALSE(joined.closed);
}

}  // namespace
}  // namespace lanyard::hostile
