// A vocabulary and a text out of the same bytes: loading never crashes, and what loads keeps its
// promises on any text.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "model/detokenizer.h"
#include "model/tokenizer.h"
#include "model/unicode.h"

namespace {

using lanyard::model::PromptPart;
using lanyard::model::StreamDecoder;
using lanyard::model::Tokenizer;
using lanyard::model::VocabData;

void Check(bool holds) {
  if (!holds) std::abort();
}

// Fields end with byte 0. The first says which kind; then come tokens, an empty one ends them; then
// merges; then text.
struct Reader {
  std::string_view rest;
  std::string_view Next() {
    const size_t end = rest.find('\0');
    const std::string_view field = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    return field;
  }
};

void TryText(const Tokenizer& t, std::string_view text) {
  const auto plain = t.Encode(text);
  if (!plain.ok()) return;
  for (const int32_t id : *plain)
    Check(id >= 0 && id < t.n_vocab() && (!t.IsSpecial(id) || id == t.vocab().unk()));
  const auto special = t.Encode(text, {.add_special = true, .parse_special = true});
  Check(special.ok());
  StreamDecoder decoder(&t, {.render_special = true, .whole_text = true});
  std::string back;
  for (const int32_t id : *special) {
    const std::string piece = decoder.Push(id);
    Check(lanyard::model::IsValidUtf8(piece) || t.IsSpecial(id) ||
          !lanyard::model::IsValidUtf8(t.PieceBytes(id)));
    back += piece;
  }
  back += decoder.Flush();
  const size_t half = text.size() / 2;
  const std::vector<PromptPart> parts = {{std::string(text.substr(0, half)), true},
                                         {std::string(text.substr(half)), false}};
  Check(t.Encode(parts, true).ok());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0 || size > 1 << 14) return 0;
  Reader in{{reinterpret_cast<const char*>(data), size}};
  const std::string_view head = in.Next();
  const uint8_t kind = head.empty() ? 0 : static_cast<uint8_t>(head[0]);
  VocabData vocab;
  vocab.model = (kind & 1) != 0 ? "gpt2" : "llama";
  constexpr const char* kPre[] = {"gpt-2",          "smollm",  "llama-bpe", "qwen2",
                                  "deepseek-coder", "default", "",          "?"};
  vocab.pre = kPre[kind >> 1 & 7];
  if ((kind & 0x40) != 0) vocab.add_bos = true;
  // The alphabet first, so that most inputs load.
  std::vector<std::string> alphabet;
  if ((kind & 0x80) == 0) {
    for (const std::string& b : lanyard::model::ByteAlphabet()) alphabet.push_back(b);
    for (const std::string& b : alphabet) vocab.tokens.push_back(b);
  }
  vocab.types.assign(vocab.tokens.size(), 1);
  for (std::string_view token = in.Next(); !token.empty(); token = in.Next()) {
    vocab.types.push_back(token.size() > 1 ? token[0] % 8 : 1);
    vocab.tokens.push_back(token.size() > 1 ? token.substr(1) : token);
  }
  for (std::string_view merge = in.Next(); !merge.empty(); merge = in.Next())
    vocab.merges.push_back(merge);
  if ((kind & 0x20) != 0) {  // what no field of the input can say: neither text nor merge
    vocab.tokens.push_back("");
    vocab.types.push_back(1);
    vocab.merges.push_back("");
  }
  for (size_t i = 0; i < vocab.tokens.size(); ++i)
    vocab.scores.push_back(static_cast<float>(i * 7 % 13));
  if (head.size() > 1) vocab.bos = static_cast<uint8_t>(head[1]);
  if (head.size() > 2) vocab.eos = static_cast<uint8_t>(head[2]);
  if (head.size() > 3) vocab.unk = static_cast<uint8_t>(head[3]);
  const auto tokenizer = Tokenizer::Make(vocab);
  if (!tokenizer.ok()) return 0;
  TryText(**tokenizer, in.rest);
  return 0;
}
