#include "coordinator/serve/request_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/field_error.h"
#include "stage/validate.h"

namespace lanyard::coordinator {
namespace {

using ::testing::HasSubstr;

template <typename F>
std::string Refused(F change) {
  GenerateRequest request;
  request.prompt = std::string("Hi");
  change(request);
  const absl::Status status = CheckRequest(request);
  EXPECT_TRUE(status.ok() || absl::IsInvalidArgument(status));
  return std::string(status.message());
}

TEST(RequestCheck, NamesTheFieldAndTheLimit) {
  EXPECT_EQ(Refused([](auto&) {}), "");
  EXPECT_THAT(Refused([](auto& r) { r.sample.temperature = std::nanf(""); }),
              HasSubstr("temperature is nan"));
  EXPECT_THAT(Refused([](auto& r) { r.sample.temperature = -0.1F; }), HasSubstr("temperature"));
  EXPECT_THAT(Refused([](auto& r) { r.sample.temperature = INFINITY; }), HasSubstr("temperature"));
  EXPECT_THAT(Refused([](auto& r) { r.sample.temperature = 2.1F; }), HasSubstr("2.1"));
  EXPECT_EQ(Refused([](auto& r) { r.sample.temperature = stage::kMaxTemperature; }), "");
  EXPECT_THAT(Refused([](auto& r) { r.sample.top_p = 0; }), HasSubstr("top_p is 0"));
  EXPECT_THAT(Refused([](auto& r) { r.sample.top_p = 1.5; }), HasSubstr("top_p"));
  EXPECT_THAT(Refused([](auto& r) { r.sample.min_p = -1; }), HasSubstr("min_p"));
  EXPECT_THAT(Refused([](auto& r) { r.max_tokens = 0; }), HasSubstr("max_tokens is 0"));
  EXPECT_THAT(Refused([](auto& r) { r.stop.assign(kMaxStops + 1, "x"); }),
              HasSubstr(absl::StrCat(kMaxStops + 1)));
  EXPECT_EQ(Refused([](auto& r) { r.stop.assign(kMaxStops, "x"); }), "");
  EXPECT_THAT(Refused([](auto& r) { r.stop = {""}; }), HasSubstr("empty"));
  EXPECT_THAT(Refused([](auto& r) { r.stop = {std::string(5000, 'x')}; }), HasSubstr("5000"));
  EXPECT_THAT(Refused([](auto& r) { r.top_logprobs = kMaxTopLogprobs + 1; }),
              HasSubstr("top_logprobs"));
  EXPECT_THAT(Refused([](auto& r) { r.prompt = std::vector<ChatMessage>(); }),
              HasSubstr("messages"));
}

// Each number in the sentence is true of the numbers given: prompt + 1 - context is what is over.
TEST(RequestCheck, APromptLeavesRoomForOneToken) {
  for (const uint32_t context : {1U, 2U, 512U, 4096U}) {
    EXPECT_TRUE(CheckPromptFits(context - 1, context).ok());
    for (const uint64_t over : {1ULL, 2ULL, 1000ULL}) {
      const uint64_t prompt = context - 1 + over;
      const absl::Status status = CheckPromptFits(prompt, context);
      ASSERT_TRUE(absl::IsOutOfRange(status));
      const std::string text(status.message());
      EXPECT_THAT(text, HasSubstr(absl::StrCat("context length is ", context, " tokens")));
      EXPECT_THAT(text, HasSubstr(absl::StrCat("prompt has ", prompt, " tokens")));
      EXPECT_THAT(text, HasSubstr(absl::StrCat(over, over == 1 ? " token too" : " tokens too")));
    }
  }
  EXPECT_TRUE(absl::IsOutOfRange(CheckPromptFits(UINT32_MAX, UINT32_MAX)));
  EXPECT_TRUE(CheckPromptMayFit(511, 512).ok());
  EXPECT_THAT(std::string(CheckPromptMayFit(600, 512).message()),
              HasSubstr("has at least 600 tokens, which is at least 89 tokens too many"));
}

TEST(RequestCheck, AQueueOfItsFullLengthTakesNoMore) {
  EXPECT_TRUE(CheckQueueHasRoom(2, 3, kSecond).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(CheckQueueHasRoom(3, 3, kSecond)));
  EXPECT_TRUE(absl::IsResourceExhausted(CheckQueueHasRoom(0, 0, kSecond)));
  EXPECT_EQ(FieldPayload(CheckQueueHasRoom(3, 3, 2 * kSecond + 1), kRetryAfterKey), "3");
}

}  // namespace
}  // namespace lanyard::coordinator
