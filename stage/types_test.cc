#include "stage/types.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lanyard::stage {
namespace {

using ::testing::HasSubstr;

TEST(Numerics, NamesAndParses) {
  NumericsId id;
  EXPECT_EQ(id.ToString(), "n1-kv.f16-wire.f16");
  id.attention = AttentionForm::kFast;
  EXPECT_EQ(id.ToString(), "n1-kv.f16-wire.f16-attn.fast");
  EXPECT_NE(id, NumericsId());
  for (const AttentionForm form : {AttentionForm::kExact, AttentionForm::kFast}) {
    EXPECT_EQ(*ParseAttentionForm(AttentionFormName(form)), form);
  }
  for (const char* none : {"", "Fast", "fas", "exact "}) {
    const auto form = ParseAttentionForm(none);
    EXPECT_TRUE(absl::IsInvalidArgument(form.status()));
    EXPECT_THAT(std::string(form.status().message()), HasSubstr("exact, fast"));
  }
}

TEST(Numerics, TheRestFollowsTheWeights) {
  EXPECT_EQ(NumericsChoice().For(false).ToString(), "n1-kv.f16-wire.f16");
  EXPECT_EQ(NumericsChoice().For(true).ToString(), "n1-kv.f32-wire.f32");
  const NumericsChoice choice{KvType::kQ8, std::nullopt, AttentionForm::kFast};
  EXPECT_EQ(choice.For(false).ToString(), "n1-kv.q8-wire.f16-attn.fast");
  EXPECT_EQ(choice.For(true).ToString(), "n1-kv.q8-wire.f32-attn.fast");
}

TEST(Numerics, FastAttentionSaysWhatIsInItsWay) {
  for (const uint32_t head_dim : {64u, 128u, 256u}) {
    EXPECT_TRUE(CheckFastAttention({32, 8, head_dim}, KvType::kF16).ok());
    EXPECT_TRUE(CheckFastAttention({32, 1, head_dim}, KvType::kQ8).ok());
  }
  const auto said = [](const AttentionHeads& heads, KvType kv) {
    const absl::Status status = CheckFastAttention(heads, kv);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(said({32, 8, 128}, KvType::kF32), HasSubstr("use --kv f16"));
  EXPECT_THAT(said({32, 8, 96}, KvType::kF16), HasSubstr("this model's have 96"));
  EXPECT_THAT(said({33, 1, 64}, KvType::kF16), HasSubstr("33 over 1"));
  EXPECT_THAT(said({10, 4, 64}, KvType::kF16), HasSubstr("10 over 4"));
  EXPECT_THAT(said({10, 0, 64}, KvType::kF16), HasSubstr("10 over 0"));
}

}  // namespace
}  // namespace lanyard::stage
