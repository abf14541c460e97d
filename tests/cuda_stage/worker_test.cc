// The worker beside a card: a driver that does not answer, memory that others take, and rates that
// are measured once.
#include <fstream>

#include "tests/cuda_stage/rig.h"
#include "worker/card_profile.h"
#include "worker/daemon.h"
#include "worker/probe.h"
#include "worker/testing_coordinator.h"

namespace lanyard::worker {
namespace {

using fake_cuda::FakeCuda;
using testing::FakeCoordinator;
using testing::WaitFor;

constexpr uint64_t kMiB = 1 << 20;

class WorkerWithACard : public ::testing::Test {
 protected:
  void Start() {
    auto cards = engine::OpenCards("devices=1,memory=512MiB,order=eager,checks=0");
    ASSERT_TRUE(cards.ok()) << cards.status();
    cards_ = *std::move(cards);
    coordinator_ = std::make_unique<FakeCoordinator>(model_.Provider());
    DaemonOptions options;
    options.join = coordinator_->server()->address();
    options.name = "w";
    options.memory_bytes = uint64_t{8} << 30;
    options.weights.state_dir = dir_.path();
    options.factory = testing::FakeStages(&controls_);
    options.devices = cards_;
    auto daemon = Daemon::Start(std::move(options));
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    daemon_ = *std::move(daemon);
    ASSERT_TRUE(WaitFor([&] { return coordinator_->Link("w").has_value(); }));
  }

  testing::TinyModel model_;
  testing::TempDir dir_;
  testing::FakeControls controls_;
  std::vector<std::shared_ptr<engine::CudaDevice>> cards_;
  std::unique_ptr<FakeCoordinator> coordinator_;
  std::unique_ptr<Daemon> daemon_;
};

TEST_F(WorkerWithACard, AHungDriverHangsNoHeartbeatAndNoLeaving) {
  Start();
  ASSERT_FALSE(HasFatalFailure());
  FakeCuda::Get().Hang(true);
  std::this_thread::sleep_for(std::chrono::milliseconds(1200));  // a look is due every second
  const int beats = coordinator_->beats();
  EXPECT_TRUE(WaitFor([&] { return coordinator_->beats() >= beats + 6; }));
  EXPECT_TRUE(coordinator_->Link("w").has_value()) << "it is still in the pool";
  const TimeNs begin = MonotonicNow();
  daemon_->Leave("told to stop");
  daemon_.reset();
  EXPECT_LT(MonotonicNow() - begin, 5 * kSecond);
  EXPECT_EQ(coordinator_->leaving(), 1);
  FakeCuda::Get().Hang(false);
}

TEST_F(WorkerWithACard, TellsTheCoordinatorWhatItsCardHasLeft) {
  Start();
  ASSERT_FALSE(HasFatalFailure());
  const uint64_t before = coordinator_->Hello("w").devices.at(0).memory_bytes;
  FakeCuda::Get().SetOthers(0, 200 * kMiB);
  EXPECT_TRUE(WaitFor(
      [&] { return coordinator_->Hello("w").devices.at(0).memory_bytes < before - 100 * kMiB; }));
}

class Rates : public ::testing::Test {
 protected:
  void SetUp() override {
    auto cards = engine::OpenCards("devices=2,memory=64MiB,order=eager,checks=0");
    ASSERT_TRUE(cards.ok()) << cards.status();
    cards_ = *std::move(cards);
  }
  CardRates Get(double read_bytes_per_second) {
    return RatesOf(cards_, dir_.path(),
                   [&](engine::CudaDevice&) -> absl::StatusOr<cuda::CardProbe> {
                     ++probes_;
                     cuda::CardProbe probe;
                     probe.read_bytes_per_second = read_bytes_per_second;
                     probe.int8_dp4a_ops_per_second = 5e12;
                     probe.int8_mma_ops_per_second = 9e13;
                     probe.to_host_bytes_per_second = 2e10;
                     return probe;
                   });
  }

  testing::TempDir dir_;
  std::vector<std::shared_ptr<engine::CudaDevice>> cards_;
  int probes_ = 0;
};

TEST_F(Rates, AreMeasuredOnceAndSetTheSpeed) {
  const CardRates rates = Get(300e9);  // of 336 GB/s at best
  ASSERT_EQ(rates.size(), 2u);
  EXPECT_EQ(probes_, 2);
  EXPECT_EQ(rates.at("cuda:0").int8_ops_per_second, 9e13);
  EXPECT_EQ(Get(1).at("cuda:1").read_bytes_per_second, 300e9);
  EXPECT_EQ(probes_, 2) << "kept";
  const auto devices = HelloOf(cards_, rates);
  ASSERT_EQ(devices.size(), 2u);
  EXPECT_DOUBLE_EQ(devices[0].speed, 0.8 * 300e9 / 10e9);
  EXPECT_EQ(devices[0].rates.to_host_bytes_per_second, 2e10);
}

TEST_F(Rates, ADamagedFileIsAsGoodAsNone) {
  for (const char* text : {"", "{", "[1]", "{\"x\":3}"}) {
    std::ofstream(dir_.path() + "/cards.json") << text;
    probes_ = 0;
    EXPECT_EQ(Get(200e9).size(), 2u) << text;
    EXPECT_EQ(probes_, 2) << text;
  }
  std::ifstream file(dir_.path() + "/cards.json");
  std::string kept{std::istreambuf_iterator<char>(file), {}};
  for (size_t at = 0; (at = kept.find("200000000000.0", at)) != std::string::npos;)
    kept.replace(at, 14, "\"fast\"");
  std::ofstream(dir_.path() + "/cards.json") << kept;
  probes_ = 0;
  EXPECT_EQ(Get(250e9).at("cuda:0").read_bytes_per_second, 250e9);
  EXPECT_EQ(probes_, 2);
}

TEST_F(Rates, WhatCannotBeIsNotBelieved) {
  for (const double read : {0.0, 1e9, 30e9, 900e9, 1e15}) EXPECT_TRUE(Get(read).empty()) << read;
  EXPECT_EQ(Get(330e9).size(), 2u);
  cuda::DeviceInfo untold;
  EXPECT_TRUE(Believable(untold, 900e9));
  EXPECT_FALSE(Believable(untold, 1e9));
}

// An interpreted card's times are no card's: a short look says so, and the speed is that of its
// clock and width.
TEST_F(Rates, AnInterpretedCardIsNotMeasured) {
  const auto measured = MeasureCard(*cards_[0]);
  EXPECT_EQ(measured.status().code(), absl::StatusCode::kFailedPrecondition) << measured.status();
  EXPECT_DOUBLE_EQ(HelloOf(cards_, RatesOf(cards_, dir_.path()))[0].speed, 0.75 * 336e9 / 10e9);
}

}  // namespace
}  // namespace lanyard::worker
