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
  EXPECT_EQ(r->generate.timeout, 0);
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
         "reasoning_effort":"low","timeout":2.5,"never_heard_of":[1,2])"));
  ASSERT_TRUE(r.ok()) << r.status();
  EXPECT_EQ(r->generate.timeout, 2500 * kMillisecond);
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
  EXPECT_EQ(messages[1].content, "a\nb");
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
  for (const BadCase& c :
       {BadCase{R"("temperature":-0.1)", "temperature"},
        {R"("temperature":2.1)", "temperature"},
        {R"("temperature":"hot")", "temperature"},
        {R"("temperature":true)", "temperature"},
        {R"("top_p":1.5)", "top_p"},
        {R"("min_p":-1)", "min_p"},
        {R"("max_tokens":0)", "max_tokens"},
        {R"("max_tokens":-5)", "max_tokens"},
        {R"("max_tokens":1.5)", "max_tokens"},
        {R"("max_tokens":1e300)", "max_tokens"},
        {R"("max_completion_tokens":-2)", "max_completion_tokens"},
        {R"("n_predict":0)", "n_predict"},
        {R"("max_tokens":5,"n_predict":"x")", "n_predict"},
        {R"("seed":1.5)", "seed"},
        {R"("stop":3)", "stop"},
        {R"("stop":[1])", "stop"},
        {R"("stop":["",1])", "stop"},
        {R"("stop":{})", "stop"},
        {R"("stream":"yes")", "stream"},
        {R"("stream_options":[])", "stream_options"},
        {R"("stream_options":{"include_usage":1})", "stream_options.include_usage"},
        {R"("stream_options":{"continuous_usage_stats":1})",
         "stream_options.continuous_usage_stats"},
        {R"("reasoning_effort":"very")", "reasoning_effort"},
        {R"("reasoning":"high")", "reasoning"},
        {R"("reasoning":{"effort":1})", "reasoning.effort"},
        {R"("reasoning":{"effort":"very"})", "reasoning.effort"},
        {R"("top_logprobs":2)", "top_logprobs"},
        {R"("logprobs":true,"top_logprobs":21)", "top_logprobs"},
        {R"("model":3)", "model"},
        {R"("ignore_eos":1)", "ignore_eos"},
        {R"("timeout":-1)", "timeout"},
        {R"("timeout":1e9)", "timeout"},
        {R"("timeout":"2s")", "timeout"},
        {R"("top_k":-2)", "top_k"}}) {
    const std::string error = ChatError(c.extra);
    EXPECT_NE(error.find(std::string("\"param\":\"") + c.param + "\""), std::string::npos)
        << c.extra << " -> " << error;
    EXPECT_NE(error.find("\"type\":\"invalid_request_error\""), std::string::npos) << error;
  }
}

// What each known field may be without changing anything, and what it may not.
struct KnownCase {
  const char* field;
  std::vector<const char*> neutral;
  std::vector<const char*> refused;
  std::vector<const char*> wrong_type;
};

