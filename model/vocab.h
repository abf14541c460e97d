// A model's vocabulary: token texts, types, scores, merges and special ids, checked once at load.
// Kinds: "gpt2" (byte-level BPE) and "llama" (SentencePiece BPE with scores). Semantics follow
// llama.cpp's llama-vocab, with which GGUF files are made.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "base/status.h"

namespace lanyard::model {

class GgufFile;

// The numbers of tokenizer.ggml.token_type.
enum class TokenType : uint8_t {
  kUndefined = 0,
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

enum class VocabKind { kBpe, kSpm };

// The values of a GGUF file, unchecked. Views must live until Vocab::Make returns.
struct VocabData {
  std::string model;  // tokenizer.ggml.model
  std::string pre;    // tokenizer.ggml.pre; empty when absent
  std::vector<std::string_view> tokens;
  std::vector<float> scores;             // empty, or one a token; of "llama" alone
  std::vector<int64_t> types;            // empty, or one a token
  std::vector<std::string_view> merges;  // "left right", best first
  // Absent keys stay nullopt; ids as written.
  std::optional<int64_t> bos, eos, eot, eom, unk;
  // Every other tokenizer.ggml.*_token_id (padding, mask, fill-in-the-middle ...): nothing here
  // uses them.
  std::vector<std::pair<std::string, int64_t>> unused_ids;
  std::optional<bool> add_bos, add_eos, add_space_prefix;
  // What is wrong with keys that nothing reads for this model.
  std::vector<std::string> unused_faults;
};

// Reads the keys and checks their types only, of those that are used. InvalidArgument, also for a
// key that must be there.
absl::StatusOr<VocabData> ReadVocabData(const GgufFile& file);

// Immutable and thread-safe.
class Vocab {
 public:
  static constexpr int32_t kNoToken = -1;

  // InvalidArgument naming the token or key that is wrong: a repeated token, arrays of unequal
  // lengths, a byte token that is not <0x00> to <0xFF>, a score that is not a number, and a special
  // id outside the vocabulary that is used: bos where prompts begin with it, eos because answers
  // end at it. Unimplemented for another tokenizer model. What converters are known to leave wrong
  // without harm, an unused id outside the vocabulary, a token without a text or a key that the
  // model's kind does not read, adds a line for each kind to `warnings`.
  static absl::StatusOr<Vocab> Make(const VocabData& data, std::vector<std::string>* warnings);
  Vocab(Vocab&&) = default;
  Vocab& operator=(Vocab&&) = default;

  VocabKind kind() const { return kind_; }
  const std::string& pre() const { return pre_; }
  int32_t size() const { return static_cast<int32_t>(types_.size()); }

  // `id` must be in [0, size()).
  std::string_view Text(int32_t id) const {
    return std::string_view(texts_).substr(offsets_[id], offsets_[id + 1] - offsets_[id]);
  }
  TokenType Type(int32_t id) const { return types_[id]; }
  float Score(int32_t id) const { return scores_.empty() ? 0.0F : scores_[id]; }
  // True for control tokens and the unknown token, which are never made of text unless special
  // tokens are parsed, and are not part of the visible answer.
  bool IsSpecial(int32_t id) const {
    return types_[id] == TokenType::kControl || types_[id] == TokenType::kUnknown;
  }
  // True for tokens that end a generation.
  bool IsEog(int32_t id) const { return eog_.contains(id); }
  const absl::flat_hash_set<int32_t>& eog() const { return eog_; }
  // The token written exactly so, of any type, or kNoToken; never a token without a text.
  int32_t Find(std::string_view text) const;
  // The byte that a token of type kByte stands for.
  uint8_t ByteOf(int32_t id) const;

  // These are kNoToken where the model has none.
  int32_t bos() const { return bos_; }
  int32_t eos() const { return eos_; }
  int32_t unk() const { return unk_; }
  bool add_bos() const { return add_bos_; }
  bool add_eos() const { return add_eos_; }
  bool add_space_prefix() const { return add_space_prefix_; }

 private:
  Vocab() = default;
  absl::Status AddTokens(const VocabData& data, std::vector<std::string>* warnings);
  absl::Status SetScores(const VocabData& data, std::vector<std::string>* warnings);
  absl::Status AddToken(std::string_view text, int64_t type);
  absl::Status SetSpecialIds(const VocabData& data, std::vector<std::string>* warnings);
  absl::Status SetBosAndEos(const VocabData& data);
  void DetectSpecialTexts();

  VocabKind kind_ = VocabKind::kBpe;
  std::string pre_;
  std::string texts_;              // all tokens, one after another
  std::vector<uint64_t> offsets_;  // size() + 1
  std::vector<TokenType> types_;
  std::vector<float> scores_;
  // By the hash of the text, which is then compared: this takes half the memory of a map that holds
  // views, and can be moved.
  absl::flat_hash_map<uint64_t, int32_t> by_hash_;
  absl::flat_hash_map<std::string, int32_t> collisions_;
  absl::flat_hash_set<int32_t> eog_;
  int32_t bos_ = kNoToken, eos_ = kNoToken, eot_ = kNoToken, eom_ = kNoToken, unk_ = kNoToken;
  bool add_bos_ = false, add_eos_ = false, add_space_prefix_ = false;
};

}  // namespace lanyard::model
