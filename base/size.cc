#include "base/size.h"

#include <cctype>
#include <cmath>

#include "absl/strings/numbers.h"

namespace lanyard {
namespace {

struct Unit {
  std::string_view name;  // lower case
  double factor;
};

constexpr double kKi = 1024;
constexpr Unit kUnits[] = {
    {"", 1},          {"b", 1},
    {"k", kKi},       {"kib", kKi},
    {"m", kKi * kKi}, {"mib", kKi * kKi},
    {"g", kKi * kKi * kKi}, {"gib", kKi * kKi * kKi},
    {"t", kKi * kKi * kKi * kKi}, {"tib", kKi * kKi * kKi * kKi},
    {"kb", 1e3},      {"mb", 1e6},
    {"gb", 1e9},      {"tb", 1e12},
};

}  // namespace

absl::StatusOr<uint64_t> ParseSize(std::string_view text) {
  const auto bad = [&] {
    return InvalidArgument("\"", AbslView(text), "\" is no size; write 4096, 200MiB, 1.5GiB or 8GB");
  };
  size_t end = 0;
  while (end < text.size() && (std::isdigit(static_cast<unsigned char>(text[end])) || text[end] == '.')) {
    ++end;
  }
  double number = 0;
  if (end == 0 || !absl::SimpleAtod(AbslView(text.substr(0, end)), &number)) return bad();
  while (end < text.size() && text[end] == ' ') ++end;
  std::string unit(text.substr(end));
  for (char& c : unit) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (const Unit& u : kUnits) {
    if (u.name != unit) continue;
    const double bytes = std::floor(number * u.factor);
    if (!(bytes < 9.2e18)) return InvalidArgument("\"", AbslView(text), "\" is more than 8 EiB");
    return static_cast<uint64_t>(bytes);
  }
  return bad();
}

std::string FormatSize(uint64_t bytes) {
  const auto d = static_cast<double>(bytes);
  if (bytes < 1024) return absl::StrFormat("%d B", bytes);
  if (d < kKi * kKi) return absl::StrFormat("%.1f KiB", d / kKi);
  if (d < kKi * kKi * kKi) return absl::StrFormat("%.1f MiB", d / (kKi * kKi));
  return absl::StrFormat("%.2f GiB", d / (kKi * kKi * kKi));
}

}  // namespace lanyard