const KnownCase kKnownCases[] = {
    {"tools", {"[]"}, {R"([{"type":"function"}])"}, {"\"\"", "{}"}},
    {"functions", {"[]"}, {"[{}]"}, {"{}"}},
    {"tool_choice", {R"("none")", R"("auto")"}, {R"("required")", R"({"type":"function"})"}, {"1"}},
    {"function_call", {R"("none")"}, {R"({"name":"f"})"}, {"[]"}},
    {"response_format",
     {R"({"type":"text"})", "{}"},
     {R"({"type":"json_object"})", R"({"type":"json_schema","json_schema":{}})"},
     {R"("text")", "[]"}},
    {"modalities", {R"(["text"])", "[]"}, {R"(["text","audio"])"}, {R"("text")"}},
    {"audio", {"{}"}, {R"({"voice":"x"})"}, {"[]"}},
    {"web_search_options", {}, {"{}"}, {"true"}},
    {"prediction", {"{}"}, {R"({"type":"content","content":"x"})"}, {"\"\""}},
    {"suffix", {R"("")"}, {R"("x")"}, {"[]", "0"}},
    {"grammar", {R"("")"}, {R"("root ::= x")"}, {"{}"}},
    {"json_schema", {R"("")"}, {"{}", R"({"type":"object"})"}, {"[]"}},
    {"guided_json", {R"("")"}, {"{}"}, {"[]"}},
    {"guided_regex", {R"("")"}, {R"("a+")"}, {"{}"}},
    {"guided_choice", {"[]"}, {R"(["a"])"}, {R"("")"}},
    {"guided_grammar", {R"("")"}, {R"("x")"}, {"[]"}},
    {"structured_outputs", {"{}"}, {R"({"regex":"a"})"}, {"[]"}},
    {"format", {R"("")"}, {R"("json")", "{}"}, {"[]"}},
    {"chat_template", {R"("")"}, {R"("{{ x }}")"}, {"{}"}},
    {"chat_template_kwargs",
     {"{}", R"({"enable_thinking":false})", R"({"thinking":false,"x":null})"},
     {R"({"enable_thinking":true})", R"({"enable_thinking":false,"x":1})", R"({"x":false})"},
     {"[]", R"("")"}},
    {"template_vars", {"{}", R"({"thinking":false})"}, {R"({"x":1})"}, {"[]"}},
    {"regex", {R"("")"}, {R"("a+")"}, {"[]"}},
    {"ebnf", {R"("")"}, {R"("root ::= x")"}, {"[]"}},
    {"structural_tag", {R"("")"}, {"{}"}, {"[]"}},
    {"bad_words_ids", {"[]"}, {"[[5]]"}, {R"("")"}},
    {"negative_prompt", {R"("")"}, {R"("x")"}, {"[]"}},
    {"cfg_scale", {"1", "1.0"}, {"1.5"}, {R"("")"}},
    {"sampler_order", {"[]", "[6,0,1,3,4,2,5]"}, {"[5,0,1,2,3,4,6]"}, {R"("")"}},
    {"sampler_priority",
     {R"("")", R"(["top_k","top_p","min_p","temperature","mirostat"])"},
     {R"(["temperature","top_k","top_p","min_p"])", R"("temperature")"},
     {"1"}},
    {"lora_path", {R"("")", "[]"}, {R"("x")", R"(["x"])"}, {"{}"}},
    {"stop_sequence", {"[]", R"("")"}, {R"(["x"])", R"("x")"}, {"1"}},
    {"stop_strings", {"[]", R"("")"}, {R"("x")"}, {"{}"}},
    {"stopping_strings", {"[]"}, {R"(["x"])"}, {"{}"}},
    {"custom_stopping_strings", {R"("")"}, {R"(["x"])"}, {"{}"}},
    {"max_length", {}, {"5"}, {R"("5")"}},
    {"sampler_seed", {"-1"}, {"5"}, {R"("5")"}},
    {"min_new_tokens", {"0"}, {"1"}, {"[]"}},
    {"top_n_tokens", {"0"}, {"5"}, {"[]"}},
    {"extra_body", {"{}"}, {R"({"top_k":1})"}, {"[]"}},
    {"generation_config", {"{}", R"("")"}, {R"({"top_k":1})"}, {"[]"}},
    {"documents", {"[]"}, {R"([{"title":"a"}])"}, {"{}"}},
    {"logit_bias", {"{}", "[]"}, {R"({"5":1})", "[[5,1]]"}, {R"("")"}},
    {"n", {"1", "1.0"}, {"2", "0"}, {"true"}},
    {"best_of", {"1"}, {"3"}, {R"("1")"}},
    {"presence_penalty", {"0", "0.0"}, {"0.5"}, {"false"}},
    {"frequency_penalty", {"0"}, {"-1"}, {R"("0")"}},
    {"repeat_penalty", {"1", "1.0"}, {"1.1", "0"}, {"[]"}},
    {"repetition_penalty", {"1"}, {"1.1"}, {"true"}},
    {"typical_p", {"1"}, {"0.9"}, {R"("")"}},
    {"tfs_z", {"1"}, {"0.9"}, {R"("")"}},
    {"mirostat", {"0"}, {"2"}, {"false"}},
    {"xtc_probability", {"0"}, {"0.1"}, {"[]"}},
    {"dry_multiplier", {"0"}, {"0.8"}, {"[]"}},
    {"dynatemp_range", {"0"}, {"0.5"}, {"[]"}},
    {"top_n_sigma", {"-1", "0"}, {"1"}, {"[]"}},
    {"samplers",
     {"[]", R"(["dry","top_k","typ_p","top_p","min_p","xtc","temperature"])",
      R"(["top_k","top_p","min_p","temperature"])"},
     {R"(["temperature","top_k","top_p","min_p"])", R"(["top_k"])", R"(["top_k",1])", R"("kp")"},
     {"{}"}},
    {"min_tokens", {"0"}, {"4"}, {"[]"}},
    {"stop_token_ids", {"[]"}, {"[1]"}, {"1"}},
    {"stop_sequences", {"[]"}, {R"(["x"])"}, {R"("x")"}},
    {"include_stop_str_in_output", {"false"}, {"true"}, {"0"}},
    {"allowed_token_ids", {"[]"}, {"[1]"}, {"{}"}},
    {"bad_words", {"[]"}, {R"(["x"])"}, {R"("")"}},
    {"skip_special_tokens", {"true"}, {"false"}, {"1"}},
    {"spaces_between_special_tokens", {"true"}, {"false"}, {"1"}},
    {"truncate_prompt_tokens", {}, {"5", "-1"}, {R"("")"}},
    {"logits_processors", {"[]"}, {R"(["x"])"}, {"{}"}},
    {"add_generation_prompt", {"true"}, {"false"}, {"1"}},
    {"continue_final_message", {"false"}, {"true"}, {"0"}},
    {"echo", {"false"}, {"true"}, {R"("")"}},
    {"use_beam_search", {"false"}, {"true"}, {"0"}},
    {"think", {"false", R"("")"}, {"true", R"("high")"}, {"1"}},
    {"enable_thinking", {"false"}, {"true"}, {"1"}},
    {"thinking", {R"({"type":"disabled"})", "{}"}, {R"({"type":"enabled"})"}, {"true"}},
    {"options", {"{}"}, {R"({"num_ctx":1})"}, {"[]"}},
    {"system", {R"("")"}, {R"("be brief")"}, {"{}"}},
    {"verbosity", {R"("medium")"}, {R"("low")"}, {"1"}},
    {"n_probs", {"0"}, {"3"}, {"[]"}},
    {"priority", {"0"}, {"1"}, {R"("high")"}},
    {"lora", {"[]"}, {"[{}]"}, {"{}"}},
};

