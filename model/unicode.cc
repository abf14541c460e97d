#include "model/unicode.h"

#include "absl/strings/escaping.h"
#include "base/status.h"

namespace lanyard::model {
namespace {

// The code point that stands for a byte in GPT-2's alphabet: printable Latin-1 stands for itself,
// the rest is moved to U+0100 and on, in ascending order.
std::array<char32_t, 256> AlphabetCodePoints() {
  std::array<char32_t, 256> out{};
  char32_t next = 0x100;
  for (uint32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    out[b] = printable ? b : next++;
  }
  return out;
}

const std::array<int16_t, 0x144>& AlphabetInverse() {
  static const auto* table = [] {
    auto* t = new std::array<int16_t, 0x144>();
    t->fill(-1);
    const auto points = AlphabetCodePoints();
    for (int b = 0; b < 256; ++b) (*t)[points[b]] = static_cast<int16_t>(b);
    return t;
  }();
  return *table;
}

// The range that the second byte must be in, by the first byte; it is narrower than 80..BF for E0,
// ED, F0 and F4.
struct SecondByte {
  uint8_t low = 0x80;
  uint8_t high = 0xBF;
};
SecondByte SecondByteOf(uint8_t lead) {
  switch (lead) {
    case 0xE0:
      return {0xA0, 0xBF};
    case 0xED:
      return {0x80, 0x9F};
    case 0xF0:
      return {0x90, 0xBF};
    case 0xF4:
      return {0x80, 0x8F};
    default:
      return {};
  }
}

}  // namespace

Utf8Step DecodeUtf8(std::string_view s) {
  const auto lead = static_cast<uint8_t>(s[0]);
  if (lead < 0x80) return {Utf8Step::kChar, 1, lead};
  if (lead < 0xC2 || lead > 0xF4) return {Utf8Step::kInvalid, 1, 0};
  const uint8_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  char32_t code_point = lead & (0x7F >> length);
  for (uint8_t i = 1; i < length; ++i) {
    if (i >= s.size()) return {Utf8Step::kIncomplete, i, 0};
    const auto byte = static_cast<uint8_t>(s[i]);
    const SecondByte range = i == 1 ? SecondByteOf(lead) : SecondByte{};
    if (byte < range.low || byte > range.high) return {Utf8Step::kInvalid, i, 0};
    code_point = code_point << 6 | (byte & 0x3F);
  }
  return {Utf8Step::kChar, length, code_point};
}

void AppendUtf8(char32_t c, std::string* out) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out->push_back(static_cast<char>(0xC0 | c >> 6));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else if (c < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | c >> 12));
    out->push_back(static_cast<char>(0x80 | (c >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else {
    out->push_back(static_cast<char>(0xF0 | c >> 18));
    out->push_back(static_cast<char>(0x80 | (c >> 12 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  }
}

bool IsValidUtf8(std::string_view s) {
  while (!s.empty()) {
    const Utf8Step step = DecodeUtf8(s);
    if (step.kind != Utf8Step::kChar) return false;
    s.remove_prefix(step.bytes);
  }
  return true;
}

std::string ReplaceInvalidBytes(std::string_view s) {
  std::string out;
  out.reserve(s.size());
  while (!s.empty()) {
    const Utf8Step step = DecodeUtf8(s);
    const size_t bytes = step.kind == Utf8Step::kChar ? step.bytes : 1;
    if (step.kind == Utf8Step::kChar) {
      out.append(s.substr(0, bytes));
    } else {
      AppendUtf8(0xFFFD, &out);
    }
    s.remove_prefix(bytes);
  }
  return out;
}

bool IsControl(char32_t c) { return c < 0x20 || (c >= 0x7F && c < 0xA0); }

std::string EscapeText(std::string_view s) {
  std::string out;
  while (!s.empty()) {
    const Utf8Step step = DecodeUtf8(s);
    const std::string_view bytes = s.substr(0, step.bytes);
    // CEscape writes every byte above 0x7E as an octal number.
    const bool plain = step.kind == Utf8Step::kChar && step.code_point >= 0xA0;
    out += plain ? std::string(bytes) : absl::CEscape(AbslView(bytes));
    s.remove_prefix(step.bytes);
  }
  return out;
}

const std::array<std::string, 256>& ByteAlphabet() {
  static const auto* table = [] {
    auto* t = new std::array<std::string, 256>();
    const auto points = AlphabetCodePoints();
    for (int b = 0; b < 256; ++b) AppendUtf8(points[b], &(*t)[b]);
    return t;
  }();
  return *table;
}

std::optional<std::string> BytesFromAlphabet(std::string_view token) {
  const auto& inverse = AlphabetInverse();
  std::string out;
  while (!token.empty()) {
    const Utf8Step step = DecodeUtf8(token);
    if (step.kind != Utf8Step::kChar || step.code_point >= inverse.size()) return std::nullopt;
    const int16_t byte = inverse[step.code_point];
    if (byte < 0) return std::nullopt;
    out.push_back(static_cast<char>(byte));
    token.remove_prefix(step.bytes);
  }
  return out;
}

}  // namespace lanyard::model
