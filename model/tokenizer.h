// Turns text into token ids and back into bytes, by byte-level BPE and SentencePiece-style BPE. The
// ids are equal to llama.cpp's.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/vocab.h"

namespace lanyard::model {

class GgufFile;
class PatternMatcher;

// A part of a prompt. In trusted text (of a chat template) the texts of control tokens become those
// tokens; in other text (which people typed) they never do. Words and merges run across the borders
// of parts, so that the tokens of harmless text do not depend on where the borders are.
struct PromptPart {
  std::string text;
  bool trusted = false;
  bool operator==(const PromptPart&) const = default;
};

// How far the encoding of a text may go.
struct EncodeLimits {
  size_t max_tokens = std::numeric_limits<size_t>::max();  // OutOfRange once there are more
  // Asked every few milliseconds, in the caller's thread; Cancelled once it returns true.
  std::function<bool()> stop = {};
};

// Holds one encoding to its limits. `Step` is cheap enough for an inner loop.
class EncodeGuard {
 public:
  explicit EncodeGuard(const EncodeLimits& limits) : limits_(limits) {}
  // So much more work, in bytes or pairs, was done, and there are so many tokens now.
  absl::Status Step(size_t work, size_t n_tokens) {
    work_ += work;
    if (work_ < kAskEvery && n_tokens <= limits_.max_tokens) return absl::OkStatus();
    return Look(n_tokens);
  }

 private:
  static constexpr size_t kAskEvery = 4096;
  absl::Status Look(size_t n_tokens);
  const EncodeLimits& limits_;
  size_t work_ = 0;
};

// Turns a word, or for SentencePiece a whole text between special tokens, into ids.
class TextEncoder {
 public:
  virtual ~TextEncoder() = default;
  virtual absl::Status Encode(std::string_view text, EncodeGuard* guard,
                              std::vector<int32_t>* out) const = 0;
  // Whether each such byte of a text ends in some token; the others may be left out.
  virtual bool IsAlwaysWritten(uint8_t byte) const = 0;
};

// Immutable and thread-safe.
class Tokenizer {
 public:
  // Reads and checks the vocabulary of a GGUF file, which may be closed afterwards, and logs the
  // warnings. Errors name the key or the token.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const GgufFile& file);
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Make(const VocabData& data);
  ~Tokenizer();

  struct Options {
    bool add_special = false;    // add BOS and EOS as the model asks
    bool parse_special = false;  // texts of control tokens in `text` become those tokens
  };
  static constexpr size_t kMaxTextBytes = size_t{256} << 20;

  // Any bytes are taken: for BPE each byte of invalid UTF-8 reads as U+FFFD, for SentencePiece it
  // becomes its byte token; a byte without a token is left out. Tokens of type user-defined are
  // found in every text, as llama.cpp does. It takes linear memory and n log n time.
  // InvalidArgument above kMaxTextBytes; ResourceExhausted where a word cannot be split within
  // limits; OutOfRange and Cancelled as EncodeLimits says.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, Options options,
                                              const EncodeLimits& limits = {}) const;
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text) const {
    return Encode(text, Options());
  }
  // Encodes a prompt of trusted and other parts. With add_special, BOS is not added where the
  // prompt begins with it already.
  absl::StatusOr<std::vector<int32_t>> Encode(std::span<const PromptPart> parts, bool add_special,
                                              const EncodeLimits& limits = {}) const;
  // A number of tokens that no encoding of the text goes below, found without encoding it: by the
  // vocabulary's longest token. Bytes that may be left out do not count.
  uint64_t FewestTokens(std::string_view text) const;
  uint64_t FewestTokens(std::span<const PromptPart> parts) const;

  // The bytes that the token stands for, which may be a part of a character; a control token's own
  // text; empty for an id outside the vocabulary and for unused tokens.
  std::string PieceBytes(int32_t id) const;
  bool IsSpecial(int32_t id) const { return InRange(id) && vocab_.IsSpecial(id); }
  bool IsEog(int32_t id) const { return vocab_.IsEog(id); }
  // Whether this text in trusted text becomes one token.
  bool IsToken(std::string_view text) const;
  // Finds a token of any type by its exact text.
  std::optional<int32_t> FindToken(std::string_view text) const;

  int32_t n_vocab() const { return vocab_.size(); }
  std::optional<int32_t> bos() const { return AsOptional(vocab_.bos()); }
  std::optional<int32_t> eos() const { return AsOptional(vocab_.eos()); }
  bool add_bos() const { return vocab_.add_bos(); }
  bool add_eos() const { return vocab_.add_eos(); }
  bool add_space_prefix() const { return vocab_.add_space_prefix(); }
  std::string bos_text() const { return TextOf(vocab_.bos()); }  // empty when there is no BOS
  std::string eos_text() const { return TextOf(vocab_.eos()); }
  const Vocab& vocab() const { return vocab_; }
  // What is wrong in the file without harm: a line for each kind, with a count and the first case.
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  // Text [begin, end) of the whole, or the token that stands in its place.
  struct Fragment {
    size_t begin, end;
    int32_t token;  // Vocab::kNoToken for text
  };
  struct TrustMap;

  explicit Tokenizer(Vocab vocab);
  bool InRange(int32_t id) const { return id >= 0 && id < vocab_.size(); }
  static std::optional<int32_t> AsOptional(int32_t id) {
    return id < 0 ? std::nullopt : std::optional<int32_t>(id);
  }
  std::string TextOf(int32_t id) const { return id < 0 ? "" : std::string(vocab_.Text(id)); }
  void FindSpecials();
  void MeasureTokens();
  uint64_t WrittenBytes(std::string_view text) const;
  absl::StatusOr<std::vector<Fragment>> Partition(std::string_view text, const TrustMap& trust,
                                                  EncodeGuard* guard) const;
  absl::StatusOr<std::vector<int32_t>> EncodeTrusted(std::string_view text, const TrustMap& trust,
                                                     bool add_special,
                                                     const EncodeLimits& limits) const;

  Vocab vocab_;
  std::vector<int32_t>
      specials_;  // control, unknown and user-defined tokens: the patterns of matcher_
  std::vector<uint32_t> lengths_;  // the distinct lengths of these, longest first
  std::unique_ptr<PatternMatcher> matcher_;
  std::unique_ptr<TextEncoder> encoder_;
  size_t longest_bytes_ = 1;                // of the text that one token stands for
  std::array<bool, 256> always_written_{};  // by byte
  std::vector<std::string> warnings_;
};

}  // namespace lanyard::model