TEST(KnownFields, ANeutralValueIsAbsentOthersAreRefusedByName) {
  for (const KnownCase& c : kKnownCases) {
    const auto error = [&](const std::string& value) {
      return ChatError("\"" + std::string(c.field) + "\":" + value);
    };
    const std::string param = "\"param\":\"" + std::string(c.field) + "\"";
    EXPECT_EQ(error("null"), "ok") << c.field;
    for (const char* value : c.neutral) EXPECT_EQ(error(value), "ok") << c.field << " " << value;
    for (const char* value : c.refused) {
      const std::string got = error(value);
      EXPECT_NE(got.find(param + ",\"code\":\"unsupported_parameter\""), std::string::npos)
          << c.field << " " << value << " -> " << got;
    }
    for (const char* value : c.wrong_type) {
      const std::string got = error(value);
      EXPECT_NE(got.find(param + ",\"code\":\"invalid_type\""), std::string::npos)
          << c.field << " " << value << " -> " << got;
    }
    // Text completions know them too.
    const auto text = ParseTextRequest(
        Text("\"" + std::string(c.field) +
             "\":" + (c.refused.empty() ? std::string("null") : std::string(c.refused[0]))));
    EXPECT_EQ(text.ok(), c.refused.empty()) << c.field;
  }
}

