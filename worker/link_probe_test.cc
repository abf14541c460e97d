#include "worker/link_probe.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>

#include "identity/authority.h"
#include "identity/credential.h"
#include "net/stage_server.h"
#include "net/testing_identity.h"

namespace lanyard::worker {
namespace {

// Takes no frames.
class Closed final : public net::FrameSink {
 public:
  absl::Status AcceptStream(const net::StreamFrom&) override {
    return FailedPrecondition("no stage here");
  }
  void OnFrame(stage::StepFrame) override { ++frames; }
  void OnBadFrame(const net::StreamFrom&, StepId, uint32_t, const absl::Status&) override {
    ++frames;
  }
  std::atomic<int> frames{0};
};

class LinkProbeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    net::ServerOptions options;
    options.security.credential = peer_;
    auto server = net::StageServer::Start(options, &sink_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  net::DiagnoseTarget Target() const {
    return {"w2", server_->address(), net::testing::NodeOf(peer_)};
  }

  const net::testing::TestCluster cluster_;
  const std::shared_ptr<identity::LiveCredential> peer_ = cluster_.Worker("w2");
  const LinkProbeOptions options_{"w1", cluster_.Worker("w1")};
  Closed sink_;
  std::unique_ptr<net::StageServer> server_;
};

TEST_F(LinkProbeTest, MeasuresAPeerThatHasNoStage) {
  const net::LinkDiagnosis way = ProbeLink(options_, Target());
  ASSERT_TRUE(way.status.ok()) << way.status;
  EXPECT_EQ(way.worker, "w2");
  EXPECT_GT(way.connect_ns, 0u);
  EXPECT_GT(way.rtt_min_ns, 0u);
  EXPECT_GE(way.rtt_median_ns, way.rtt_min_ns);
  EXPECT_GT(way.bytes_per_second, 1e6);
  EXPECT_GE(way.mtu_bytes, 1280u);
  EXPECT_FALSE(way.large_lost);
  EXPECT_EQ(sink_.frames, 0);
}

TEST_F(LinkProbeTest, ClosedPortAndOtherClusterAreTold) {
  net::DiagnoseTarget nobody = Target();
  nobody.address = "127.0.0.1:1";
  EXPECT_TRUE(absl::IsUnavailable(ProbeLink(options_, nobody).status));
  const net::testing::TestCluster other;
  LinkProbeOptions stranger{"w1", other.Worker("w1")};
  EXPECT_FALSE(ProbeLink(stranger, Target()).status.ok());
  net::DiagnoseTarget impostor = Target();
  impostor.node = net::testing::NodeOf(cluster_.Worker("w2"));  // another key at the address
  EXPECT_FALSE(ProbeLink(options_, impostor).status.ok());
}

TEST_F(LinkProbeTest, AnswersFromItsOwnThread) {
  std::atomic<uint64_t> id{0};
  std::atomic<size_t> links{0};
  {
    LinkProber prober(options_,
                      [&](net::DiagnoseRequest request, std::vector<net::LinkDiagnosis> found) {
                        links = found.size();
                        id = request.id;
                      });
    prober.Start({7, {Target(), Target()}});
    for (int i = 0; i < 1000 && id == 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(id, 7u);
  EXPECT_EQ(links, 2u);
}

TEST_F(LinkProbeTest, TheBudgetBoundsAllTargets) {
  LinkProbeOptions hurried = options_;
  hurried.budget = 0;
  std::atomic<bool> told{false};
  absl::Status status;
  {
    LinkProber prober(hurried, [&](net::DiagnoseRequest, std::vector<net::LinkDiagnosis> links) {
      status = links.at(0).status;
      told = true;
    });
    prober.Start({1, {Target()}});
    for (int i = 0; i < 500 && !told; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  ASSERT_TRUE(told);
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
}

}  // namespace
}  // namespace lanyard::worker
