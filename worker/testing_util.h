// signalled when there is space for more
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "model/gguf.h"
#include "model/part_source.h"
#include "model/testing/gguf_writer.h"
#include "net/control.h"
#include "net/testing_util.h"
#include "worker/stage_factory.h"

namespace lanyard::worker::testing {

using net::testing::WaitFor;

class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "lanyard_test_XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// What a coordinator serves.
struct Parts {
  std::shared_ptr<const model::Manifest> manifest;
  const model::GgufFile* file = nullptr;
};

// A model with two layers of 64; every part has bytes of its own.
class TinyModel {
 public:
  TinyModel() {
    model::testing::GgufWriter writer = model::testing::TinyLlama();
    bytes_ = writer.Build();
    for (size_t i = writer.BuildHeader().size(); i < bytes_.size(); ++i) {
      bytes_[i] = static_cast<uint8_t>((i * 2654435761u) >> 13);
    }
    auto file = model::GgufFile::Parse(bytes_);
    EXPECT_TRUE(file.ok()) << file.status();
    file_ = *std::move(file);
    auto manifest = model::BuildManifest(*file_, true);
    EXPECT_TRUE(manifest.ok()) << manifest.status();
    manifest_ = std::make_shared<const model::Manifest>(*std::move(manifest));
    std::FILE* copy = std::fopen(path().c_str(), "wb");
    EXPECT_EQ(std::fwrite(bytes_.data(), 1, bytes_.size(), copy), bytes_.size());
    std::fclose(copy);
    auto on_disk = model::GgufFile::Open(path());
    EXPECT_TRUE(on_disk.ok()) << on_disk.status();
    on_disk_ = *std::move(on_disk);
  }
  std::string path() const { return dir_.path() + "/tiny.gguf"; }
  const std::string& dir() const { return dir_.path(); }
  std::shared_ptr<const model::Manifest> manifest() const { return manifest_; }
  Parts Provider() const { return {manifest_, on_disk_.get()}; }

  const model::Part* Find(std::string_view sha256) const {
    for (const model::Part& part : manifest_->parts) {
      if (part.sha256 == sha256) return &part;
    }
    return nullptr;
  }
  std::vector<uint8_t> PartBytes(std::string_view sha256) const {
    std::vector<uint8_t> out(Find(sha256)->bytes);
    EXPECT_TRUE(model::ReadPart(*on_disk_, *Find(sha256), 0, out).ok());
    return out;
  }

  // Stage `index` of two: layer 0 with the embedding, layer 1 with the head.
  net::Assignment Assign(uint32_t index, uint64_t epoch) const {
    net::Assignment out;
    out.manifest = manifest_;
    out.spec.plan = PlanId(5);
    out.spec.epoch = Epoch(epoch);
    out.spec.index = index;
    out.spec.n_stages = 2;
    out.spec.layers = {index, index + 1};
    out.spec.embeds = index == 0;
    out.spec.samples = index == 1;
    out.spec.group_blocks = {8};
    out.spec.max_context = 128;
    return out;
  }

  // One row of sequence 1 at position 0 for stage 0, which asks for a token.
  stage::StepFrame Frame(uint64_t epoch, uint64_t step) const {
    stage::StepFrame frame;
    frame.plan = PlanId(5);
    frame.epoch = Epoch(epoch);
    frame.batch.step = StepId(step);
    stage::SeqRun run{SeqId(1), 0, 1, {3}, {{0, {0}}}, {}};
    run.outputs.push_back({0, {0, 0, 1, 0, 0}, 0, {}});
    frame.batch.runs.push_back(run);
    return frame;
  }

 private:
  TempDir dir_;
  std::vector<uint8_t> bytes_;
  std::unique_ptr<model::GgufFile> file_;
  std::unique_ptr<model::GgufFile> on_disk_;
  std::shared_ptr<const model::Manifest> manifest_;
};

// Shared by the fakes of a test: it says what they do and counts how often.
struct FakeControls {
  std::atomic<int> created{0};
  std::atomic<int> alive{0};
  std::atomic<int> peak_alive{0};
  std::atomic<int> runs{0};
  std::atomic<bool> block{false};  // Run waits until `stop` asks
  std::atomic<bool> fail{false};
  std::atomic<bool> lost{false};  // Run says Unavailable, like a stage whose card is lost
  std::atomic<uint64_t> planned_bytes{1000};
};

class FakeStage final : public engine::LocalStage {
 public:
  FakeStage(FakeControls* controls, stage::StageSpec spec, uint32_t d_model)
      : controls_(controls), spec_(std::move(spec)), d_model_(d_model) {
    ++controls_->created;
    const int alive = ++controls_->alive;
    if (alive > controls_->peak_alive) controls_->peak_alive = alive;
    memory_ = {100, 20, 3};
  }
  ~FakeStage() override { --controls_->alive; }

  absl::StatusOr<engine::StageOutput> Run(const stage::StepFrame& frame,
                                          std::stop_token stop) override {
    ++controls_->runs;
    while (controls_->block && !stop.stop_requested())
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (stop.stop_requested()) return absl::CancelledError("stopped");
    if (controls_->lost) return Unavailable("the fake stage was told to be lost");
    if (controls_->fail) return Internal("the fake stage was told to fail");
    engine::StageOutput out;
    if (!spec_.samples) {
      const uint32_t rows = frame.batch.TotalRows();
      std::vector<uint8_t> data(stage::Hidden::BytesFor(spec_.numerics.wire, rows, d_model_));
      out.hidden = {spec_.numerics.wire, rows, d_model_, std::move(data)};
      return out;
    }
    for (const stage::SeqRun& run : frame.batch.runs) {
      for (const stage::OutputRequest& output : run.outputs) {
        stage::TokenOut token;
        token.seq = run.seq;
        token.pos = run.pos + output.row;
        token.token = 7;
        out.tokens.push_back(token);
      }
    }
    return out;
  }
  const engine::StageMemory& memory() const override { return memory_; }
  bool lost() const override { return controls_->lost; }

 private:
  FakeControls* const controls_;
  const stage::StageSpec spec_;
  const uint32_t d_model_;
  engine::StageMemory memory_;
};

inline StageFactory FakeStages(FakeControls* controls) {
  StageFactory out;
  out.create = [controls](const model::ModelShape& shape, const stage::StageSpec& spec,
                          const model::TensorSource&, const engine::StageOptions&,
                          const std::function<void(uint64_t, uint64_t)>& progress)
      -> absl::StatusOr<std::unique_ptr<engine::LocalStage>> {
    progress(100, 100);
    return std::make_unique<FakeStage>(controls, spec, shape.d_model);
  };
  out.plan_memory = [controls](const model::ModelShape&, const stage::StageSpec&,
                               const std::vector<model::TensorInfo>&, const engine::StageOptions&) {
    return engine::StageMemory{controls->planned_bytes, 0, 0};
  };
  return out;
}

// Records results; it stands in the coordinator's place in tests of one host.
class Results final : public stage::ResultSink {
 public:
  void OnResult(stage::StepResult result) override {
    MutexLock lock(&mu_);
    results_.push_back(std::move(result));
  }
  std::vector<stage::StepResult> all() {
    MutexLock lock(&mu_);
    return results_;
  }
  bool WaitCount(size_t n) {
    return WaitFor([&] { return all().size() >= n; });
  }

 private:
  Mutex mu_;
  std::vector<stage::StepResult> results_ ABSL_GUARDED_BY(mu_);
};

}  // namespace lanyard::worker::testing
