#include "apps/daemon_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/command_line.h"
#include "base/exit_code.h"

namespace lanyard::apps {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class DaemonConfig : public ::testing::Test {
 protected:
  void SetUp() override {
    app_.add_option("--name", name_)->required();
    app_.add_option("--threads", threads_)->check(CLI::Range(1, 64));
    app_.add_option("--model", model_);
    app_.add_option("--speed", speed_);
    app_.add_option("--keep", keep_);
    AddDaemonFlags(app_, "LANYARD_TEST", "", &daemon_);
  }
  void TearDown() override {
    std::filesystem::remove(path_);
    for (const char* name : {"LANYARD_TEST_NAME", "LANYARD_TEST_THREADS", "LANYARD_TEST_LOG_LEVEL"})
      ::unsetenv(name);
  }
  // The error's text, or "".
  std::string Parse(const std::string& file, std::vector<std::string> args = {}) {
    std::ofstream(path_) << file;
    args.insert(args.begin(), "--config=" + path_);
    std::reverse(args.begin(), args.end());
    try {
      app_.parse(args);
    } catch (const CLI::ParseError& e) {
      return e.what();
    }
    return "";
  }

  const std::string path_ = ::testing::TempDir() + "daemon_" + std::to_string(getpid()) + ".toml";
  CLI::App app_{"A daemon.", "lanyard-test"};
  std::string name_;
  std::vector<std::string> model_;
  int threads_ = 0;
  double speed_ = 0;
  bool keep_ = true;
  DaemonFlags daemon_;
};

TEST_F(DaemonConfig, AFileGivesEveryKindOfValue) {
  EXPECT_EQ(Parse("# of this machine\nname = 'pc \"1\" # no comment'\nthreads = 3\nspeed = "
                  "1.5\nlog-json = true\n"
                  "model = ['a.gguf', 'b.gguf']\nlog-level = \"debug\"\n"),
            "");
  EXPECT_EQ(name_, "pc \"1\" # no comment");
  EXPECT_EQ(threads_, 3);
  EXPECT_EQ(speed_, 1.5);
  EXPECT_TRUE(daemon_.log_json);
  EXPECT_THAT(model_, ElementsAre("a.gguf", "b.gguf"));
  EXPECT_EQ(daemon_.log_level, "debug");
}

TEST_F(DaemonConfig, FlagBeforeEnvironmentBeforeFileBeforeDefault) {
  ::setenv("LANYARD_TEST_THREADS", "5", 1);
  ::setenv("LANYARD_TEST_NAME", "environment", 1);
  ::setenv("LANYARD_TEST_LOG_LEVEL", "", 1);  // set to nothing: not set
  EXPECT_EQ(
      Parse("name = 'file'\nthreads = 3\nlog-level = 'error'\nlog-json = false\n", {"--name=flag"}),
      "");
  EXPECT_EQ(name_, "flag");
  EXPECT_EQ(threads_, 5);
  EXPECT_EQ(daemon_.log_level, "error");
  EXPECT_FALSE(daemon_.log_json);
}

TEST_F(DaemonConfig, AnUnknownKeyNamesTheNearest) {
  EXPECT_THAT(Parse("name = 'a'\nthread = 3\n"),
              AllOf(HasSubstr(path_), HasSubstr("line 2"), HasSubstr("no option 'thread'"),
                    HasSubstr("'threads'")));
}

TEST_F(DaemonConfig, NobodyIsToldOfAKeyThatHeCannotHaveMeant) {
  EXPECT_THAT(Parse("colour = 3\n"),
              AllOf(HasSubstr("no option 'colour'"), Not(HasSubstr("mean"))));
}

TEST_F(DaemonConfig, AFileThatOpensAndCannotBeReadIsAnError) {
  std::vector<std::string> args = {"--config=/proc/self/mem", "--name=a"};
  try {
    app_.parse(args);
    ADD_FAILURE() << "it was read";
  } catch (const CLI::ParseError& e) {
    EXPECT_THAT(std::string(e.what()), HasSubstr("/proc/self/mem cannot be read"));
  }
}

TEST_F(DaemonConfig, AFlagThatIsNoNumberIsRefusedLikewise) {
  const char* const argv[] = {"program", "--name=a", "--speed=nan"};
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(ParseCommandLine(app_, 3, argv), kUsage);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("'nan' is no number"));
}

