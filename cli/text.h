// Text on a terminal: how wide it is there, and what of it a terminal must not obey.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace lanyard::cli {

// Columns that the text takes: 2 for a wide character, 0 for one that joins the character before.
size_t DisplayWidth(std::string_view text);

enum class Keep { kNothing, kLines };

// What came from elsewhere, without anything that could move a cursor or command a terminal:
// control characters become '?'. kLines keeps newlines and tabs.
std::string Printable(std::string_view text, Keep keep);

// The text without the white space at its ends.
std::string Trim(std::string_view text);

}  // namespace lanyard::cli
