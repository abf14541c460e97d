// Operations on strings that keep the trust of what they move about.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/jinja/text.h"

namespace lanyard::model::jinja {

// Without the characters of `chars` (nullopt: white space) at the sides asked for.
Text Strip(const Text& s, const std::optional<std::string>& chars, bool left, bool right);

// str.replace; count below 0: all. The result is never longer than max_bytes: nullopt then.
std::optional<Text> Replace(const Text& s, const Text& from, const Text& to, int64_t count,
                            uint64_t max_bytes);

// str.split and str.rsplit; nullopt: at white space. An empty separator is the caller's error.
std::vector<Text> Split(const Text& s, const std::optional<std::string>& separator,
                        int64_t max_splits);
std::vector<Text> SplitFromRight(const Text& s, const std::optional<std::string>& separator,
                                 int64_t max_splits);
std::vector<Text> SplitLines(const Text& s, bool keep_ends);

// A function of the whole string, such as upper(): trusted where all of s is.
template <typename F>
Text Whole(const Text& s, F f) {
  return Text(f(std::string_view(s.bytes())), s.AllTrusted());
}

}  // namespace lanyard::model::jinja
