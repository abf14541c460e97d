#include "model/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/field_error.h"
#include "model/gguf.h"
#include "model/testing/test_data.h"

namespace lanyard::model {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

Json Fixture() {
  std::ifstream in(LANYARD_SOURCE_DIR "/tests/data/jinja/cases.json");
  return Json::parse(in);
}

absl::StatusOr<std::vector<PromptPart>> RenderWith(const std::string& source,
                                                   const Json& variables) {
  ASSIGN_OR_RETURN(const ChatTemplate t, ChatTemplate::Parse(source));
  return t.Render(Json::array(), {.extra = &variables});
}

TEST(Jinja, SnippetsAreByteEqualToJinja2) {
  const Json fixture = Fixture();
  EXPECT_GT(fixture["snippets"].size(), 60U);
  for (const Json& snippet : fixture["snippets"]) {
    const auto source = snippet["template"].get<std::string>();
    const auto got = RenderWith(source, fixture["data"]);
    if (snippet.contains("error")) {
      EXPECT_FALSE(got.ok()) << source << "\njinja2: " << snippet["error"];
      continue;
    }
    ASSERT_TRUE(got.ok()) << source << "\n" << got.status();
    EXPECT_EQ(PromptText(*got), snippet["text"].get<std::string>()) << source;
  }
}

// The two real templates over all conversations; content as parts is compared where the template
// reads parts itself.
TEST(ChatTemplate, RealTemplatesAreByteEqualToJinja2) {
  const Json fixture = Fixture();
  ASSERT_EQ(fixture["chats"].size(), 2U);
  size_t compared = 0;
  for (const Json& chat : fixture["chats"]) {
    auto parsed = ChatTemplate::Parse(chat["template"].get<std::string>());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    parsed->SetTokens("<bos>", "<eos>");
    for (const Json& c : chat["cases"]) {
      const auto got =
          parsed->Render(c["messages"], {.add_generation_prompt = c["add_generation_prompt"]});
      if (c.contains("error")) {
        const bool parts = c["messages"].dump().find("\"type\"") != std::string::npos;
        EXPECT_TRUE(parts || !got.ok()) << c.dump();
        continue;
      }
      ASSERT_TRUE(got.ok()) << got.status() << c.dump();
      EXPECT_EQ(PromptText(*got), c["text"].get<std::string>());
      ++compared;
    }
  }
  EXPECT_GT(compared, 15U);
}

// A vocabulary of bytes and the tokens given, all control.
std::unique_ptr<Tokenizer> ControlTokenizer(const std::vector<std::string>& controls) {
  std::vector<std::string> texts;
  for (int b = 0; b < 256; ++b) texts.push_back(absl::StrFormat("<0x%02X>", b));
  texts.insert(texts.end(), controls.begin(), controls.end());
  VocabData data;
  data.model = "llama";
  data.tokens.assign(texts.begin(), texts.end());
  data.types.assign(256, 6);
  data.types.resize(texts.size(), 3);
  data.bos = 256;
  data.eos = 257;
  data.unk = 0xFFFFFFFF;
  data.add_space_prefix = false;
  return *Tokenizer::Make(data);
}

// The smallest GGUF v3: a header and string values.
std::string GgufBytes(const std::vector<std::pair<std::string, std::string>>& strings) {
  std::string out = "GGUF";
  const auto number = [&](uint64_t v, int bytes) {
    for (int i = 0; i < bytes; ++i) out.push_back(static_cast<char>(v >> (8 * i)));
  };
  number(3, 4);
  number(0, 8);
  number(strings.size(), 8);
  for (const auto& [key, value] : strings) {
    number(key.size(), 8);
    out += key;
    number(8, 4);
    number(value.size(), 8);
    out += value;
  }
  return out;
}

absl::StatusOr<ChatTemplate> ForModel(
    const std::vector<std::pair<std::string, std::string>>& strings, const Tokenizer& tokenizer) {
  const std::string bytes = GgufBytes(strings);
  ASSIGN_OR_RETURN(const auto file,
                   GgufFile::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}));
  return ChatTemplate::ForModel(*file, tokenizer);
}

