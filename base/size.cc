#include "base/size.h"

#include <cctype>
#include <charconv>
#include <cmath>

namespace lanyard {
namespace {

// Returns 0 for an unknown unit.
double UnitOf(std::string_view unit) {
  std::string u;
  for (const char c : unit)
    u.push_back(static_cast<char>(std::tolower(static_cast<unsigned char>(c))));
  if (u.empty() || u == "b") return 1;
  constexpr std::string_view kLetters = "kmgt";
  const size_t at = kLetters.find(u[0]);
  if (at == std::string_view::npos) return 0;
  const double power = static_cast<double>(at + 1);
  const std::string rest = u.substr(1);
  if (rest.empty() || rest == "ib" || rest == "i") return std::pow(1024.0, power);
  if (rest == "b") return std::pow(1000.0, power);
  return 0;
}

absl::Status BadSize(std::string_view text, std::string_view why) {
  return InvalidArgument("'", AbslView(text), "' is not a size (", AbslView(why),
                         "); write for example 200MiB, 1.5GiB or 1000000");
}

}  // namespace

absl::StatusOr<uint64_t> ParseSize(std::string_view text) {
  std::string_view s = text;
  while (!s.empty() && std::isspace(static_cast<unsigned char>(s.front()))) s.remove_prefix(1);
  while (!s.empty() && std::isspace(static_cast<unsigned char>(s.back()))) s.remove_suffix(1);
  size_t digits = 0;
  while (digits < s.size() &&
         (std::isdigit(static_cast<unsigned char>(s[digits])) || s[digits] == '.'))
    ++digits;
  if (digits == 0) return BadSize(text, "no number");
  double value = 0;
  const auto parsed = std::from_chars(s.data(), s.data() + digits, value, std::chars_format::fixed);
  if (parsed.ec != std::errc() || parsed.ptr != s.data() + digits)
    return BadSize(text, "bad number");
  std::string_view unit = s.substr(digits);
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  const double scale = UnitOf(unit);
  if (scale == 0) return BadSize(text, "unknown unit");
  const double bytes = std::floor(value * scale);
  if (!(bytes >= 1)) return BadSize(text, "less than one byte");
  if (bytes >= 9223372036854775807.0) return BadSize(text, "too large");
  return static_cast<uint64_t>(bytes);
}

absl::StatusOr<uint64_t> ParseLimit(std::string_view text, uint64_t least) {
  ASSIGN_OR_RETURN(const uint64_t bytes, ParseSize(text));
  if (bytes >= least) return bytes;
  const bool bare = text.find_first_not_of("0123456789. ") == std::string_view::npos;
  return InvalidArgument(
      "'", AbslView(text), "' is ", FormatSize(bytes), "; at least ", FormatSize(least),
      " can work",
      bare ? absl::StrCat(". Without a unit it is bytes; write for example ", AbslView(text), "GiB")
           : "");
}

std::string FormatSize(uint64_t bytes) {
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  static constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes) / 1024;
  int unit = 0;
  while (value >= 1024 && unit < 5) {
    value /= 1024;
    ++unit;
  }
  return value < 100 ? absl::StrFormat("%.1f %s", value, kUnits[unit])
                     : absl::StrFormat("%.0f %s", value, kUnits[unit]);
}

}  // namespace lanyard
