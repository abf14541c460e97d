// Turns ids into text as they come. It never gives out a part of a character.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "model/tokenizer.h"

namespace lanyard::model {

// Assembles bytes, which come in pieces, to whole UTF-8 characters. A byte sequence that can never
// become one reads U+FFFD, as with Python's bytes.decode(errors="replace").
class Utf8Assembler {
 public:
  std::string Push(std::string_view bytes);
  // The text has ended: an unfinished character becomes U+FFFD.
  std::string Flush();

 private:
  std::string held_;  // at most 3 bytes, the beginning of a character
};

// Decodes one text. Not thread-safe; the tokenizer must outlive it.
class StreamDecoder {
 public:
  struct Options {
    bool render_special = false;  // control tokens give their texts instead of nothing
    // The ids are a text from its beginning, and not the continuation of a prompt: the space that
    // the tokenizer put before the text (add_space_prefix) is removed again.
    bool whole_text = false;
  };
  explicit StreamDecoder(const Tokenizer* tokenizer) : StreamDecoder(tokenizer, Options()) {}
  StreamDecoder(const Tokenizer* tokenizer, Options options);

  // Returns the text that is complete with this token, often none. An id outside the vocabulary
  // gives nothing.
  std::string Push(int32_t id);
  std::string Flush() { return assembler_.Flush(); }

 private:
  const Tokenizer* tokenizer_;
  Options options_;
  bool strip_space_;
  Utf8Assembler assembler_;
};

}  // namespace lanyard::model
