#include "worker/frame_gate.h"

#include <gtest/gtest.h>

#include <vector>

namespace lanyard::worker {
namespace {

class Host final : public FrameTarget {
 public:
  absl::Status Send(stage::StepFrame frame) override {
    frames.push_back(frame.epoch);
    return absl::OkStatus();
  }
  void FrameWasBad(StepId /*step*/) override {}
  void Abandon() override { abandoned = true; }

  std::vector<Epoch> frames;
  bool abandoned = false;
};

class Results final : public stage::ResultSink {
 public:
  void OnResult(stage::StepResult result) override { all.push_back(std::move(result)); }
  std::vector<stage::StepResult> all;
};

stage::StepFrame FrameOf(uint64_t epoch) {
  stage::StepFrame frame;
  frame.epoch = Epoch(epoch);
  return frame;
}

// The two may be one stage in memory, with one KV.
TEST(FrameGate, TheFirstFrameOfALaterEpochEndsTheEarlierOne) {
  Results results;
  Host serves, beside;
  FrameGate gate("w1", &results);
  gate.Expect(PlanId(1), Epoch(1), 0, "");
  gate.SetHost(Epoch(1), &serves);
  gate.Expect(PlanId(2), Epoch(2), 0, "");
  gate.SetHost(Epoch(2), &beside);
  gate.OnFrame(FrameOf(1));
  EXPECT_FALSE(serves.abandoned) << "it serves until then";
  gate.OnFrame(FrameOf(2));
  EXPECT_TRUE(serves.abandoned);
  EXPECT_FALSE(beside.abandoned);
  EXPECT_TRUE(results.all.empty());
  gate.OnFrame(FrameOf(1));
  ASSERT_EQ(results.all.size(), 1u);
  EXPECT_FALSE(results.all[0].status.ok());
  EXPECT_EQ(serves.frames, std::vector<Epoch>{Epoch(1)});
  EXPECT_EQ(beside.frames, std::vector<Epoch>{Epoch(2)});
}

}  // namespace
}  // namespace lanyard::worker