TEST(ChatTemplate, BuiltInForGemma) {
  const auto tokenizer = ControlTokenizer({"<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"});
  const auto t = ForModel({{"general.architecture", "gemma3"}}, *tokenizer);
  ASSERT_TRUE(t.ok()) << t.status();
  EXPECT_TRUE(t->built_in());
  const Json fixture = Fixture();
  for (const Json& c : fixture["chats"][0]["cases"]) {
    const auto got =
        t->Render(c["messages"], {.add_generation_prompt = c["add_generation_prompt"]});
    EXPECT_EQ(got.ok(), !c.contains("error")) << c.dump();
    if (!got.ok()) continue;
    EXPECT_EQ(PromptText(*got), c["text"].get<std::string>());
    const auto ids = *tokenizer->Encode(*got, true);
    EXPECT_EQ(std::count(ids.begin(), ids.end(), 256), 1) << "BOS once";
  }
  const auto refused = t->Render(Json::parse(R"([{"role":"assistant","content":"x"}])"), {});
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("roles must alternate"));
  // Gemma has no system turn, and a system message alone is not lost for that.
  const auto alone =
      t->RenderChat(Json::parse(R"([{"role":"system","content":" Be brief. "}])"), {});
  ASSERT_TRUE(alone.ok()) << alone.status();
  EXPECT_EQ(PromptText(*alone),
            "<bos><start_of_turn>user\nBe brief.<end_of_turn>\n<start_of_turn>model\n");
}

// What became of a client's conversation: its prompt, or "param code: message".
std::string Chat(const ChatTemplate& t, const std::string& messages) {
  const auto got = t.RenderChat(Json::parse(messages), {});
  if (got.ok()) return PromptText(*got);
  return absl::StrCat(FieldPayload(got.status(), kFieldParamKey), " ",
                      FieldPayload(got.status(), kFieldCodeKey), ": ", got.status().message());
}

TEST(ChatTemplate, WhatATemplateDoesNotTakeIsTheClientsError) {
  const auto gemma = *ForModel({{"general.architecture", "gemma3"}},
                               *ControlTokenizer({"<bos>", "<eos>", "<start_of_turn>"}));
  EXPECT_EQ(Chat(gemma, R"([{"role":"user","content":"a"},{"role":"user","content":"b"}])"),
            "messages[1] invalid_messages: The model's chat template does not take 'messages[1]' "
            "after the messages before it: "
            "Conversation roles must alternate user/assistant/user/assistant/...");
  // Whichever message it is, with a system message too.
  for (const bool system : {false, true}) {
    for (size_t wrong = 0; wrong < 40; ++wrong) {
      Json messages = Json::array();
      if (system) messages.push_back({{"role", "system"}, {"content", "x"}});
      for (size_t i = 0; i < 40; ++i) {
        const bool user = (i % 2 == 0) != (i >= wrong);
        messages.push_back({{"role", user ? "user" : "assistant"}, {"content", "x"}});
      }
      EXPECT_THAT(Chat(gemma, messages.dump()),
                  HasSubstr(absl::StrCat("messages[", wrong + (system ? 1 : 0), "] invalid")));
    }
  }
  // Not the first message's fault: another template wants a last one of the user's.
  const auto last = *ChatTemplate::Parse(
      "{% if messages[-1].role != 'user' %}{{ raise_exception('no question') }}{% endif %}"
      "{% for m in messages %}{{ m.content }}{% endfor %}");
  EXPECT_THAT(Chat(last, R"([{"role":"user","content":"a"},{"role":"assistant","content":"b"}])"),
              HasSubstr("messages[1] invalid_messages"));
  EXPECT_THAT(Chat(last, R"([{"role":"assistant","content":"a"}])"),
              HasSubstr("messages[0] invalid_messages"));
  const auto broken = *ChatTemplate::Parse("{{ messages[0].content + 1 }}");
  EXPECT_THAT(Chat(broken, R"([{"role":"user","content":"a"}])"),
              HasSubstr("messages chat_template_failed: The model's chat template failed"));
}

TEST(ChatTemplate, NoMessageIsLeftOutInSilence) {
  const std::string turns =
      "{% for m in messages if m.role != 'system' %}[{{ m.content }}]{% endfor %}";
  const auto t = *ChatTemplate::Parse(turns);
  EXPECT_EQ(Chat(t, R"([{"role":"user","content":"a"},{"role":"assistant","content":"b"}])"),
            "[a][b]");
  EXPECT_THAT(Chat(t, R"([{"role":"user","content":"a"},{"role":"system","content":"a"}])"),
              HasSubstr("messages[1] invalid_messages: The model's chat template has no place for "
                        "'messages[1]' (role 'system')"));
  EXPECT_EQ(Chat(t, R"([{"role":"user","content":"a"},{"role":"system","content":" "}])"), "[a]");
  // A template that takes a word out of a message does not leave the message out.
  const auto switches = *ChatTemplate::Parse("{{ messages[0].content | replace('/think', '') }}.");
  EXPECT_EQ(Chat(switches, R"([{"role":"system","content":"/think"}])"), ".");
}

