// Whatever the bytes: the reader gives a Status or a file of which everything can be asked, and
// what it accepts as a model passes the checks that a manifest from the wire must pass.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "model/gguf.h"
#include "model/manifest.h"
#include "model/tokenizer.h"

namespace lanyard::model {
namespace {

void AskEverything(const GgufFile& file) {
  for (const GgufFile::Entry& entry : file.Entries()) {
    if (entry.preview.size() > 120 || !file.Has(entry.key)) std::abort();
    (void)file.Uint(entry.key);
    (void)file.Int(entry.key);
    (void)file.Float(entry.key);
    (void)file.Bool(entry.key);
    (void)file.String(entry.key);
    (void)file.Strings(entry.key);
    (void)file.Floats(entry.key);
    (void)file.Ints(entry.key);
    (void)file.ArrayLength(entry.key);
  }
  std::vector<uint8_t> data(4096);
  for (const TensorInfo& info : file.tensors()) {
    const auto offset = file.OffsetOf(info.name);
    if (file.Find(info.name) != &info || !offset || *offset + info.bytes > file.file_bytes())
      std::abort();
    const uint64_t n = std::min<uint64_t>(data.size(), info.bytes);
    if (!file.Read(info.name, info.bytes - n, std::span(data).first(n)).ok()) std::abort();
    if (file.Read(info.name, info.bytes - n + 1, std::span(data).first(n)).ok()) std::abort();
  }
}

}  // namespace
}  // namespace lanyard::model

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lanyard::model;
  const auto file = GgufFile::Parse({data, size});
  if (!file.ok()) return 0;
  AskEverything(**file);
  if (const auto vocab = ReadVocabData(**file); vocab.ok()) (void)Tokenizer::Make(*vocab);
  if (!BuildManifest(**file, false).ok()) return 0;
  const auto manifest = BuildManifest(**file, true);
  if (!manifest.ok() || !ValidateManifest(*manifest).ok()) std::abort();
  return 0;
}
