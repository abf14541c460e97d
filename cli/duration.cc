#include "cli/duration.h"

#include <charconv>

namespace lanyard::cli {

absl::StatusOr<int64_t> ParseSeconds(std::string_view text) {
  const auto wrong = [&] {
    return InvalidArgument("'", AbslView(text.substr(0, 40)),
                           "' is no span of time; write 45s, 30m, 12h, 90d or 52w");
  };
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end + 1 != text.data() + text.size() || number < 1) return wrong();
  int64_t unit = 0;
  switch (*end) {
    case 's':
      unit = 1;
      break;
    case 'm':
      unit = 60;
      break;
    case 'h':
      unit = 3600;
      break;
    case 'd':
      unit = 24 * 3600;
      break;
    case 'w':
      unit = 7 * 24 * 3600;
      break;
    default:
      return wrong();
  }
  if (number > int64_t{1'000'000'000'000} / unit) return wrong();
  return number * unit;
}

}  // namespace lanyard::cli