// Some clients send one thing under every name that some server has for it.
TEST(KnownFields, AnotherNameForWhatIsSaidAlreadyChangesNothing) {
  for (const char* same :
       {R"("stop":["a","b"],"stopping_strings":["b","a"],"stop_sequence":"a")",
        R"("stop":"a","custom_stopping_strings":["a"],"stop_sequences":["a"])",
        R"("max_tokens":5,"max_length":5,"max_output_tokens":5.0)", R"("seed":7,"sampler_seed":7)"})
    EXPECT_EQ(ChatError(same), "ok") << same;
  for (const BadCase& c :
       {BadCase{R"("stop":["a"],"stopping_strings":["a","b"])", "stopping_strings"},
        {R"("stop":["a"],"stop_sequence":"b")", "stop_sequence"},
        {R"("max_tokens":5,"max_length":6)", "max_length"},
        {R"("seed":7,"random_seed":8)", "random_seed"}}) {
    const std::string error = ChatError(c.extra);
    EXPECT_NE(error.find(std::string("\"param\":\"") + c.param + "\",\"code\":\"unsupported"),
              std::string::npos)
        << error;
  }
}

// The error of a chat with this message in second place, or "ok".
std::string MessageError(const std::string& message) {
  const auto parsed = ParseChatRequest(R"({"messages":[{"role":"user","content":"hi"},)" + message +
                                       R"(,{"role":"user","content":"go on"}]})");
  return parsed.ok() ? "ok" : ToErrorJson(parsed.status());
}

TEST(KnownFields, OfAMessageToo) {
  for (const KnownCase& c :
       {KnownCase{"function_call", {"{}", R"("")"}, {R"({"name":"f","arguments":"{}"})"}, {"[]"}},
        {"tool_calls", {"[]"}, {R"([{"id":"x"}])"}, {"{}"}},
        {"audio", {"{}"}, {R"({"id":"x"})"}, {"[]"}},
        {"images", {"[]"}, {R"(["aGk="])"}, {"{}"}},
        {"attachments", {"[]"}, {R"([{"file_id":"x"}])"}, {R"("")"}},
        {"prefix", {"false"}, {"true"}, {"0"}},
        {"annotations", {"[]", R"([{"type":"url_citation"}])"}, {}, {}},
        {"never_heard_of", {"1"}, {}, {}}}) {
    for (const char* content : {R"("x")", "null"}) {
      const auto error = [&](const std::string& value) {
        return MessageError(absl::StrCat(R"({"role":"assistant","content":)", content, ",\"",
                                         c.field, "\":", value, "}"));
      };
      const std::string param = absl::StrCat("\"param\":\"messages[1].", c.field, "\",\"code\":");
      EXPECT_EQ(error("null"), "ok") << c.field;
      for (const char* value : c.neutral) EXPECT_EQ(error(value), "ok") << c.field << value;
      for (const char* value : c.refused)
        EXPECT_NE(error(value).find(param + "\"unsupported_parameter\""), std::string::npos)
            << error(value);
      for (const char* value : c.wrong_type)
        EXPECT_NE(error(value).find(param + "\"invalid_type\""), std::string::npos) << error(value);
    }
  }
  EXPECT_NE(MessageError(R"({"role":"user","content":"x","name":1})").find("\"messages[1].name\""),
            std::string::npos);
}

TEST(ChatRequest, ARefusalIsTheTextOfAMessageWithoutContent) {
  const auto r = ParseChatRequest(
      R"({"messages":[{"role":"assistant","content":null,"refusal":"No."},
          {"role":"assistant","content":"Yes.","refusal":null},
          {"role":"assistant","content":"","refusal":"Never."}]})");
  ASSERT_TRUE(r.ok()) << r.status();
  const auto& messages = std::get<std::vector<ChatMessage>>(r->generate.prompt);
  EXPECT_EQ(messages[0].content, "No.");
  EXPECT_EQ(messages[1].content, "Yes.");
  EXPECT_EQ(messages[2].content, "Never.");
  for (const char* odd : {R"({"role":"assistant","content":"x","refusal":"No."})",
                          R"({"role":"user","content":"x","refusal":"No."})",
                          R"({"role":"assistant","content":null,"refusal":["No."]})"})
    EXPECT_NE(MessageError(odd).find("\"param\":\"messages[1].refusal\""), std::string::npos)
        << MessageError(odd);
}

