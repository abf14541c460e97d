// What a stage on a card does when the card has no memory, is lost, or is wanted back: a typed
// error, nothing leaked, no crash, and the processor's stages beside it go on.
#include "stage/hidden.h"
#include "tests/cuda_stage/rig.h"

namespace lanyard::engine {
namespace {

const char kQuick[] = "devices=1,memory=64MiB,checks=0,order=eager";

class FaultyCard : public ::testing::Test {
 protected:
  FaultyCard() : model_(testing::SmallLlama(), kQuantised, 2) {
    Config config;
    numerics_ = Id(stage::KvType::kF16, stage::WireType::kF16);
    spec_ = (*CutEvenly(model_.shape(), OptionsOf(config, numerics_)))[0];
    frame_.plan = spec_.plan;
    frame_.epoch = spec_.epoch;
    frame_.numerics = numerics_;
    stage::SeqRun run;
    run.seq = SeqId(1);
    run.n_rows = 3;
    run.tokens = {5, 6, 7};
    run.tables = {{0, {2}}};
    stage::OutputRequest out;
    out.row = 2;
    out.sample.temperature = 0;
    out.top = 4;
    run.outputs = {out};
    frame_.batch.runs = {run};
  }

  absl::StatusOr<std::unique_ptr<LocalStage>> Create(const std::shared_ptr<Device>& card) {
    return LocalStage::Create(model_.shape(), spec_, model_, {1, ops::BestIsa(), {card}});
  }
  // Load and two frames. The error, or OK.
  absl::Status Live(const std::string& config) {
    ASSIGN_OR_RETURN(const auto cards, OpenCards(config));
    ASSIGN_OR_RETURN(const auto stage, Create(cards[0]));
    for (int i = 0; i < 2; ++i) {
      const absl::Status status = stage->Run(frame_, {}).status();
      EXPECT_EQ(stage->lost(), absl::IsUnavailable(status)) << status;
      if (status.ok()) continue;
      if (stage->lost()) {
        EXPECT_TRUE(absl::IsUnavailable(stage->Run(frame_, {}).status()));
      }
      return status;
    }
    return absl::OkStatus();
  }

  RandomModel model_;
  stage::NumericsId numerics_;
  stage::StageSpec spec_;
  stage::StepFrame frame_;
};

TEST_F(FaultyCard, OutOfMemoryAtEveryAllocation) {
  // One refusal alone is masked: the pool gives back what it only reserved, and asks once more.
  for (const char* key : {"fail_alloc_from", "fail_host_alloc"}) {
    int failures = 0;
    for (int n = 1; n < 200; ++n) {
      const absl::Status status = Live(absl::StrCat(kQuick, ",", key, "=", n));
      EXPECT_EQ(fake_cuda::FakeCuda::Get().UsedBytes(0), 0u) << key << " " << n;
      if (status.ok()) break;
      ++failures;
      EXPECT_TRUE(absl::IsResourceExhausted(status)) << key << " " << n << ": " << status;
    }
    EXPECT_GE(failures, 5) << key;
    EXPECT_LT(failures, 150) << key;
  }
  for (int n = 1; n < 60; n += 3)
    EXPECT_TRUE(Live(absl::StrCat(kQuick, ",fail_alloc=", n)).ok()) << n;
}

TEST_F(FaultyCard, LostAtAnyCall) {
  ASSERT_TRUE(Live(kQuick).ok());
  int failures = 0;
  for (int n = 1; n < 3000; n += 1 + n / 12) {
    const absl::Status status = Live(absl::StrCat(kQuick, ",lose_at=", n));
    if (status.ok()) break;
    ++failures;
    EXPECT_TRUE(absl::IsUnavailable(status)) << n << ": " << status;
  }
  EXPECT_GE(failures, 15);
}

TEST_F(FaultyCard, LostInAnyWork) {
  int failures = 0;
  for (int n = 1; n < 3000; n += 1 + n / 10) {
    const absl::Status status =
        Live(absl::StrCat("devices=1,memory=64MiB,seed=", n, ",lose_at_work=", n));
    if (status.ok()) break;
    ++failures;
    EXPECT_TRUE(absl::IsUnavailable(status)) << n << ": " << status;
  }
  EXPECT_GE(failures, 10);
}

TEST_F(FaultyCard, ItsMemoryIsTakenBack) {
  const auto cards = OpenCards(kQuick);
  ASSERT_TRUE(cards.ok()) << cards.status();
  const auto stage = Create((*cards)[0]);
  ASSERT_TRUE(stage.ok()) << stage.status();
  const auto before = (*stage)->Run(frame_, {});
  ASSERT_TRUE(before.ok()) << before.status();
  const uint64_t held = (*cards)[0]->pool().usage().held_bytes;
  const cuda::ShrinkReport report = (*cards)[0]->pool().Shrink(held / 64);
  EXPECT_LT(report.held_bytes, held / 2);
  const absl::Status after = (*stage)->Run(frame_, {}).status();
  EXPECT_TRUE(absl::IsUnavailable(after)) << after;
  EXPECT_TRUE((*stage)->lost());
  // The next one goes where there is room: to RAM.
  const auto again = Create((*cards)[0]);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE((*again)->memory().devices.empty());
  const auto answer = (*again)->Run(frame_, {});
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->tokens[0].token, before->tokens[0].token);
  EXPECT_EQ(answer->tokens[0].top, before->tokens[0].top);
}

// Calls back in front of the n-th read of a tensor's bytes.
class WatchedSource : public model::TensorSource {
 public:
  WatchedSource(const model::TensorSource& source, int n, std::function<void()> then)
      : source_(source), left_(n), then_(std::move(then)) {}
  const model::TensorInfo* Find(std::string_view name) const override { return source_.Find(name); }
  absl::Status Read(std::string_view name, uint64_t offset, std::span<uint8_t> out) const override {
    if (left_-- == 0) then_();
    return source_.Read(name, offset, out);
  }

