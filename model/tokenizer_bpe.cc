#include "model/tokenizer_bpe.h"

#include <algorithm>
#include <queue>

#include "model/counted.h"
#include "model/unicode.h"

namespace lanyard::model {

absl::Status NoMerges(std::string_view what) {
  return InvalidArgument("tokenizer.ggml.merges ", AbslView(what),
                         ", and byte-level BPE ('gpt2') makes every token of more than a byte by "
                         "merges; the file was converted wrongly: convert the model again");
}

// A word as a linked list of symbols. Those joined into their left neighbour have token kGone.
struct BpeEncoder::Scratch {
  static constexpr int32_t kGone = -2;
  struct Symbol {
    int32_t token;  // or a piece
    int32_t previous;
    int32_t next;  // -1 at the end
  };
  struct Pair {
    int32_t rank;
    int32_t left;  // position
    // The tokens at that time; the pair is stale where they have changed.
    int32_t left_token, right_token;
    int32_t joined;
    bool operator<(const Pair& other) const {
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };
  std::vector<Symbol> symbols;
  std::priority_queue<Pair> pairs;
};

absl::StatusOr<std::unique_ptr<TextEncoder>> BpeEncoder::Make(
    const Vocab* vocab, const std::vector<std::string_view>& merges,
    std::vector<std::string>* warnings) {
  std::unique_ptr<BpeEncoder> out(new BpeEncoder(vocab));
  ASSIGN_OR_RETURN(out->pretokenizer_, Pretokenizer::Make(vocab->pre()));
  RETURN_IF_ERROR(out->AddMerges(merges, warnings));
  for (int b = 0; b < 256; ++b) {
    const std::string& text = ByteAlphabet()[b];
    out->byte_tokens_[b] = out->TextToken(text);
    const auto piece = out->piece_symbols_.find(text);
    out->byte_symbols_[b] =
        piece == out->piece_symbols_.end() ? out->byte_tokens_[b] : piece->second;
  }
  return out;
}

// Control and byte tokens never come out of text.
int32_t BpeEncoder::TextToken(std::string_view text) const {
  const int32_t id = vocab_->Find(text);
  if (id == Vocab::kNoToken || vocab_->IsSpecial(id) || vocab_->Type(id) == TokenType::kByte) {
    return Vocab::kNoToken;
  }
  return id;
}

int32_t BpeEncoder::SymbolOf(std::string_view text) {
  if (const int32_t id = TextToken(text); id != Vocab::kNoToken) return id;
  const auto next = static_cast<int32_t>(vocab_->size() + pieces_.size());
  const auto [it, added] = piece_symbols_.try_emplace(std::string(text), next);
  if (added) pieces_.emplace_back(text);
  return it->second;
}

absl::Status BpeEncoder::AddMerges(const std::vector<std::string_view>& merges,
                                   std::vector<std::string>* warnings) {
  // Every merge may bring three pieces, which are counted on behind the vocabulary.
  if (merges.size() > (size_t{0x7FFFFFFF} - vocab_->size()) / 3)
    return InvalidArgument("tokenizer.ggml.merges has ", merges.size(), " entries");
  merges_.reserve(merges.size());
  Counted malformed, strange;
  std::string joined;
  for (size_t i = 0; i < merges.size(); ++i) {
    const std::string_view merge = merges[i];
    const auto shown = [&] { return EscapeText(merge.substr(0, 80)); };
    const size_t space = merge.size() < 3 ? std::string_view::npos : merge.find(' ', 1);
    if (space == std::string_view::npos || space + 1 == merge.size()) {
      malformed.Add("entry ", i, " '", shown(), "'");
      continue;
    }
    joined.assign(merge.substr(0, space)).append(merge.substr(space + 1));
    const int32_t left = SymbolOf(merge.substr(0, space));
    const int32_t right = SymbolOf(merge.substr(space + 1));
    const int32_t whole = SymbolOf(joined);
    if (std::max({left, right, whole}) >= vocab_->size()) {
      strange.Add("entry ", i, " '", shown(), "', its ",
                  left >= vocab_->size()    ? "left part"
                  : right >= vocab_->size() ? "right part"
                                            : "result");
    }
    merges_.try_emplace(uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right),
                        Merge{static_cast<int32_t>(i), whole});
  }
  if (merges_.empty() && !merges.empty()) return NoMerges("holds no merge");
  malformed.Report("merges that are not two texts with a space between are left out", warnings);
  strange.Report(
      "merges have a part or a result that is no token of ordinary text: what ends as such a piece "
      "is written byte by byte",
      warnings);
  return absl::OkStatus();
}

absl::Status BpeEncoder::Encode(std::string_view text, EncodeGuard* guard,
                                std::vector<int32_t>* out) const {
  std::string repaired;
  if (!IsValidUtf8(text)) {
    repaired = ReplaceInvalidBytes(text);
    text = repaired;
  }
  Scratch scratch;
  return pretokenizer_->Split(text, [&](std::string_view word) -> absl::Status {
    RETURN_IF_ERROR(guard->Step(word.size(), out->size()));
    return EncodeWord(word, guard, &scratch, out);
  });
}

// A byte that is no UTF-8 is read as U+FFFD, of whose bytes it takes one to be written.
bool BpeEncoder::IsAlwaysWritten(uint8_t byte) const {
  constexpr uint8_t kReplacementLead = 0xEF;
  return byte_tokens_[byte] != Vocab::kNoToken &&
         (byte < 0x80 || byte_tokens_[kReplacementLead] != Vocab::kNoToken);
}

int32_t BpeEncoder::WholeWord(std::string_view word) const {
  std::string spelt;
  for (const char c : word) spelt += ByteAlphabet()[static_cast<uint8_t>(c)];
  return TextToken(spelt);
}

// Checks whether the symbol at `left` and its right neighbour can be joined.
void BpeEncoder::Propose(int32_t left, Scratch* scratch) const {
  if (left < 0) return;
  const Scratch::Symbol& a = scratch->symbols[left];
  if (a.next < 0) return;
  const Scratch::Symbol& b = scratch->symbols[a.next];
  if (a.token < 0 || b.token < 0) return;
  const auto it =
      merges_.find(uint64_t{static_cast<uint32_t>(a.token)} << 32 | static_cast<uint32_t>(b.token));
  if (it == merges_.end()) return;
  scratch->pairs.push({it->second.rank, left, a.token, b.token, it->second.symbol});
}

absl::Status BpeEncoder::JoinAll(EncodeGuard* guard, Scratch* scratch) const {
  auto& symbols = scratch->symbols;
  while (!scratch->pairs.empty()) {
    RETURN_IF_ERROR(guard->Step(1, 0));
    const Scratch::Pair pair = scratch->pairs.top();
    scratch->pairs.pop();
    Scratch::Symbol& left = symbols[pair.left];
    if (left.token != pair.left_token || left.next < 0) continue;
    Scratch::Symbol& right = symbols[left.next];
    if (right.token != pair.right_token) continue;
    left.token = pair.joined;
    right.token = Scratch::kGone;
    left.next = right.next;
    if (right.next >= 0) symbols[right.next].previous = pair.left;
    Propose(left.previous, scratch);
    Propose(pair.left, scratch);
  }
  return absl::OkStatus();
}

absl::Status BpeEncoder::EncodeWord(std::string_view word, EncodeGuard* guard, Scratch* scratch,
                                    std::vector<int32_t>* out) const {
  if (pretokenizer_->ignore_merges()) {
    if (const int32_t id = WholeWord(word); id != Vocab::kNoToken) {
      out->push_back(id);
      return absl::OkStatus();
    }
  }
  auto& symbols = scratch->symbols;
  symbols.clear();
  const auto n = static_cast<int32_t>(word.size());
  for (int32_t i = 0; i < n; ++i) {
    symbols.push_back(
        {byte_symbols_[static_cast<uint8_t>(word[i])], i - 1, i + 1 < n ? i + 1 : -1});
  }
  for (int32_t i = 0; i + 1 < n; ++i) Propose(i, scratch);
  RETURN_IF_ERROR(JoinAll(guard, scratch));
  for (int32_t i = 0; i >= 0 && n > 0; i = symbols[i].next) Write(symbols[i].token, out);
  return absl::OkStatus();
}

// A byte that the vocabulary cannot write is left out, as llama.cpp and tokenizers do: SmolLM2 has
// no U+0004, and its "unknown" token is the one that ends a text.
void BpeEncoder::Write(int32_t symbol, std::vector<int32_t>* out) const {
  if (symbol < vocab_->size()) {
    if (symbol >= 0) out->push_back(symbol);
    return;
  }
  // Pieces grow out of single bytes, so those that are met are spelt in the byte alphabet.
  for (const char c : BytesFromAlphabet(pieces_[symbol - vocab_->size()]).value_or("")) {
    const int32_t id = byte_tokens_[static_cast<uint8_t>(c)];
    if (id != Vocab::kNoToken) out->push_back(id);
  }
}

}  // namespace lanyard::model