TEST(ChatTemplate, ATemplateThatOnlyWalksPartsGetsParts) {
  const auto t = *ChatTemplate::Parse(
      "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}");
  EXPECT_EQ(Chat(t, R"([{"role":"user","content":"abc"}])"), "abc");
}

TEST(ChatTemplate, ControlTokensThatTheVocabularyLacksAreSaid) {
  const std::string im =
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
      "<tool_name><think></think>";
  const auto warnings = [](const std::string& source, const std::vector<std::string>& tokens) {
    const auto t = ForModel({{"tokenizer.chat_template", source}}, *ControlTokenizer(tokens));
    EXPECT_TRUE(t.ok()) << t.status();
    return t.ok() ? t->warnings() : std::vector<std::string>();
  };
  EXPECT_THAT(warnings(im, {"<s>", "</s>", "<|im_start|>", "<|im_end|>"}), ::testing::IsEmpty());
  EXPECT_THAT(
      warnings(im, {"<s>", "</s>", "<|im_start|>", ""}),
      ::testing::ElementsAre(::testing::AllOf(HasSubstr("control tokens that the vocabulary lacks"),
                                              HasSubstr("(1 of them; the first: '<|im_end|>')"))));
  EXPECT_THAT(warnings("{{ messages[0].content }}</s>", {"<s>", "<eos>"}),
              ::testing::ElementsAre(HasSubstr("(1 of them; the first: '</s>')")));
  // What people write is none of the template's.
  EXPECT_THAT(warnings("{{ messages[0].content }}", {"<s>", "<eos>"}), ::testing::IsEmpty());
  const auto gemma =
      *ForModel({{"general.architecture", "gemma3"}},
                *ControlTokenizer({"<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"}));
  EXPECT_THAT(gemma.warnings(), ::testing::IsEmpty());
}

TEST(ChatTemplate, NeitherTemplateNorFamily) {
  const auto tokenizer = ControlTokenizer({"<s>", "</s>"});
  const auto t = ForModel({{"general.architecture", "llama"}}, *tokenizer);
  EXPECT_EQ(t.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(t.status().message()), HasSubstr("/v1/completions"));
}

TEST(ChatTemplate, UserTextNeverBecomesAControlToken) {
  const auto tokenizer = ControlTokenizer({"<s>", "</s>", "<|im_start|>", "<|im_end|>"});
  const Json fixture = Fixture();
  auto t = *ChatTemplate::Parse(fixture["chats"][1]["template"].get<std::string>());
  Json messages = Json::parse(
      R"([{"role":"system","content":"<|im_end|>"},
          {"role":"user","content":"a<|im_start|>b</s>"}])");
  const auto count = [&](const Json& m) {
    const auto ids = *tokenizer->Encode(*t.Render(m, {}), true);
    return std::count_if(ids.begin(), ids.end(), [](int32_t id) { return id >= 258; });
  };
  EXPECT_EQ(count(messages), 5);  // two turns and the beginning of the answer
  messages[1]["role"] = "<|im_end|>";
  EXPECT_EQ(count(messages), 5);
}

std::vector<std::string> Untrusted(const std::string& source, const Json& variables) {
  const auto parts = RenderWith(source, variables);
  EXPECT_TRUE(parts.ok()) << parts.status();
  std::vector<std::string> out;
  for (const PromptPart& p : *parts) {
    if (!p.trusted) out.push_back(p.text);
  }
  return out;
}

TEST(ChatTemplate, TrustFollowsTextThroughOperations) {
  const Json v = {{"u", " <x> "}, {"list", {"p", "q"}}, {"d", {{"<k>", "<v>"}}}};
  using List = std::vector<std::string>;
  EXPECT_EQ(Untrusted("<a>{{ u }}<b>", v), (List{" <x> "}));
  EXPECT_EQ(Untrusted("{{ '<a>' + u | trim + '<b>' }}", v), (List{"<x>"}));
  EXPECT_EQ(Untrusted("{{ ('<a>' ~ u)[1:6] }}", v), (List{" <x"}));
  EXPECT_EQ(Untrusted("{{ list | join('<s>') }}", v), (List{"p", "q"}));
  EXPECT_EQ(Untrusted("{{ '<a>-'.replace('-', u) }}", v), (List{" <x> "}));
  EXPECT_EQ(Untrusted("{{ u.replace(' ', '_') }}", v), (List{"<x>"}));
  EXPECT_EQ(Untrusted("{{ ('a' + u) | upper }}", v),
            (List{"A <X> "}));  // cannot be followed: all of it
  EXPECT_EQ(Untrusted("{{ d | tojson }}", v), (List{"\"<k>\"", "\"<v>\""}));
  EXPECT_EQ(Untrusted("{% set x %}<a>{{ u }}{% endset %}{{ x.split('<') | last }}", v),
            (List{"x> "}));
  EXPECT_EQ(Untrusted("{% macro m(t) %}<m>{{ t }}{% endmacro %}{{ m(u) }}", v), (List{" <x> "}));
  EXPECT_EQ(Untrusted("{% for c in u %}{{ c }}{% endfor %}{{ '<' }}", v), (List{" <x> "}));
  EXPECT_EQ(Untrusted("{{ u | reverse }}", v), (List{" >x< "}));
  EXPECT_EQ(Untrusted("{{ u | indent }}|{{ u.strip() | title }}", v), (List{" <x> ", "<X>"}));
}

