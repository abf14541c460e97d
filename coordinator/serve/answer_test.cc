#include "coordinator/serve/answer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>

namespace lanyard::coordinator {
namespace {

constexpr int32_t kEos = 2;
constexpr int32_t kByte0 = 3;  // <0x00>
constexpr int32_t kWorld = 259, kEn = 260, kD = 261, kBang = 262;

struct HeardTokens : TokenSink {
  std::string text;
  std::vector<TokenLogprob> logprobs;
  std::optional<FinishReason> done;
  absl::Status error;
  Usage usage;
  void OnText(std::string piece, std::vector<TokenLogprob> more) override {
    EXPECT_FALSE(done);
    text += piece;
    logprobs.insert(logprobs.end(), more.begin(), more.end());
  }
  void OnDone(FinishReason reason, Usage u) override {
    EXPECT_FALSE(done);
    done = reason;
    usage = u;
  }
  void OnError(const absl::Status& status, Usage u) override {
    error = status;
    usage = u;
  }
};

class AnswerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::deque<std::string> texts = {"<unk>", "<s>", "</s>"};
    model::VocabData data;
    data.types = {2, 3, 3};
    for (int i = 0; i < 256; ++i) {
      texts.push_back(absl::StrFormat("<0x%02X>", i));
      data.types.push_back(6);
    }
    for (const char* text : {"\xE2\x96\x81world", "EN", "D", "!"}) {
      texts.push_back(text);
      data.types.push_back(1);
    }
    data.model = "llama";
    data.tokens.assign(texts.begin(), texts.end());
    data.scores.assign(texts.size(), -1.F);
    data.bos = 1;
    data.eos = 2;
    data.unk = 0;
    auto tokenizer = model::Tokenizer::Make(data);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
    sink_ = std::make_shared<HeardTokens>();
  }

  void Start(GenerateRequest request = {}) {
    answer_ = std::make_unique<Answer>(tokenizer_.get(), request, 5, sink_);
    n_ = 0;
  }
  Answer::Next Token(int32_t id, std::optional<SequenceEnd> end = std::nullopt) {
    SequenceUpdate update;
    update.out.token = id;
    update.out.logprob = -0.5F;
    update.out.lse = 10;
    update.out.top = {{id, 9.5F}, {kD, 8}};
    update.completion_tokens = ++n_;
    update.end = end;
    const Answer::Next next = answer_->OnToken(update);
    if (next != Answer::Next::kGoOn) answer_->Finish();
    return next;
  }

  std::unique_ptr<const model::Tokenizer> tokenizer_;
  std::shared_ptr<HeardTokens> sink_;
  std::unique_ptr<Answer> answer_;
  uint32_t n_ = 0;
};

TEST_F(AnswerTest, TextUsageAndEos) {
  Start();
  EXPECT_EQ(Token(kWorld), Answer::Next::kGoOn);
  EXPECT_EQ(Token(kBang), Answer::Next::kGoOn);
  EXPECT_EQ(Token(kEos, SequenceEnd::kEos), Answer::Next::kEnded);
  EXPECT_EQ(sink_->text, " world!");
  EXPECT_EQ(sink_->done, FinishReason::kStop);
  EXPECT_EQ(sink_->usage.prompt_tokens, 5u);
  EXPECT_EQ(sink_->usage.completion_tokens, 3u);
  EXPECT_TRUE(sink_->logprobs.empty());
}

TEST_F(AnswerTest, CharactersAreNeverSplit) {
  Start();
  Token(kByte0 + 0xC3);
  EXPECT_EQ(sink_->text, "");
  Token(kByte0 + 0xA9);
  EXPECT_EQ(sink_->text, "\xC3\xA9");
  Token(kByte0 + 0xC3, SequenceEnd::kLength);
  EXPECT_EQ(sink_->text, "\xC3\xA9\xEF\xBF\xBD");  // cut off by the length: U+FFFD
  EXPECT_EQ(sink_->done, FinishReason::kLength);
}

TEST_F(AnswerTest, StopStringsAcrossTokensAreNeverSent) {
  GenerateRequest request;
  request.stop = {"END"};
  Start(request);
  EXPECT_EQ(Token(kWorld), Answer::Next::kGoOn);
  EXPECT_EQ(Token(kEn), Answer::Next::kGoOn);
  EXPECT_EQ(sink_->text, " world");
  EXPECT_EQ(Token(kD), Answer::Next::kStopped);
  EXPECT_EQ(sink_->text, " world");
  EXPECT_EQ(sink_->done, FinishReason::kStop);

  sink_ = std::make_shared<HeardTokens>();
  Start(request);
  Token(kEn);
  Token(kBang, SequenceEnd::kLength);
  EXPECT_EQ(sink_->text, "EN!");  // no stop string after all

  sink_ = std::make_shared<HeardTokens>();
  Start(request);
  Token(kEn, SequenceEnd::kLength);
  EXPECT_EQ(sink_->text, "EN");  // what was held back comes at the end
}

TEST_F(AnswerTest, LogprobsFollowTheirText) {
  GenerateRequest request;
  request.logprobs = true;
  request.top_logprobs = 2;
  Start(request);
  Token(kByte0 + 0xC3);
  EXPECT_TRUE(sink_->logprobs.empty());
  Token(kByte0 + 0xA9);
  ASSERT_EQ(sink_->logprobs.size(), 2u);
  EXPECT_EQ(sink_->logprobs[0].bytes, "\xC3");
  EXPECT_FLOAT_EQ(sink_->logprobs[0].logprob, -0.5F);
  ASSERT_EQ(sink_->logprobs[0].top.size(), 2u);
  EXPECT_FLOAT_EQ(sink_->logprobs[0].top[0].second, -0.5F);
  EXPECT_EQ(sink_->logprobs[0].top[1].first, "D");
  Token(kBang, SequenceEnd::kLength);
  EXPECT_EQ(sink_->logprobs.size(), 3u);
}

TEST_F(AnswerTest, ErrorsCarryTheUsage) {
  Start();
  Token(kWorld);
  answer_->OnError(Unavailable("worker 'w2' was lost"));
  EXPECT_TRUE(absl::IsUnavailable(sink_->error));
  EXPECT_EQ(sink_->usage.completion_tokens, 1u);
  EXPECT_FALSE(sink_->done);
}

}  // namespace
}  // namespace lanyard::coordinator