TEST(KnownFields, WhatNobodyKnowsAndWhatDoesNothingAloneIsIgnored) {
  EXPECT_EQ(ChatError(R"("never_heard_of":[1],"user":"u","metadata":{"a":"b"},"store":true,
                         "service_tier":"flex","cache_prompt":false,"keep_alive":"5m",
                         "dry_base":1.5,"xtc_threshold":0.2,"mirostat_tau":3,"repeat_last_n":5,
                         "parallel_tool_calls":false,"timings_per_token":true)"),
            "ok");
  // Said in words that tell what to do.
  EXPECT_NE(ChatError(R"("n":2)").find("only 1 is accepted."), std::string::npos);
  EXPECT_NE(ChatError(R"("suffix":"x")").find("leave it out."), std::string::npos);
  EXPECT_NE(ChatError(R"("tools":[{}],"tool_choice":"none")").find("would be shown them"),
            std::string::npos);
}

TEST(ChatRequest, NeutralValuesOfWhatIsThere) {
  const auto r = ParseChatRequest(
      Chat(R"("stop":["","a",""],"logprobs":false,"top_logprobs":0,"max_tokens":-1,"top_p":0,
              "temperature":1.5,"stream_options":{"include_usage":true},"seed":null,"stream":null,
              "min_p":null,"top_k":-1)"));
  ASSERT_TRUE(r.ok()) << r.status();
  EXPECT_EQ(r->generate.stop, (std::vector<std::string>{"a"}));
  EXPECT_FALSE(r->generate.max_tokens.has_value());
  EXPECT_EQ(r->generate.sample.temperature, 0);  // a share of nothing is the likeliest token
  EXPECT_EQ(r->generate.sample.top_p, 1);
  EXPECT_FALSE(r->stream);
  EXPECT_EQ(ParseChatRequest(Chat(R"("stop":"")"))->generate.stop.size(), 0u);
  EXPECT_EQ(ParseChatRequest(Chat(R"("n_predict":5)"))->generate.max_tokens, 5u);
  EXPECT_EQ(ParseChatRequest(Chat(R"("n_predict":5,"max_tokens":7)"))->generate.max_tokens, 7u);
  EXPECT_FALSE(ParseTextRequest(Text(R"("max_tokens":-1)"))->generate.max_tokens.has_value());
  EXPECT_EQ(ParseTextRequest(Text(R"("max_tokens":null)"))->generate.max_tokens,
            kDefaultCompletionTokens);
  std::string stops;
  for (size_t i = 0; i < coordinator::kMaxStops; ++i)
    stops += (i > 0 ? ",\"s" : "\"s") + std::to_string(i) + "\"";
  EXPECT_EQ(ParseChatRequest(Chat("\"stop\":[" + stops + "]"))->generate.stop.size(),
            coordinator::kMaxStops);
  EXPECT_NE(ChatError("\"stop\":[" + stops + ",\"x\"]").find("\"param\":\"stop\""),
            std::string::npos);
}

TEST(ChatRequest, SeedsAreAny64Bits) {
  const auto seed = [](const std::string& value) {
    const auto r = ParseChatRequest(Chat("\"seed\":" + value));
    return r.ok() ? absl::StrCat(r->generate.sample.seed) : ToErrorJson(r.status());
  };
  EXPECT_EQ(seed("18446744073709551615"), "18446744073709551615");
  EXPECT_EQ(seed("-9223372036854775808"), "9223372036854775808");
  EXPECT_EQ(seed("-1"), "18446744073709551615");
  EXPECT_EQ(seed("5.0"), "5");
  EXPECT_EQ(seed("9007199254740992.0"), "9007199254740992");
  for (const char* beyond : {"18446744073709551616", "-9223372036854775809", "1e19"})
    EXPECT_NE(seed(beyond).find("between -9223372036854775808 and 18446744073709551615"),
              std::string::npos)
        << seed(beyond);
  EXPECT_NE(seed("1.5").find("expected an integer"), std::string::npos);
}

// What a float cannot hold is nothing, as 0 is.
TEST(ChatRequest, SharesBelowEveryFloatAreGreedy) {
  for (const char* tiny : {"0", "1e-320", "1e-50"}) {
    const auto r = ParseChatRequest(Chat(std::string("\"top_p\":") + tiny));
    ASSERT_TRUE(r.ok()) << r.status();
    EXPECT_EQ(r->generate.sample.temperature, 0) << tiny;
    EXPECT_EQ(r->generate.sample.top_p, 1) << tiny;
  }
}

TEST(ChatRequest, AClientsValuesAreShortenedInErrors) {
  const std::string much(3u << 20, '7');
  for (const std::string& extra :
       {"\"seed\":" + much, "\"seed\":1" + std::string(300, '0'), "\"max_tokens\":" + much,
        "\"reasoning_effort\":\"" + much + "\"", "\"stop\":[\"" + much + "\"]",
        "\"" + much + "\":nonsense", "\"messages\":[{\"role\":\"" + much + "\"}]",
        R"("messages":[{"role":"user","content":[{"type":")" + much + "\"}]}]"}) {
    const std::string error = ChatError(extra);
    EXPECT_NE(error, "ok") << extra.substr(0, 40);
    EXPECT_LT(error.size(), 500u) << extra.substr(0, 40);
  }
  EXPECT_EQ(Shortened("h\u00e9h\u00e9", 2), "h... (6 bytes)");
  EXPECT_EQ(Shortened("h\u00e9h\u00e9", 6), "h\u00e9h\u00e9");
}