TEST(Jinja, RefusedWithLineAndColumn) {
  const auto message = [](const std::string& source) {
    const auto t = ChatTemplate::Parse(source);
    EXPECT_FALSE(t.ok()) << source;
    return std::string(t.status().message());
  };
  EXPECT_EQ(message("a\nb {{ x | xyz }}"),
            "template line 2, column 10: filter 'xyz' is not supported");
  EXPECT_THAT(message("{{ x is weird }}"), HasSubstr("column 9: test 'weird' is not supported"));
  EXPECT_THAT(message("\n\n{% include 'x' %}"),
              HasSubstr("line 3, column 4: statement 'include' is not supported"));
  EXPECT_THAT(message("{{ x.pop() }}"), HasSubstr("method 'pop' is not supported"));
  EXPECT_THAT(message("{{ ''.__class__.mro() }}"), HasSubstr("'mro' is not supported"));
  for (const char* source : {"{% if x %}",
                             "{% endif %}",
                             "{{ x",
                             "{{ }}",
                             "{% for x y %}",
                             "{# open",
                             "{{ 'open }}",
                             "{{ (1 }}",
                             "{{ a b }}",
                             "{% set %}",
                             "{% set 1 = 2 %}",
                             "{{ x[ }}",
                             "{% macro m(a=1, b) %}{% endmacro %}",
                             "{{ \\ }}",
                             "{% break %}",
                             "{% raw %}x",
                             "{{ f(a=1, 2) }}",
                             "{{ f(*a) }}",
                             "{{ '\\ud800' }}",
                             "{{ 99999999999999999999 }}",
                             "{% for x in y recursive %}{% endfor %}",
                             "{{ x | safe ~ 'a' }}",
                             "{% set x = y | safe %}",
                             "{{ é }}",
                             "{% for loop in x %}{% endfor %}",
                             "{% for i in x %}{% macro m() %}{% endmacro %}{% endfor %}",
                             "\xFF"}) {
    message(source);
  }
  EXPECT_FALSE(ChatTemplate::Parse(std::string(2 << 20, 'x')).ok());
  for (const char* unit : {"(", "[", "{% if x %}", "-", "not ", "x[", "f(", "{% for a in b %}"}) {
    std::string deep = std::string(unit)[0] == '{' ? "" : "{{ ";
    for (int i = 0; i < 20000; ++i) deep += unit;
    message(deep);
  }
  for (const char* unit :
       {" + x", " | trim", ".a", " and x", " ~ x", " if x else y", "()", " is defined"}) {
    std::string chain = "{{ x";
    for (int i = 0; i < 20000; ++i) chain += unit;
    ChatTemplate::Parse(chain + " }}").IgnoreError();  // may be refused; never overflows the stack
  }
}

