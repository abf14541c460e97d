// `lanyard gpu-check` over fake cards: what the report has, and what it must not have.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "cli/cli.h"
#include "engine/ops/cuda/ptx_image.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fake_cuda/fake_cuda.h"

namespace lanyard::fake_cuda {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

class GpuCheck : public ::testing::Test {
 protected:
  void SetUp() override {
    if (ops::cuda::PtxLevels().empty()) GTEST_SKIP() << "this build has no CUDA kernels";
    out_ = std::filesystem::temp_directory_path() /
           ("gpu_check_test." + std::to_string(getpid()) + ".json");
  }
  void TearDown() override { std::filesystem::remove(out_); }

  int Run(const std::string& cards, std::vector<std::string> more = {}) {
    setenv("LANYARD_FAKE_CUDA", cards.c_str(), 1);  // for NVML
    FakeCuda::Get().Reset(cards);
    std::vector<std::string> args = {"lanyard", "gpu-check", "--small", "--out", out_.string()};
    args.insert(args.end(), more.begin(), more.end());
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const int code = cli::Main(static_cast<int>(argv.size()), argv.data());
    stdout_ = testing::internal::GetCapturedStdout();
    stderr_ = testing::internal::GetCapturedStderr();
    unsetenv("LANYARD_FAKE_CUDA");
    return code;
  }
  std::string ReportText() const {
    std::ifstream file(out_);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::filesystem::path out_;
  std::string stdout_;
  std::string stderr_;
};

TEST_F(GpuCheck, TwoCardsOneReport) {
  ASSERT_EQ(Run("devices=2,cc=8.6/7.5,sms=1,memory=64MiB"), kOk) << stderr_;
  EXPECT_THAT(stdout_, HasSubstr("cuda:1  Interpreted card 1, compute capability 7.5"));
  EXPECT_THAT(stdout_, HasSubstr("equal to the CPU, bit for bit"));
  const json report = json::parse(ReportText());
  EXPECT_EQ(report["ok"], true);
  EXPECT_EQ(report["driver"], "580.0.fake");
  ASSERT_EQ(report["cards"].size(), 2u);
  for (const json& card : report["cards"]) {
    EXPECT_GT(card["kernels"].size(), 30u);
    for (const json& kernel : card["kernels"]) EXPECT_FALSE(kernel.contains("error")) << kernel;
    EXPECT_GT(card["checks"].size(), 40u);
    EXPECT_EQ(card["checks_failed"], 0);
    EXPECT_GT(card["probe"]["read_bytes_per_second"], 0.0);
    EXPECT_EQ(card["nvml"]["celsius"], 51);
    EXPECT_EQ(card["nvml"]["graphics_processes"], 1);
  }
}

TEST_F(GpuCheck, OldCardIsSkippedAndTheOthersAreChecked) {
  ASSERT_EQ(Run("devices=2,cc=5.2/8.6,sms=1,memory=64MiB,lose_device=0,lose_at=1", {"--no-probe"}),
            kOk)
      << stdout_;
  EXPECT_THAT(stdout_, HasSubstr("skipped  Interpreted card 0 has compute capability 5.2"));
  const json report = json::parse(ReportText());
  EXPECT_EQ(report["ok"], true);
  EXPECT_FALSE(report["cards"][0].contains("error")) << "it was called";
  EXPECT_EQ(report["cards"][1]["checks_failed"], 0);
}

TEST_F(GpuCheck, NothingOfTheMachineOrItsUser) {
  ASSERT_EQ(Run("sms=1,memory=64MiB", {"--no-probe"}), kOk) << stderr_;
  const std::string text = ReportText();
  char host[256] = "";
  ASSERT_EQ(gethostname(host, sizeof(host) - 1), 0);
  for (const std::string& secret :
       {std::string(host), out_.string(), std::filesystem::current_path().string(), LibraryPath(),
        std::string("0000:0a")}) {
    if (secret == host && secret.size() < 9) continue;  // a short name may be a word of the report
    EXPECT_THAT(text, Not(HasSubstr(secret)));
  }
  // A process on the card. Figures may have its digits among theirs: "0.0004242".
  const json flat = json::parse(text).flatten();
  for (const auto& [key, value] : flat.items()) {
    if (value.is_number_float()) continue;
    EXPECT_THAT(value.dump(), Not(HasSubstr("4242"))) << key;
  }
}

TEST_F(GpuCheck, JsonOnStdoutIsTheReport) {
  ASSERT_EQ(Run("sms=1,memory=64MiB", {"--json", "--no-probe"}), kOk) << stderr_;
  EXPECT_EQ(json::parse(stdout_), json::parse(ReportText()));
}

TEST_F(GpuCheck, LostCardFailsWithWhatWasDone) {
  EXPECT_EQ(Run("sms=1,memory=64MiB,lose_at_work=40"), kFailed);
  const json report = json::parse(ReportText());
  EXPECT_EQ(report["ok"], false);
  EXPECT_THAT(report["cards"][0]["error"].get<std::string>(), HasSubstr("lost cuda:0"));
  EXPECT_GT(report["cards"][0]["checks"].size(), 0u);
}

TEST_F(GpuCheck, NoCardNoDriverOldDriver) {
  EXPECT_EQ(Run("devices=0"), kNotFound);
  EXPECT_EQ(Run("devices=1", {"--card", "3"}), kNotFound);
  EXPECT_THAT(stderr_, HasSubstr("no card cuda:3"));
  EXPECT_EQ(Run("cc=5.2"), kFailed);
  EXPECT_THAT(ReportText(), HasSubstr("compute capability 5.2"));
  EXPECT_EQ(Run("driver=11010"), kFailed);
  EXPECT_THAT(ReportText(), HasSubstr("newer NVIDIA driver"));
}

TEST_F(GpuCheck, ReportThatCannotBeWrittenIsAnError) {
  out_ = "/nowhere/report.json";
  EXPECT_EQ(Run("sms=1,memory=64MiB", {"--no-probe"}), kFailed);
  EXPECT_THAT(stderr_, HasSubstr("--out"));
}

}  // namespace
}  // namespace lanyard::fake_cuda
