#include "web/openai_request.h"

#include <gtest/gtest.h>

#include "web/errors.h"
#include "web/json_body.h"

namespace lanyard::web {
namespace {

using coordinator::ChatMessage;

std::string Chat(const std::string& extra) {
  return R"({"model":"m","messages":[{"role":"user","content":"hi"}])" +
         (extra.empty() ? "" : "," + extra) + "}";
}
std::string Text(const std::string& extra) {
  return R"({"prompt":"hi")" + (extra.empty() ? "" : "," + extra) + "}";
}

// The error's body, or "ok".
std::string ChatError(const std::string& extra) {
  const auto parsed = ParseChatRequest(Chat(extra));
  return parsed.ok() ? "ok" : ToErrorJson(parsed.status());
}

TEST(ChatRequest, Defaults) {
  const auto r = ParseChatRequest(Chat(""));
  ASSERT_TRUE(r.ok()) << r.status();
  EXPECT_TRUE(r->chat);
  EXPECT_FALSE(r->stream);
  EXPECT_EQ(r->generate.model, "m");
  EXPECT_EQ(r->generate.sample.temperature, 1);
  EXPECT_EQ(r->generate.sample.top_p, 1);
  EXPECT_EQ(r->generate.sample.top_k, 0u);
  EXPECT_FALSE(r->generate.max_tokens.has_value());
  // Without a seed two requests differ.
  EXPECT_NE(r->generate.sample.seed, ParseChatRequest(Chat(""))->generate.sample.seed);
}

TEST(ChatRequest, AllFields) {
  const auto r = ParseChatRequest(Chat(
      R"("temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.05,"seed":-1,"max_tokens":7,
         "stop":["a","b"],
         "stream":true,"stream_options":{"include_usage":true},"ignore_eos":true,"logprobs":true,
         "top_logprobs":3,"n":1,"user":"u","metadata":{"a":"b"},"store":false,"service_tier":"auto",
         "parallel_tool_calls":true,
         "tools":[],"tool_choice":"none","response_format":{"type":"text"},"logit_bias":{},
         "presence_penalty":0,"frequency_penalty":0.0,"modalities":["text"],
         "reasoning_effort":"low","never_heard_of":[1,2])"));
  ASSERT_TRUE(r.ok()) << r.status();
  EXPECT_FLOAT_EQ(r->generate.sample.temperature, 0.5f);
  EXPECT_FLOAT_EQ(r->generate.sample.min_p, 0.05f);
  EXPECT_EQ(r->generate.sample.top_k, 40u);
  EXPECT_EQ(r->generate.sample.seed, ~uint64_t{0});
  EXPECT_EQ(r->generate.max_tokens, 7u);
  EXPECT_EQ(r->generate.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(r->stream && r->include_usage && r->generate.ignore_eos && r->generate.logprobs);
  EXPECT_EQ(r->generate.top_logprobs, 3u);
}

TEST(ChatRequest, NewerTokenLimitWins) {
  EXPECT_EQ(
      ParseChatRequest(Chat(R"("max_tokens":7,"max_completion_tokens":9)"))->generate.max_tokens,
      9u);
  EXPECT_EQ(ParseChatRequest(Chat(R"("max_tokens":5.0)"))->generate.max_tokens, 5u);
}

TEST(ChatRequest, RolesAndContent) {
  const auto r = ParseChatRequest(
      R"({"messages":[{"role":"developer","content":"be brief"},{"role":"user","name":"x",
          "content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
         {"role":"assistant","content":null}]})");
  ASSERT_TRUE(r.ok()) << r.status();
  const auto& messages = std::get<std::vector<ChatMessage>>(r->generate.prompt);
  ASSERT_EQ(messages.size(), 3u);
  EXPECT_EQ(messages[0].role, "developer");  // the model's template decides (ChatTemplate)
  EXPECT_EQ(messages[1].content, "ab");
  EXPECT_EQ(messages[1].name, "x");
  EXPECT_EQ(messages[2].content, "");
}

TEST(ChatRequest, BadMessages) {
  const auto error = [](const std::string& messages) {
    const auto r = ParseChatRequest("{\"messages\":" + messages + "}");
    return r.ok() ? std::string("ok") : ToErrorJson(r.status());
  };
  EXPECT_NE(error("[]").find("at least 1 message"), std::string::npos);
  EXPECT_NE(error("null").find("Missing required parameter: 'messages'"), std::string::npos);
  EXPECT_NE(error("3").find("expected an array"), std::string::npos);
  EXPECT_NE(error("[3]").find("messages[0]"), std::string::npos);
  EXPECT_NE(error(R"([{"content":"x"}])").find("messages[0].role"), std::string::npos);
  EXPECT_NE(error(R"([{"role":"king","content":"x"}])").find("king"), std::string::npos);
  EXPECT_NE(error(R"([{"role":"tool","content":"x"}])").find("not supported yet"),
            std::string::npos);
  EXPECT_NE(error(R"([{"role":"user","content":null}])").find("messages[0].content"),
            std::string::npos);
  EXPECT_NE(error(R"([{"role":"user","content":[{"type":"image_url"}]}])").find("image_url"),
            std::string::npos);
  std::string many = "[";
  for (int i = 0; i < 10000; ++i)
    many += std::string(i ? "," : "") + R"({"role":"user","content":"x"})";
  EXPECT_NE(error(many + "]").find("at most 2048 messages, but got 10000"), std::string::npos);
}

struct BadCase {
  const char* extra;
  const char* param;
};

TEST(ChatRequest, BadValuesNameTheField) {
  for (const BadCase& c : {BadCase{R"("temperature":-0.1)", "temperature"},
                           {R"("temperature":2.1)", "temperature"},
                           {R"("temperature":"hot")", "temperature"},
                           {R"("temperature":true)", "temperature"},
                           {R"("top_p":0)", "top_p"},
                           {R"("top_p":1.5)", "top_p"},
                           {R"("min_p":-1)", "min_p"},
                           {R"("max_tokens":0)", "max_tokens"},
                           {R"("max_tokens":-5)", "max_tokens"},
                           {R"("max_tokens":1.5)", "max_tokens"},
                           {R"("max_tokens":1e300)", "max_tokens"},
                           {R"("max_completion_tokens":-1)", "max_completion_tokens"},
                           {R"("seed":1.5)", "seed"},
                           {R"("stop":3)", "stop"},
                           {R"("stop":[1])", "stop"},
                           {R"("stop":[""])", "stop"},
                           {R"("stream":"yes")", "stream"},
                           {R"("stream_options":{"include_usage":true})", "stream_options"},
                           {R"("top_logprobs":2)", "top_logprobs"},
                           {R"("logprobs":true,"top_logprobs":21)", "top_logprobs"},
                           {R"("model":3)", "model"},
                           {R"("ignore_eos":1)", "ignore_eos"},
                           {R"("top_k":-2)", "top_k"}}) {
    const std::string error = ChatError(c.extra);
    EXPECT_NE(error.find(std::string("\"param\":\"") + c.param + "\""), std::string::npos)
        << c.extra << " -> " << error;
    EXPECT_NE(error.find("\"type\":\"invalid_request_error\""), std::string::npos) << error;
  }
}

TEST(ChatRequest, WhatWouldChangeTheAnswerIsRefused) {
  for (const char* extra :
       {R"("tools":[{"type":"function"}])", R"("functions":[{}])", R"("tool_choice":"required")",
        R"("tool_choice":{"type":"function"})", R"("response_format":{"type":"json_object"})",
        R"("response_format":{"type":"json_schema","json_schema":{}})", R"("logit_bias":{"5":1})",
        R"("presence_penalty":0.5)", R"("frequency_penalty":-1)", R"("n":2)", R"("best_of":3)",
        R"("suffix":"x")", R"("echo":true)", R"("audio":{"voice":"x"})",
        R"("modalities":["text","audio"])", R"("repeat_penalty":1.1)"}) {
    const std::string error = ChatError(extra);
    EXPECT_NE(error.find("not supported yet"), std::string::npos) << extra << " -> " << error;
    EXPECT_NE(error.find("unsupported_parameter"), std::string::npos) << error;
  }
}

TEST(TextRequest, Prompts) {
  EXPECT_EQ(std::get<std::string>(ParseTextRequest(Text(""))->generate.prompt), "hi");
  EXPECT_EQ(ParseTextRequest(Text(""))->generate.max_tokens, kDefaultCompletionTokens);
  EXPECT_EQ(std::get<std::string>(ParseTextRequest(R"({"prompt":["one"]})")->generate.prompt),
            "one");
  const std::vector<int32_t> ids = {1, 2, 3};
  EXPECT_EQ(
      std::get<std::vector<int32_t>>(ParseTextRequest(R"({"prompt":[1,2,3]})")->generate.prompt),
      ids);
  EXPECT_EQ(
      std::get<std::vector<int32_t>>(ParseTextRequest(R"({"prompt":[[1,2,3]]})")->generate.prompt),
      ids);
  for (const char* bad : {R"({})", R"({"prompt":[]})", R"({"prompt":["a","b"]})",
                          R"({"prompt":[1,-2]})", R"({"prompt":{}})", R"({"prompt":[1,"a"]})",
                          R"({"prompt":[99999999999]})", R"({"prompt":[18446744073709551615]})"}) {
    EXPECT_FALSE(ParseTextRequest(bad).ok()) << bad;
  }
  const auto lp = ParseTextRequest(Text("\"logprobs\":0"));
  EXPECT_TRUE(lp->generate.logprobs);
  EXPECT_EQ(lp->generate.top_logprobs, 0u);
}

TEST(JsonBody, Malformed) {
  for (const char* bad : {"", "{", "[]", "3", "null", R"({"a":NaN})", R"({"a":1e999})",
                          "{\"a\":\"\xff\"}", "{} x", R"({"a":"\ud800"})"}) {
    const auto r = ParseJsonObject(bad);
    ASSERT_FALSE(r.ok()) << bad;
    EXPECT_EQ(r.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(ToErrorJson(r.status()).find("invalid_json"), std::string::npos);
  }
}

TEST(JsonBody, DepthAndSize) {
  const auto nested = [](int depth) {
    return "{\"a\":" + std::string(depth, '[') + std::string(depth, ']') + "}";
  };
  EXPECT_TRUE(ParseJsonObject(nested(kMaxJsonDepth - 1)).ok());
  EXPECT_FALSE(ParseJsonObject(nested(kMaxJsonDepth)).ok());
  EXPECT_FALSE(ParseJsonObject(nested(1'000'000)).ok());
  EXPECT_TRUE(ParseJsonObject("{\"a\":\"" + std::string(1000, '[') + "\\\"[\"}").ok());
  std::string wide = "{\"a\":[0";
  for (size_t i = 0; i < kMaxJsonValues; ++i) wide += ",0";
  EXPECT_FALSE(ParseJsonObject(wide + "]}").ok());
}

}  // namespace
}  // namespace lanyard::web