TEST_F(DaemonConfig, WhatIsNoOptionOfAFileIsUnknownToo) {
  for (const char* key : {"help", "config"}) {
    EXPECT_THAT(Parse("name = 'a'\n" + std::string(key) + " = true\n"),
                HasSubstr("there is no option"))
        << key;
  }
}

TEST_F(DaemonConfig, WrongTomlNamesTheLine) {
  EXPECT_THAT(Parse("name = 'a'\nthreads = = 3\n"), AllOf(HasSubstr(path_), HasSubstr("line 2")));
}

TEST_F(DaemonConfig, ATableIsNoValue) {
  EXPECT_THAT(Parse("[name]\nx = 1\n"), HasSubstr("name must be a text"));
}

TEST_F(DaemonConfig, AValueOfAnotherKindNamesFileLineAndKind) {
  for (const auto& [value, wanted] :
       {std::pair("name = true", "name must be a text in quotes, not true"),
        std::pair("name = 5", "name must be a text in quotes, not 5"),
        std::pair("model = ['a', 2]", "model must be a text in quotes, not 2"),
        std::pair("threads = true", "threads must be a whole number, not true"),
        std::pair("threads = 2.5", "threads must be a whole number, not 2.5"),
        std::pair("threads = 'two'", "threads must be a whole number, not 'two'"),
        std::pair("threads = [1]", "threads takes one value, not a list"),
        std::pair("threads = 4.0", "threads must be a whole number, not 4.0"),
        std::pair("log-json = [true]", "log-json takes one value, not a list"),
        std::pair("log-json = []", "log-json takes one value, not a list"),
        std::pair("speed = nan", "speed must be a number, not nan"),
        std::pair("speed = 'nan'", "speed must be a number, not 'nan'"),
        std::pair("threads = 2026-11-30", "threads must be a whole number"),
        std::pair("speed = 'fast'", "speed must be a number, not 'fast'"),
        std::pair("log-json = 1", "log-json must be true or false, not 1"),
        std::pair("log-json = 'no'", "log-json must be true or false, not 'no'"),
        std::pair("keep = 0", "keep must be true or false, not 0")}) {
    EXPECT_THAT(Parse(absl::StrCat("# a line\n", value, "\n")),
                AllOf(HasSubstr(path_ + " line 2: "), HasSubstr(wanted)))
        << value;
  }
  EXPECT_EQ(Parse("name = 'a'\nthreads = '3'\nspeed = 2\nkeep = false\nlog-json = 'true'\n"), "");
  EXPECT_EQ(threads_, 3);
  EXPECT_EQ(speed_, 2);
  EXPECT_FALSE(keep_);
  EXPECT_TRUE(daemon_.log_json);
}

TEST_F(DaemonConfig, AValueIsCheckedAsAFlagsIs) {
  for (const auto& [value, wanted] :
       {std::pair("threads = 99", "threads: Value 99 not in range 1 to 64"),
        std::pair("name = ''", "name: its value is empty"),
        std::pair("log-level = 'loud'", "log-level: ")}) {
    EXPECT_THAT(Parse(absl::StrCat("# a line\n", value, "\n")),
                AllOf(HasSubstr(path_ + " line 2: "), HasSubstr(wanted)))
        << value;
  }
}

TEST_F(DaemonConfig, WhatIsRequiredMayComeFromTheFile) {
  EXPECT_THAT(Parse("threads = 1\n"), HasSubstr("--name"));
}

TEST_F(DaemonConfig, ANamedFileThatIsNotThereIsAnError) {
  std::vector<std::string> args = {"--config=/nonexistent/x.toml", "--name=a"};
  EXPECT_THROW(app_.parse(args), CLI::FileError);
  for (const auto& [config, what] : {std::pair("/nonexistent/x.toml", "there is no /nonexist"),
                                     std::pair("/tmp", "/tmp is a folder")}) {
    const std::string option = absl::StrCat("--config=", config);
    const char* const argv[] = {"program", option.c_str(), "--name=a"};
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(ParseCommandLine(app_, 3, argv), kUsage);
    EXPECT_THAT(::testing::internal::GetCapturedStderr(),
                HasSubstr(absl::StrCat("error: --config: ", what)));
  }
}

TEST_F(DaemonConfig, WithoutAFileTheEnvironmentStillCounts) {
  ::setenv("LANYARD_TEST_NAME", "environment", 1);
  std::vector<std::string> none;
  app_.parse(none);
  EXPECT_EQ(name_, "environment");
}

}  // namespace
}  // namespace lanyard::apps
