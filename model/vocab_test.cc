// What converters leave wrong in a vocabulary: what no one uses loads with a warning, as elsewhere;
// what is used must be there.
#include "model/vocab.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "model/gguf.h"
#include "model/model_shape.h"
#include "model/testing/gguf_writer.h"
#include "model/tokenizer.h"

namespace lanyard::model {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TinyLlama;

constexpr int32_t kTokens = 40;  // of TinyLlama: a "llama" tokenizer, bos 1, eos 2

// Of each special token that llama.cpp knows.
constexpr const char* kKeys[] = {"bos_token_id",     "eos_token_id",       "eot_token_id",
                                 "eom_token_id",     "unknown_token_id",   "padding_token_id",
                                 "cls_token_id",     "seperator_token_id", "mask_token_id",
                                 "fim_pre_token_id", "fim_suf_token_id",   "fim_mid_token_id",
                                 "fim_pad_token_id", "fim_rep_token_id",   "fim_sep_token_id",
                                 "prefix_token_id",  "suffix_token_id",    "middle_token_id"};

constexpr std::string_view kReadIds[] = {"bos_token_id", "eos_token_id", "eot_token_id",
                                         "eom_token_id", "unknown_token_id"};

std::string Key(const char* name) { return absl::StrCat("tokenizer.ggml.", name); }

// The whole way of a served file: shape, then tokenizer.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadFrom(const GgufWriter& writer) {
  const std::vector<uint8_t> bytes = writer.Build();
  ASSIGN_OR_RETURN(const auto file, GgufFile::Parse(bytes));
  RETURN_IF_ERROR(ShapeFromGguf(*file).status());
  return Tokenizer::Load(*file);
}

TEST(Vocab, AWholeFileHasNoWarnings) {
  const auto tokenizer = LoadFrom(TinyLlama());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->warnings(), IsEmpty());
}

TEST(Vocab, EverySpecialIdOutsideTheVocabularyLoadsWithAWarningUnlessItIsUsed) {
  for (const char* name : kKeys) {
    const bool used = std::string_view(name) == "bos_token_id" ||  // added: a "llama" tokenizer
                      std::string_view(name) == "eos_token_id";
    for (const uint32_t id : {uint32_t{kTokens}, 0xFFFFFFFEU, 0xFFFFFFFFU}) {
      SCOPED_TRACE(absl::StrCat(name, " ", id));
      const auto tokenizer = LoadFrom(TinyLlama().U32(Key(name), id));
      if (used && id != 0xFFFFFFFFU) {  // which says that there is none
        EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
        EXPECT_THAT(
            Str(tokenizer.status().message()),
            AllOf(HasSubstr(absl::StrCat(Key(name), " is ", id)),
                  HasSubstr("the vocabulary has 40 tokens, and "),
                  HasSubstr(name[0] == 'b' ? "every prompt begins with it" : "answers end at it")));
        continue;
      }
      ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
      EXPECT_THAT((*tokenizer)->warnings(),
                  ElementsAre(absl::StrCat("special ids outside the vocabulary of 40 tokens are "
                                           "taken as if they were absent (1 of them; the first: ",
                                           Key(name), " is ", id, ")")));
      const auto ids = (*tokenizer)->Encode("t", {.add_special = true});
      EXPECT_TRUE(ids.ok()) << ids.status();
    }
    SCOPED_TRACE(name);
    const auto minus_one = LoadFrom(TinyLlama().I32(Key(name), -1));
    ASSERT_TRUE(minus_one.ok()) << minus_one.status();
    EXPECT_THAT((*minus_one)->warnings(), ElementsAre(HasSubstr(Key(name) + " is -1)")));
    const auto inside = LoadFrom(TinyLlama().U32(Key(name), kTokens - 1));
    ASSERT_TRUE(inside.ok()) << inside.status();
    EXPECT_THAT((*inside)->warnings(), IsEmpty());
    // A value of another type is a fault of the keys that are read.
    const auto text = LoadFrom(TinyLlama().Str(Key(name), "39"));
    const auto list = LoadFrom(TinyLlama().Strings(Key(name), {"39"}));
    for (const auto* odd : {&text, &list}) {
      if (std::find(std::begin(kReadIds), std::end(kReadIds), name) != std::end(kReadIds)) {
        EXPECT_EQ(odd->status().code(), absl::StatusCode::kInvalidArgument);
        EXPECT_THAT(Str(odd->status().message()), HasSubstr(name));
        continue;
      }
      ASSERT_TRUE(odd->ok()) << odd->status();
      EXPECT_THAT((**odd)->warnings(),
                  ElementsAre(AllOf(HasSubstr("that nothing here reads"), HasSubstr(name))));
    }
  }
}

// A "gpt2" tokenizer over TinyLlama.
GgufWriter TinyBpe() {
  GgufWriter w = TinyLlama();
  w.Str("tokenizer.ggml.model", "gpt2").Str("tokenizer.ggml.pre", "gpt-2");
  w.Strings("tokenizer.ggml.merges", {"t h"});
  return w;
}

