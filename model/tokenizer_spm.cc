#include "model/tokenizer_spm.h"

#include <algorithm>
#include <queue>

#include "absl/strings/str_replace.h"

namespace lanyard::model {
namespace {

constexpr char kSpace[] = "\xE2\x96\x81";  // U+2581

// The length of a character by its first byte alone, as llama.cpp cuts; invalid bytes become byte
// tokens later.
size_t CharBytes(uint8_t lead) {
  if (lead < 0xC0) return 1;
  return lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

}  // namespace

std::string SpmUnescape(std::string_view text) {
  return absl::StrReplaceAll(AbslView(text), {{kSpace, " "}});
}

// Symbols are pieces of the text; one that was joined into its left neighbour has no bytes.
struct SpmEncoder::Scratch {
  struct Symbol {
    size_t begin;
    size_t bytes;
    int32_t previous;
    int32_t next;  // -1 at the end
  };
  struct Pair {
    float score;
    int32_t left;
    size_t bytes;  // bytes of both; the pair is stale where the number has changed
    bool operator<(const Pair& other) const {
      return score != other.score ? score < other.score : left > other.left;
    }
  };
  std::vector<Symbol> symbols;
  std::priority_queue<Pair> pairs;
};

SpmEncoder::SpmEncoder(const Vocab* vocab) : vocab_(vocab) {
  byte_tokens_.fill(Vocab::kNoToken);
  for (int32_t id = 0; id < vocab->size(); ++id) {
    const std::string_view text = vocab->Text(id);
    longest_token_bytes_ = std::max(longest_token_bytes_, text.size());
    if (vocab->Type(id) == TokenType::kByte) {
      int32_t& slot = byte_tokens_[vocab->ByteOf(id)];
      if (slot == Vocab::kNoToken) slot = id;
    }
  }
  for (int b = 0; b < 256; ++b) {
    if (byte_tokens_[b] != Vocab::kNoToken) continue;
    const char text[1] = {static_cast<char>(b)};
    byte_tokens_[b] = FindText(std::string_view(text, 1));
  }
}

std::unique_ptr<TextEncoder> SpmEncoder::Make(const Vocab* vocab) {
  return std::unique_ptr<TextEncoder>(new SpmEncoder(vocab));
}

// A token that text may become. llama.cpp takes any token here, so that "<s>" could be put together
// from "<" and "s>" where both are tokens; in Lanyard control and byte tokens never come out of
// plain text.
int32_t SpmEncoder::FindText(std::string_view text) const {
  if (text.size() > longest_token_bytes_) return Vocab::kNoToken;
  const int32_t id = vocab_->Find(text);
  if (id == Vocab::kNoToken || vocab_->IsSpecial(id) || vocab_->Type(id) == TokenType::kByte) {
    return Vocab::kNoToken;
  }
  return id;
}

void SpmEncoder::Propose(int32_t left, std::string_view text, Scratch* scratch) const {
  if (left < 0 || scratch->symbols[left].next < 0) return;
  const Scratch::Symbol& a = scratch->symbols[left];
  const size_t bytes = a.bytes + scratch->symbols[a.next].bytes;
  const int32_t id = FindText(text.substr(a.begin, bytes));
  if (id != Vocab::kNoToken) scratch->pairs.push({vocab_->Score(id), left, bytes});
}

absl::Status SpmEncoder::JoinAll(std::string_view text, EncodeGuard* guard,
                                 Scratch* scratch) const {
  auto& symbols = scratch->symbols;
  while (!scratch->pairs.empty()) {
    RETURN_IF_ERROR(guard->Step(1, 0));
    const Scratch::Pair pair = scratch->pairs.top();
    scratch->pairs.pop();
    Scratch::Symbol& left = symbols[pair.left];
    if (left.bytes == 0 || left.next < 0) continue;
    Scratch::Symbol& right = symbols[left.next];
    if (left.bytes + right.bytes != pair.bytes) continue;
    left.bytes += right.bytes;
    right.bytes = 0;
    left.next = right.next;
    if (right.next >= 0) symbols[right.next].previous = pair.left;
    Propose(left.previous, text, scratch);
    Propose(pair.left, text, scratch);
  }
  return absl::OkStatus();
}

int32_t SpmEncoder::ByteToken(uint8_t byte) const {
  if (byte_tokens_[byte] != Vocab::kNoToken) return byte_tokens_[byte];
  const int32_t unknown = vocab_->unk();
  const bool writes = unknown != Vocab::kNoToken && vocab_->Type(unknown) != TokenType::kControl;
  return writes ? unknown : Vocab::kNoToken;
}

bool SpmEncoder::IsAlwaysWritten(uint8_t byte) const {
  return ByteToken(byte == ' ' ? static_cast<uint8_t>(kSpace[0]) : byte) != Vocab::kNoToken;
}

absl::Status SpmEncoder::Encode(std::string_view raw, EncodeGuard* guard,
                                std::vector<int32_t>* out) const {
  const std::string text = absl::StrReplaceAll(AbslView(raw), {{" ", kSpace}});
  Scratch scratch;
  auto& symbols = scratch.symbols;
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = std::min(CharBytes(static_cast<uint8_t>(text[at])), text.size() - at);
    const auto index = static_cast<int32_t>(symbols.size());
    symbols.push_back({at, bytes, index - 1, at + bytes < text.size() ? index + 1 : -1});
    at += bytes;
  }
  const auto n = static_cast<int32_t>(symbols.size());
  for (int32_t i = 0; i + 1 < n; ++i) {
    RETURN_IF_ERROR(guard->Step(1, 0));
    Propose(i, text, &scratch);
  }
  RETURN_IF_ERROR(JoinAll(text, guard, &scratch));
  for (int32_t i = n > 0 ? 0 : -1; i >= 0; i = symbols[i].next) {
    RETURN_IF_ERROR(guard->Step(1, out->size()));
    const std::string_view piece =
        std::string_view(text).substr(symbols[i].begin, symbols[i].bytes);
    if (const int32_t id = FindText(piece); id != Vocab::kNoToken) {
      out->push_back(id);
      continue;
    }
    for (const char c : piece) {
      const int32_t id = ByteToken(static_cast<uint8_t>(c));
      if (id != Vocab::kNoToken) out->push_back(id);
    }
  }
  return absl::OkStatus();
}

}  // namespace lanyard::model
