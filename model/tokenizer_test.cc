#include "model/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "model/detokenizer.h"
#include "model/gguf.h"
#include "model/testing/test_data.h"
#include "model/tokenizer_spm.h"
#include "model/unicode.h"

namespace lanyard::model {
namespace {

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream out;
  out << in.rdbuf();
  return out.str();
}

std::unique_ptr<Tokenizer> LoadTokenizer(const std::string& path) {
  auto file = GgufFile::Open(path);
  EXPECT_TRUE(file.ok()) << file.status();
  if (!file.ok()) return nullptr;
  auto tokenizer = Tokenizer::Load(**file);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

std::vector<std::string> SplitCases(const std::string& all) {
  const std::string separator = "\n__ggml_vocab_test__\n";
  std::vector<std::string> out;
  for (size_t begin = 0; begin <= all.size();) {
    const size_t end = all.find(separator, begin);
    if (end == std::string::npos) {
      if (begin < all.size()) out.push_back(all.substr(begin));
      break;
    }
    out.push_back(all.substr(begin, end - begin));
    begin = end + separator.size();
  }
  return out;
}

class Conformance : public ::testing::TestWithParam<const char*> {};

TEST_P(Conformance, EveryCase) {
  const std::string base = testing::ConformancePath(std::string("tokenizer/") + GetParam());
  if (!testing::Readable(base + ".gguf")) GTEST_SKIP() << testing::NoConformanceData(base);
  const auto tokenizer = LoadTokenizer(base + ".gguf");
  ASSERT_NE(tokenizer, nullptr);
  const std::vector<std::string> texts = SplitCases(ReadAll(base + ".inp"));
  std::ifstream out(base + ".out");
  size_t cases = 0;
  for (std::string line; std::getline(out, line); ++cases) {
    ASSERT_LT(cases, texts.size());
    std::istringstream numbers(line);
    std::vector<int32_t> want;
    for (int32_t id; numbers >> id;) want.push_back(id);
    const auto got = tokenizer->Encode(texts[cases]);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(*got, want) << "case " << cases << ": " << texts[cases];
    StreamDecoder decoder(tokenizer.get(), {.render_special = true, .whole_text = true});
    std::string back;
    for (const int32_t id : *got) back += decoder.Push(id);
    EXPECT_EQ(back + decoder.Flush(), texts[cases]);
  }
  EXPECT_EQ(cases, texts.size());
  EXPECT_GT(cases, 40U);
}

INSTANTIATE_TEST_SUITE_P(Tokenizer, Conformance,
                         ::testing::Values("gpt-2", "llama-spm", "llama-bpe", "qwen2",
                                           "deepseek-coder"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// Texts against llama.cpp on the two real vocabularies, special tokens parsed and not.
class AgainstLlamaCpp : public ::testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(AgainstLlamaCpp, EveryText) {
  const std::string path = testing::RealModelPath(GetParam().second);
  if (!testing::Readable(path)) GTEST_SKIP() << testing::NoRealModel(path);
  const auto tokenizer = LoadTokenizer(path);
  ASSERT_NE(tokenizer, nullptr);
  const char* other = std::getenv("LANYARD_TOKENIZER_FIXTURE");
  const auto fixture = nlohmann::json::parse(ReadAll(
      other != nullptr ? other : LANYARD_SOURCE_DIR "/tests/data/tokenizer/llama_cpp.json"));
  for (const auto& c : fixture.at("cases")) {
    const auto text = c.at("text").get<std::string>();
    const auto& want = c.at(GetParam().first);
    const auto plain = tokenizer->Encode(text);
    ASSERT_TRUE(plain.ok()) << plain.status();
    EXPECT_EQ(*plain, want[0].get<std::vector<int32_t>>()) << c.at("text").dump();
    const auto special = tokenizer->Encode(text, {.parse_special = true});
    ASSERT_TRUE(special.ok()) << special.status();
    EXPECT_EQ(*special, want[want[1].is_null() ? 0 : 1].get<std::vector<int32_t>>())
        << c.at("text").dump();
    for (const int32_t id : *plain) EXPECT_FALSE(tokenizer->IsSpecial(id)) << c.at("text").dump();
    StreamDecoder decoder(tokenizer.get(), {.render_special = true, .whole_text = true});
    std::string back;
    for (const int32_t id : *special) back += decoder.Push(id);
    back += decoder.Flush();
    // U+2581 and a space are the same to such a vocabulary.
    const bool spm = tokenizer->vocab().kind() == VocabKind::kSpm;
    EXPECT_EQ(back, spm ? SpmUnescape(text) : text);
  }
  if (std::string_view(GetParam().first) ==
      "smollm2") {  // has no tokens for these; llama.cpp gives nothing either
    EXPECT_TRUE(tokenizer->Encode("\x04\x06\x13\x14\x16\x1D")->empty());
  }
}

INSTANTIATE_TEST_SUITE_P(Tokenizer, AgainstLlamaCpp,
                         ::testing::Values(std::pair("smollm2", "smollm2"),
                                           std::pair("gemma3", "gemma3-270m")),
                         [](const auto& info) { return std::string(info.param.first); });

// Vocabularies in plain data. Byte-level: the 256 bytes, then the words given.
struct TestVocab {
  std::vector<std::string> texts;
  VocabData data;

  static TestVocab Bpe(const std::vector<std::string>& words) {
    TestVocab v;
    for (const std::string& b : ByteAlphabet()) v.texts.push_back(b);
    v.texts.insert(v.texts.end(), words.begin(), words.end());
    v.data.model = "gpt2";
    v.data.pre = "gpt-2";
    v.data.types.assign(v.texts.size(), 1);
    return v;
  }
  // <unk> <s> </s>, the 256 byte tokens (3..258), then the words, each worth more than the next.
  static TestVocab Spm(const std::vector<std::string>& words) {
    TestVocab v;
    v.texts = {"<unk>", "<s>", "</s>"};
    v.data.types = {2, 3, 3};
    for (int b = 0; b < 256; ++b) {
      v.texts.push_back(absl::StrFormat("<0x%02X>", b));
      v.data.types.push_back(6);
    }
    for (const std::string& w : words) {
      v.texts.push_back(w);
      v.data.types.push_back(1);
    }
    v.data.model = "llama";
    for (size_t i = 0; i < v.texts.size(); ++i) v.data.scores.push_back(-static_cast<float>(i));
    return v;
  }
  absl::StatusOr<std::unique_ptr<Tokenizer>> Make() {
    data.tokens.assign(texts.begin(), texts.end());
    return Tokenizer::Make(data);
  }
};

std::string MessageOf(TestVocab v) { return std::string(v.Make().status().message()); }

TEST(HostileVocab, IsRefusedByName) {
  TestVocab v = TestVocab::Bpe({"ab", "ab"});
  EXPECT_THAT(MessageOf(v), ::testing::HasSubstr("'ab' is both token 256 and 257"));
  v = TestVocab::Bpe({""});
  v.data.types[256] = 6;
  EXPECT_THAT(MessageOf(v), ::testing::HasSubstr("token 256 '' is of type byte"));
  v = TestVocab::Bpe({});
  v.data.bos = 256;
  v.data.add_bos = true;
  EXPECT_THAT(MessageOf(v),
              ::testing::HasSubstr("bos_token_id is 256 but the vocabulary has 256 tokens"));
  v.data.bos.reset();
  EXPECT_THAT(MessageOf(v), ::testing::HasSubstr("no bos_token_id"));
  v = TestVocab::Bpe({});
  v.data.types.pop_back();
  EXPECT_THAT(MessageOf(v), ::testing::HasSubstr("255 values for 256 tokens"));
  v = TestVocab::Bpe({});
  v.data.pre = "no-such";
  EXPECT_EQ(v.Make().status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(MessageOf(v), ::testing::HasSubstr("'no-such'"));
  v.data.model = "bert";
  EXPECT_THAT(MessageOf(v), ::testing::HasSubstr("'bert'"));
  v = TestVocab();
  v.data.model = "llama";
  EXPECT_FALSE(v.Make().ok());
}

TEST(HostileVocab, SpmTokensAndScores) {
  TestVocab v = TestVocab::Spm({"a"});
  v.data.scores[5] = std::nanf("");
  EXPECT_THAT(MessageOf(v), ::testing::HasSubstr("value 5 is NaN"));
  for (const char* text : {"<0x-1>", "<0xG0>", "<0x1>", "<0x100>", "a"}) {
    v = TestVocab::Spm({});
    v.texts[3] = text;
    EXPECT_THAT(MessageOf(v), ::testing::HasSubstr("of type byte")) << text;
  }
}

TEST(Bpe, LeftmostOfEqualRanksAndMissingBytes) {
  TestVocab v = TestVocab::Bpe({"aa", "aaa"});
  v.data.merges = {"a a", "aa a"};
  auto t = v.Make();
  ASSERT_TRUE(t.ok()) << t.status();
  EXPECT_EQ(*(*t)->Encode("aaaaa"), (std::vector<int32_t>{256, 257}));
  v = TestVocab::Bpe({"<unk>"});
  v.texts['x'] = "other";
  v.data.unk = 256;
  t = v.Make();
  ASSERT_TRUE(t.ok()) << t.status();
  EXPECT_EQ(*(*t)->Encode("axb"), (std::vector<int32_t>{'a', 'b'}));  // never the unknown token
}

TEST(Bpe, MergesThatAreNoneAreLeftOutWithOneWarning) {
  TestVocab v = TestVocab::Bpe({"ab"});
  v.data.eos = 0;
  v.data.merges = {"", " ", "  ", "a ", " b", "ab", "a b"};
  const auto t = *v.Make();
  EXPECT_EQ(*t->Encode("ab"), (std::vector<int32_t>{256}));
  EXPECT_THAT(t->warnings(),
              ::testing::ElementsAre("merges that are not two texts with a space between are left "
                                     "out (6 of them; the first: entry 0 '')"));
}

// As llama.cpp does, which joins texts and looks for tokens at the end.
TEST(Bpe, MergesOfPiecesThatAreNoTokens) {
  TestVocab v = TestVocab::Bpe({"abc", "<|x|>"});
  v.data.eos = 0;
  v.data.types[257] = 3;
  v.data.merges = {"a b", "ab c", "x y", "y zz", "<| x|>", "< |", "| >", "x |>"};
  const auto t = *v.Make();
  EXPECT_EQ(*t->Encode("abc"), (std::vector<int32_t>{256}));  // through "ab", which is no token
  EXPECT_EQ(*t->Encode("abx"), (std::vector<int32_t>{'a', 'b', 'x'}));
  EXPECT_EQ(*t->Encode("xyzz"), (std::vector<int32_t>{'x', 'y', 'z', 'z'}));
  // Put together from its parts, a control token's text stays text.
  EXPECT_EQ(*t->Encode("<|x|>"), (std::vector<int32_t>{'<', '|', 'x', '|', '>'}));
  EXPECT_THAT(t->warnings(),
              ::testing::ElementsAre(::testing::AllOf(
                  ::testing::HasSubstr("merges have a part or a result that is no token"),
                  ::testing::HasSubstr("(8 of them; the first: entry 0 'a b', its result)"))));
  // A byte that is no token of its own may still be part of one.
  v = TestVocab::Bpe({"qr"});
  v.data.eos = 0;
  v.texts['q'] = "other";
  v.data.merges = {"q r"};
  const auto pruned = *v.Make();
  EXPECT_EQ(*pruned->Encode("qrq"), (std::vector<int32_t>{256}));
  // The bytes of a piece that is no token are not lost, spaces among them.
  v = TestVocab::Bpe({});
  v.data.eos = 0;
  v.data.merges = {"\xC4\xA0 a"};
  const auto spaced = *v.Make();
  EXPECT_EQ(*spaced->Encode(" a"), (std::vector<int32_t>{' ', 'a'}));
}

TEST(Bpe, InvalidUtf8ReadsAsReplacementCharacters) {
  const auto t = *TestVocab::Bpe({}).Make();
  EXPECT_EQ(*t->Encode("a\xFF\xE2\x82z"), *t->Encode("a\uFFFD\uFFFD\uFFFDz"));
}

TEST(Spm, ByteFallbackAndSpacePrefix) {
  TestVocab v = TestVocab::Spm({"\xE2\x96\x81h", "i", "h", "\xE2\x96\x81"});
  auto t = *v.Make();
  EXPECT_EQ(*t->Encode("hi", {.add_special = true}), (std::vector<int32_t>{1, 259, 260}));
  EXPECT_EQ(*t->Encode("\xFF"), (std::vector<int32_t>{262, 3 + 0xFF}));
  EXPECT_EQ(*t->Encode("hi</s>hi", {.parse_special = true}),
            (std::vector<int32_t>{259, 260, 2, 259, 260}));
  EXPECT_EQ(*t->Encode("", {.add_special = true}), (std::vector<int32_t>{1}));
  v.data.add_space_prefix = false;
  t = *v.Make();
  EXPECT_EQ(*t->Encode("hi"), (std::vector<int32_t>{261, 260}));
}

TEST(Spm, TextNeverBecomesAControlOrByteToken) {
  TestVocab v = TestVocab::Spm({"<", "s", ">", "s>", "/s>", "0", "x41>", "0x41>"});
  v.data.add_space_prefix = false;
  v.data.scores[1] = v.data.scores[2] = 1000;
  const auto t = *v.Make();
  for (const char* text : {"<s>", "</s>", "<unk>", "<0x41>"}) {
    const std::vector<int32_t> ids = *t->Encode(text);
    for (const int32_t id : ids) {
      EXPECT_FALSE(t->IsSpecial(id)) << text;
      EXPECT_NE(id, 3 + 0x41) << text;
    }
  }
}

TEST(Specials, LongestFirstAndOnlyInTrustedText) {
  TestVocab v = TestVocab::Bpe({"<|a|>", "<|a|><|b|>", "<|b|>", "<tag>"});
  v.data.types[256] = v.data.types[257] = v.data.types[258] = 3;
  v.data.types[259] = 4;
  const auto t = *v.Make();
  EXPECT_EQ(*t->Encode("<|a|><|a|><|b|>", {.parse_special = true}),
            (std::vector<int32_t>{256, 257}));
  EXPECT_EQ(t->Encode("<|a|>")->size(), 5U);
  EXPECT_EQ(*t->Encode("<tag>"), (std::vector<int32_t>{259}));  // user-defined: always
  const std::vector<PromptPart> parts = {{"<|a|>", true}, {"<|b|><tag>", false}, {"<|b", true},
                                         {"|>", false},   {"<|b", true},         {"|>", true}};
  std::vector<int32_t> want = {256, '<', '|', 'b', '|', '>', 259, '<', '|', 'b', '|', '>', 258};
  EXPECT_EQ(*t->Encode(parts, false), want);
}

TEST(Specials, BosIsNotDoubled) {
  TestVocab v = TestVocab::Bpe({"<bos>"});
  v.data.types[256] = 3;
  v.data.bos = 256;
  v.data.add_bos = true;
  const auto t = *v.Make();
  EXPECT_EQ(*t->Encode("x", {.add_special = true}), (std::vector<int32_t>{256, 'x'}));
  const std::vector<PromptPart> own = {{"<bos>", true}, {"x", false}};
  EXPECT_EQ(*t->Encode(own, true), (std::vector<int32_t>{256, 'x'}));
  const std::vector<PromptPart> typed = {{"<bos>x", false}};
  EXPECT_EQ(t->Encode(typed, true)->size(), 7U);
}

TEST(Words, BordersOfPartsDoNotShow) {
  TestVocab v = TestVocab::Bpe({"ab"});
  v.data.merges = {"a b"};
  const auto t = *v.Make();
  const std::vector<PromptPart> parts = {{"a", true}, {"b", false}};
  EXPECT_EQ(*t->Encode(parts, false), (std::vector<int32_t>{256}));
}

TEST(LongText, TimeGrowsLinearly) {
  TestVocab bpe = TestVocab::Bpe({"aa", "aaaa", "aaaaaaaa"});
  bpe.data.merges = {"a a", "aa aa", "aaaa aaaa"};
  TestVocab spm = TestVocab::Spm({"aaaa", "aa", "a", "\n\n\n", "\n\n", "\n"});
  for (size_t i = spm.texts.size() - 3; i < spm.texts.size(); ++i) spm.data.types[i] = 4;
  for (TestVocab* v : {&bpe, &spm}) {
    const auto t = *v->Make();
    for (const char* unit : {"a", "\n", " ", "'", "<s>"}) {
      std::string text;
      while (text.size() < 300'000) text += unit;
      const auto start = std::chrono::steady_clock::now();
      const auto ids = t->Encode(text, {.parse_special = true});
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_LT(took.count(), 10.0) << unit;  // quadratic would be hours
    }
  }
}

// Texts that a vocabulary makes few tokens of, bytes that it cannot write and bytes that are no
// UTF-8 among them.
std::string RandomText(std::mt19937* random, const std::vector<std::string>& pieces) {
  std::string text;
  for (size_t n = (*random)() % 40; n > 0; --n) {
    const uint32_t dice = (*random)() % 8;
    if (dice < 6) text += pieces[(*random)() % pieces.size()];
    if (dice == 6) text += static_cast<char>((*random)() % 256);
    if (dice == 7) text += std::string((*random)() % 9, "x \n\x04"[(*random)() % 4]);
  }
  return text;
}

TEST(FewestTokens, NeverMoreThanThereAre) {
  TestVocab bpe = TestVocab::Bpe({"aa", "aaaa", "aaaaaaaa", "<|long control|>", "<user>", "xx"});
  bpe.data.merges = {"a a", "aa aa", "aaaa aaaa", "x x"};
  bpe.data.types[259] = 3;
  bpe.data.types[260] = 4;
  TestVocab pruned = bpe;  // these bytes are left out of a text
  for (const int byte : {0x04, 0x78, 0xEF, 0xBF, 0xBD})
    pruned.texts[static_cast<size_t>(byte)] = absl::StrCat("other", byte);
  TestVocab spm = TestVocab::Spm(
      {"\xE2\x96\x81\xE2\x96\x81\xE2\x96\x81", "aaaa", "aa", "a", "\xE2\x96\x81", "<user>"});
  spm.data.types.back() = 4;
  TestVocab unknown = spm;  // without byte tokens, and a text's unknown bytes are left out
  for (size_t i = 3; i < 259; ++i) unknown.data.types[i] = 5;
  unknown.data.types[0] = 3;
  unknown.data.unk = 0;
  std::mt19937 random(11);
  for (TestVocab* v : {&bpe, &pruned, &spm, &unknown}) {
    const auto made = v->Make();
    ASSERT_TRUE(made.ok()) << made.status();
    const Tokenizer& t = **made;
    const std::vector<std::string> pieces = {"aaaaaaaa", "aaaa", "aaaaa",        "<|long control|>",
                                             "<user>",   "   ",  "\xE2\x96\x81", "\u00e9",
                                             "</s>",     "xx"};
    for (int i = 0; i < 3000; ++i) {
      const std::string text = RandomText(&random, pieces);
      for (const bool special : {false, true}) {
        const auto ids = t.Encode(text, {.add_special = special, .parse_special = special});
        ASSERT_TRUE(ids.ok()) << ids.status();
        ASSERT_LE(t.FewestTokens(text), ids->size()) << EscapeText(text);
      }
      const std::vector<PromptPart> parts = {{text.substr(0, text.size() / 2), true},
                                             {text.substr(text.size() / 2), false}};
      ASSERT_LE(t.FewestTokens(parts), t.Encode(parts, true)->size()) << EscapeText(text);
    }
  }
  // And it is worth something: 8 bytes of "a" are a token at best.
  EXPECT_EQ((*TestVocab::Bpe({"aa"}).Make())->FewestTokens(std::string(1000, 'a')), 500u);
}

TEST(EncodeLimits, EndTheWork) {
  TestVocab bpe = TestVocab::Bpe({"aa"});
  bpe.data.merges = {"a a"};
  TestVocab spm = TestVocab::Spm({"aa", "a"});
  for (TestVocab* v : {&bpe, &spm}) {
    const auto t = *v->Make();
    std::string words;
    while (words.size() < 1 << 20) words += "aa a";
    const std::string one_word(1 << 20, 'a');
    for (const std::string& text : {words, one_word}) {
      // Looking for control tokens asks 256 times, and then it is in the midst of the merging.
      for (const int when : {3, 300}) {
        int asked = 0;
        const auto gone = t->Encode(text, {}, {.stop = [&] { return ++asked == when; }});
        EXPECT_TRUE(absl::IsCancelled(gone.status())) << gone.status();
        EXPECT_EQ(asked, when);
      }
    }
    // Limits that are not met change nothing.
    const auto free = t->Encode(words);
    ASSERT_TRUE(free.ok());
    EXPECT_EQ(*t->Encode(words, {}, {.max_tokens = free->size(), .stop = [] { return false; }}),
              *free);
  }
  const auto t = *bpe.Make();
  std::string words;
  while (words.size() < 1 << 20) words += "aa a";
  size_t asked = 0;
  const auto many = t->Encode(words, {}, {.max_tokens = 1000, .stop = [&] {
                                            ++asked;
                                            return false;
                                          }});
  EXPECT_TRUE(absl::IsOutOfRange(many.status())) << many.status();
  // All of the text is looked through for control tokens first.
  EXPECT_LT(asked, words.size() / 4096 + 3);
}

TEST(StreamDecoder, NeverSplitsACharacter) {
  const auto t = *TestVocab::Bpe({}).Make();
  StreamDecoder decoder(t.get());
  EXPECT_EQ(decoder.Push(0xF0), "");
  EXPECT_EQ(decoder.Push(0x9F), "");
  EXPECT_EQ(decoder.Push(0x98), "");
  EXPECT_EQ(decoder.Push(0x80), "\U0001F600");
  EXPECT_EQ(decoder.Push(0xFF), "\uFFFD");
  EXPECT_EQ(decoder.Push(0xE2), "");
  EXPECT_EQ(decoder.Push('x'), "\uFFFDx");
  EXPECT_EQ(decoder.Push(0xC3), "");
  EXPECT_EQ(decoder.Push(100000), "");
  EXPECT_EQ(decoder.Flush(), "\uFFFD");
  EXPECT_EQ(decoder.Flush(), "");
}

TEST(StreamDecoder, SpecialTokensAndTheFirstSpace) {
  TestVocab v = TestVocab::Spm({"\xE2\x96\x81h"});
  const auto t = *v.Make();
  const auto decode = [&](StreamDecoder::Options options) {
    StreamDecoder decoder(t.get(), options);
    std::string text;
    for (const int32_t id : {1, 259, 259, 2}) text += decoder.Push(id);
    return text + decoder.Flush();
  };
  EXPECT_EQ(decode({}), " h h");
  EXPECT_EQ(decode({.whole_text = true}), "h h");
  EXPECT_EQ(decode({.render_special = true, .whole_text = true}), "<s>h h</s>");
}

}  // namespace
}  // namespace lanyard::model
