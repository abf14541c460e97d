// Byte-level BPE: bytes are the first symbols; the pair with the lowest merge rank is joined first,
// and of equal pairs the leftmost.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/status.h"
#include "model/pretokenizer.h"
#include "model/tokenizer.h"

namespace lanyard::model {

// The error of a file whose tokenizer.ggml.merges "is missing", say: every answer would be made of
// bytes that the model never saw.
absl::Status NoMerges(std::string_view what);

class BpeEncoder : public TextEncoder {
 public:
  // `vocab` must outlive the encoder. Merges that are not "left right" are left out, and those with
  // a part or a result that is no token of ordinary text join pieces that are written byte by byte
  // in the end (as llama.cpp does); each kind adds a line to `warnings`. InvalidArgument
  // where all are malformed, Unimplemented for an unknown pre-tokeniser.
  static absl::StatusOr<std::unique_ptr<TextEncoder>> Make(
      const Vocab* vocab, const std::vector<std::string_view>& merges,
      std::vector<std::string>* warnings);

  absl::Status Encode(std::string_view text, EncodeGuard* guard,
                      std::vector<int32_t>* out) const override;
  bool IsAlwaysWritten(uint8_t byte) const override;

 private:
  struct Merge {
    int32_t rank;
    int32_t symbol;
  };
  struct Scratch;

  explicit BpeEncoder(const Vocab* vocab) : vocab_(vocab) {}
  absl::Status AddMerges(const std::vector<std::string_view>& merges,
                         std::vector<std::string>* warnings);
  // A symbol is a token of ordinary text, or a piece of pieces_ counted on behind the vocabulary.
  int32_t TextToken(std::string_view text) const;  // or kNoToken
  int32_t SymbolOf(std::string_view text);
  void Write(int32_t symbol, std::vector<int32_t>* out) const;
  int32_t WholeWord(std::string_view word) const;
  absl::Status EncodeWord(std::string_view word, EncodeGuard* guard, Scratch* scratch,
                          std::vector<int32_t>* out) const;
  void Propose(int32_t left, Scratch* scratch) const;
  absl::Status JoinAll(EncodeGuard* guard, Scratch* scratch) const;

  const Vocab* vocab_;
  std::unique_ptr<Pretokenizer> pretokenizer_;
  std::array<int32_t, 256> byte_tokens_{};       // kNoToken where the vocabulary lacks the byte
  std::array<int32_t, 256> byte_symbols_{};      // what a word's bytes begin as, or kNoToken
  absl::flat_hash_map<uint64_t, Merge> merges_;  // left << 32 | right, symbols
  std::vector<std::string> pieces_;              // of merges, in the byte alphabet, no tokens
  absl::flat_hash_map<std::string, int32_t> piece_symbols_;
};

}  // namespace lanyard::model
