// Reads UTF-8 as untrusted bytes, and knows the byte alphabet of byte-level BPE.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace lanyard::model {

// One step of a strict decoder (no overlong forms, no surrogates, at most U+10FFFF).
struct Utf8Step {
  enum Kind : uint8_t { kChar, kInvalid, kIncomplete };
  Kind kind;
  // Bytes consumed; for kInvalid the maximal subpart (which Python's errors="replace" replaces as
  // one).
  uint8_t bytes;
  char32_t code_point;  // for kChar
};

// Decodes at the start of `s`, which is not empty. kIncomplete means that all of `s` is a proper
// prefix of some character.
Utf8Step DecodeUtf8(std::string_view s);

void AppendUtf8(char32_t code_point, std::string* out);

bool IsValidUtf8(std::string_view s);

// Replaces every byte that is not part of a valid character by U+FFFD (one for each byte, as
// llama.cpp reads text).
std::string ReplaceInvalidBytes(std::string_view s);

// For U+0000 to U+001F and U+007F to U+009F, which can command a terminal.
bool IsControl(char32_t code_point);

// A file's text on one line of a terminal: quotes and control characters are escaped as in C, and
// so is what is no UTF-8.
std::string EscapeText(std::string_view s);

// The GPT-2 alphabet: it gives each of the 256 bytes as a printable character (1 or 2 bytes of
// UTF-8).
const std::array<std::string, 256>& ByteAlphabet();

// Returns the bytes that a token spells in that alphabet; nullopt when it holds another character
// or invalid UTF-8.
std::optional<std::string> BytesFromAlphabet(std::string_view token);

}  // namespace lanyard::model
