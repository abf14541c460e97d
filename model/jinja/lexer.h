// Cuts a template's source into tokens, as jinja2's lexer does with trim_blocks and lstrip_blocks.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace lanyard::model::jinja {

// Both count from 1; columns count bytes.
struct Position {
  uint32_t line = 1;
  uint32_t column = 1;
};

struct Token {
  enum class Type : uint8_t {
    kData,
    kVariableBegin,
    kVariableEnd,
    kBlockBegin,
    kBlockEnd,
    kName,
    kString,
    kInteger,
    kFloat,
    kOperator,
    kEnd,
  };
  Type type = Type::kEnd;
  std::string text;  // kString: unescaped; kOperator: its spelling
  int64_t integer = 0;
  double number = 0;
  Position position;

  bool IsName(std::string_view name) const { return type == Type::kName && text == name; }
  bool IsOperator(std::string_view op) const { return type == Type::kOperator && text == op; }
};

// Makes "template line 3, column 14: " and the message.
absl::Status ErrorAt(Position position, std::string_view message);

// What the template itself has against the conversation (raise_exception): its own words, to which
// no place is added.
absl::Status Refusal(std::string_view message);
bool IsRefusal(const absl::Status& status);
// Whether a status needs no place (ErrorAt) any more.
bool IsPlaced(const absl::Status& status);

// The last token is kEnd. Source must be valid UTF-8. Line ends are normalised and the last one is
// dropped first; positions count in the rest.
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

}  // namespace lanyard::model::jinja
