// What a card is beside a stage: which are used, how much of one is for stages, whose memory is
// whose, and how rows go from one to the next.
#include <atomic>
#include <thread>

#include "engine/cuda/open_devices.h"
#include "nlohmann/json.hpp"
#include "tests/cuda_stage/rig.h"

namespace lanyard::engine {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;

nlohmann::json Stats() { return nlohmann::json::parse(fake_cuda::FakeCuda::Get().Stats()); }

absl::StatusOr<std::vector<std::shared_ptr<CudaDevice>>> Open(const char* config,
                                                              const char* devices,
                                                              const char* vram) {
  if (!fake_cuda::FakeCuda::Get().Reset(config)) return InvalidArgument("fake cards: ", config);
  ASSIGN_OR_RETURN(const DeviceFlags flags, ParseDevices(devices, vram));
  return OpenDevices(flags);
}

TEST(Cards, TheDesktopKeepsItsReserveWhateverVramSays) {
  const auto wide = Open("devices=1,memory=1GiB,others=200MiB", "auto", "1GiB");
  ASSERT_TRUE(wide.ok()) << wide.status();
  EXPECT_EQ((*wide)[0]->BudgetBytes(), (1024 - 200 - 384) * kMiB);
  const auto narrow = Open("devices=1,memory=1GiB,others=200MiB", "auto", "100MiB");
  ASSERT_TRUE(narrow.ok()) << narrow.status();
  EXPECT_EQ((*narrow)[0]->BudgetBytes(), 100 * kMiB);
}

TEST(Cards, TooOldAndIntegratedOnesAreLeftOut) {
  const char kConfig[] =
      "devices=3,memory=1GiB,cc=5.2/8.6/8.7,integrated=0/0/1,lose_device=0,lose_at=1";
  const auto automatic = Open(kConfig, "auto", "");
  ASSERT_TRUE(automatic.ok()) << automatic.status();
  ASSERT_EQ(automatic->size(), 1u);
  EXPECT_EQ((*automatic)[0]->name(), "cuda:1");
  EXPECT_EQ(Stats()["cards"][0]["lost"], 0) << "the old card was never called";
  EXPECT_THAT(std::string(Open(kConfig, "cuda:0", "").status().message()),
              HasSubstr("compute capability 5.2"));
  const auto named = Open(kConfig, "cuda:2", "");
  ASSERT_TRUE(named.ok()) << named.status();
  EXPECT_EQ((*named)[0]->name(), "cuda:2");
}

class Desk : public ::testing::Test {
 protected:
  Desk() : model_(testing::SmallLlama(), kQuantised, 2) {
    spec_ = (*CutEvenly(model_.shape(),
                        OptionsOf(Config{}, Id(stage::KvType::kF16, stage::WireType::kF16))))[0];
    frame_.plan = spec_.plan;
    frame_.epoch = spec_.epoch;
    frame_.numerics = spec_.numerics;
    stage::SeqRun run;
    run.seq = SeqId(1);
    run.n_rows = 1;
    run.tokens = {5};
    run.tables = {{0, {2}}};
    frame_.batch.runs = {run};
    frame_.batch.runs[0].outputs.emplace_back();
  }
  ~Desk() override { unsetenv("LANYARD_FAKE_NVML"); }

  void TakeCard(const std::string& config) {
    setenv("LANYARD_FAKE_CUDA", config.c_str(), 1);  // for NVML
    auto cards = OpenCards(config);
    unsetenv("LANYARD_FAKE_CUDA");
    ASSERT_TRUE(cards.ok()) << cards.status();
    card_ = (*cards)[0];
    auto stage = LocalStage::Create(model_.shape(), spec_, model_, {1, ops::BestIsa(), {card_}});
    ASSERT_TRUE(stage.ok()) << stage.status();
    stage_ = *std::move(stage);
  }
  // A stage that decodes makes graphs: two, of its layers and of the head.
  void Decode() {
    for (uint32_t pos = 0; pos < 4; ++pos) {
      frame_.batch.runs[0].pos = pos;
      const auto out = stage_->Run(frame_, {});
      ASSERT_TRUE(out.ok()) << out.status();
    }
  }

  RandomModel model_;
  stage::StageSpec spec_;
  stage::StepFrame frame_;
  std::shared_ptr<CudaDevice> card_;
  std::unique_ptr<LocalStage> stage_;
};

constexpr char kSmallCard[] = "devices=1,memory=256MiB,order=eager,checks=0,graph_bytes=90MiB";

TEST_F(Desk, OurOwnGraphsAreNoOtherPrograms) {
  for (const char* nvml : {"", "own", "silent"}) {
    SCOPED_TRACE(absl::StrCat("NVML ", nvml));
    setenv("LANYARD_FAKE_NVML", nvml, 1);
    stage_.reset();
    card_.reset();
    TakeCard(kSmallCard);
    ASSERT_FALSE(HasFatalFailure());
    card_->Watch();
    Decode();
    ASSERT_FALSE(HasFatalFailure());
    EXPECT_GT(fake_cuda::FakeCuda::Get().UsedBytes(0), 180 * kMiB);
    for (int i = 0; i < 3; ++i) card_->Watch();
    EXPECT_FALSE(stage_->lost());
    fake_cuda::FakeCuda::Get().SetOthers(0, 70 * kMiB);  // that is another's
    card_->Watch();
    EXPECT_TRUE(stage_->lost());
  }
}

TEST_F(Desk, BlocksThatComeAndGoMeanwhileAreNoOtherPrograms) {
  TakeCard("devices=1,memory=256MiB,order=eager,checks=0");
  ASSERT_FALSE(HasFatalFailure());
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop.load()) (void)card_->pool().Allocate(180 * kMiB, cuda::MemoryUse::kBuffers, 7);
  });
  for (int i = 0; i < 3000 && !stage_->lost(); ++i) card_->Watch();
  stop.store(true);
  other.join();
  EXPECT_FALSE(stage_->lost());
}

// A card writes into the next one's memory where the driver lets it; where not, rows go through the
// host.
TEST_F(Desk, RowsGoFromCardToCardOrByTheHost) {
  const Config on_cpu;
  const auto expected = Answers(model_.shape(), model_, spec_.numerics, on_cpu);
  ASSERT_TRUE(expected.ok()) << expected.status();
  for (const int peer : {0, 1}) {
    SCOPED_TRACE(absl::StrCat("peer=", peer));
    const auto cards = OpenCards(absl::StrCat("devices=2,memory=64MiB,seed=5,peer=", peer));
    ASSERT_TRUE(cards.ok()) << cards.status();
    Config config;
    config.devices = {RoomFor((*cards)[0], model_, spec_, {0, 1}), (*cards)[1]};
    const auto got = Answers(model_.shape(), model_, spec_.numerics, config);
    ASSERT_TRUE(got.ok()) << got.status();
    ExpectSame(*expected, *got);
    const nlohmann::json stats = Stats();
    EXPECT_EQ(stats["cards"][0]["peers"], peer);
    EXPECT_EQ(stats["peer_copies"] > 0, peer == 1) << stats["peer_copies"];
    EXPECT_EQ(fake_cuda::FakeCuda::Get().Reports(), "");
  }
}

}  // namespace
}  // namespace lanyard::engine
