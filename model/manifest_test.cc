#include "model/manifest.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "base/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/gguf.h"
#include "model/part_source.h"
#include "model/testing/gguf_writer.h"

namespace lanyard::model {
namespace {

using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::HasSubstr;
using testing::TinyGemma3;
using testing::TinyLlama;

// A file in memory with data that differs from tensor to tensor.
struct Model {
  explicit Model(const GgufWriter& writer) : bytes(writer.Build()) {
    file = *GgufFile::Parse(bytes);
    for (const TensorInfo& info : file->tensors()) {
      uint64_t x =
          Sha256Hex({reinterpret_cast<const uint8_t*>(info.name.data()), info.name.size()})[0] *
          77777u;
      const uint64_t begin = *file->OffsetOf(info.name);
      for (uint64_t i = 0; i < info.bytes; ++i) {
        x = x * 6364136223846793005u + info.name.size() + 1442695040888963407u;
        bytes[begin + i] = static_cast<uint8_t>(x >> 56);
      }
    }
  }
  std::vector<uint8_t> bytes;
  std::unique_ptr<GgufFile> file;
};

std::vector<uint8_t> BytesOf(const GgufFile& file, const Part& part) {
  std::vector<uint8_t> out;
  for (const TensorInfo& info : part.tensors) {
    std::vector<uint8_t> data(info.bytes);
    EXPECT_TRUE(file.Read(info.name, 0, data).ok());
    out.insert(out.end(), data.begin(), data.end());
  }
  return out;
}

TEST(Manifest, PartsCoverTheModelOnce) {
  GgufWriter w = TinyLlama();
  w.Tensor("rope_freqs.weight", TensorType::kF32, {8});
  const Model model(w);
  const auto manifest = BuildManifest(*model.file, true);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  std::vector<std::string> names;
  uint64_t bytes = 0, tensors = 0;
  for (const Part& part : manifest->parts) {
    names.push_back(part.name);
    const auto data = BytesOf(*model.file, part);
    EXPECT_EQ(part.bytes, data.size());
    EXPECT_EQ(part.sha256, Sha256Hex(data)) << part.name;
    bytes += part.bytes;
    tensors += part.tensors.size();
  }
  EXPECT_THAT(names, ElementsAre("embed", "common", "layer.0", "layer.1", "norm", "output"));
  EXPECT_EQ(tensors, model.file->tensors().size());
  uint64_t all = 0;
  for (const TensorInfo& info : model.file->tensors()) all += info.bytes;
  EXPECT_EQ(bytes, all);
  EXPECT_TRUE(IsSha256Hex(manifest->digest));
  EXPECT_TRUE(ValidateManifest(*manifest).ok()) << ValidateManifest(*manifest);
  const auto unhashed = BuildManifest(*model.file, false);
  ASSERT_TRUE(unhashed.ok());
  EXPECT_EQ(unhashed->digest, "");
  EXPECT_EQ(unhashed->parts[0].sha256, "");
}

TEST(Manifest, PartsHashedByTwoThreadsAreTheSame) {
  GgufWriter w = TinyLlama();  // with a vocabulary of 10 MB, beyond what one thread hashes alone
  for (const char* key : {"tokens", "scores", "token_type"})
    w.Remove(std::string("tokenizer.ggml.") + key);
  for (const char* name : {"token_embd.weight", "output.weight"}) {
    w.Edit(name).dims = {64, 20000};
    w.Edit(name).bytes = 64 * 20000 * 4;
  }
  const Model model(w);
  const auto manifest = BuildManifest(*model.file, true);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  for (const Part& part : manifest->parts)
    EXPECT_EQ(part.sha256, Sha256Hex(BytesOf(*model.file, part))) << part.name;
}

TEST(Manifest, PartsOfStages) {
  GgufWriter w = TinyLlama();
  w.Tensor("rope_freqs.weight", TensorType::kF32, {8});
  const Model model(w);
  const Manifest untied = *BuildManifest(*model.file, false);
  EXPECT_THAT(PartsOfStage(untied, 0, 2, true, true),
              ElementsAre("embed", "common", "layer.0", "layer.1", "norm", "output"));
  EXPECT_THAT(PartsOfStage(untied, 0, 1, true, false), ElementsAre("embed", "common", "layer.0"));
  EXPECT_THAT(PartsOfStage(untied, 1, 2, false, false), ElementsAre("common", "layer.1"));
  EXPECT_THAT(PartsOfStage(untied, 2, 2, false, true), ElementsAre("norm", "output"));
  const Model gemma(TinyGemma3());
  const Manifest tied = *BuildManifest(*gemma.file, false);
  EXPECT_THAT(PartsOfStage(tied, 6, 7, false, true), ElementsAre("embed", "layer.6", "norm"));
  EXPECT_THAT(PartsOfStage(tied, 0, 1, true, false), ElementsAre("embed", "layer.0"));
  EXPECT_THAT(PartsOfStage(tied, 7, 7, false, true), ElementsAre("embed", "norm"));
}

TEST(Manifest, TheDigestNamesTheContent) {
  const Model model(TinyLlama());
  const Manifest manifest = *BuildManifest(*model.file, true);
  // The order of the tensors and the model's name are not its content.
  GgufWriter reordered = TinyLlama();
  std::reverse(reordered.tensors().begin(), reordered.tensors().end());
  reordered.Str("general.name", "Another");
  const Model other(reordered);
  EXPECT_EQ(BuildManifest(*other.file, true)->digest, manifest.digest);
  // A bit of a weight is, and shows in its own part only.
  Model flipped(TinyLlama());
  flipped.bytes[*flipped.file->OffsetOf("blk.1.ffn_up.weight") + 4097] ^= 1;
  const Manifest changed = *BuildManifest(*flipped.file, true);
  EXPECT_NE(changed.digest, manifest.digest);
  for (size_t i = 0; i < manifest.parts.size(); ++i) {
    EXPECT_EQ(changed.parts[i].sha256 != manifest.parts[i].sha256,
              manifest.parts[i].name == "layer.1");
  }
  // So is a hyperparameter.
  GgufWriter based = TinyLlama();
  based.F32("llama.rope.freq_base", 10001.0f);
  const Model rope(based);
  EXPECT_NE(BuildManifest(*rope.file, true)->digest, manifest.digest);
}

TEST(Manifest, TamperedOnesAreRefused) {
  const Model model(TinyLlama());
  const Manifest good = *BuildManifest(*model.file, true);
  const struct {
    const char* says;
    std::function<void(Manifest&)> spoil;
  } kCases[] = {
      {"n_layers", [](Manifest& m) { m.shape.n_layers = 0; }},
      {"parts", [](Manifest& m) { m.parts.pop_back(); }},
      {"parts", [](Manifest& m) { m.parts.push_back(m.parts[0]); }},
      {"part \"layer.1\" stands where \"layer.0\"",
       [](Manifest& m) { std::swap(m.parts[1], m.parts[2]); }},
      {"sha256 \"\"", [](Manifest& m) { m.parts[0].sha256 = ""; }},
      {"sha256 \"../../etc/passwd\"", [](Manifest& m) { m.parts[0].sha256 = "../../etc/passwd"; }},
      {"sha256", [](Manifest& m) { m.parts[0].sha256[0] = 'A'; }},
      {"has 8 tensors", [](Manifest& m) { m.parts[1].tensors.pop_back(); }},
      {"stands where", [](Manifest& m) { m.parts[1].tensors[0].name = "blk.1.attn_norm.weight"; }},
      {"dims",
       [](Manifest& m) {
         m.parts[1].tensors[1].dims = {64, 65};
       }},
      {"dims", [](Manifest& m) { m.parts[1].tensors[1].dims = {}; }},
      {"not a tensor type",
       [](Manifest& m) { m.parts[1].tensors[1].type = static_cast<TensorType>(99); }},
      {"bytes is 4", [](Manifest& m) { m.parts[1].tensors[1].bytes = 4; }},
      {"bytes is", [](Manifest& m) { m.parts[1].tensors[1].type = TensorType::kQ4_0; }},
      {"bytes is 1", [](Manifest& m) { m.parts[0].bytes = 1; }},
      {"float_weights", [](Manifest& m) { m.shape.float_weights = false; }},
      {"digest", [](Manifest& m) { m.digest.clear(); }},
      {"digest", [](Manifest& m) { m.parts[0].sha256 = std::string(64, 'a'); }},
      {"digest", [](Manifest& m) { m.shape.rope_base = 20000; }},
  };
  for (const auto& c : kCases) {
    Manifest bad = good;
    c.spoil(bad);
    const absl::Status status = ValidateManifest(bad);
    EXPECT_FALSE(status.ok()) << c.says;
    EXPECT_THAT(Str(status.message()), HasSubstr(c.says));
  }
}

TEST(Manifest, ReadPartCrossesTensors) {
  const Model model(TinyLlama());
  const Manifest manifest = *BuildManifest(*model.file, false);
  const Part& part = *manifest.Find("layer.1");
  const auto whole = BytesOf(*model.file, part);
  for (const uint64_t offset :
       {uint64_t{0}, uint64_t{255}, uint64_t{256}, uint64_t{300}, part.bytes - 70000}) {
    std::vector<uint8_t> out(70000);
    ASSERT_TRUE(ReadPart(*model.file, part, offset, out).ok());
    EXPECT_TRUE(std::equal(out.begin(), out.end(), whole.begin() + offset)) << offset;
  }
  std::vector<uint8_t> one(1);
  EXPECT_TRUE(ReadPart(*model.file, part, part.bytes, {}).ok());
  EXPECT_EQ(ReadPart(*model.file, part, part.bytes, one).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(ReadPart(*model.file, part, UINT64_MAX, one).code(), absl::StatusCode::kOutOfRange);
}

class PartSourceTest : public ::testing::Test {
 protected:
  PartSourceTest() : model_(TinyGemma3()), manifest_(*BuildManifest(*model_.file, true)) {
    dir_ = ::testing::TempDir() + "/parts." + std::to_string(getpid());
    mkdir(dir_.c_str(), 0700);
    for (const Part& part : manifest_.parts) Write(part, BytesOf(*model_.file, part));
  }
  ~PartSourceTest() override { std::filesystem::remove_all(dir_); }

  std::string PathOf(const Part& part) const { return dir_ + "/" + part.sha256; }
  void Write(const Part& part, const std::vector<uint8_t>& data) {
    std::ofstream(PathOf(part), std::ios::binary)
        .write(reinterpret_cast<const char*>(data.data()), data.size());
  }

  Model model_;
  Manifest manifest_;
  std::string dir_;
};

TEST_F(PartSourceTest, GivesWhatTheFileGives) {
  const auto source = PartSource::Make(dir_, manifest_, PartsOfStage(manifest_, 0, 7, true, true));
  ASSERT_TRUE(source.ok()) << source.status();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (const TensorInfo& info : model_.file->tensors()) {
        const TensorInfo* found = (*source)->Find(info.name);
        ASSERT_NE(found, nullptr) << info.name;
        EXPECT_EQ(found->dims, info.dims);
        std::vector<uint8_t> want(info.bytes - 3), got(info.bytes - 3);
        ASSERT_TRUE(model_.file->Read(info.name, 3, want).ok());
        ASSERT_TRUE((*source)->Read(info.name, 3, got).ok());
        EXPECT_EQ(got, want) << info.name;
      }
    });
  }
  for (std::thread& t : threads) t.join();
}

