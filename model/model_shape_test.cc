#include "model/model_shape.h"

#include <cmath>
#include <functional>
#include <numeric>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/gguf.h"
#include "model/testing/gguf_writer.h"
#include "model/testing/tiny_models.h"

namespace lanyard::model {
namespace {

using testing::Bytes;
using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::HasSubstr;
using testing::TinyGemma3;
using testing::TinyLlama;

constexpr auto kRefused = absl::StatusCode::kInvalidArgument;
constexpr auto kForeign = absl::StatusCode::kUnimplemented;

absl::StatusOr<ModelShape> ShapeOf(const GgufWriter& writer) {
  const auto bytes = writer.Build();
  ASSIGN_OR_RETURN(const auto file, GgufFile::Parse(bytes));
  return ShapeFromGguf(*file);
}

TEST(ModelShape, Llama) {
  const auto shape = ShapeOf(TinyLlama());
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_EQ(shape->family, Family::kLlama);
  EXPECT_EQ(shape->name, "Tiny");
  EXPECT_EQ(shape->n_layers, 2u);
  EXPECT_EQ(shape->d_model, 64u);
  EXPECT_EQ(shape->n_heads, 4u);
  EXPECT_EQ(shape->n_kv_heads, 2u);
  EXPECT_EQ(shape->head_dim, 16u);
  EXPECT_EQ(shape->d_ff, 96u);
  EXPECT_EQ(shape->n_vocab, 40u);
  EXPECT_EQ(shape->context_length, 128u);
  EXPECT_EQ(shape->n_rot, 16u);
  EXPECT_EQ(shape->rope_scale, 1.0f);
  EXPECT_EQ(shape->attention_scale, 0.25f);
  EXPECT_FALSE(shape->tied_output);
  EXPECT_FALSE(shape->rope_factors);
  EXPECT_TRUE(shape->float_weights);
  ASSERT_EQ(shape->groups.size(), 1u);
  EXPECT_EQ(shape->groups[0].kind, StateKind::kFull);
  EXPECT_THAT(shape->groups[0].layers, ElementsAre(0, 1));
  EXPECT_EQ(GroupOfLayer(*shape, 1), 0u);
}

TEST(ModelShape, DefaultsAreThoseOfLlamaCpp) {
  GgufWriter w = TinyLlama();
  w.Remove("llama.rope.dimension_count")
      .Remove("llama.rope.freq_base")
      .Remove("llama.attention.head_count_kv");
  w.Remove("general.name").RemoveTensor("output.weight");
  for (const char* layer : {"blk.0.", "blk.1."}) {  // as many KV heads as heads
    for (const char* name : {"attn_k.weight", "attn_v.weight"}) {
      auto& t = w.Edit(std::string(layer) + name);
      t.dims = {64, 64};
      t.bytes = 64 * 64 * 4;
    }
  }
  const auto shape = ShapeOf(w);
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_EQ(shape->name, "");
  EXPECT_EQ(shape->n_kv_heads, 4u);
  EXPECT_EQ(shape->n_rot, 16u);
  EXPECT_EQ(shape->rope_base, 10000.0f);
  EXPECT_TRUE(shape->tied_output);
}

TEST(ModelShape, Gemma3Slides) {
  const auto shape = ShapeOf(TinyGemma3());
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_EQ(shape->family, Family::kGemma3);
  EXPECT_EQ(shape->rope_base, 1e6f);
  EXPECT_EQ(shape->rope_base_local, 10000.0f);
  ASSERT_EQ(shape->groups.size(), 2u);
  EXPECT_EQ(shape->groups[0].kind, StateKind::kFull);
  EXPECT_THAT(shape->groups[0].layers, ElementsAre(5));
  EXPECT_EQ(shape->groups[1].kind, StateKind::kSliding);
  EXPECT_EQ(shape->groups[1].window, 16u);
  EXPECT_THAT(shape->groups[1].layers, ElementsAre(0, 1, 2, 3, 4, 6));
  EXPECT_EQ(GroupOfLayer(*shape, 5), 0u);
  EXPECT_EQ(GroupOfLayer(*shape, 6), 1u);
}

TEST(ModelShape, Gemma3Variants) {
  GgufWriter none = TinyGemma3();
  none.Remove("gemma3.attention.sliding_window");
  auto shape = ShapeOf(none);
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_EQ(shape->groups.size(), 1u);
  EXPECT_EQ(shape->rope_base_local, shape->rope_base);

  GgufWriter period = TinyGemma3();
  period.U32("gemma3.attention.sliding_window_pattern", 2);
  shape = ShapeOf(period);
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_THAT(shape->groups[0].layers, ElementsAre(1, 3, 5));

  GgufWriter pattern = TinyGemma3();
  Bytes bools;
  bools.U32(7).U64(7).U8(0);
  for (int i = 0; i < 6; ++i) bools.U8(1);
  pattern.Value("gemma3.attention.sliding_window_pattern", 9, bools);
  shape = ShapeOf(pattern);
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_THAT(shape->groups[0].layers, ElementsAre(0));

  GgufWriter scaled = TinyGemma3();
  scaled.Str("gemma3.rope.scaling.type", "linear").F32("gemma3.rope.scaling.factor", 8.0f);
  scaled.F32("gemma3.final_logit_softcapping", 0);
  shape = ShapeOf(scaled);
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_EQ(shape->rope_scale, 0.125f);
}

TEST(ModelShape, Gemma3With62LayersScalesByTheModelsWidth) {
  // 4 heads of 8 in a model 64 wide: the head's own scale is 8^-0.5, that of the 27B is (64 /
  // 4)^-0.5.
  GgufWriter w = TinyGemma3();
  w.U32("gemma3.attention.key_length", 8).U32("gemma3.attention.value_length", 8);
  for (auto& t : w.tensors()) {
    if (t.name.find("attn_q.") != std::string::npos) t.dims = {64, 32};
    if (t.name.find("attn_k.") != std::string::npos || t.name.find("attn_v.") != std::string::npos)
      t.dims = {64, 8};
    if (t.name.find("attn_output") != std::string::npos) t.dims = {32, 64};
    if (t.name.find("q_norm") != std::string::npos || t.name.find("k_norm") != std::string::npos)
      t.dims = {8};
  }
  auto shape = ShapeOf(w);
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_FLOAT_EQ(shape->attention_scale, 1.0f / std::sqrt(8.0f));
  w.U32("gemma3.block_count", 62);
  const std::vector<testing::WriterTensor> tensors = w.tensors();
  for (uint32_t l = 7; l < 62; ++l) {
    for (const auto& t : tensors) {
      if (t.name.substr(0, 6) != "blk.0.") continue;
      w.tensors().push_back(t);
      w.tensors().back().name = absl::StrCat("blk.", l, ".", t.name.substr(6));
    }
  }
  shape = ShapeOf(w);
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_EQ(shape->attention_scale, 0.25f);
}

TEST(ModelShape, PerLayerArraysThatAreAllEqual) {
  GgufWriter w = TinyLlama();
  w.Ints("llama.attention.head_count_kv", {2, 2}).Ints("llama.feed_forward_length", {96, 96});
  EXPECT_TRUE(ShapeOf(w).ok()) << ShapeOf(w).status();
}

TEST(ModelShape, LinearRopeScaling) {
  GgufWriter w = TinyLlama();
  w.F32("llama.rope.scaling.factor", 4.0f);
  EXPECT_EQ(ShapeOf(w)->rope_scale, 0.25f);  // linear without a type, as llama.cpp takes it
  w.Str("llama.rope.scaling.type", "none");
  EXPECT_EQ(ShapeOf(w)->rope_scale, 1.0f);
  GgufWriter old = TinyLlama();
  old.F32("llama.rope.scale_linear", 2.0f);
  EXPECT_EQ(ShapeOf(old)->rope_scale, 0.5f);
}

TEST(ModelShape, RopeFactorsAndQuantisedMatrices) {
  GgufWriter w = TinyLlama();
  w.Tensor("rope_freqs.weight", TensorType::kF32, {8});
  w.Edit("blk.0.attn_q.weight").type = static_cast<uint32_t>(TensorType::kQ4_0);
  const auto shape = ShapeOf(w);
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_TRUE(shape->rope_factors);
  EXPECT_FALSE(shape->float_weights);
}

struct SpoiltFile {
  std::string name;
  std::function<void(GgufWriter&)> spoil;
  absl::StatusCode code;
  std::vector<std::string> says;
};

void Check(const std::vector<SpoiltFile>& cases, GgufWriter (*make)()) {
  for (const SpoiltFile& c : cases) {
    SCOPED_TRACE(c.name);
    GgufWriter w = make();
    c.spoil(w);
    const auto shape = ShapeOf(w);
    ASSERT_FALSE(shape.ok());
    const std::string text = Str(shape.status().message());
    EXPECT_EQ(shape.status().code(), c.code) << text;
    for (const std::string& part : c.says) EXPECT_THAT(text, HasSubstr(part));
    EXPECT_EQ(text.find('\n'), std::string::npos);
  }
}

using W = GgufWriter;

TEST(ModelShape, RefusesHyperparametersByName) {
  Check(
      {
          {"another architecture",
           [](W& w) { w.Str("general.architecture", "qwen2"); },
           kForeign,
           {"architecture 'qwen2' is not supported; supported: llama, gemma3"}},
          {"no architecture",
           [](W& w) { w.Remove("general.architecture"); },
           kRefused,
           {"general.architecture"}},
          {"architecture is a number",
           [](W& w) { w.U32("general.architecture", 1); },
           kRefused,
           {"is u32, must be str"}},
          {"no tensors", [](W& w) { w.tensors().clear(); }, kRefused, {"tensor_count is 0"}},
          {"split",
           [](W& w) { w.Value("split.count", 2, Bytes().U8(3).U8(0)); },
           kForeign,
           {"split.count", "3"}},
          {"experts",
           [](W& w) { w.U32("llama.expert_count", 4); },
           kForeign,
           {"llama.expert_count", "is 4"}},
          {"not causal",
           [](W& w) { w.Bool("llama.attention.causal", false); },
           kForeign,
           {"attention.causal"}},
          {"softcap",
           [](W& w) { w.F32("llama.final_logit_softcapping", 30); },
           kForeign,
           {"final_logit_softcapping"}},
          {"clamp", [](W& w) { w.F32("llama.attention.clamp_kqv", 8); }, kForeign, {"clamp_kqv"}},
          {"rope attn_factor",
           [](W& w) { w.F32("llama.rope.scaling.attn_factor", 2); },
           kForeign,
           {"attn_factor"}},
          {"yarn",
           [](W& w) { w.Str("llama.rope.scaling.type", "yarn"); },
           kForeign,
           {"\"yarn\"", "none, linear"}},
          {"no layers",
           [](W& w) { w.Remove("llama.block_count"); },
           kRefused,
           {"llama.block_count", "missing"}},
          {"0 layers",
           [](W& w) { w.U32("llama.block_count", 0); },
           kRefused,
           {"block_count", "is 0"}},
          {"1025 layers",
           [](W& w) { w.U32("llama.block_count", 1025); },
           kRefused,
           {"is 1025, must be 1 to 1024"}},
          {"2^32-1 layers",
           [](W& w) { w.U32("llama.block_count", 0xffffffff); },
           kRefused,
           {"must be 1 to 1024"}},
          {"layers beyond 32 bits",
           [](W& w) { w.U64("llama.block_count", 1ull << 32); },
           kRefused,
           {"the limit is"}},
          {"negative layers",
           [](W& w) { w.I32("llama.block_count", -2); },
           kRefused,
           {"must not be negative"}},
          {"layers as text", [](W& w) { w.Str("llama.block_count", "2"); }, kRefused, {"is str"}},
          {"d_model 0", [](W& w) { w.U32("llama.embedding_length", 0); }, kRefused, {"is 0"}},
          {"d_model 2^17",
           [](W& w) { w.U32("llama.embedding_length", 1 << 17); },
           kRefused,
           {"d_model", "65536"}},
          {"0 heads",
           [](W& w) { w.U32("llama.attention.head_count", 0); },
           kRefused,
           {"head_count", "is 0"}},
          {"2000 heads", [](W& w) { w.U32("llama.attention.head_count", 2000); }, kRefused, {}},
          {"0 KV heads",
           [](W& w) { w.U32("llama.attention.head_count_kv", 0); },
           kRefused,
           {"n_kv_heads is 0"}},
          {"3 KV heads",
           [](W& w) { w.U32("llama.attention.head_count_kv", 3); },
           kRefused,
           {"multiple of n_kv_heads"}},
          {"unlike KV heads",
           [](W& w) {
             w.Ints("llama.attention.head_count_kv", {2, 1});
           },
           kForeign,
           {"head_count_kv", "layer to layer"}},
          {"no KV heads in the array",
           [](W& w) { w.Ints("llama.attention.head_count_kv", {}); },
           kRefused,
           {"empty"}},
          {"negative KV heads",
           [](W& w) {
             w.Ints("llama.attention.head_count_kv", {-2, -2});
           },
           kRefused,
           {"negative"}},
          {"odd head",
           [](W& w) {
             w.U32("llama.attention.key_length", 15)
                 .U32("llama.attention.value_length", 15)
                 .U32("llama.rope.dimension_count", 14);
           },
           kRefused,
           {"head_dim is 15"}},
          {"unlike heads",
           [](W& w) { w.U32("llama.attention.key_length", 32); },
           kForeign,
           {"value_length"}},
          {"odd rotation",
           [](W& w) { w.U32("llama.rope.dimension_count", 7); },
           kRefused,
           {"n_rot is 7"}},
          {"rotation over the head",
           [](W& w) { w.U32("llama.rope.dimension_count", 18); },
           kRefused,
           {"n_rot is 18"}},
          {"d_ff 0", [](W& w) { w.U32("llama.feed_forward_length", 0); }, kRefused, {"d_ff is 0"}},
          {"context 0",
           [](W& w) { w.U32("llama.context_length", 0); },
           kRefused,
           {"context_length is 0"}},
          {"no epsilon",
           [](W& w) { w.Remove("llama.attention.layer_norm_rms_epsilon"); },
           kRefused,
           {"rms_epsilon"}},
          {"epsilon NaN",
           [](W& w) { w.F32("llama.attention.layer_norm_rms_epsilon", NAN); },
           kRefused,
           {"rms_epsilon"}},
          {"epsilon -1",
           [](W& w) { w.F32("llama.attention.layer_norm_rms_epsilon", -1); },
           kRefused,
           {"norm_eps is -1"}},
          {"base 0", [](W& w) { w.F32("llama.rope.freq_base", 0); }, kRefused, {"rope_base is 0"}},
          {"base infinite",
           [](W& w) { w.F32("llama.rope.freq_base", INFINITY); },
           kRefused,
           {"freq_base", "finite"}},
          {"factor negative",
           [](W& w) { w.F32("llama.rope.scaling.factor", -4); },
           kRefused,
           {"rope_scale"}},
          {"factor NaN",
           [](W& w) { w.F32("llama.rope.scaling.factor", NAN); },
           kRefused,
           {"scaling.factor"}},
          {"factor tiny",
           [](W& w) { w.F32("llama.rope.scaling.factor", 1e-40f); },
           kRefused,
           {"rope_scale"}},
      },
      TinyLlama);
}

TEST(ModelShape, RefusesTensorsByName) {
  const std::string q = "tensor \"blk.1.attn_q.weight\"";
  Check(
      {
          {"missing",
           [](W& w) { w.RemoveTensor("blk.1.attn_q.weight"); },
           kRefused,
           {q, "missing"}},
          {"no embedding",
           [](W& w) { w.RemoveTensor("token_embd.weight"); },
           kRefused,
           {"token_embd.weight", "missing"}},
          {"no norm",
           [](W& w) { w.RemoveTensor("output_norm.weight"); },
           kRefused,
           {"output_norm.weight"}},
          {"one dim",
           [](W& w) { w.Edit("token_embd.weight").dims = {2560}; },
           kRefused,
           {"must have 2 dims"}},
          {"turned",
           [](W& w) {
             w.Edit("blk.1.ffn_down.weight").dims = {64, 96};
           },
           kRefused,
           {"blk.1.ffn_down.weight", "dims are [64, 96], must be [96, 64]"}},
          {"three dims",
           [](W& w) {
             w.Edit("blk.1.attn_q.weight").dims = {64, 64, 1};
           },
           kRefused,
           {q, "[64, 64, 1]"}},
          {"not computed",
           [](W& w) { w.Edit("blk.1.attn_q.weight").type = 30; },
           kForeign,
           {q, "BF16"}},
          {"norm in F16",
           [](W& w) { w.Edit("blk.1.attn_norm.weight").type = 1; },
           kForeign,
           {"F16, must be F32"}},
          {"bias",
           [](W& w) { w.Tensor("blk.1.attn_q.bias", TensorType::kF32, {64}); },
           kForeign,
           {"\"blk.1.attn_q.bias\"", "not part of a llama model"}},
          {"a third layer",
           [](W& w) { w.Tensor("blk.2.attn_norm.weight", TensorType::kF32, {64}); },
           kForeign,
           {"blk.2.attn_norm.weight"}},
          {"long rope factors",
           [](W& w) { w.Tensor("rope_factors_long.weight", TensorType::kF32, {8}); },
           kForeign,
           {"rope_factors_long"}},
          {"rope_freqs of the wrong length",
           [](W& w) { w.Tensor("rope_freqs.weight", TensorType::kF32, {16}); },
           kRefused,
           {"rope_freqs.weight", "must be [8]"}},
          {"head of another vocabulary",
           [](W& w) {
             w.Edit("output.weight").dims = {64, 39};
           },
           kRefused,
           {"[64, 40]"}},
      },
      TinyLlama);
  Check(
      {
          {"no q norm",
           [](W& w) { w.RemoveTensor("blk.3.attn_q_norm.weight"); },
           kRefused,
           {"blk.3.attn_q_norm.weight"}},
          {"rope_freqs",
           [](W& w) { w.Tensor("rope_freqs.weight", TensorType::kF32, {8}); },
           kForeign,
           {"rope_freqs"}},
          {"pattern of 6",
           [](W& w) {
             w.Ints("gemma3.attention.sliding_window_pattern", {1, 1, 1, 1, 1, 0});
           },
           kRefused,
           {"sliding_window_pattern", "has 6 elements", "7"}},
          {"window 2^32-1",
           [](W& w) { w.U32("gemma3.attention.sliding_window", 0xffffffff); },
           kRefused,
           {"window"}},
      },
      TinyGemma3);
}

TEST(ModelShape, RefusesVocabulariesThatDoNotFit) {
  const std::vector<std::string> short_list(39, "t");
  Check(
      {
          {"39 tokens",
           [&](W& w) { w.Strings("tokenizer.ggml.tokens", short_list); },
           kRefused,
           {"tokenizer.ggml.tokens", "has 39 elements, token_embd.weight has 40"}},
          {"41 scores",
           [](W& w) { w.Floats("tokenizer.ggml.scores", std::vector<float>(41)); },
           kRefused,
           {"scores"}},
          {"no types",
           [](W& w) { w.Ints("tokenizer.ggml.token_type", {}); },
           kRefused,
           {"token_type", "has 0"}},
          {"tokens as text",
           [](W& w) { w.Str("tokenizer.ggml.tokens", "t"); },
           kRefused,
           {"tokens", "is str"}},
          {"score NaN",
           [](W& w) {
             auto v = std::vector<float>(40);
             v[3] = NAN;
             w.Floats("tokenizer.ggml.scores", v);
           },
           kRefused,
           {"element 3"}},
      },
      TinyLlama);
}

TEST(ModelShape, ShapesFromTheWire) {
  const ModelShape good = *ShapeOf(TinyGemma3());
  ASSERT_TRUE(ValidateShape(good).ok());
  const struct {
    const char* says;
    std::function<void(ModelShape&)> spoil;
  } kCases[] = {
      {"family", [](ModelShape& s) { s.family = static_cast<Family>(9); }},
      {"n_layers", [](ModelShape& s) { s.n_layers = 5000; }},
      {"n_vocab", [](ModelShape& s) { s.n_vocab = 0; }},
      {"n_vocab", [](ModelShape& s) { s.n_vocab = 1u << 31; }},
      {"d_model", [](ModelShape& s) { s.d_model = 0; }},
      {"n_heads", [](ModelShape& s) { s.n_heads = 0; }},
      {"n_kv_heads", [](ModelShape& s) { s.n_kv_heads = 0; }},
      {"head_dim", [](ModelShape& s) { s.head_dim = 2048; }},
      {"n_rot", [](ModelShape& s) { s.n_rot = 0; }},
      {"norm_eps", [](ModelShape& s) { s.norm_eps = NAN; }},
      {"attention_scale", [](ModelShape& s) { s.attention_scale = 0; }},
      {"rope_base", [](ModelShape& s) { s.rope_base = -1; }},
      {"rope_base_local", [](ModelShape& s) { s.rope_base_local = INFINITY; }},
      {"rope_scale", [](ModelShape& s) { s.rope_scale = 0; }},
      {"rope_factors", [](ModelShape& s) { s.rope_factors = true; }},
      {"groups", [](ModelShape& s) { s.groups.clear(); }},
      {"groups", [](ModelShape& s) { s.groups[0].layers.clear(); }},
      {"groups", [](ModelShape& s) { s.groups[0].layers = {7}; }},
      {"groups", [](ModelShape& s) { s.groups[0].layers = {4}; }},
      {"groups", [](ModelShape& s) { std::swap(s.groups[1].layers[0], s.groups[1].layers[1]); }},
      {"groups", [](ModelShape& s) { s.groups[1].layers.pop_back(); }},
      {"groups", [](ModelShape& s) { s.groups[0].window = 3; }},
      {"groups", [](ModelShape& s) { s.groups[0].kind = static_cast<StateKind>(7); }},
      {"window", [](ModelShape& s) { s.groups[1].window = 0; }},
  };
  for (const auto& c : kCases) {
    ModelShape shape = good;
    c.spoil(shape);
    const absl::Status status = ValidateShape(shape);
    EXPECT_EQ(status.code(), kRefused) << c.says;
    EXPECT_THAT(Str(status.message()), HasSubstr(c.says));
  }
}

TEST(ModelShape, OfEveryGoldenModel) {
  for (const testing::TinyModel& model : testing::TinyModels()) {
    SCOPED_TRACE(model.name);
    const auto shape = ShapeOf(testing::TinyModelWriter(model));
    ASSERT_TRUE(shape.ok()) << shape.status();
    EXPECT_EQ(FamilyName(shape->family), model.arch);
    EXPECT_EQ(shape->n_layers, model.layers);
    EXPECT_TRUE(shape->float_weights);
  }
  auto shape =
      *ShapeOf(testing::TinyModelWriter(testing::FindTinyModel("llama-tied-rope-factors")));
  EXPECT_TRUE(shape.tied_output && shape.rope_factors);
  EXPECT_EQ(shape.rope_base, 500000.0f);
  shape = *ShapeOf(testing::TinyModelWriter(testing::FindTinyModel("gemma3")));
  EXPECT_EQ(shape.head_dim, 32u);
  EXPECT_FLOAT_EQ(shape.attention_scale, 1 / std::sqrt(32.0f));
  EXPECT_EQ(shape.rope_scale, 0.125f);
}

}  // namespace
}  // namespace lanyard::model
