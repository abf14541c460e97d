// The planner's arithmetic (model/memory.h) against what the engine allocates: never less, and not
// much more.
#include "model/memory.h"

#include <gtest/gtest.h>

#include <fstream>

#include "base/packed_bytes.h"
#include "engine/local_stage.h"
#include "engine/ops/matmul.h"
#include "engine/testing/random_model.h"
#include "model/gguf.h"
#include "model/manifest.h"
#include "model/testing/test_data.h"
#include "model/testing/tiny_models.h"

namespace lanyard {
namespace {

TEST(PackedBytes, EqualsTheKernels) {
  for (const TensorType type :
       {TensorType::kF32, TensorType::kF16, TensorType::kQ4_0, TensorType::kQ4_1, TensorType::kQ5_0,
        TensorType::kQ8_0, TensorType::kQ4_K, TensorType::kQ6_K}) {
    for (const int64_t n_out : {1, 15, 16, 17, 576, 49152}) {
      for (const int64_t k : {32, 256, 576, 640, 1536, 4096}) {
        const auto traits = *TraitsOf(type);
        if (k % traits.elements != 0) continue;
        EXPECT_EQ(PackedMatrixBytes(type, static_cast<uint64_t>(n_out), static_cast<uint64_t>(k)),
                  ops::PackedMatrix::PackedBytes(type, n_out, k))
            << traits.name << " " << n_out << " x " << k;
      }
    }
  }
}

stage::StageSpec Spec(const model::Manifest& m, uint32_t begin, uint32_t end,
                      stage::NumericsId numerics) {
  stage::StageSpec spec;
  spec.layers = {begin, end};
  spec.embeds = begin == 0;
  spec.samples = end == m.shape.n_layers;
  spec.numerics = numerics;
  spec.group_blocks.assign(m.shape.groups.size(), 8);
  spec.max_context = 256;
  spec.max_rows = 64;
  return spec;
}

model::StageDuty Duty(const model::ModelShape& shape, const stage::StageSpec& spec,
                      uint32_t threads) {
  model::StageDuty duty;
  duty.layer_begin = spec.layers.begin;
  duty.layer_end = spec.layers.end;
  duty.embeds = spec.embeds;
  duty.samples = spec.samples;
  duty.group_blocks = spec.group_blocks;
  duty.kv_block_tokens = stage::kKvBlockTokens;
  duty.kv_head_bytes = model::KvHeadBytes(stage::KvTypeName(spec.numerics.kv), shape.head_dim);
  duty.max_rows = spec.max_rows;
  duty.wire_row_bytes = stage::Hidden::BytesFor(spec.numerics.wire, 1, shape.d_model);
  duty.threads = threads;
  return duty;
}

// Never less than what the stage holds, and at most a twentieth more. What waits in the worker's
// queues is planned too, and is no memory of a stage.
void Compare(const model::Manifest& manifest, const model::TensorSource& source) {
  const uint32_t n = manifest.shape.n_layers;
  for (const auto kv : {stage::KvType::kF32, stage::KvType::kF16, stage::KvType::kQ8}) {
    for (const auto wire : {stage::WireType::kF32, stage::WireType::kF16}) {
      stage::NumericsId numerics = engine::DefaultNumerics(manifest.shape);
      numerics.kv = kv;
      numerics.wire = wire;
      for (const auto& [begin, end] :
           {std::pair{0u, n}, {0u, n / 2}, {n / 2, n}, {n / 2, n / 2 + 1}, {n, n}, {0u, 0u}}) {
        SCOPED_TRACE(absl::StrCat(numerics.ToString(), " [", begin, ", ", end, ")"));
        const stage::StageSpec spec = Spec(manifest, begin, end, numerics);
        const auto stage = engine::LocalStage::Create(manifest.shape, spec, source, {.threads = 2});
        ASSERT_TRUE(stage.ok()) << stage.status();
        const engine::StageMemory& held = (*stage)->memory();
        const model::StageDuty duty = Duty(manifest.shape, spec, 2);
        const model::StageBytes planned = model::StageMemoryBytes(manifest, duty);
        EXPECT_EQ(planned.kv, held.kv);
        EXPECT_GE(planned.weights, held.weights);
        EXPECT_LE(planned.weights, held.weights + held.weights / 20);
        const uint64_t buffers = planned.buffers - model::WaitingBytes(duty);
        EXPECT_GE(buffers, held.buffers);
        EXPECT_LE(buffers, held.buffers + held.buffers / 20);
      }
    }
  }
}

void Compare(const std::string& path) {
  SCOPED_TRACE(path);
  const auto file = model::GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto manifest = model::BuildManifest(**file, false);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  Compare(*manifest, **file);
}

// As BuildManifest makes them.
model::Manifest ManifestOf(const engine::testing::RandomModel& model) {
  model::Manifest out;
  out.shape = model.shape();
  const auto add = [&](const std::string& name, const std::vector<model::TensorSpec>& specs) {
    if (specs.empty()) return;
    model::Part& part = out.parts.emplace_back();
    part.name = name;
    for (const model::TensorSpec& spec : specs) {
      part.tensors.push_back(*model.Find(spec.name));
      part.bytes += part.tensors.back().bytes;
    }
  };
  add("embed", model::EmbedTensors(out.shape));
  add("common", model::CommonTensors(out.shape));
  for (uint32_t l = 0; l < out.shape.n_layers; ++l)
    add(absl::StrCat("layer.", l), model::LayerTensors(out.shape, l));
  add("norm", model::NormTensors(out.shape));
  add("output", model::OutputTensors(out.shape));
  return out;
}

// Heads of 24, widths that are no multiples of a block, tied and untied heads: with no file, so
// that a clone compares too.
TEST(StageMemory, BoundsTheEngineOnRandomModels) {
  for (const bool tied : {false, true}) {
    for (model::ModelShape shape :
         {engine::testing::SmallLlama(), engine::testing::SmallGemma3()}) {
      shape.tied_output = tied;
      for (const std::vector<TensorType>& types : {std::vector{TensorType::kQ8_0},
                                                   {TensorType::kQ4_0},
                                                   {TensorType::kF16},
                                                   {TensorType::kF32}}) {
        shape.float_weights = types[0] == TensorType::kF32;
        const engine::testing::RandomModel model(shape, types, 7);
        SCOPED_TRACE(absl::StrCat(model::FamilyName(shape.family), tied ? " tied " : " ",
                                  AbslView(TraitsOf(types[0])->name)));
        Compare(ManifestOf(model), model);
      }
    }
  }
}

TEST(StageMemory, BoundsTheEngineOnTinyModels) {
  for (const auto& model : model::testing::TinyModels()) {
    const std::vector<uint8_t> bytes = model::testing::TinyModelWriter(model).Build();
    const std::string path =
        absl::StrCat(::testing::TempDir(), "memory_test.", getpid(), ".", model.name, ".gguf");
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    Compare(path);
    unlink(path.c_str());
  }
}

TEST(StageMemory, BoundsTheEngineOnRealModels) {
  for (const char* name : {"smollm2", "gemma3-270m"}) {
    const std::string path = model::testing::RealModelPath(name);
    if (!model::testing::Readable(path)) GTEST_SKIP() << model::testing::NoRealModel(path);
    Compare(path);
  }
}

}  // namespace
}  // namespace lanyard
