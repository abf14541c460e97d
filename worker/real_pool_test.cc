// A real model over three real workers of 88 MiB each: the same tokens as the engine alone, and the
// limits are kept.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>

#include <csignal>
#include <fstream>

#include "base/size.h"
#include "model/testing/test_data.h"
#include "worker/testing_coordinator.h"
#include "worker/testing_util.h"

extern char** environ;

namespace lanyard::worker {
namespace {

using testing::WaitFor;

constexpr uint64_t kLimitBytes = uint64_t{88} << 20;
constexpr uint32_t kContext = 640;
constexpr uint32_t kPromptTokens = 500;
constexpr int kGenerate = 12;

// Sanitizers take several times the memory, so the limits mean nothing under them.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define LANYARD_TEST_SANITIZED 1
#endif
#endif

std::string ModelPath() { return model::testing::RealModelPath("smollm2"); }

class WorkerProcess {
 public:
  WorkerProcess(const std::string& join, const std::string& name, const std::string& state) {
    std::vector<std::string> args = {std::string(LANYARD_BIN_DIR) + "/lanyard-worker",
                                     "--join",
                                     join,
                                     "--name",
                                     name,
                                     "--state",
                                     state,
                                     "--memory",
                                     "88MiB",
                                     "--threads",
                                     "1",
                                     "--plaintext"};
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    EXPECT_EQ(posix_spawn(&pid_, argv[0], nullptr, nullptr, argv.data(), environ), 0);
  }
  ~WorkerProcess() {
    kill(pid_, SIGTERM);
    int status = 0;
    waitpid(pid_, &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0)
        << "a worker told to stop exits with 0";
  }
  uint64_t PeakBytes() const {
    std::ifstream file(absl::StrCat("/proc/", pid_, "/status"));
    std::string word;
    uint64_t kib = 0;
    while (file >> word) {
      if (word == "VmHWM:" && file >> kib) break;
    }
    return kib * 1024;
  }