TEST(Vocab, KeysOfTheOtherKindOnlyWarn) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> with_nan(kTokens, nan);
  const std::vector<float> few = {1, 2};
  for (const GgufWriter& bpe :
       {TinyBpe().Floats(Key("scores"), with_nan), TinyBpe().Floats(Key("scores"), few),
        TinyBpe().Str(Key("scores"), "x"), TinyBpe().Str(Key("add_space_prefix"), "x"),
        TinyBpe().Str(Key("unknown_token_id"), "x")}) {
    const auto tokenizer = LoadFrom(bpe);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_THAT((*tokenizer)->warnings(), Contains(HasSubstr("(1 of them; the first: ")));
  }
  for (const GgufWriter& spm :
       {TinyLlama().Str(Key("merges"), "x"), TinyLlama().U32(Key("pre"), 1)}) {
    const auto tokenizer = LoadFrom(spm);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_THAT((*tokenizer)->warnings(), ElementsAre(HasSubstr("(1 of them; the first: ")));
  }
  for (const GgufWriter& used :
       {TinyLlama().Floats(Key("scores"), with_nan), TinyLlama().Floats(Key("scores"), few),
        TinyLlama().Str(Key("add_space_prefix"), "x"), TinyBpe().Str(Key("merges"), "x"),
        TinyBpe().U32(Key("pre"), 1)})
    EXPECT_EQ(LoadFrom(used).status().code(), absl::StatusCode::kInvalidArgument)
        << LoadFrom(used).status();
}

// Without merges every text would be bytes, and the answers nonsense.
TEST(Vocab, BytePairsNeedMerges) {
  for (const GgufWriter& bpe :
       {TinyBpe().Remove(Key("merges")), TinyBpe().Strings(Key("merges"), {}),
        TinyBpe().Strings(Key("merges"), {"th", "", " x"})}) {
    const auto tokenizer = LoadFrom(bpe);
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Str(tokenizer.status().message()),
                AllOf(HasSubstr("tokenizer.ggml.merges "), HasSubstr("convert the model again")));
  }
  EXPECT_TRUE(LoadFrom(TinyBpe()).ok()) << LoadFrom(TinyBpe()).status();
}

// A file that lacks a key is a wrong file, and nothing that was not found.
TEST(Vocab, AMissingKeyIsTheFilesFault) {
  for (const char* name : {"model", "tokens"}) {
    const auto tokenizer = LoadFrom(TinyLlama().Remove(Key(name)));
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Str(tokenizer.status().message()), HasSubstr(Key(name)));
  }
}

TEST(Vocab, BosMustExistOnlyWhereItIsAdded) {
  const auto with = [](uint32_t id, bool add) {
    return LoadFrom(
        TinyLlama().U32(Key("bos_token_id"), id).Bool("tokenizer.ggml.add_bos_token", add));
  };
  const auto unused = with(kTokens, false);
  ASSERT_TRUE(unused.ok()) << unused.status();
  EXPECT_THAT((*unused)->warnings(), ElementsAre(HasSubstr("bos_token_id is 40")));
  EXPECT_THAT(Str(with(kTokens, true).status().message()), HasSubstr("add_bos_token is true"));
  // An eos that is to be added, and that there is none of, is missed by name.
  GgufWriter bpe = TinyBpe();
  bpe.U32(Key("eos_token_id"), 0xFFFFFFFFU).Bool("tokenizer.ggml.add_eos_token", true);
  EXPECT_THAT(Str(LoadFrom(bpe).status().message()), HasSubstr("there is no eos_token_id"));
}

TEST(Vocab, ThatNothingEndsAnAnswerIsSaid) {
  GgufWriter bpe = TinyBpe();
  bpe.Remove(Key("eos_token_id"));
  const auto tokenizer = LoadFrom(bpe);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->warnings(), Contains(HasSubstr("no token ends an answer")));
}

TEST(Vocab, EachKindIsOneLineHoweverManyThereAre) {
  std::vector<std::string> tokens(kTokens);
  for (int i = 0; i < 20; ++i) tokens[i] = absl::StrCat("t", i);
  GgufWriter w = TinyLlama();
  w.Strings("tokenizer.ggml.tokens", tokens);
  for (const char* name : kKeys) {
    if (std::string_view(name) != "bos_token_id" && std::string_view(name) != "eos_token_id")
      w.U32(Key(name), kTokens);
  }
  const auto tokenizer = LoadFrom(w);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(
      (*tokenizer)->warnings(),
      ElementsAre(AllOf(HasSubstr("tokens with an empty text"),
                        HasSubstr("(20 of them; the first: token 20)")),
                  AllOf(HasSubstr("special ids outside"),
                        HasSubstr("(16 of them; the first: tokenizer.ggml.eot_token_id is 40)"))));
  EXPECT_EQ((*tokenizer)->PieceBytes(25), "");
  EXPECT_EQ((*tokenizer)->FindToken(""), std::nullopt);
}

}  // namespace
}  // namespace lanyard::model
