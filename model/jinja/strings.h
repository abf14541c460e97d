// Python's str operations on UTF-8.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace lanyard::model::jinja {

// The meaning of str.isspace(), and of \s in Python's re.
bool IsSpace(char32_t c);
size_t LeadingSpaceBytes(std::string_view s);
size_t TrailingSpaceBytes(std::string_view s);

// str.upper(), str.lower(), str.capitalize(); jinja's `title` filter and str.title(). They use
// Unicode's full mappings.
std::string Upper(std::string_view s);
std::string Lower(std::string_view s);
std::string Capitalize(std::string_view s);
std::string PythonTitle(std::string_view s);
std::string JinjaTitle(std::string_view s);

bool IsAlphabetic(char32_t c);  // str.isalpha of one character
bool IsDecimal(char32_t c);     // str.isdecimal
bool IsPrintable(char32_t c);   // str.isprintable
bool IsUpperCase(char32_t c);
bool IsLowerCase(char32_t c);

// repr() of a str or float.
std::string ReprString(std::string_view s);
std::string ReprFloat(double d);

// json.dumps of a str, without and with ensure_ascii.
std::string JsonString(std::string_view s, bool ensure_ascii);

// Byte offset of the character with this index (CountCodePoints(s) gives s.size()).
size_t OffsetOfCharacter(std::string_view s, size_t index);

}  // namespace lanyard::model::jinja
