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
  void SetUp() override {
    LoaderOptions options;
    options.worker = "w";
    options.memory_bytes = uint64_t{8} << 30;
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

  // The head, behind layers [begin, 2). Returns the parts that were fetched for it.
  std::vector<std::string> Load(uint32_t begin, bool embeds) {
    {
      MutexLock lock(&mu_);
      outcome_.reset();
      fetched_.clear();
    }
    net::Assignment assignment = model_.Assign(1, 1);
    assignment.spec.layers = {begin, 2};
    assignment.spec.embeds = embeds;
    loader_->Load(std::move(assignment));
    EXPECT_TRUE(testing::WaitFor([this] {
      MutexLock lock(&mu_);
      return outcome_.has_value();
    }));
    MutexLock lock(&mu_);
    EXPECT_TRUE(outcome_->status.ok()) << outcome_->status;
    return std::exchange(fetched_, {});
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

}  // namespace
}  // namespace lanyard::worker
