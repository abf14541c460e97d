#include "model/jinja/strings.h"

#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <vector>

#include "absl/strings/str_format.h"
#include "model/jinja/upper_table.h"
#include "model/unicode.h"

namespace lanyard::model::jinja {
namespace {

// Valid UTF-8 to code points.
std::u32string Decode(std::string_view s) {
  std::u32string out;
  out.reserve(s.size());
  while (!s.empty()) {
    const Utf8Step step = DecodeUtf8(s);
    out.push_back(step.kind == Utf8Step::kChar ? step.code_point : 0xFFFD);
    s.remove_prefix(step.bytes);
  }
  return out;
}

utf8proc_category_t CategoryOf(char32_t c) {
  return static_cast<utf8proc_category_t>(
      utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->category);
}

bool IsCased(char32_t c) {
  const auto category = CategoryOf(c);
  return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
         category == UTF8PROC_CATEGORY_LT;
}

// Unicode's Case_Ignorable, by category and by the punctuation of its list.
bool IsCaseIgnorable(char32_t c) {
  switch (CategoryOf(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      break;
  }
  constexpr char32_t kPunctuation[] = {'\'',   '.',    ':',    0xB7,   0x387,  0x55F,
                                       0x5F4,  0x2018, 0x2019, 0x2024, 0x2027, 0xFE13,
                                       0xFE52, 0xFE55, 0xFF07, 0xFF0E, 0xFF1A};
  return std::find(std::begin(kPunctuation), std::end(kPunctuation), c) != std::end(kPunctuation);
}

const SpecialUpper* FindSpecial(char32_t c) {
  const auto* it =
      std::lower_bound(std::begin(kSpecialUpper), std::end(kSpecialUpper), c,
                       [](const SpecialUpper& row, char32_t v) { return row.from < v; });
  return it != std::end(kSpecialUpper) && it->from == c ? it : nullptr;
}

void AppendUpper(char32_t c, std::string* out) {
  if (const SpecialUpper* special = FindSpecial(c); special != nullptr) {
    out->append(special->upper);
  } else {
    AppendUtf8(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)), out);
  }
}

void AppendTitle(char32_t c, std::string* out) {
  if (const SpecialUpper* special = FindSpecial(c); special != nullptr) {
    out->append(special->title);
  } else {
    AppendUtf8(utf8proc_totitle(static_cast<utf8proc_int32_t>(c)), out);
  }
}

// A capital sigma is final when it comes after a letter and not before one.
bool IsFinalSigma(const std::u32string& s, size_t i) {
  size_t before = i;
  while (before > 0 && IsCaseIgnorable(s[before - 1])) --before;
  if (before == 0 || !IsCased(s[before - 1])) return false;
  size_t after = i + 1;
  while (after < s.size() && IsCaseIgnorable(s[after])) ++after;
  return after >= s.size() || !IsCased(s[after]);
}

void AppendLower(const std::u32string& s, size_t i, std::string* out) {
  if (s[i] == 0x3A3) {
    AppendUtf8(IsFinalSigma(s, i) ? 0x3C2 : 0x3C3, out);
  } else if (s[i] == 0x130) {
    out->append("i\u0307");
  } else {
    AppendUtf8(utf8proc_tolower(static_cast<utf8proc_int32_t>(s[i])), out);
  }
}

}  // namespace

