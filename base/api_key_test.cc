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
      const auto key = ApiKeyText::Parse(wrong);
      ASSERT_FALSE(key.ok()) << i << " " << c;
      EXPECT_NE(key.status().message().find("altered"), absl::string_view::npos);
      EXPECT_EQ(key.status().message().find(text.substr(20, 20)), absl::string_view::npos)
          << "the key stands in an error";
    }
  }
}

TEST(ApiKeyTextTest, SaysWhatIsWrong) {
  const std::string text = ApiKeyText::Make()->Encode();
  const auto words = [](std::string_view s) {
    return Str(ApiKeyText::Parse(s).status().message());
  };
  for (size_t n = kApiKeyPrefix.size(); n < text.size(); ++n) {
    EXPECT_NE(words(text.substr(0, n)).find("cut short"), std::string::npos) << n;
  }
  EXPECT_NE(words(text + "x").find("too long"), std::string::npos);
  EXPECT_NE(words("sk-abc").find("not an API key"), std::string::npos);
  EXPECT_NE(words("").find("not an API key"), std::string::npos);
}

}  // namespace
}  // namespace lanyard
