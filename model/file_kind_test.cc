#include "model/file_kind.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace lanyard::model {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string Said(const std::string& bytes) {
  return std::string(
      CheckIsGguf({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}).message());
}

TEST(FileKind, EveryOtherFileIsNoGgufFileAndSaysWhatItIs) {
  std::string tar(512, 'a');
  tar[0] = '\x01';
  tar.replace(257, 5, "ustar");
  const std::pair<std::string, const char*> cases[] = {
      {"", "empty"},
      {"pc1", "text"},
      {"my-host-name\n", "text"},
      {"GGU", "text"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"},
      {std::string("\x58\x02\0\0\0\0\0\0{\"__metadata__\":{}}", 26), "safetensors"},
      {std::string("PK\x03\x04\0\0", 6), "ZIP archive"},
      {std::string("\x80\x02}q\0", 5), "pickle"},
      {"\n <!DOCTYPE HTML><html>", "web page"},
      {"<html lang=en>", "web page"},
      {"\x1f\x8b\x08", "gzip"},
      {"{\"model_type\": \"llama\"}", "JSON"},
      {std::string("tjgg\0\0\0\0", 8), "before GGUF"},
      {std::string(64, '\0'), "zeros"},
      {tar, "tar archive"},
      {std::string("\xff\xfe\x01\x02", 4), "begins with"},
  };
  for (const auto& [bytes, what] : cases) {
    EXPECT_THAT(Said(bytes), StartsWith("not a GGUF file: ")) << what;
    EXPECT_THAT(Said(bytes), HasSubstr(what));
    EXPECT_THAT(Said(bytes), HasSubstr("; ")) << "what to do is missing: " << what;
  }
  EXPECT_EQ(Said("GGUF"), "");
}

}  // namespace
}  // namespace lanyard::model
