// `lanyard inspect` over the fuzzer's seeds, which are small whole models.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/cli.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/testing/gguf_writer.h"

namespace lanyard::cli {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

struct Result {
  int code;
  std::string out;
  std::string err;
};

Result Inspect(const std::string& model, const std::vector<std::string>& options) {
  std::vector<std::string> args = {"lanyard", "inspect", "--model", model};
  args.insert(args.end(), options.begin(), options.end());
  std::vector<char*> argv;
  for (std::string& arg : args) argv.push_back(arg.data());
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  const int code = Main(static_cast<int>(argv.size()), argv.data());
  std::fflush(stdout);
  const std::string out = ::testing::internal::GetCapturedStdout();
  return {code, out, ::testing::internal::GetCapturedStderr()};
}

std::string Seed(const std::string& name) {
  return LANYARD_SOURCE_DIR "/tests/fuzz/corpus/gguf/" + name + ".gguf";
}

TEST(Inspect, JsonOfAModel) {
  const Result r = Inspect(Seed("gemma3"), {"--json"});
  ASSERT_EQ(r.code, kOk) << r.err;
  const json j = json::parse(r.out);
  EXPECT_EQ(j["version"], 3);
  EXPECT_EQ(j["architecture"], "gemma3");
  EXPECT_EQ(j["file_bytes"], std::filesystem::file_size(Seed("gemma3")));
  EXPECT_EQ(j["shape"]["n_layers"], 2);
  EXPECT_EQ(j["shape"]["head_dim"], 4);
  EXPECT_EQ(j["groups"], json::parse(R"([{"kind":"sliding","window":16,"layers":[0,1]}])"));
  EXPECT_FALSE(j.contains("shape_error"));
  EXPECT_EQ(j["metadata"][0],
            json::parse(R"({"key":"general.architecture","type":"str","preview":"gemma3"})"));
  EXPECT_EQ(j["tensors"].size(), 28u);
  const json& first = j["tensors"][0];
  EXPECT_EQ(first["name"], "token_embd.weight");
  EXPECT_EQ(first["type"], "F32");
  EXPECT_EQ(first["dims"], json::parse("[8,4]"));
  EXPECT_EQ(first["bytes"], 128);
  EXPECT_EQ(first["offset"], j["data_offset"]);
  std::vector<std::string> parts;
  uint64_t bytes = 0, tensor_bytes = 0;
  for (const json& part : j["parts"]) {
    parts.push_back(part["name"]);
    bytes += part["bytes"].get<uint64_t>();
    EXPECT_FALSE(part.contains("sha256"));
  }
  for (const json& tensor : j["tensors"]) tensor_bytes += tensor["bytes"].get<uint64_t>();
  EXPECT_THAT(parts, ::testing::ElementsAre("embed", "layer.0", "layer.1", "norm"));
  EXPECT_EQ(bytes, tensor_bytes);
}

TEST(Inspect, HashesOnRequest) {
  const json j = json::parse(Inspect(Seed("llama"), {"--json", "--hash"}).out);
  EXPECT_EQ(j["digest"].get<std::string>().size(), 64u);
  for (const json& part : j["parts"]) EXPECT_EQ(part["sha256"].get<std::string>().size(), 64u);
}

TEST(Inspect, FilesThatCannotRunAreShown) {
  json j = json::parse(Inspect(Seed("vocabulary"), {"--json"}).out);
  EXPECT_TRUE(j["shape"].is_null());
  EXPECT_THAT(j["shape_error"].get<std::string>(), HasSubstr("vocabulary"));
  EXPECT_EQ(j["architecture"], "llama");
  EXPECT_TRUE(j["parts"].empty());
  j = json::parse(Inspect(Seed("scalars"), {"--json"}).out);
  EXPECT_TRUE(j["architecture"].is_null());
  const Result text = Inspect(Seed("vocabulary"), {});
  EXPECT_EQ(text.code, kOk);
  EXPECT_THAT(text.out, HasSubstr("cannot run here"));
  EXPECT_THAT(text.out, HasSubstr("tokenizer.ggml.tokens"));
}

TEST(Inspect, TextOfAModel) {
  const Result r = Inspect(Seed("llama-q8"), {});
  ASSERT_EQ(r.code, kOk) << r.err;
  for (const char* part : {"GGUF 3", "\"llama\"", "Shape", "layer.0", "Metadata (15)",
                           "Tensors (11)", "blk.0.ffn_down.weight", "Q8_0", "32 x 32"}) {
    EXPECT_THAT(r.out, HasSubstr(part));
  }
}

class Made : public ::testing::Test {
 protected:
  ~Made() override { std::filesystem::remove(path_); }
  const std::string& Write(const model::testing::GgufWriter& writer) {
    const std::vector<uint8_t> bytes = writer.Build();
    std::ofstream(path_, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    return path_;
  }

  const std::string path_ = ::testing::TempDir() + "/made.gguf." + std::to_string(getpid());
};

using InspectMade = Made;

// What a pool refuses or warns of when it loads the file.
TEST_F(InspectMade, TheTokenizersFaultsAreShown) {
  const std::string sound = Inspect(Write(model::testing::TinyLlama()), {}).out;
  EXPECT_THAT(sound, Not(HasSubstr("cannot run here")));
  EXPECT_THAT(sound, HasSubstr("warning            chat is off: "));
  const json plain = json::parse(Inspect(path_, {"--json"}).out);
  EXPECT_FALSE(plain.contains("tokenizer_error"));
  EXPECT_EQ(plain["warnings"].size(), 1u);
  for (const auto& [writer, fault] :
       {std::pair(model::testing::TinyLlama().Str("tokenizer.ggml.model", "bert"), "'bert'"),
        std::pair(model::testing::TinyLlama().U32("tokenizer.ggml.eos_token_id", 4000),
                  "eos_token_id is 4000")}) {
    const Result text = Inspect(Write(writer), {});
    EXPECT_EQ(text.code, kOk);
    EXPECT_THAT(text.out, HasSubstr("cannot run here    tokenizer.ggml."));
    EXPECT_THAT(text.out, HasSubstr(fault));
    EXPECT_EQ(text.err, "");
    const json j = json::parse(Inspect(path_, {"--json"}).out);
    EXPECT_THAT(j["tokenizer_error"].get<std::string>(), HasSubstr(fault));
  }
  Write(model::testing::TinyLlama().Str("tokenizer.ggml.padding_token_id", "x"));
  EXPECT_THAT(Inspect(path_, {}).out, HasSubstr("warning            keys of the tokenizer"));
}

// A stranger's file says nothing to the terminal.
TEST_F(InspectMade, NothingOfAFileCommandsTheTerminal) {
  const std::string evil =
      "a\x1b[2J\xC2\x9b"
      "2J\x07\nb";
  model::testing::GgufWriter w = model::testing::TinyLlama();
  w.Str("general.name", evil).Str("note", evil).Strings("notes", {evil, evil});
  model::testing::GgufWriter unknown = w;
  unknown.Str("general.architecture", evil).Str("tokenizer.ggml.model", evil);
  model::testing::GgufWriter tokens = w;
  tokens.Str("tokenizer.chat_template", "{{ raise_exception('" + evil + "') }}{{" + evil);
  for (const auto* writer : {&w, &unknown, &tokens}) {
    Write(*writer);
    for (const std::vector<std::string>& options : {std::vector<std::string>(), {"--json"}}) {
      const Result r = Inspect(path_, options);
      EXPECT_EQ(r.code, kOk) << r.err;
      for (const char* code : {"\x1b", "\xC2\x9b", "\x07"}) {
        EXPECT_THAT(r.out, Not(HasSubstr(code)));
        EXPECT_THAT(r.err, Not(HasSubstr(code)));
      }
    }
  }
}

TEST(Inspect, MalformedFilesAreOneLine) {
  const std::string cut = ::testing::TempDir() + "/cut.gguf." + std::to_string(getpid());
  std::filesystem::copy_file(Seed("llama"), cut, std::filesystem::copy_options::overwrite_existing);
  std::filesystem::resize_file(cut, 700);
  const Result r = Inspect(cut, {"--json"});
  std::filesystem::remove(cut);
  EXPECT_EQ(r.code, kFailed);
  EXPECT_EQ(r.out, "");
  EXPECT_THAT(r.err, HasSubstr("error: model"));
  EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1);
  EXPECT_EQ(Inspect("/no/such.gguf", {}).code, kNotFound);
  EXPECT_EQ(Inspect(cut, {"--frobnicate"}).code, kUsage);
}

}  // namespace
}  // namespace lanyard::cli