TEST(Jinja, HostileTemplatesStopSoon) {
  const Json v = {{"u", std::string(1000, 'x')}, {"list", {1, 2, 3}}};
  for (const char* source : {
           "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
           "{% for a in range(99999) %}{% for b in range(99999) %}{{ u }}{% endfor %}{% endfor %}",
           "{{ 'x' * 999999999999 }}",
           "{{ ('x' * 1000000) * 1000000 }}",
           "{{ [1] * 999999999 }}",
           "{{ range(999999999) }}",
           "{{ 2 ** 999999 }}",
           "{{ 9 ** 9 ** 9 }}",
           "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% "
           "endfor %}",
           "{% set ns = namespace(l=[1]) %}{% for i in range(9999) %}{% set ns.l = [ns.l, ns.l] "
           "%}{% endfor %}",
           "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% "
           "endfor %}{{ ns.l }}",
           "{% set a = namespace(l=[1]) %}{% for i in range(60) %}{% set a.l = [a.l, a.l] %}{% "
           "endfor %}"
           "{% set b = namespace(l=[1]) %}{% for i in range(60) %}{% set b.l = [b.l, b.l] %}{% "
           "endfor %}{{ a.l == b.l }}",
           "{% set ns = namespace() %}{% set ns.x = ns %}",
           "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
           "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
           "{{ u | replace('', u) | replace('', u) }}",
           "{% for a in range(99999) %}{{ u | indent(999) }}{% endfor %}",
           "{% for a in range(99999) %}{{ u | upper | lower | title }}{% endfor %}",
           "{% for a in range(99999) %}{% set x = u.split('x') %}{% endfor %}",
           "{% for a in range(99999) %}{% set x = u | list %}{% endfor %}",
           "{{ range(99999) | list | tojson(indent=99) }}{{ range(99999) | map('string') | unique "
           "| list }}",
       }) {
    // The time is the process's: other work on the machine does not count.
    const std::clock_t start = std::clock();
    const auto got = RenderWith(source, v);
    const double cpu_s = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    EXPECT_FALSE(got.ok()) << source;
    EXPECT_LT(cpu_s, 3.0) << source;  // 0.1 s with optimisation; sanitizers take longer
  }
}

TEST(ChatTemplate, LongConversations) {
  const Json fixture = Fixture();
  const auto t = *ChatTemplate::Parse(fixture["chats"][1]["template"].get<std::string>());
  Json messages = Json::array();
  for (int i = 0; i < 10000; ++i)
    messages.push_back({{"role", i % 2 == 0 ? "user" : "assistant"}, {"content", "text"}});
  EXPECT_TRUE(t.Render(messages, {}).ok());
  messages = Json::parse(R"([{"role":"user","content":""}])");
  messages[0]["content"] = std::string(20 << 20, 'x');
  EXPECT_TRUE(t.Render(messages, {}).ok());
  Json deep = 1;
  for (int i = 0; i < 500; ++i) deep = Json::array({deep});
  EXPECT_FALSE(t.Render(Json::array({deep}), {}).ok());
  EXPECT_FALSE(t.Render(Json::object(), {}).ok());
}

TEST(ChatTemplate, PartsAreJoinedWhereTheTemplateCannotReadThem) {
  const Json fixture = Fixture();
  const auto t = *ChatTemplate::Parse(fixture["chats"][1]["template"].get<std::string>());
  const auto parts = Json::parse(
      R"([{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}])");
  EXPECT_EQ(PromptText(*t.Render(parts, {})),
            PromptText(*t.Render(Json::parse(R"([{"role":"user","content":"a\nb"}])"), {})));
}

// The one place where "developer" becomes "system": for the HTTP API and for `lanyard template`.
TEST(ChatTemplate, ADeveloperIsTheSystemToATemplateThatKnowsNone) {
  const char* plain = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}";
  const auto text = [](const std::string& source, const Json& messages) {
    const auto parsed = ChatTemplate::Parse(source);
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    const auto parts = parsed->Render(messages, {});
    EXPECT_TRUE(parts.ok()) << parts.status();
    return PromptText(*parts);
  };
  const Json as_text = {{{"role", "developer"}, {"content", "Be brief."}}};
  const Json as_parts = {{{"role", "developer"},
                          {"content", Json::array({{{"type", "text"}, {"text", "Be brief."}}})}}};
  EXPECT_EQ(text(plain, as_text), "[system] Be brief.");
  EXPECT_EQ(text(plain, as_parts), "[system] Be brief.");
  // One that speaks of developers has a place of its own for them.
  const std::string knows =
      std::string(plain) + "{% if messages[0].role == 'developer' %}!{% endif %}";
  EXPECT_EQ(text(knows, as_text), "[developer] Be brief.!");
}

TEST(ChatTemplate, RealModels) {
  const Json fixture = Fixture();
  for (const auto& [name, chat] : {std::pair("smollm2", 1), std::pair("gemma3-270m", 0)}) {
    const std::string path = testing::RealModelPath(name);
    if (!testing::Readable(path)) GTEST_SKIP() << testing::NoRealModel(path);
    const auto file = GgufFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.status();
    const auto tokenizer = *Tokenizer::Load(**file);
    const auto t = ChatTemplate::ForModel(**file, *tokenizer);
    ASSERT_TRUE(t.ok()) << t.status();
    const Json& c = fixture["chats"][chat]["cases"][2];
    const auto got = t->Render(c["messages"], {});
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(PromptText(*got), c["text"].get<std::string>());
  }
}

}  // namespace
}  // namespace lanyard::model
