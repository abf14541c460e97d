// Finds the known word that a mistyped one was meant to be.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lanyard {

// Letters to insert, remove, replace or swap with the next one that make `a` into `b`.
size_t EditDistance(std::string_view a, std::string_view b);

// The known word that is nearest to `word`, or the first of several; empty when there is none.
std::string Nearest(std::string_view word, const std::vector<std::string>& known);

}  // namespace lanyard
