// SentencePiece-style BPE: characters are the first symbols; the pair whose text is the token of
// the highest score is joined first, and of equal pairs the leftmost; symbols that are no token at
// the end are written as byte tokens.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer.h"

namespace lanyard::model {

// Turns U+2581, which stands for a space in such vocabularies, back into spaces.
std::string SpmUnescape(std::string_view text);

class SpmEncoder : public TextEncoder {
 public:
  // `vocab` must outlive the encoder.
  static std::unique_ptr<TextEncoder> Make(const Vocab* vocab);

  absl::Status Encode(std::string_view text, EncodeGuard* guard,
                      std::vector<int32_t>* out) const override;
  bool IsAlwaysWritten(uint8_t byte) const override;

 private:
  struct Scratch;

  explicit SpmEncoder(const Vocab* vocab);
  int32_t FindText(std::string_view text) const;
  void Propose(int32_t left, std::string_view text, Scratch* scratch) const;
  absl::Status JoinAll(std::string_view text, EncodeGuard* guard, Scratch* scratch) const;
  // The token that a byte becomes on which no other token stands, or kNoToken.
  int32_t ByteToken(uint8_t byte) const;

  const Vocab* vocab_;
  size_t longest_token_bytes_ = 0;
  std::array<int32_t, 256> byte_tokens_{};  // kNoToken where there is none
};

}  // namespace lanyard::model