 private:
  const model::TensorSource& source_;
  mutable int left_;
  const std::function<void()> then_;
};

// In the middle of any tensor: nothing is freed under the loader; the stage that comes of it says
// that it is lost.
TEST_F(FaultyCard, ItsMemoryIsTakenBackWhileItLoads) {
  int n = 0;
  for (bool reached = true; reached; ++n) {
    reached = false;
    const auto cards = OpenCards(kQuick);
    ASSERT_TRUE(cards.ok()) << cards.status();
    const WatchedSource source(model_, n, [&] {
      (*cards)[0]->pool().Shrink(0);
      reached = true;
    });
    const auto stage =
        LocalStage::Create(model_.shape(), spec_, source, {1, ops::BestIsa(), {(*cards)[0]}});
    if (!reached) break;
    const absl::Status status = stage.ok() ? (*stage)->Run(frame_, {}).status() : stage.status();
    EXPECT_TRUE(absl::IsUnavailable(status) || absl::IsResourceExhausted(status))
        << n << ": " << status;
  }
  EXPECT_GT(n, 5);
}

// The desk's owner starts a program that wants the card: the worker looks at it once a second.
TEST_F(FaultyCard, OthersTakeTheCard) {
  fake_cuda::FakeCuda& fake = fake_cuda::FakeCuda::Get();
  const auto cards = OpenCards("devices=1,memory=512MiB,order=eager");
  ASSERT_TRUE(cards.ok()) << cards.status();
  CudaDevice& card = *(*cards)[0];
  const uint64_t budget = card.BudgetBytes();
  auto stage = Create((*cards)[0]);
  ASSERT_TRUE(stage.ok()) << stage.status();
  fake.SetOthers(0, 300 << 20);
  card.Watch();
  EXPECT_FALSE((*stage)->lost()) << "there is room for both";
  fake.SetOthers(0, 500 << 20);
  card.Watch();
  EXPECT_TRUE((*stage)->lost());
  EXPECT_TRUE(absl::IsUnavailable((*stage)->Run(frame_, {}).status()));
  stage->reset();
  card.Watch();
  EXPECT_LT(card.BudgetBytes(), uint64_t{32} << 20);
  fake.SetOthers(0, 0);
  card.Watch();
  EXPECT_EQ(card.BudgetBytes(), budget);
  EXPECT_TRUE((*Create((*cards)[0]))->Run(frame_, {}).ok());
}

TEST_F(FaultyCard, HiddenStatesThatAreNotFiniteFailTheirOwnOutputs) {
  ChainOptions options = OptionsOf(Config{}, numerics_);
  options.stages = 2;
  spec_ = (*CutEvenly(model_.shape(), options))[1];
  frame_.stage = 1;
  frame_.batch.runs[0].tokens.clear();
  const std::vector<float> x(3 * model_.shape().d_model, 0.5f);
  frame_.hidden = stage::EncodeHidden(stage::WireType::kF16, x.data(), 3, model_.shape().d_model);
  const auto cards = OpenCards("devices=1,memory=64MiB");
  ASSERT_TRUE(cards.ok()) << cards.status();
  const auto stage = Create((*cards)[0]);
  ASSERT_TRUE(stage.ok()) << stage.status();
  stage::StepFrame bad = frame_;
  const uint16_t infinity = 0x7c00;
  std::memcpy(bad.hidden.data.data() + 3 + 2 * 95, &infinity, 2);
  const auto out = (*stage)->Run(bad, {});
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_TRUE(absl::IsInternal(out->tokens.back().status)) << out->tokens.back().status;
  const auto after = (*stage)->Run(frame_, {});
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_TRUE(after->tokens.back().status.ok()) << "it harms nothing that comes later";
  EXPECT_FALSE((*stage)->lost());
}

// Decode goes through graphs from the second step on.
TEST_F(FaultyCard, RecordsDecodeSteps) {
  const auto cards = OpenCards("devices=1,memory=64MiB");
  ASSERT_TRUE(cards.ok()) << cards.status();
  const auto on_card = Create((*cards)[0]);
  const auto on_cpu = LocalStage::Create(model_.shape(), spec_, model_, {});
  ASSERT_TRUE(on_card.ok() && on_cpu.ok()) << on_card.status();
  frame_.batch.runs[0].n_rows = 1;
  frame_.batch.runs[0].outputs[0].row = 0;
  for (uint32_t pos = 0; pos < 5; ++pos) {
    frame_.batch.runs[0].pos = pos;
    frame_.batch.runs[0].tokens = {static_cast<int32_t>(pos * 13)};
    frame_.batch.runs[0].outputs[0].top = pos % 2 == 0 ? 4 : 0;  // with and without the logits
    const auto a = (*on_card)->Run(frame_, {});
    const auto b = (*on_cpu)->Run(frame_, {});
    ASSERT_TRUE(a.ok() && b.ok()) << a.status();
    EXPECT_EQ(a->tokens[0].token, b->tokens[0].token) << pos;
    EXPECT_EQ(a->tokens[0].logprob, b->tokens[0].logprob) << pos;
    EXPECT_EQ(a->tokens[0].lse, b->tokens[0].lse) << pos;
    EXPECT_EQ(a->tokens[0].top, b->tokens[0].top) << pos;
  }
  EXPECT_EQ(fake_cuda::FakeCuda::Get().Reports(), "");
  EXPECT_THAT(fake_cuda::FakeCuda::Get().Stats(), ::testing::HasSubstr("\"graphs\":8"));
}

}  // namespace
}  // namespace lanyard::engine
