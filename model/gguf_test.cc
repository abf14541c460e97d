#include "model/gguf.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/model_shape.h"
#include "model/testing/gguf_writer.h"
#include "model/testing/test_data.h"

namespace lanyard::model {
namespace {

using testing::Bytes;
using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::HasSubstr;
using testing::TinyLlama;

std::string WriteTemp(const std::string& name, const std::vector<uint8_t>& bytes) {
  const std::string path = ::testing::TempDir() + "/" + name + "." + std::to_string(getpid());
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return path;
}

TEST(Gguf, ScalarsConvertWhereTheyFit) {
  GgufWriter w;
  w.U32("u32", 7)
      .I32("neg", -3)
      .U64("big", uint64_t{1} << 63)
      .F32("f", 0.5f)
      .Bool("b", true)
      .Str("s", "text");
  w.Value("i8", 1, Bytes().U8(0xfe)).Value("u16", 2, Bytes().U8(0x34).U8(0x12));
  w.Value("f64", 12, Bytes().U64(0x3ff8000000000000));
  const auto bytes = w.Build();
  const auto opened = GgufFile::Parse(bytes);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const GgufFile& file = **opened;
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.file_bytes(), bytes.size());
  EXPECT_EQ(file.path(), "");
  EXPECT_EQ(*file.Uint("u32"), 7u);
  EXPECT_EQ(*file.Int("neg"), -3);
  EXPECT_EQ(*file.Int("i8"), -2);
  EXPECT_EQ(*file.Uint("u16"), 0x1234u);
  EXPECT_EQ(*file.Uint("big"), uint64_t{1} << 63);
  EXPECT_EQ(*file.Float("f"), 0.5);
  EXPECT_EQ(*file.Float("f64"), 1.5);
  EXPECT_TRUE(*file.Bool("b"));
  EXPECT_EQ(*file.String("s"), "text");
  EXPECT_TRUE(file.Has("s"));
  EXPECT_FALSE(file.Has("t"));

