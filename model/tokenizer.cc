#include "model/tokenizer.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/log.h"
#include "model/gguf.h"
#include "model/pattern_matcher.h"
#include "model/tokenizer_bpe.h"
#include "model/tokenizer_spm.h"
#include "model/unicode.h"

namespace lanyard::model {

// Says which bytes of a text are trusted: the ascending borders at which trust changes. The first
// byte is untrusted where the first border is above 0.
struct Tokenizer::TrustMap {
  std::vector<size_t> borders;

  static TrustMap All(bool trusted) { return trusted ? TrustMap{{0}} : TrustMap{}; }
  void Append(size_t begin, bool trusted) {
    if ((borders.size() % 2 == 1) != trusted) borders.push_back(begin);
  }
  // True when every byte of the non-empty [begin, end) is trusted.
  bool Covers(size_t begin, size_t end) const {
    const auto next = std::upper_bound(borders.begin(), borders.end(), begin);
    return (next - borders.begin()) % 2 == 1 && (next == borders.end() || *next >= end);
  }
};

absl::Status EncodeGuard::Look(size_t n_tokens) {
  if (n_tokens > limits_.max_tokens)
    return absl::OutOfRangeError(absl::StrCat("more than ", limits_.max_tokens, " tokens"));
  work_ = 0;
  if (limits_.stop && limits_.stop()) return absl::CancelledError("the encoding was stopped");
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const GgufFile& file) {
  ASSIGN_OR_RETURN(const VocabData data, ReadVocabData(file));
  ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> out, Make(data));
  for (const std::string& warning : out->warnings()) LogWarning("the model's file: ", warning);
  return out;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Make(const VocabData& data) {
  std::vector<std::string> warnings;
  ASSIGN_OR_RETURN(Vocab vocab, Vocab::Make(data, &warnings));
  std::unique_ptr<Tokenizer> out(new Tokenizer(std::move(vocab)));
  out->FindSpecials();
  if (out->vocab_.kind() == VocabKind::kBpe) {
    ASSIGN_OR_RETURN(out->encoder_, BpeEncoder::Make(&out->vocab_, data.merges, &warnings));
  } else {
    out->encoder_ = SpmEncoder::Make(&out->vocab_);
  }
  out->MeasureTokens();
  out->warnings_ = std::move(warnings);
  return out;
}

Tokenizer::Tokenizer(Vocab vocab) : vocab_(std::move(vocab)) {}
Tokenizer::~Tokenizer() = default;

void Tokenizer::FindSpecials() {
  std::vector<std::string_view> patterns;
  std::set<uint32_t, std::greater<>> lengths;
  for (int32_t id = 0; id < vocab_.size(); ++id) {
    if (!vocab_.IsSpecial(id) && vocab_.Type(id) != TokenType::kUserDefined) continue;
    specials_.push_back(id);
    patterns.push_back(vocab_.Text(id));
    lengths.insert(static_cast<uint32_t>(patterns.back().size()));
  }
  lengths_.assign(lengths.begin(), lengths.end());
  matcher_ = std::make_unique<PatternMatcher>(patterns);
}

void Tokenizer::MeasureTokens() {
  for (int b = 0; b < 256; ++b)
    always_written_[static_cast<size_t>(b)] = encoder_->IsAlwaysWritten(static_cast<uint8_t>(b));
  for (int32_t id = 0; id < vocab_.size(); ++id) {
    const std::string_view text = vocab_.Text(id);
    size_t bytes = text.size();
    // Of ordinary tokens the byte alphabet writes a byte in two; the others are found as written.
    if (vocab_.kind() == VocabKind::kBpe && !vocab_.IsSpecial(id) &&
        vocab_.Type(id) != TokenType::kUserDefined) {
      if (const auto raw = BytesFromAlphabet(text)) bytes = raw->size();
    }
    longest_bytes_ = std::max(longest_bytes_, bytes);
  }
}

uint64_t Tokenizer::WrittenBytes(std::string_view text) const {
  uint64_t n = 0;
  for (const char c : text) n += always_written_[static_cast<uint8_t>(c)] ? 1 : 0;
  return n;
}

uint64_t Tokenizer::FewestTokens(std::string_view text) const {
  return (WrittenBytes(text) + longest_bytes_ - 1) / longest_bytes_;
}

uint64_t Tokenizer::FewestTokens(std::span<const PromptPart> parts) const {
  uint64_t bytes = 0;
  for (const PromptPart& part : parts) bytes += WrittenBytes(part.text);
  return (bytes + longest_bytes_ - 1) / longest_bytes_;
}

// Longest tokens come first, and those of one length from left to right, each where no token taken
// before stands (llama.cpp searches token by token in this order). An occurrence that is not longer
// than those taken can only touch them at its ends.
absl::StatusOr<std::vector<Tokenizer::Fragment>> Tokenizer::Partition(std::string_view text,
                                                                      const TrustMap& trust,
                                                                      EncodeGuard* guard) const {
  struct Hit {
    size_t end;
    int32_t pattern;  // the longest that ends here and was not tried yet
  };
  std::vector<Hit> hits;
  uint32_t state = PatternMatcher::kRoot;
  for (size_t i = 0; i < text.size(); ++i) {
    RETURN_IF_ERROR(guard->Step(1, 0));
    state = matcher_->Step(state, static_cast<uint8_t>(text[i]));
    if (const int32_t p = matcher_->Longest(state); p != PatternMatcher::kNone)
      hits.push_back({i + 1, p});
  }
  std::vector<Fragment> tokens;
  std::vector<bool> taken(hits.empty() ? 0 : text.size());
  for (const uint32_t length : lengths_) {
    if (hits.empty()) break;
    size_t kept = 0;
    RETURN_IF_ERROR(guard->Step(hits.size(), 0));
    for (Hit hit : hits) {
      if (matcher_->Length(hit.pattern) == length) {
        const size_t begin = hit.end - length;
        const int32_t id = specials_[hit.pattern];
        const bool allowed = !vocab_.IsSpecial(id) || trust.Covers(begin, hit.end);
        if (allowed && !taken[begin] && !taken[hit.end - 1]) {
          std::fill(taken.begin() + begin, taken.begin() + hit.end, true);
          tokens.push_back({begin, hit.end, id});
        }
        hit.pattern = matcher_->NextShorter(hit.pattern);
      }
      if (hit.pattern != PatternMatcher::kNone) hits[kept++] = hit;
    }
    hits.resize(kept);
  }
  std::sort(tokens.begin(), tokens.end(),
            [](const Fragment& a, const Fragment& b) { return a.begin < b.begin; });
  std::vector<Fragment> out;
  size_t done = 0;
  for (const Fragment& token : tokens) {
    if (token.begin > done) out.push_back({done, token.begin, Vocab::kNoToken});
    out.push_back(token);
    done = token.end;
  }
  if (done < text.size()) out.push_back({done, text.size(), Vocab::kNoToken});
  return out;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::EncodeTrusted(std::string_view text,
                                                              const TrustMap& trust,
                                                              bool add_special,
                                                              const EncodeLimits& limits) const {
  if (text.size() > kMaxTextBytes) {
    return InvalidArgument("text of ", text.size(), " bytes; at most ", kMaxTextBytes,
                           " can be tokenised at once");
  }
  EncodeGuard guard(limits);
  ASSIGN_OR_RETURN(const std::vector<Fragment> fragments, Partition(text, trust, &guard));
  std::vector<int32_t> out;
  if (add_special && vocab_.add_bos() &&
      (fragments.empty() || fragments[0].token != vocab_.bos())) {
    out.push_back(vocab_.bos());
  }
  bool after_special = true;
  for (const Fragment& fragment : fragments) {
    RETURN_IF_ERROR(guard.Step(1, out.size()));
    if (fragment.token != Vocab::kNoToken) {
      out.push_back(fragment.token);
      after_special = true;
      continue;
    }
    const std::string_view piece = text.substr(fragment.begin, fragment.end - fragment.begin);
    if (vocab_.add_space_prefix() && after_special) {
      RETURN_IF_ERROR(encoder_->Encode(" " + std::string(piece), &guard, &out));
    } else {
      RETURN_IF_ERROR(encoder_->Encode(piece, &guard, &out));
    }
    after_special = false;
  }
  if (add_special && vocab_.add_eos()) out.push_back(vocab_.eos());
  return out;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text, Options options,
                                                       const EncodeLimits& limits) const {
  return EncodeTrusted(text, TrustMap::All(options.parse_special), options.add_special, limits);
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::span<const PromptPart> parts,
                                                       bool add_special,
                                                       const EncodeLimits& limits) const {
  std::string text;
  TrustMap trust;
  for (const PromptPart& part : parts) {
    if (part.text.empty()) continue;
    trust.Append(text.size(), part.trusted);
    text += part.text;
  }
  return EncodeTrusted(text, trust, add_special, limits);
}

std::string Tokenizer::PieceBytes(int32_t id) const {
  if (!InRange(id)) return {};
  const std::string_view text = vocab_.Text(id);
  switch (vocab_.Type(id)) {
    case TokenType::kControl:
    case TokenType::kUnknown:
    case TokenType::kUserDefined:
      return std::string(text);
    case TokenType::kByte:
      return std::string(1, static_cast<char>(vocab_.ByteOf(id)));
    case TokenType::kUnused:
    case TokenType::kUndefined:
      return {};
    case TokenType::kNormal:
      break;
  }
  if (vocab_.kind() == VocabKind::kSpm) return SpmUnescape(text);
  // A normal token that is not in the byte alphabet stands for its own text.
  return BytesFromAlphabet(text).value_or(std::string(text));
}

bool Tokenizer::IsToken(std::string_view text) const {
  const int32_t id = vocab_.Find(text);
  return id != Vocab::kNoToken &&
         (vocab_.IsSpecial(id) || vocab_.Type(id) == TokenType::kUserDefined);
}

std::optional<int32_t> Tokenizer::FindToken(std::string_view text) const {
  return AsOptional(vocab_.Find(text));
}

}  // namespace lanyard::model