bool IsSpace(char32_t c) {
  if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

size_t LeadingSpaceBytes(std::string_view s) {
  size_t i = 0;
  while (i < s.size()) {
    const Utf8Step step = DecodeUtf8(s.substr(i));
    if (step.kind != Utf8Step::kChar || !IsSpace(step.code_point)) break;
    i += step.bytes;
  }
  return i;
}

size_t TrailingSpaceBytes(std::string_view s) {
  size_t end = s.size();
  while (end > 0) {
    size_t begin = end - 1;
    while (begin > 0 && (static_cast<uint8_t>(s[begin]) & 0xC0) == 0x80) --begin;
    const Utf8Step step = DecodeUtf8(s.substr(begin, end - begin));
    if (step.kind != Utf8Step::kChar || !IsSpace(step.code_point)) break;
    end = begin;
  }
  return s.size() - end;
}

std::string Upper(std::string_view s) {
  std::string out;
  for (const char32_t c : Decode(s)) AppendUpper(c, &out);
  return out;
}

std::string Lower(std::string_view s) {
  std::string out;
  const std::u32string points = Decode(s);
  for (size_t i = 0; i < points.size(); ++i) AppendLower(points, i, &out);
  return out;
}

std::string Capitalize(std::string_view s) {
  std::string out;
  const std::u32string points = Decode(s);
  if (points.empty()) return out;
  AppendTitle(points[0], &out);
  for (size_t i = 1; i < points.size(); ++i) AppendLower(points, i, &out);
  return out;
}

std::string PythonTitle(std::string_view s) {
  std::string out;
  const std::u32string points = Decode(s);
  bool in_word = false;
  for (size_t i = 0; i < points.size(); ++i) {
    if (in_word) {
      AppendLower(points, i, &out);
    } else {
      AppendTitle(points[i], &out);
    }
    in_word = IsCased(points[i]);
  }
  return out;
}

// A word begins after white space or one of - ( { [ < ; its first character becomes upper case, the
// rest lower case.
std::string JinjaTitle(std::string_view s) {
  std::string out;
  const std::u32string points = Decode(s);
  const auto is_border = [](char32_t c) {
    return IsSpace(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
  };
  for (size_t i = 0; i < points.size();) {
    size_t end = i + 1;
    while (end < points.size() && is_border(points[end]) == is_border(points[i])) ++end;
    const std::u32string word = points.substr(i, end - i);
    AppendUpper(word[0], &out);
    const std::u32string rest = word.substr(1);
    for (size_t k = 0; k < rest.size(); ++k) AppendLower(rest, k, &out);
    i = end;
  }
  return out;
}

bool IsAlphabetic(char32_t c) {
  const auto category = CategoryOf(c);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}
bool IsDecimal(char32_t c) { return CategoryOf(c) == UTF8PROC_CATEGORY_ND; }
bool IsUpperCase(char32_t c) { return CategoryOf(c) == UTF8PROC_CATEGORY_LU; }
bool IsLowerCase(char32_t c) { return CategoryOf(c) == UTF8PROC_CATEGORY_LL; }

bool IsPrintable(char32_t c) {
  if (c == ' ') return true;
  switch (CategoryOf(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

std::string ReprString(std::string_view s) {
  const bool single =
      s.find('\'') != std::string_view::npos && s.find('"') == std::string_view::npos;
  const char quote = single ? '"' : '\'';
  std::string out(1, quote);
  for (const char32_t c : Decode(s)) {
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out.push_back('\\');
      out.push_back(static_cast<char>(c));
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (IsPrintable(c)) {
      AppendUtf8(c, &out);
    } else {
      const uint32_t u = c;
      out += u < 0x100     ? absl::StrFormat("\\x%02x", u)
             : u < 0x10000 ? absl::StrFormat("\\u%04x", u)
                           : absl::StrFormat("\\U%08x", u);
    }
  }
  out.push_back(quote);
  return out;
}

// Writes the shortest digits that read back, with an exponent below 1e-4 and from 1e16 on.
std::string ReprFloat(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
  char buffer[400];
  const double size = std::fabs(d);
  const bool scientific = d != 0 && (size < 1e-4 || size >= 1e16);
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), d,
                    scientific ? std::chars_format::scientific : std::chars_format::fixed);
  std::string out(buffer, end.ptr);
  if (!scientific && out.find('.') == std::string::npos) out += ".0";
  return out;
}

std::string JsonString(std::string_view s, bool ensure_ascii) {
  std::string out = "\"";
  const auto escape = [&](uint32_t unit) { out += absl::StrFormat("\\u%04x", unit); };
  while (!s.empty()) {
    const Utf8Step step = DecodeUtf8(s);
    const char32_t c = step.kind == Utf8Step::kChar ? step.code_point : 0xFFFD;
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\b':
        out += "\\b";
        break;
      default:
        if (c < 0x20 || (ensure_ascii && c > 0x7E && c < 0x10000)) {
          escape(c);
        } else if (ensure_ascii && c >= 0x10000) {
          escape(0xD800 + ((c - 0x10000) >> 10));
          escape(0xDC00 + ((c - 0x10000) & 0x3FF));
        } else {
          AppendUtf8(c, &out);
        }
    }
    s.remove_prefix(step.bytes);
  }
  out.push_back('"');
  return out;
}

size_t OffsetOfCharacter(std::string_view s, size_t index) {
  for (size_t i = 0; i < s.size(); ++i) {
    if ((static_cast<uint8_t>(s[i]) & 0xC0) == 0x80) continue;
    if (index-- == 0) return i;
  }
  return s.size();
}

}  // namespace lanyard::model::jinja
