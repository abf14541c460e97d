// `lanyard plan` of files that a pool would not take, and of names that are somebody's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "cli/cli.h"
#include "model/testing/gguf_writer.h"

namespace lanyard::cli {
namespace {

using model::testing::GgufWriter;
using model::testing::TinyLlama;
using ::testing::HasSubstr;
using ::testing::Not;

class PlanTest : public ::testing::Test {
 protected:
  PlanTest() {
    std::filesystem::create_directories(folder_);
    machines_ = "[[machine]]\nname = \"pc1\"\nmemory = \"8GiB\"\nspeed = 1.0\n";
  }
  ~PlanTest() override { std::filesystem::remove_all(folder_); }

  int Plan(const GgufWriter& writer) {
    const std::vector<uint8_t> bytes = writer.Build();
    std::ofstream(model_, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    std::ofstream(folder_ + "/machines.toml") << machines_;
    std::vector<std::string> args = {"lanyard", "plan",       "--model",
                                     model_,    "--machines", folder_ + "/machines.toml"};
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    const int code = Main(static_cast<int>(argv.size()), argv.data());
    std::fflush(stdout);
    out_ = ::testing::internal::GetCapturedStdout();
    err_ = ::testing::internal::GetCapturedStderr();
    return code;
  }

  const std::string folder_ = ::testing::TempDir() + absl::StrCat("plan-", getpid());
  const std::string model_ = folder_ + "/tiny.gguf";
  std::string machines_;
  std::string out_;
  std::string err_;
};

TEST_F(PlanTest, WhatAPoolRefusesIsNoPlan) {
  ASSERT_EQ(Plan(TinyLlama()), kOk) << err_;
  EXPECT_THAT(out_, HasSubstr("pc1"));
  for (const GgufWriter& writer : {TinyLlama().Str("tokenizer.ggml.model", "bert"),
                                   TinyLlama().U32("tokenizer.ggml.eos_token_id", 4000),
                                   TinyLlama().Remove("tokenizer.ggml.model"),
                                   TinyLlama().Str("general.architecture", "mamba")}) {
    EXPECT_EQ(Plan(writer), kFailed);
    EXPECT_EQ(out_, "");
    EXPECT_THAT(err_, HasSubstr(absl::StrCat("error: model \"", model_, "\": ")));
  }
}

TEST_F(PlanTest, NoNameCommandsTheTerminal) {
  machines_ = "[[machine]]\nname = \"p\\u001b[2J\\u009b2J\"\nmemory = \"8GiB\"\nspeed = 1.0\n";
  ASSERT_EQ(Plan(TinyLlama()), kOk) << err_;
  EXPECT_THAT(out_, HasSubstr("p?[2J?2J"));
  EXPECT_THAT(out_, Not(HasSubstr("\x1b")));
  EXPECT_THAT(out_, Not(HasSubstr("\xC2\x9b")));
}

}  // namespace
}  // namespace lanyard::cli
