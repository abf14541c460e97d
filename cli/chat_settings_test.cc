#include "cli/chat_settings.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lanyard::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string Why(const std::string& name, const std::string& value) {
  ChatSettings settings;
  return Str(SetSetting(settings, name, value).message());
}

TEST(ChatSettings, TakeWhatThePoolTakes) {
  ChatSettings s;
  for (const auto& [name, value] :
       std::vector<std::pair<std::string, std::string>>{{"temperature", "0"},
                                                        {"temperature", "2"},
                                                        {"top_p", "1"},
                                                        {"top_p", "1e-3"},
                                                        {"max_tokens", "1"},
                                                        {"max_tokens", "2147483647"},
                                                        {"seed", "-9223372036854775808"},
                                                        {"system", "Sprich Züritüütsch, 你好"},
                                                        {"verbose", "on"}}) {
    EXPECT_TRUE(SetSetting(s, name, value).ok()) << name << " " << value;
  }
  EXPECT_EQ(s.temperature, 2.0);
  EXPECT_EQ(s.top_p, 0.001);
  EXPECT_EQ(s.max_tokens, 2147483647u);
  EXPECT_EQ(s.seed, INT64_MIN);
  EXPECT_EQ(s.system, "Sprich Züritüütsch, 你好");
  EXPECT_TRUE(s.verbose);
}

TEST(ChatSettings, RefuseTheRestAndNameTheRange) {
  for (const char* value : {"7", "-0.1", "2.1", "nan", "inf", "0,5", "", "1x", "on"}) {
    EXPECT_THAT(Why("temperature", value),
                AllOf(HasSubstr(value), HasSubstr("a number from 0 to 2")));
  }
  for (const char* value : {"0", "1.01", "nan"})
    EXPECT_THAT(Why("top_p", value), HasSubstr("above 0 and at most 1")) << value;
  for (const char* value : {"0", "-1", "1.5", "2147483648", "99999999999999999999"})
    EXPECT_THAT(Why("max_tokens", value), HasSubstr("from 1 to 2147483647")) << value;
  for (const char* value : {"1.5", "9223372036854775808", "x"})
    EXPECT_THAT(Why("seed", value), HasSubstr("whole number")) << value;
  for (const char* value : {"banana", "1", "ON"})
    EXPECT_THAT(Why("verbose", value), HasSubstr("on or off")) << value;
  EXPECT_THAT(Why("temprature", "1"),
              AllOf(HasSubstr("did you mean temperature?"), HasSubstr("top_p, max_tokens, seed")));
}

TEST(ChatSettings, ARefusedValueChangesNothingAndDefaultTakesBack) {
  ChatSettings s;
  ASSERT_TRUE(SetSetting(s, "temperature", "0.5").ok());
  EXPECT_FALSE(SetSetting(s, "temperature", "7").ok());
  EXPECT_EQ(s.temperature, 0.5);
  s.system = "x";
  s.verbose = true;
  for (const Setting& setting : Settings())
    EXPECT_TRUE(SetSetting(s, setting.name, "default").ok());
  EXPECT_EQ(SettingsText(s, /*ranges=*/false), SettingsText(ChatSettings{}, /*ranges=*/false));
}

TEST(ChatSettings, AllAreShown) {
  ChatSettings s;
  s.temperature = 0.7;
  EXPECT_EQ(SettingsText(s, /*ranges=*/false),
            "temperature  0.7\ntop_p        default\nmax_tokens   default\nseed         default\n"
            "system       none\nverbose      off\n");
  EXPECT_THAT(SettingsText(s, /*ranges=*/true), HasSubstr("0.7  (a number from 0 to 2"));
}

}  // namespace
}  // namespace lanyard::cli
