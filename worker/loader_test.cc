// What a loader reads when a worker's duty changes, with the engine's own stages.
#include "worker/loader.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"
#include "worker/process.h"
#include "worker/testing_util.h"

namespace lanyard::worker {
namespace {

class LoaderTest : public ::testing::Test, public LoaderEvents {
 protected:
  void SetUp() override { Start(uint64_t{8} << 30); }
  void Start(uint64_t memory_bytes) {
    loader_.reset();
    LoaderOptions options;
    options.worker = "w";
    options.memory_bytes = memory_bytes;
    options.factory = EngineStages();
    options.weights.state_dir = state_.path();
    options.fetch = [this](const std::string& sha256, uint64_t offset, std::stop_token,
                           const auto& take) {
      MutexLock lock(&mu_);
      fetched_.push_back(model_.Find(sha256)->name);
      return take(std::span<const uint8_t>(model_.PartBytes(sha256)).subspan(offset));
    };
    loader_ = std::make_unique<Loader>(std::move(options), this);
  }

  void OnLoadProgress(PlanId, uint64_t, uint64_t) override {}
  void OnNextClosed(NextLinkId, const absl::Status&) override {}
  void OnLoadEnded(LoadOutcome outcome) override {
    MutexLock lock(&mu_);
    outcome_ = std::move(outcome);
  }

  // The head, behind layers [begin, 2).
  net::Assignment Assignment(uint32_t begin, bool embeds, uint64_t epoch = 1) const {
    net::Assignment assignment = model_.Assign(1, epoch);
    assignment.spec.layers = {begin, 2};
    assignment.spec.embeds = embeds;
    return assignment;
  }
  // The outcome is in outcome_.
  void Run(net::Assignment assignment, Epoch keep = Epoch()) {
    Drop();
    loader_->Load(std::move(assignment), keep);
    EXPECT_TRUE(testing::WaitFor([this] {
      MutexLock lock(&mu_);
      return outcome_.has_value();
    }));
  }
  absl::Status Status() {
    MutexLock lock(&mu_);
    return outcome_->status;
  }
  std::shared_ptr<LoadedStage> Loaded() {
    MutexLock lock(&mu_);
    return outcome_->loaded;
  }
  std::vector<std::string> Fetched() {
    MutexLock lock(&mu_);
    return std::exchange(fetched_, {});
  }
  // Returns the parts that were fetched for it.
  std::vector<std::string> Load(uint32_t begin, bool embeds) {
    Fetched();
    Run(Assignment(begin, embeds));
    EXPECT_TRUE(Status().ok()) << Status();
    return Fetched();
  }
  void Drop() {
    MutexLock lock(&mu_);
    outcome_.reset();
  }
  void EmptyCache() { std::filesystem::remove_all(state_.path() + "/weights"); }

  testing::TinyModel model_;
  testing::TempDir state_;
  Mutex mu_;
  std::optional<LoadOutcome> outcome_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> fetched_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<Loader> loader_;
};

using Names = std::vector<std::string>;

// The cache is emptied between the loads, so that whatever is looked at again is fetched again.
TEST_F(LoaderTest, LayersThatStayAreNotReadAgain) {
  EXPECT_EQ(Load(1, false), (Names{"layer.1", "norm", "output"}));
  Drop();
  EmptyCache();
  EXPECT_EQ(Load(0, true), (Names{"embed", "layer.0"})) << "layer 1 and the head stay";
  Drop();
  EmptyCache();
  EXPECT_EQ(Load(0, true), Names()) << "the same duty";
  Drop();
  EXPECT_EQ(Load(1, true), Names()) << "fewer layers, and the embedding goes on being read";
  Drop();
  EXPECT_EQ(Load(0, true), Names{"layer.0"}) << "what was dropped is gone";
}

TEST_F(LoaderTest, AFreedStageKeepsNothing) {
  Load(1, false);
  std::weak_ptr<LoadedStage> stage;
  {
    MutexLock lock(&mu_);
    stage = outcome_->loaded;
  }
  Drop();
  EmptyCache();
  loader_->Unload();
  ASSERT_TRUE(testing::WaitFor([&] { return stage.expired(); }));
  EXPECT_EQ(Load(1, false), (Names{"layer.1", "norm", "output"}));
}

net::Assignment Beside(net::Assignment assignment) {
  assignment.mode = net::AssignMode::kBeside;
  return assignment;
}

TEST_F(LoaderTest, AStageBesideAnotherReadsWhatIsNew) {
  Load(1, false);
  std::shared_ptr<LoadedStage> first = Loaded();
  EmptyCache();
  Fetched();
  Run(Beside(Assignment(0, true, 2)), Epoch(1));
  ASSERT_TRUE(Status().ok()) << Status();
  EXPECT_EQ(Fetched(), (Names{"embed", "layer.0"}));
  std::shared_ptr<LoadedStage> second = Loaded();
  // The earlier one goes alone.
  const std::weak_ptr<LoadedStage> gone = std::exchange(first, nullptr);
  Drop();
  loader_->Unload(Epoch(2));
  ASSERT_TRUE(testing::WaitFor([&] { return gone.expired(); }));
  Run(Assignment(0, true, 3));
  EXPECT_EQ(Loaded(), second);
}

TEST_F(LoaderTest, AStageOfTheSameDutyIsNotLoadedTwice) {
  Load(1, false);
  const std::shared_ptr<LoadedStage> first = Loaded();
  Run(Beside(Assignment(1, false, 2)), Epoch(1));
  EXPECT_EQ(Loaded(), first);
  // It is there for both epochs.
  loader_->Unload(Epoch(2));
  Run(Assignment(1, false, 3));
  EXPECT_EQ(Loaded(), first);
}

TEST_F(LoaderTest, WhatTwoStagesShareTakesMemoryOnce) {
  Load(1, false);
  const std::shared_ptr<LoadedStage> first = Loaded();
  Run(Beside(Assignment(0, true, 2)), Epoch(1));
  const uint64_t apart = first->stage->memory().total() + Loaded()->stage->memory().total();
  const uint64_t shared = first->stage->memory().weights;
  ASSERT_GT(shared, 0u);
  for (const uint64_t missing : {0, 1}) {
    Start(apart - shared - missing);
    Load(1, false);
    const std::shared_ptr<LoadedStage> serves = Loaded();
    Run(Beside(Assignment(0, true, 2)), Epoch(1));
    EXPECT_EQ(Status().ok(), missing == 0) << Status();
    if (missing == 0) continue;
    EXPECT_NE(Status().message().find("of the stage that serves"), absl::string_view::npos)
        << Status();
    // Instead of it there is room.
    loader_->Unload();
    Run(Assignment(0, true, 3));
    EXPECT_TRUE(Status().ok()) << Status();
  }
}

TEST_F(LoaderTest, WeightsAreFetchedBesideAStage) {
  Load(1, false);
  const std::shared_ptr<LoadedStage> first = Loaded();
  Fetched();
  net::Assignment fetch = Assignment(0, true, 2);
  fetch.mode = net::AssignMode::kFetch;
  Run(fetch, Epoch(1));
  ASSERT_TRUE(Status().ok()) << Status();
  EXPECT_EQ(Loaded(), nullptr);
  EXPECT_EQ(Fetched(), (Names{"embed", "layer.0"}));
  Run(Assignment(1, false, 3));
  EXPECT_EQ(Loaded(), first);
  EXPECT_EQ(Load(0, true), Names()) << "they are in the cache";
}

}  // namespace
}  // namespace lanyard::worker
