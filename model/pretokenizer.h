// Splits text into the words that byte-level BPE may not merge across, by the regular expressions
// of the model's own tokenizer. A new pre-tokeniser is a new row in the table in pretokenizer.cc.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "base/status.h"

namespace lanyard::model {

// Immutable and thread-safe.
class Pretokenizer {
 public:
  // Makes it by the name in tokenizer.ggml.pre; "" and "default" are llama.cpp's default.
  // Unimplemented, with the name, for any other.
  static absl::StatusOr<std::unique_ptr<Pretokenizer>> Make(std::string_view name);
  ~Pretokenizer();

  using WordFn = absl::FunctionRef<absl::Status(std::string_view)>;
  // Calls `word` with consecutive pieces of `text` (valid UTF-8), which together are all of it; an
  // error of `word` ends the work and is returned. ResourceExhausted where the expression needs
  // more steps than the limit.
  absl::Status Split(std::string_view text, WordFn word) const;

  // True when a word that is a token as a whole is taken without looking at merges.
  bool ignore_merges() const { return ignore_merges_; }

 private:
  struct Regex;
  struct Scratch;
  Pretokenizer();
  // By the expressions from `level` on.
  absl::Status SplitFrom(size_t level, std::string_view text, const Scratch& scratch,
                         WordFn word) const;
  std::vector<std::unique_ptr<Regex>> regexes_;
  bool ignore_merges_ = false;
};

}  // namespace lanyard::model
