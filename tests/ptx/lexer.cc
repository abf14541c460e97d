#include "tests/ptx/lexer.h"

#include <cctype>

namespace lanyard::ptx {

namespace {

bool IsWordChar(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' ||
         c == '.';
}

}  // namespace

bool Token::IsWord() const { return !text.empty() && IsWordChar(text[0]); }

absl::StatusOr<std::vector<Token>> Lex(std::string_view text) {
  std::vector<Token> tokens;
  int line = 1;
  size_t i = 0;
  while (i < text.size()) {
    const char c = text[i];
    if (c == '\n') {
      ++line;
      ++i;
    } else if (c == ' ' || c == '\t' || c == '\r' || c == '\0') {
      ++i;
    } else if (c == '/' && i + 1 < text.size() && text[i + 1] == '/') {
      while (i < text.size() && text[i] != '\n') ++i;
    } else if (c == '/' && i + 1 < text.size() && text[i + 1] == '*') {
      const size_t end = text.find("*/", i + 2);
      if (end == std::string_view::npos)
        return InvalidArgument("PTX line ", line, ": a comment without an end");
      for (; i < end + 2; ++i) line += text[i] == '\n';
    } else if (c == '"') {
      const size_t end = text.find_first_of("\"\n", i + 1);
      if (end == std::string_view::npos || text[end] != '"') {
        return InvalidArgument("PTX line ", line, ": a string without an end");
      }
      tokens.push_back({text.substr(i, end + 1 - i), line});
      i = end + 1;
    } else if (IsWordChar(c)) {
      size_t end = i + 1;
      while (end < text.size() &&
             (IsWordChar(text[end]) ||
              (text[end] == ':' && end + 1 < text.size() && text[end + 1] == ':'))) {
        end += text[end] == ':' ? 2 : 1;
      }
      tokens.push_back({text.substr(i, end - i), line});
      i = end;
    } else if (std::string_view("{}[]()<>,;:+-!@|=*~").find(c) != std::string_view::npos) {
      tokens.push_back({text.substr(i, 1), line});
      ++i;
    } else {
      return InvalidArgument("PTX line ", line, ": character '", std::string(1, c),
                             "' has no meaning in PTX");
    }
  }
  tokens.push_back({text.substr(text.size()), line});
  return tokens;
}

}  // namespace lanyard::ptx
