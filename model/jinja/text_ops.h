// Operations on strings that keep the trust of the bytes that they move.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/jinja/text.h"

namespace lanyard::model::jinja {

// Removes the characters of `chars` (nullopt: white space) at the sides asked for.
Text Strip(const Text& s, const std::optional<std::string>& chars, bool left, bool right);

// str.replace; a count below 0 means all. nullopt when the result would be longer than max_bytes.
std::optional<Text> Replace(const Text& s, const Text& from, const Text& to, int64_t count,
                            uint64_t max_bytes);

// str.split and str.rsplit; nullopt splits at white space. The caller must refuse an empty
// separator.
std::vector<Text> Split(const Text& s, const std::optional<std::string>& separator,
                        int64_t max_splits);
std::vector<Text> SplitFromRight(const Text& s, const std::optional<std::string>& separator,
                                 int64_t max_splits);
std::vector<Text> SplitLines(const Text& s, bool keep_ends);

// Applies a function of the whole string, such as upper(). The result is trusted where all of s is.
template <typename F>
Text Whole(const Text& s, F f) {
  return Text(f(std::string_view(s.bytes())), s.AllTrusted());
}

}  // namespace lanyard::model::jinja