TEST_F(PartSourceTest, HasOnlyTheStagesParts) {
  const auto source =
      PartSource::Make(dir_, manifest_, PartsOfStage(manifest_, 2, 3, false, false));
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_NE((*source)->Find("blk.2.attn_q.weight"), nullptr);
  EXPECT_EQ((*source)->Find("blk.3.attn_q.weight"), nullptr);
  EXPECT_EQ((*source)->Find("token_embd.weight"), nullptr);
  std::vector<uint8_t> out(8);
  EXPECT_EQ((*source)->Read("token_embd.weight", 0, out).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ((*source)->Read("blk.2.attn_norm.weight", 256 - 7, out).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(PartSource::Make(dir_, manifest_, {"layer.9"}).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(PartSourceTest, SpoiltFoldersAreErrors) {
  const auto source = PartSource::Make(dir_, manifest_, PartsOfStage(manifest_, 0, 7, true, true));
  ASSERT_TRUE(source.ok());
  std::vector<uint8_t> out(8);
  unlink(PathOf(*manifest_.Find("layer.0")).c_str());
  EXPECT_EQ((*source)->Read("blk.0.attn_q.weight", 0, out).code(), absl::StatusCode::kNotFound);
  const Part& part = *manifest_.Find("layer.1");
  Write(part, std::vector<uint8_t>(part.bytes - 1));
  EXPECT_EQ((*source)->Read("blk.1.attn_q.weight", 0, out).code(), absl::StatusCode::kDataLoss);
  // Cut after it was opened.
  const Part& later = *manifest_.Find("layer.2");
  ASSERT_TRUE((*source)->Read("blk.2.attn_q.weight", 0, out).ok());
  ASSERT_EQ(truncate(PathOf(later).c_str(), 4), 0);
  EXPECT_EQ((*source)->Read("blk.2.attn_q.weight", 0, out).code(), absl::StatusCode::kDataLoss);
  Manifest evil = manifest_;
  evil.parts[0].sha256 = "../../../etc/passwd";
  EXPECT_EQ(PartSource::Make(dir_, evil, {"embed"}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace lanyard::model
