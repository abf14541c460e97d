// Files that must be refused, class by class, with an error that names the field. The classes
// follow the published vulnerabilities of other GGUF readers (counts, lengths, products and offsets
// that wrap; names; types; alignment).
#include <malloc.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/gguf.h"
#include "model/gguf_header.h"
#include "model/manifest.h"
#include "model/testing/gguf_writer.h"
#include "model/testing/tiny_models.h"
#include "model/tokenizer.h"

namespace lanyard::model {
namespace {

using testing::Bytes;
using testing::GgufWriter;
using ::testing::HasSubstr;
using testing::TinyLlama;

constexpr uint64_t kMax = UINT64_MAX;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnknown = absl::StatusCode::kUnimplemented;

struct Case {
  std::string name;
  std::vector<uint8_t> bytes;
  absl::StatusCode code;
  std::vector<std::string> says;  // every one of them
};

// The start of a file: magic, version 3, counts.
Bytes Start(uint64_t n_tensors, uint64_t n_kv) {
  return Bytes().Text("GGUF").U32(3).U64(n_tensors).U64(n_kv);
}
Bytes Key(std::string_view name, uint32_t type) { return Start(0, 1).Str(name).U32(type); }
// An array value, up to its elements.
Bytes Array(uint32_t element, uint64_t count) { return Key("a", 9).U32(element).U64(count); }
// One tensor info, up to its dims.
Bytes Tensor(std::string_view name, uint32_t n_dims) { return Start(1, 0).Str(name).U32(n_dims); }

std::vector<uint8_t> Spoilt(const std::function<void(GgufWriter&)>& spoil) {
  GgufWriter w = TinyLlama();
  spoil(w);
  return w.Build();
}
std::vector<uint8_t> Cut(std::vector<uint8_t> bytes, size_t by) {
  bytes.resize(bytes.size() - by);
  return bytes;
}
std::vector<uint8_t> With(const std::function<void(Bytes&)>& add, Bytes start) {
  add(start);
  return start.data();
}

std::vector<Case> StartCases() {
  const auto zeros = [](Bytes b, size_t n) { return b.Zeros(n).data(); };
  return {
      {"empty", {}, kInvalid, {"not a GGUF file: it is empty"}},
      {"three bytes", Bytes().Text("GGU").data(), kInvalid, {"not a GGUF file: it looks like t"}},
      {"another magic",
       Bytes().Text("PK\3\4").Zeros(60).data(),
       kInvalid,
       {"not a GGUF file", "a ZIP archive"}},
      {"git lfs pointer",
       Bytes().Text("version https://git-lfs.github.com/spec/v1\noid x").data(),
       kInvalid,
       {"Git LFS pointer"}},
      {"ggjt", Bytes().Text("tjgg").Zeros(60).data(), kUnknown, {"before GGUF"}},
      {"no version",
       Bytes().Text("GGUF").data(),
       kInvalid,
       {"version at offset 4 needs 4 bytes, 0 remain"}},
      {"version 0",
       zeros(Bytes().Text("GGUF").U32(0), 16),
       kUnknown,
       {"version at offset 4 is 0", "2, 3"}},
      {"version 1", zeros(Bytes().Text("GGUF").U32(1), 16), kUnknown, {"version at offset 4 is 1"}},
      {"version 4", zeros(Bytes().Text("GGUF").U32(4), 16), kUnknown, {"version at offset 4 is 4"}},
      {"big endian", zeros(Bytes().Text("GGUF").U32(0x03000000), 16), kUnknown, {"big-endian"}},
      {"no tensor count",
       Bytes().Text("GGUF").U32(3).data(),
       kInvalid,
       {"tensor_count at offset 8", "0 remain"}},
      {"no kv count",
       Bytes().Text("GGUF").U32(3).U64(0).U32(0).data(),
       kInvalid,
       {"metadata_kv_count at offset 16 needs 8 bytes, 4 remain"}},
      {"tensor count 2^64-1",
       Start(kMax, 0).data(),
       kInvalid,
       {"tensor_count at offset 8", "at most 0"}},
      {"tensor count 2^63",
       zeros(Start(uint64_t{1} << 63, 0), 330),
       kInvalid,
       {"tensor_count", "at most 10"}},
      {"tensor count wraps in bytes",
       zeros(Start(0x0666666666666667, 0), 330),
       kInvalid,
       {"tensor_count"}},
      {"tensor count one too many",
       zeros(Start(11, 0), 330 + 32),
       kInvalid,
       {"is 11, at most 10 fit"}},
      {"tensor count over the limit",
       zeros(Start(65537, 0), 65537 * 33),
       kInvalid,
       {"tensor_count at offset 8 is 65537, the limit is 65536"}},
      {"kv count 2^64-1", Start(0, kMax).data(), kInvalid, {"metadata_kv_count at offset 16"}},
      {"kv count wraps in bytes",
       zeros(Start(0, 0x0333333333333334), 140),
       kInvalid,
       {"at most 10 fit"}},
      {"kv count over the limit",
       zeros(Start(0, 65537), 65537 * 14),
       kInvalid,
       {"metadata_kv_count at offset 16 is 65537, the limit is 65536"}},
      // 43 bytes that keep the reference reader busy for ever: an array of 2^63 elements.
      {"hang on a tiny file",
       Array(0, uint64_t{1} << 63).Zeros(43 - 40).data(),
       kInvalid,
       {"array length"}},
  };
}

constexpr char kCsi[] = "a\xC2\x9b\x32J";  // clears the screen of a terminal

std::vector<Case> KeyCases() {
  return {
      {"key length 2^64-1",
       Start(0, 1).U64(kMax).Zeros(20).data(),
       kInvalid,
       {"metadata entry 0", "length of key at offset 24", "20 bytes remain"}},
      {"key one byte too long",
       Start(0, 1).U64(21).Zeros(20).data(),
       kInvalid,
       {"length of key", "is 21, 20 bytes"}},
      {"key over the limit",
       Start(0, 1).U64(65536).Zeros(70000).data(),
       kInvalid,
       {"is 65536, the limit is 65535"}},
      {"key empty",
       Start(0, 1).U64(0).Zeros(20).data(),
       kInvalid,
       {"metadata entry 0", "key at offset 24 is empty"}},
      {"key with NUL",
       Key(std::string_view("a\0b", 3), 4).U32(1).data(),
       kInvalid,
       {"\"a\\000b\"", "control"}},
      {"key with newline", Key("a\nb", 4).U32(1).data(), kInvalid, {"\"a\\nb\"", "control"}},
      {"key with an escape", Key("a\x1b[2J", 4).U32(1).data(), kInvalid, {"control"}},
      {"key with U+009B", Key(kCsi, 4).U32(1).data(), kInvalid, {"\"a\\302\\2332J\"", "control"}},
      {"key twice",
       Spoilt([](GgufWriter& w) { w.Duplicate("llama.block_count"); }),
       kInvalid,
       {"key \"llama.block_count\"", "duplicate"}},
      {"no value type",
       Start(0, 1).Str("abcdef").U8(1).data(),
       kInvalid,
       {"key \"abcdef\"", "value type at offset 38"}},
      {"value type 13",
       Key("abc", 13).Zeros(20).data(),
       kInvalid,
       {"key \"abc\"", "value type", "is 13, the limit is 12"}},
      {"value type 2^32-1",
       Key("abc", 0xffffffff).Zeros(20).data(),
       kInvalid,
       {"value type", "the limit is 12"}},
      {"u64 cut",
       Key("abc", 10).U32(0).data(),
       kInvalid,
       {"key \"abc\"", "value at offset 39 needs 8 bytes, 4 remain"}},
      {"u8 cut", Key("abcde", 0).data(), kInvalid, {"value", "0 remain"}},
      {"bool 2", Key("abc", 7).U8(2).data(), kInvalid, {"key \"abc\"", "bool at offset 39 is 2"}},
      {"string length 2^64-1",
       Key("abc", 8).U64(kMax).data(),
       kInvalid,
       {"length of string value at offset 39"}},
      {"string length wraps the offset",
       Key("abc", 8).U64(kMax - 46).Zeros(8).data(),
       kInvalid,
       {"string value"}},
      {"string one byte too long",
       Key("abc", 8).U64(5).Text("four").data(),
       kInvalid,
       {"is 5, 4 bytes remain"}},
      {"string without length",
       Key("abc", 8).U32(0).data(),
       kInvalid,
       {"string value", "needs 8 bytes, 4 remain"}},
      {"key name is cut in the error",
       Key(std::string(5000, 'k'), 13).Zeros(20).data(),
       kInvalid,
       {"kkkk...\""}},
  };
}

std::vector<Case> ArrayCases() {
  return {
      {"array element type 13",
       Array(13, 1).Zeros(20).data(),
       kInvalid,
       {"array element type at offset 37 is 13"}},
      {"array of arrays",
       Array(9, 1).U32(9).U64(1).U32(9).U64(0).data(),
       kInvalid,
       {"key \"a\"", "arrays of arrays"}},
      {"array element type cut",
       Key("abc", 9).U8(0).data(),
       kInvalid,
       {"array element type", "1 remain"}},
      {"array length cut",
       Key("abc", 9).U32(0).U32(0).data(),
       kInvalid,
       {"array length at offset 43", "4 remain"}},
      {"array length 2^64-1",
       Array(0, kMax).Zeros(9).data(),
       kInvalid,
       {"array length", "at most 9 fit"}},
      {"array bytes wrap",
       Array(10, (uint64_t{1} << 61) + 1).Zeros(8).data(),
       kInvalid,
       {"array length", "at most 1"}},
      {"array one too many",
       Array(4, 3).Zeros(11).data(),
       kInvalid,
       {"array length", "is 3, at most 2 fit"}},
      {"array over the limit",
       Array(0, (1 << 22) + 1).Zeros((1 << 22) + 1).data(),
       kInvalid,
       {"array length", "is 4194305, the limit is 4194304"}},
      {"strings over the limit",
       Array(8, (1 << 22) + 1).Zeros(((1 << 22) + 1) * 8).data(),
       kInvalid,
       {"is 4194305, the limit is 4194304"}},
      {"strings more than fit",
       Array(8, 3).Zeros(23).data(),
       kInvalid,
       {"array length", "is 3, at most 2 fit"}},
      {"string in array too long",
       With([](Bytes& b) { b.Str("ok").U64(100).Text("short"); }, Array(8, 2)),
       kInvalid,
       {"key \"a\"", "element 1 of 2", "is 100, 5 bytes remain"}},
      {"string in array 2^64-1",
       With([](Bytes& b) { b.U64(kMax); }, Array(8, 1)),
       kInvalid,
       {"element 0 of 1"}},
      {"string in array cut in its length",
       With([](Bytes& b) { b.Str("12345678").U32(0); }, Array(8, 2)),
       kInvalid,
       {"element 1 of 2", "needs 8 bytes, 4 remain"}},
      {"bool array with 7",
       Array(7, 3).U8(0).U8(1).U8(7).data(),
       kInvalid,
       {"bool at offset 51 is 7"}},
      {"alignment 0",
       Spoilt([](GgufWriter& w) { w.U32("general.alignment", 0); }),
       kInvalid,
       {"\"general.alignment\"", "is 0, must be a power of two"}},
      {"alignment 48",
       Spoilt([](GgufWriter& w) { w.U32("general.alignment", 48); }),
       kInvalid,
       {"is 48"}},
      {"alignment u64",
       Spoilt([](GgufWriter& w) { w.U64("general.alignment", 32); }),
       kInvalid,
       {"is u64, must be u32"}},
      {"alignment string",
       Spoilt([](GgufWriter& w) { w.Str("general.alignment", "32"); }),
       kInvalid,
       {"is str"}},
      {"alignment array",
       Spoilt([](GgufWriter& w) { w.Ints("general.alignment", {32}); }),
       kInvalid,
       {"is arr"}},
      {"alignment 2^31",
       Spoilt([](GgufWriter& w) { w.U32("general.alignment", 1u << 31); }),
       kInvalid,
       {"offset", "multiple of the alignment 2147483648"}},
  };
}

std::vector<Case> TensorCases() {
  const auto edit = [](const std::function<void(testing::WriterTensor&)>& spoil) {
    return Spoilt([&](GgufWriter& w) { spoil(w.Edit("blk.0.attn_q.weight")); });
  };
  using T = testing::WriterTensor;
  const std::string q = "tensor \"blk.0.attn_q.weight\"";
  return {
      {"tensor name empty", edit([](T& t) { t.name = ""; }), kInvalid, {"tensor 3", "is empty"}},
      {"tensor name of 64",
       edit([](T& t) { t.name = std::string(64, 'n'); }),
       kInvalid,
       {"is 64, the limit is 63"}},
      {"tensor name 2^64-1",
       Start(1, 0).U64(kMax).Zeros(40).data(),
       kInvalid,
       {"tensor 0", "length of name"}},
      {"tensor name with NUL",
       edit([](T& t) { t.name = std::string("a\0", 2); }),
       kInvalid,
       {"control character"}},
      {"tensor twice",
       edit([](T& t) { t.name = "blk.1.attn_q.weight"; }),
       kInvalid,
       {"tensor \"blk.1.attn_q.weight\"", "duplicate"}},
      {"n_dims 0",
       edit([](T& t) { t.dims.clear(); }),
       kInvalid,
       {q, "n_dims", "is 0, must be 1 to 4"}},
      {"n_dims 5", edit([](T& t) { t.dims.assign(5, 1); }), kInvalid, {q, "n_dims", "is 5"}},
      {"n_dims 2^32-1",
       Tensor("t", 0xffffffff).Zeros(40).data(),
       kInvalid,
       {"n_dims at offset 33 is 4294967295"}},
      {"dims 0",
       edit([](T& t) {
         t.dims = {64, 0};
       }),
       kInvalid,
       {q, "dims[1]", "is 0"}},
      {"dims 2^63",
       edit([](T& t) {
         t.dims = {64, uint64_t{1} << 63};
       }),
       kInvalid,
       {"dims[1]", "must be 1 to"}},
      {"dims -1",
       edit([](T& t) {
         t.dims = {kMax, 64};
       }),
       kInvalid,
       {"dims[0]"}},
      {"product wraps to 0",
       edit([](T& t) {
         t.dims = {uint64_t{1} << 31, uint64_t{1} << 31};
       }),
       kInvalid,
       {q, "dims", "more than 2^64"}},
      {"product wraps to 4 MB",
       edit([](T& t) {
         t.dims = {1 << 20, (uint64_t{1} << 44) + 1, 1, 1};
       }),
       kInvalid,
       {"more than 2^64"}},
      {"exabytes that do not wrap",
       edit([](T& t) {
         t.dims = {uint64_t{1} << 30, uint64_t{1} << 28};
       }),
       kInvalid,
       {"dims", "the file has"}},
      {"more than the file",
       edit([](T& t) {
         t.dims = {64, 1 << 20};
       }),
       kInvalid,
       {q, "268435456 bytes"}},
      {"dims cut", Tensor("t", 4).Zeros(28).data(), kInvalid, {"tensor \"t\"", "dims"}},
      {"type 4, removed", edit([](T& t) { t.type = 4; }), kUnknown, {q, "Q4_2"}},
      {"type 23, not yet", edit([](T& t) { t.type = 23; }), kUnknown, {q, "IQ4_XS"}},
      {"type 1000", edit([](T& t) { t.type = 1000; }), kInvalid, {q, "type at offset", "is 1000"}},
      {"type 2^32-1", edit([](T& t) { t.type = 0xffffffff; }), kInvalid, {q, "type at offset"}},
      {"row is no whole block",
       edit([](T& t) { t.type = 12; }),
       kInvalid,
       {"dims[0]", "multiple of 256 (Q4_K block)"}},
      {"offset misaligned",
       edit([](T& t) { t.offset = 16; }),
       kInvalid,
       {q, "is 16", "multiple of the alignment 32"}},
      {"offset past the end",
       edit([](T& t) { t.offset = 1 << 30; }),
       kInvalid,
       {q, "1073741824", "file's end"}},
      {"offset wraps", edit([](T& t) { t.offset = kMax - 31; }), kInvalid, {q, "file's end"}},
      {"offset and data start wrap to 0",
       edit([](T& t) { t.offset = -uint64_t{4096}; }),
       kInvalid,
       {"file's end"}},
      {"same offset as another",
       edit([](T& t) { t.offset = 0; }),
       kInvalid,
       {"lies inside the data of"}},
      {"32 bytes into another",
       edit([](T& t) { t.offset = 32; }),
       kInvalid,
       {"offset 32 lies inside the data of"}},
      {"cut by one byte",
       Cut(TinyLlama().Build(), 1),
       kInvalid,
       {"tensor \"output.weight\"", "truncated"}},
      {"no data at all", TinyLlama().BuildHeader(), kInvalid, {"tensor"}},
      {"offset cut",
       Tensor("longer", 1).U64(1).U32(0).U32(0).data(),
       kInvalid,
       {"tensor \"longer\"", "offset at offset 54 needs 8 bytes, 4 remain"}},
  };
}

TEST(GgufMalformed, EveryClassIsRefusedWithOneLineThatNamesTheField) {
  size_t n = 0;
  for (const auto& make : {StartCases, KeyCases, ArrayCases, TensorCases}) {
    for (const Case& c : make()) {
      SCOPED_TRACE(c.name);
      ++n;
      const auto start = std::chrono::steady_clock::now();
      const auto file = GgufFile::Parse(c.bytes);
      EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
      ASSERT_FALSE(file.ok());
      const std::string text = Str(file.status().message());
      EXPECT_EQ(file.status().code(), c.code) << text;
      for (const std::string& part : c.says) EXPECT_THAT(text, HasSubstr(part));
      EXPECT_EQ(text.find('\n'), std::string::npos);
      EXPECT_LT(text.size(), 300u) << text;
    }
  }
  EXPECT_GE(n, 60u);
}

TEST(GgufMalformed, TheUnspoiltFileIsRead) {
  const auto bytes = TinyLlama().Build();
  const auto file = GgufFile::Parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(ShapeFromGguf(**file).ok());
}

// Reads everything that a program could ask of the file: whatever the bytes, this must end without
// a crash.
void Exercise(const std::vector<uint8_t>& bytes) {
  const auto file = GgufFile::Parse(bytes);
  if (!file.ok()) return;
  for (const GgufFile::Entry& entry : (*file)->Entries()) {
    EXPECT_LE(entry.preview.size(), 120u);
    (void)(*file)->Strings(entry.key);
    (void)(*file)->Ints(entry.key);
    (void)(*file)->Floats(entry.key);
  }
  std::vector<uint8_t> data(64);
  for (const TensorInfo& info : (*file)->tensors()) {
    (void)(*file)->Read(info.name, 0, std::span(data).first(std::min<uint64_t>(64, info.bytes)));
  }
  const auto manifest = BuildManifest(**file, false);
  if (!manifest.ok()) {
    EXPECT_EQ(manifest.status().message().find('\n'), absl::string_view::npos);
  }
  const auto vocab = ReadVocabData(**file);
  if (!vocab.ok()) return;
  const auto tokenizer = Tokenizer::Make(*vocab);
  if (!tokenizer.ok()) {
    EXPECT_EQ(tokenizer.status().message().find('\n'), absl::string_view::npos);
    return;
  }
  EXPECT_LE((*tokenizer)->warnings().size(), 8u);
  (void)(*tokenizer)->Encode("t1 t2", {.add_special = true, .parse_special = true});
}

TEST(GgufMalformed, EveryTruncationIsRefused) {
  const std::vector<uint8_t> whole = TinyLlama().Build();
  const size_t header_bytes = TinyLlama().BuildHeader().size();
  for (size_t n = 0; n < whole.size(); n += n < header_bytes + 64 ? 1 : 997) {
    const std::vector<uint8_t> cut(whole.begin(), whole.begin() + n);
    const auto file = GgufFile::Parse(cut);
    ASSERT_FALSE(file.ok()) << "cut to " << n;
    ASSERT_EQ(file.status().code(), kInvalid) << file.status();
  }
}

TEST(GgufMalformed, EveryHeaderBitFlipEnds) {
  std::vector<uint8_t> bytes = TinyLlama().Build();
  const size_t header_bytes = TinyLlama().BuildHeader().size();
  const auto start = std::chrono::steady_clock::now();
  for (size_t bit = 0; bit < header_bytes * 8; ++bit) {
    bytes[bit / 8] ^= 1 << bit % 8;
    Exercise(bytes);
    bytes[bit / 8] ^= 1 << bit % 8;
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST(GgufMalformed, EveryHeaderBitFlipOfAWholeModelEnds) {
  std::vector<uint8_t> bytes = testing::TinyModelFile("llama");
  const auto file = GgufFile::Parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  const size_t header_bits = (*file)->data_offset() * 8;
  // A third of them: bit positions run through all eight in any three neighbouring bytes.
  for (size_t bit = 0; bit < header_bits; bit += 3) {
    bytes[bit / 8] ^= 1 << bit % 8;
    Exercise(bytes);
    bytes[bit / 8] ^= 1 << bit % 8;
  }
}

TEST(GgufMalformed, MemoryIsBoundedByTheFile) {
  // As many keys and tensors as are allowed, each as short as can be: the most memory a byte of
  // file can cost.
  Bytes b = Start(65536, 65536);
  for (uint32_t i = 0; i < 65536; ++i) b.Str(absl::StrCat(i)).U32(0).U8(0);
  for (uint32_t i = 0; i < 65536; ++i)
    b.Str(absl::StrCat(i)).U32(1).U64(1).U32(0).U64(uint64_t{i} * 32);
  b.Zeros(32 - b.data().size() % 32).Zeros(65536 * 32);
  const auto held = [] {
    const struct mallinfo2 info = mallinfo2();  // zeros under a sanitizer's allocator
    return info.uordblks + info.hblkhd;
  };
  const size_t before = held();
  const auto file = GgufFile::Parse(b.data());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->tensors().size(), 65536u);
  EXPECT_LT(held() - before, size_t{64} << 20);
}

}  // namespace
}  // namespace lanyard::model
