#include "base/api_key.h"

#include <gtest/gtest.h>

#include <set>

namespace lanyard {
namespace {

TEST(ApiKeyTextTest, MakesWhatItReads) {
  std::set<std::string> seen;
  for (int i = 0; i < 200; ++i) {
    const auto key = ApiKeyText::Make();
    ASSERT_TRUE(key.ok());
    EXPECT_TRUE(IsApiKeyId(key->id));
    EXPECT_EQ(key->secret.size(), kApiKeySecretBytes);
    const std::string text = key->Encode();
    EXPECT_EQ(text.size(), 65u);
    EXPECT_EQ(
        text.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"),
        text.npos);
    const auto again = ApiKeyText::Parse(text);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->id, key->id);
    EXPECT_EQ(again->secret, key->secret);
    EXPECT_TRUE(seen.insert(text).second);
  }
}

TEST(ApiKeyTextTest, EveryCharacterCounts) {
  const std::string text = ApiKeyText::Make()->Encode();
  for (size_t i = kApiKeyPrefix.size(); i < text.size(); ++i) {
    for (const char c : {'0', 'A', 'z', '_', '-', '+', ' ', '\0'}) {
      std::string wrong = text;
      if (wrong[i] == c) continue;
      wrong[i] = c;
      EXPECT_EQ(ApiKeyText::Parse(wrong).status(), NotAnApiKey()) << i << " " << c;
    }
  }
}

// What is wrong with a key is nobody's business: all of it is said in the same words.
TEST(ApiKeyTextTest, EveryLengthButOneIsNoKey) {
  const std::string text = ApiKeyText::Make()->Encode();
  for (size_t n = 0; n < text.size(); ++n) {
    EXPECT_EQ(ApiKeyText::Parse(text.substr(0, n)).status(), NotAnApiKey()) << n;
  }
  EXPECT_EQ(ApiKeyText::Parse(text + "x").status(), NotAnApiKey());
  EXPECT_EQ(ApiKeyText::Parse("sk-abc").status(), NotAnApiKey());
  EXPECT_TRUE(ApiKeyText::Parse(text).ok());
}

}  // namespace
}  // namespace lanyard