 private:
  pid_t pid_ = 0;
};

stage::StepFrame Frame(const stage::NumericsId& numerics, uint64_t step, uint32_t pos,
                       std::vector<int32_t> tokens) {
  stage::StepFrame frame;
  frame.plan = PlanId(1);
  frame.epoch = Epoch(1);
  frame.numerics = numerics;
  frame.batch.step = StepId(step);
  stage::SeqRun run;
  run.seq = SeqId(1);
  run.pos = pos;
  run.n_rows = static_cast<uint32_t>(tokens.size());
  run.tokens = std::move(tokens);
  stage::BlockTable table;
  for (uint32_t b = 0; b * stage::kKvBlockTokens < pos + run.n_rows; ++b) table.blocks.push_back(b);
  run.tables = {table};
  stage::OutputRequest output;
  output.row = run.n_rows - 1;
  output.sample.temperature = 0;
  run.outputs = {output};
  frame.batch.runs = {run};
  return frame;
}

// The prompt in one frame, then token by token; `step` runs one frame and gives its token.
std::vector<int32_t> Generate(const stage::NumericsId& numerics,
                              const std::function<int32_t(stage::StepFrame)>& step) {
  std::vector<int32_t> prompt;
  for (uint32_t i = 0; i < kPromptTokens; ++i)
    prompt.push_back(static_cast<int32_t>(100 + i * 37 % 40000));
  std::vector<int32_t> out = {step(Frame(numerics, 0, 0, prompt))};
  for (int i = 1; i < kGenerate; ++i) {
    out.push_back(step(Frame(numerics, static_cast<uint64_t>(i),
                             kPromptTokens + static_cast<uint32_t>(i) - 1, {out.back()})));
  }
  return out;
}

stage::StageSpec Spec(const model::ModelShape& shape, uint32_t index, uint32_t n_stages,
                      stage::LayerRange layers) {
  stage::StageSpec spec;
  spec.plan = PlanId(1);
  spec.epoch = Epoch(1);
  spec.index = index;
  spec.n_stages = n_stages;
  spec.numerics = engine::DefaultNumerics(shape);
  spec.layers = layers;
  spec.embeds = index == 0;
  spec.samples = index + 1 == n_stages;
  spec.group_blocks = {kContext / stage::kKvBlockTokens};
  spec.max_context = kContext;
  return spec;
}

TEST(RealPool, ThreeSmallWorkersGiveTheEnginesTokensWithinTheirLimits) {
#ifdef LANYARD_TEST_SANITIZED
  GTEST_SKIP() << "memory limits are not tested under a sanitizer";
#endif
  if (!model::testing::Readable(ModelPath()))
    GTEST_SKIP() << model::testing::NoRealModel(ModelPath());
  ASSERT_TRUE(model::testing::Readable(LANYARD_BIN_DIR "/lanyard-worker"))
      << "build lanyard-worker first: this test starts it";
  auto file = model::GgufFile::Open(ModelPath());
  ASSERT_TRUE(file.ok()) << file.status();
  auto built = model::BuildManifest(**file, true);
  ASSERT_TRUE(built.ok()) << built.status();
  const auto manifest = std::make_shared<const model::Manifest>(*std::move(built));
  const uint32_t n = manifest->shape.n_layers;

  testing::FakeCoordinator coordinator({manifest, file->get()});
  testing::TempDir dir;
  std::vector<std::unique_ptr<WorkerProcess>> workers;
  const std::vector<std::string> names = {"a", "b", "c"};
  for (const std::string& name : names) {
    workers.push_back(std::make_unique<WorkerProcess>(coordinator.server()->address(), name,
                                                      dir.path() + "/" + name));
  }
  for (const std::string& name : names)
    ASSERT_TRUE(WaitFor([&] { return coordinator.Link(name).has_value(); }));
  const stage::LayerRange cuts[] = {{0, n * 2 / 5}, {n * 2 / 5, n * 4 / 5}, {n * 4 / 5, n}};
  for (uint32_t i = 0; i < 3; ++i) {
    net::Assignment assignment;
    assignment.spec = Spec(manifest->shape, i, 3, cuts[i]);
    assignment.manifest = manifest;
    if (i < 2) {
      assignment.next_worker = names[i + 1];
      assignment.next_address = coordinator.Hello(names[i + 1]).stage_address;
    }
    coordinator.server()->Assign(*coordinator.Link(names[i]), assignment);
  }
  for (const std::string& name : names) {
    ASSERT_TRUE(
        WaitFor([&] { return coordinator.Ready(*coordinator.Link(name), 1).has_value(); }, 30000))
        << (coordinator.failed().empty() ? absl::OkStatus() : coordinator.failed()[0].status);
  }
  net::RemoteStageOptions options;
  options.address = coordinator.Hello("a").stage_address;
  options.from = "coordinator";
  options.plan = PlanId(1);
  options.epoch = Epoch(1);
  const auto first = net::RemoteStage::Connect(options);
  ASSERT_TRUE(first->WaitReady(3000).ok());
  const std::vector<int32_t> pool =
      Generate(engine::DefaultNumerics(manifest->shape), [&](stage::StepFrame frame) {
        const size_t step = frame.batch.step.value;
        EXPECT_TRUE(first->Send(std::move(frame)).ok());
        EXPECT_TRUE(WaitFor([&] { return coordinator.results().all().size() > step; }, 30000));
        const stage::StepResult result = coordinator.results().all().back();
        EXPECT_TRUE(result.status.ok()) << result.status;
        return result.tokens.empty() ? -1 : result.tokens[0].token;
      });
  for (size_t i = 0; i < 3; ++i) {
    const net::StageReady ready = *coordinator.Ready(*coordinator.Link(names[i]), 1);
    const uint64_t planned = coordinator.Hello(names[i]).base_bytes + ready.weights_bytes +
                             ready.kv_bytes + ready.buffer_bytes;
    const uint64_t peak = workers[i]->PeakBytes();
    std::printf("worker %s: peak %s, planned %s (base %s)\n", names[i].c_str(),
                FormatSize(peak).c_str(), FormatSize(planned).c_str(),
                FormatSize(coordinator.Hello(names[i]).base_bytes).c_str());
    EXPECT_LE(peak, planned);
    EXPECT_LE(peak, kLimitBytes);
  }

  const auto alone =
      engine::LocalStage::Create(manifest->shape, Spec(manifest->shape, 0, 1, {0, n}), **file, {1});
  ASSERT_TRUE(alone.ok()) << alone.status();
  const std::vector<int32_t> want =
      Generate(engine::DefaultNumerics(manifest->shape), [&](stage::StepFrame frame) {
        const auto output = (*alone)->Run(frame, {});
        EXPECT_TRUE(output.ok()) << output.status();
        return output.ok() ? output->tokens[0].token : -1;
      });
  EXPECT_EQ(pool, want);
}

}  // namespace
}  // namespace lanyard::worker