TEST(ChatRequest, EffortIsHandedOn) {
  const auto effort = [](const char* extra) {
    const auto r = ParseChatRequest(Chat(extra));
    return r.ok() ? r->generate.reasoning_effort : std::string("error");
  };
  EXPECT_EQ(effort(R"("reasoning_effort":"high")"), "high");
  EXPECT_EQ(effort(R"("reasoning":{"effort":"low","summary":"auto"})"), "low");
  EXPECT_EQ(effort(R"("reasoning_effort":"default")"), "");
  EXPECT_EQ(effort(R"("reasoning_effort":null,"reasoning":{})"), "");
}

TEST(TextRequest, ControlTokensInARawPromptUnlessItSaysOtherwise) {
  EXPECT_TRUE(ParseTextRequest(Text(""))->generate.parse_special);
  EXPECT_FALSE(ParseTextRequest(Text(R"("parse_special":false)"))->generate.parse_special);
  EXPECT_FALSE(ParseTextRequest(Text(R"("parse_special":0)")).ok());
  // Nothing makes a chat do it.
  EXPECT_EQ(ChatError(R"("parse_special":false)"), "ok");
  EXPECT_NE(ChatError(R"("parse_special":true)").find("\"param\":\"parse_special\""),
            std::string::npos);
  EXPECT_TRUE(ParseTextRequest(Text(R"("add_special_tokens":true)")).ok());
  EXPECT_FALSE(ParseTextRequest(Text(R"("add_special_tokens":false)")).ok());
  EXPECT_EQ(ChatError(R"("add_special_tokens":false)"), "ok");
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

TEST(JsonBody, SaysWhereItEnds) {
  const auto error = [](std::string_view body) {
    return std::string(ParseJsonObject(body).status().message());
  };
  EXPECT_EQ(error(""), "The request has no body; send a JSON object.");
  EXPECT_EQ(error(" \r\n"), error(""));
  EXPECT_NE(error("{\"a\":").find("it ends too early, after 5 bytes"), std::string::npos);
  EXPECT_NE(error("{\"a\":]}").find("at byte 6 of 7"), std::string::npos) << error("{\"a\":]}");
  EXPECT_NE(error(R"({"a":1e400})").find("a number that is larger than any double"),
            std::string::npos);
  // Half of a pair, as clients send it that cut a text in the middle of an emoji.
  EXPECT_NE(error(R"({"prompt":"\ud800"})").find("half of a surrogate pair"), std::string::npos);
  // A parser that stops at a NUL takes what follows for nothing.
  using namespace std::string_view_literals;
  EXPECT_NE(error("{}\0{\"b\":1}"sv).find("at byte 3 of 10: a NUL"), std::string::npos);
  EXPECT_FALSE(ParseJsonObject("{\"a\":\0}"sv).ok());
  EXPECT_FALSE(ParseJsonObject("{\"a\":\"\0\"}"sv).ok());
  EXPECT_FALSE(ParseJsonObject("{}\0"sv).ok());
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
