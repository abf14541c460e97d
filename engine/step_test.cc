#include "engine/step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/testing/random_model.h"

namespace lanyard::engine {
namespace {

stage::StageSpec AllLayers(const model::ModelShape& shape) {
  stage::StageSpec spec;
  spec.layers = {0, shape.n_layers};
  spec.max_rows = 5;
  spec.max_context = 64;
  spec.group_blocks.assign(shape.groups.size(), 2);
  return spec;
}

std::vector<RopeKind> Ropes(const model::ModelShape& shape, int n) {
  std::vector<RopeKind> out;
  for (int i = 0; i < n; ++i) {
    out.push_back({ops::RopeFrequencies(1000.0f * (i + 1), 1.0, static_cast<int>(shape.n_rot), {}),
                   ops::RopePairs::kHalves});
  }
  return out;
}

// The next family has two rotations, or three: its buffers are for as many, or there is no step.
TEST(Step, HoldsAsManyRotationsAsTheFamilyHas) {
  ops::ThreadPool pool(2);
  for (const model::ModelShape& shape : {testing::SmallLlama(), testing::SmallGemma3()}) {
    StepSizes sizes = Step::SizesOf(shape, AllLayers(shape));
    EXPECT_EQ(sizes.n_rope_kinds, model::RopeKinds(shape));
    for (int n = 1; n <= 3; ++n) {
      const absl::Status status = Step::Make(sizes, Ropes(shape, n), &pool).status();
      if (n == sizes.n_rope_kinds) {
        EXPECT_TRUE(status.ok()) << status;
      } else {
        EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
        EXPECT_THAT(Str(status.message()), ::testing::HasSubstr(absl::StrCat(n, " rotations")));
      }
    }
    sizes.n_rope_kinds = 3;
    const std::vector<RopeKind> ropes = Ropes(shape, 3);
    auto step = Step::Make(sizes, ropes, &pool);
    ASSERT_TRUE(step.ok()) << step.status();
    stage::StepFrame frame;
    stage::SeqRun run;
    run.pos = 7;
    run.n_rows = 5;  // every row that there is room for
    run.tables.assign(shape.groups.size(), {0, {1}});
    frame.batch.runs = {run};
    step->Begin(frame);
    const auto n_rot = static_cast<size_t>(shape.n_rot);
    std::vector<float> c(n_rot), s(n_rot);
    for (int kind = 0; kind < 3; ++kind) {
      for (uint32_t row = 0; row < run.n_rows; ++row) {
        ropes[kind].frequencies.Row(run.pos + row, ropes[kind].pairs, c.data(), s.data());
        EXPECT_EQ(
            std::vector<float>(step->cos(kind) + row * n_rot, step->cos(kind) + (row + 1) * n_rot),
            c);
        EXPECT_EQ(
            std::vector<float>(step->sin(kind) + row * n_rot, step->sin(kind) + (row + 1) * n_rot),
            s);
      }
    }
  }
}

}  // namespace
}  // namespace lanyard::engine
