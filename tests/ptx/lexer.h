// Cuts PTX into tokens: words (names, opcodes, numbers: anything of letters, digits, "_$%." and
// "::"), strings and single characters.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace lanyard::ptx {

struct Token {
  std::string_view text;  // a string keeps its quotes; empty at the end
  int line = 0;
  bool IsWord() const;
};

// Comments are skipped. It is an error when there is a character that PTX has no use for, or a
// string or comment without an end.
absl::StatusOr<std::vector<Token>> Lex(std::string_view text);

}  // namespace lanyard::ptx
