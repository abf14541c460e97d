#include "base/utf8.h"

namespace lanyard {

size_t Utf8Length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(at);
  if (lead < 0x80) return 1;
  const size_t n = lead >= 0xc2 && lead <= 0xdf   ? 2
                   : (lead & 0xf0) == 0xe0        ? 3
                   : lead >= 0xf0 && lead <= 0xf4 ? 4
                                                  : 0;
  if (n == 0 || at + n > text.size()) return 0;
  for (size_t i = 1; i < n; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return 0;
  }
  const unsigned char second = byte(at + 1);
  const bool overlong = (lead == 0xe0 && second < 0xa0) || (lead == 0xf0 && second < 0x90);
  const bool beyond = (lead == 0xed && second > 0x9f) || (lead == 0xf4 && second > 0x8f);
  return overlong || beyond ? 0 : n;
}

size_t FindNoUtf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t n = Utf8Length(text, at);
    if (n == 0) return at;
    at += n;
  }
  return std::string_view::npos;
}

absl::Status CheckUtf8(std::string_view text) {
  const size_t at = FindNoUtf8(text);
  if (at == std::string_view::npos) return absl::OkStatus();
  return InvalidArgument(absl::StrFormat("byte %d of it (0x%02x) is no UTF-8", at + 1,
                                         static_cast<unsigned char>(text[at])),
                         ", as every name and path must be; choose another, or rename it");
}

}  // namespace lanyard
