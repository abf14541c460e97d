// Byte-level BPE: bytes are the first symbols; the pair with the lowest merge rank is joined first,
// and of equal pairs the leftmost.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/status.h"
#include "model/pretokenizer.h"
#include "model/tokenizer.h"

namespace lanyard::model {

class BpeEncoder : public TextEncoder {
 public:
  // `vocab` must outlive the encoder. InvalidArgument names a merge that is not "left right", or
  // whose parts or result are not tokens of ordinary text.
  static absl::StatusOr<std::unique_ptr<TextEncoder>> Make(
      const Vocab* vocab, const std::vector<std::string_view>& merges);

  absl::Status Encode(std::string_view text, std::vector<int32_t>* out) const override;

 private:
  struct Merge {
    int32_t rank;
    int32_t token;
  };
  struct Scratch;

  explicit BpeEncoder(const Vocab* vocab) : vocab_(vocab) {}
  absl::Status AddMerges(const std::vector<std::string_view>& merges);
  bool IsText(int32_t id) const;
  int32_t WholeWord(std::string_view word) const;
  void EncodeWord(std::string_view word, Scratch* scratch, std::vector<int32_t>* out) const;
  void Propose(int32_t left, Scratch* scratch) const;
  void JoinAll(Scratch* scratch) const;

  const Vocab* vocab_;
  std::unique_ptr<Pretokenizer> pretokenizer_;
  std::array<int32_t, 256> byte_tokens_{};       // kNoToken where the vocabulary lacks the byte
  absl::flat_hash_map<uint64_t, Merge> merges_;  // left << 32 | right
};

}  // namespace lanyard::model