  EXPECT_EQ(file.Uint("none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Str(file.Uint("none").status().message()), HasSubstr("\"none\""));
  const auto wrong = file.Uint("s").status();
  EXPECT_EQ(wrong.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Str(wrong.message()), "key \"s\" is str, must be an unsigned integer");
  EXPECT_THAT(Str(file.Uint("neg").status().message()), HasSubstr("is -3, must not be negative"));
  EXPECT_THAT(Str(file.Int("big").status().message()),
              HasSubstr("is 9223372036854775808, the limit is"));
  EXPECT_FALSE(file.Float("u32").ok());
  EXPECT_FALSE(file.Bool("u32").ok());
  EXPECT_FALSE(file.Uint("b").ok());
  EXPECT_FALSE(file.String("u32").ok());
}

TEST(Gguf, Arrays) {
  GgufWriter w;
  w.Strings("s", {"a", "", std::string("n\0l", 3)})
      .Floats("f", {1.5f, -2})
      .Ints("i", {-1, 2})
      .Strings("empty", {});
  w.Value("bools", 9, Bytes().U32(7).U64(2).U8(1).U8(0));
  w.Value("u64", 9, Bytes().U32(10).U64(1).U64(UINT64_MAX));
  w.Value("f64", 9, Bytes().U32(12).U64(2).U64(0x3ff8000000000000).U64(0x7fe0000000000000));
  const auto bytes = w.Build();
  const auto opened = GgufFile::Parse(bytes);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const GgufFile& file = **opened;
  EXPECT_THAT(*file.Strings("s"), ElementsAre("a", "", std::string_view("n\0l", 3)));
  EXPECT_THAT(*file.Strings("empty"), ElementsAre());
  EXPECT_THAT(*file.Floats("f"), ElementsAre(1.5f, -2.0f));
  EXPECT_THAT(*file.Ints("i"), ElementsAre(-1, 2));
  EXPECT_THAT(*file.Ints("bools"), ElementsAre(1, 0));
  EXPECT_THAT(*file.Floats("f64"), ElementsAre(1.5f, std::numeric_limits<float>::infinity()));
  EXPECT_EQ(*file.ArrayLength("s"), 3u);
  EXPECT_FALSE(file.Ints("u64").ok());
  EXPECT_FALSE(file.Ints("f").ok());
  EXPECT_FALSE(file.Floats("i").ok());
  EXPECT_EQ(Str(file.Strings("i").status().message()), "key \"i\" is arr[i32], must be arr[str]");
  EXPECT_EQ(file.ArrayLength("none").status().code(), absl::StatusCode::kNotFound);
}

TEST(Gguf, EntriesShowTypeAndPreview) {
  GgufWriter w;
  w.Str("s", "line\nnext\x01")
      .U32("n", 5)
      .Strings("words", {"a", "b\t"})
      .Str("long", std::string(500, 'x'));
  w.Ints("many", std::vector<int32_t>(1000, 12345)).Bool("yes", true).F32("f", 1e6f);
  std::string accents;
  for (int i = 0; i < 100; ++i) accents += "\xc3\xa9";
  w.Str("accents", accents);
  const auto bytes = w.Build();
  const auto file = GgufFile::Parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto entries = (*file)->Entries();
  ASSERT_EQ(entries.size(), 8u);
  EXPECT_EQ(entries[0].preview, "line\\nnext\\001");
  EXPECT_EQ(entries[0].type, "str");
  EXPECT_EQ(entries[1].preview, "5");
  EXPECT_EQ(entries[2].type, "arr[str]");
  EXPECT_EQ(entries[2].preview, "[\"a\", \"b\\t\"] of 2");
  EXPECT_EQ(entries[3].preview.size(), 120u);
  EXPECT_THAT(entries[4].preview, HasSubstr(", ...] of 1000"));
  EXPECT_EQ(entries[5].preview, "true");
  EXPECT_EQ(entries[6].preview, "1000000");
  for (const auto& entry : entries) EXPECT_LE(entry.preview.size(), 120u);
  EXPECT_EQ(entries[7].preview.substr(114), "\xc3\xa9...");  // not cut inside a character
}

TEST(Gguf, TensorsAreFoundAndRead) {
  GgufWriter w = TinyLlama();
  std::vector<uint8_t> bytes = w.Build();
  const auto parsed = GgufFile::Parse(bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  for (size_t i = (*parsed)->data_offset(); i < bytes.size(); ++i)
    bytes[i] = static_cast<uint8_t>(i * 131 >> 3);
  const std::string path = WriteTemp("tensors.gguf", bytes);
  const auto opened = GgufFile::Open(path);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ((*opened)->path(), path);
  for (const GgufFile* file : {parsed->get(), opened->get()}) {
    const TensorInfo* info = file->Find("blk.1.ffn_down.weight");
    ASSERT_NE(info, nullptr);
    EXPECT_THAT(info->dims, ElementsAre(96, 64));
    EXPECT_EQ(info->bytes, 96u * 64 * 4);
    const uint64_t offset = *file->OffsetOf("blk.1.ffn_down.weight");
    EXPECT_EQ(offset % 32, 0u);
    std::vector<uint8_t> out(100);
    ASSERT_TRUE(file->Read("blk.1.ffn_down.weight", 77, out).ok());
    EXPECT_TRUE(std::equal(out.begin(), out.end(), bytes.begin() + offset + 77));
    EXPECT_TRUE(file->Read("blk.1.ffn_down.weight", info->bytes, {}).ok());
    EXPECT_EQ(file->Read("blk.1.ffn_down.weight", info->bytes - 99, out).code(),
              absl::StatusCode::kOutOfRange);
    EXPECT_EQ(file->Read("blk.1.ffn_down.weight", UINT64_MAX, out).code(),
              absl::StatusCode::kOutOfRange);
    EXPECT_EQ(file->Read("none", 0, out).code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(file->Find("none"), nullptr);
    EXPECT_EQ(file->OffsetOf("none"), std::nullopt);
  }
  // Cut after it was opened: the header stays readable, the data is a loss, not a crash.
  ASSERT_EQ(truncate(path.c_str(), (*opened)->data_offset() + 64), 0);
  std::vector<uint8_t> out(1000);
  EXPECT_EQ((*opened)->Read("output.weight", 0, out).code(), absl::StatusCode::kDataLoss);
  unlink(path.c_str());
}

TEST(Gguf, LayoutsThatTheFormatAllows) {
  GgufWriter w = TinyLlama();
  w.version = 2;
  w.alignment = 128;
  w.U32("general.alignment", 128);
  // Two tensors whose data stand in the other order.
  const uint64_t row = 64 * 4;
  w.tensors().insert(w.tensors().begin(), {{"b", 0, {64}, row, 256}, {"a", 0, {64}, row, 0}});
  const auto bytes = w.Build();
  const auto file = GgufFile::Parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->version(), 2u);
  EXPECT_EQ((*file)->alignment(), 128u);
  EXPECT_EQ((*file)->data_offset() % 128, 0u);
  EXPECT_EQ(*(*file)->OffsetOf("b"), *(*file)->OffsetOf("a") + 256);
}

TEST(Gguf, PathsThatAreNoModels) {
  EXPECT_EQ(GgufFile::Open("/no/such/file.gguf").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Str(GgufFile::Open("/").status().message()),
              HasSubstr("not a GGUF file: it is a folder"));
  const std::string empty = WriteTemp("empty.gguf", {});
  EXPECT_THAT(Str(GgufFile::Open(empty).status().message()),
              HasSubstr("not a GGUF file: it is empty"));
  unlink(empty.c_str());
  const std::string fifo = ::testing::TempDir() + "/fifo." + std::to_string(getpid());
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_THAT(Str(GgufFile::Open(fifo).status().message()),
              HasSubstr("not a GGUF file: it is a device, a pipe"));  // and does not hang
  unlink(fifo.c_str());
  const std::string bad = WriteTemp("bad.gguf", Bytes().Text("GGUF").U32(3).U64(9).U64(9).data());
  const std::string text = Str(GgufFile::Open(bad).status().message());
  EXPECT_THAT(text, HasSubstr("bad.gguf"));
  EXPECT_THAT(text,
              HasSubstr("tensor_count at offset 8 is 9, at most 0 fit in the bytes that remain"));
  unlink(bad.c_str());
}

TEST(Gguf, AVocabularyWithoutWeightsOpens) {
  constexpr size_t kTokens = 151936;  // as large as Qwen's
  std::vector<std::string> tokens;
  for (size_t i = 0; i < kTokens; ++i) tokens.push_back(absl::StrCat("token", i));
  const std::vector<uint8_t> bytes = GgufWriter()
                                         .Str("general.architecture", "llama")
                                         .Str("tokenizer.ggml.model", "gpt2")
                                         .Strings("tokenizer.ggml.tokens", tokens)
                                         .Build();
  const auto file = GgufFile::Parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE((*file)->tensors().empty());
  const auto read = (*file)->Strings("tokenizer.ggml.tokens");
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->size(), kTokens);
  EXPECT_EQ(read->back(), tokens.back());
  EXPECT_THAT(Str(ShapeFromGguf(**file).status().message()), HasSubstr("without weights"));
}

TEST(Gguf, RealModels) {
  const std::string path = testing::RealModelPath("smollm2");
  if (!testing::Readable(path)) GTEST_SKIP() << testing::NoRealModel(path);
  const auto file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->tensors().size(), 272u);
  EXPECT_EQ((*file)->data_offset(), 1785664u);
  EXPECT_EQ(*(*file)->String("tokenizer.ggml.pre"), "smollm");
  EXPECT_EQ((*file)->Strings("tokenizer.ggml.merges")->size(), 48900u);
  const TensorInfo* down = (*file)->Find("blk.29.ffn_down.weight");
  ASSERT_NE(down, nullptr);
  EXPECT_EQ(down->type, TensorType::kQ4_1);
  EXPECT_EQ(down->bytes, 552960u);
}

}  // namespace
}  // namespace lanyard::model
