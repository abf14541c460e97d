#include "cli/text.h"

#include <utf8proc.h>

#include "absl/strings/ascii.h"
#include "base/status.h"
#include "model/unicode.h"

namespace lanyard::cli {

size_t DisplayWidth(std::string_view text) {
  size_t width = 0;
  while (!text.empty()) {
    const model::Utf8Step step = model::DecodeUtf8(text);
    const size_t bytes = step.bytes > 0 ? step.bytes : 1;
    if (step.kind == model::Utf8Step::kChar) {
      const int columns = utf8proc_charwidth(static_cast<utf8proc_int32_t>(step.code_point));
      width += columns > 0 ? static_cast<size_t>(columns) : 0;
    } else {
      width += 1;  // a terminal shows one replacement
    }
    text.remove_prefix(bytes);
  }
  return width;
}

std::string Printable(std::string_view text, Keep keep) {
  std::string out(text);
  for (size_t i = 0; i < out.size(); ++i) {
    const auto c = static_cast<unsigned char>(out[i]);
    const bool kept = keep == Keep::kLines && (c == '\n' || c == '\t');
    // U+0080 to U+009F are control characters too, of two bytes.
    const bool second = c == 0xC2 && i + 1 < out.size() &&
                        static_cast<unsigned char>(out[i + 1]) >= 0x80 &&
                        static_cast<unsigned char>(out[i + 1]) < 0xA0;
    if (second) out.erase(i + 1, 1);
    if (second || (c < 0x20 && !kept) || c == 0x7f) out[i] = '?';
  }
  return out;
}

std::string Trim(std::string_view text) { return Str(absl::StripAsciiWhitespace(AbslView(text))); }

}  // namespace lanyard::cli
