// The switches of the planted bugs (bugs.py). Only the copies of the product's sources that
// plant.py writes ask them; the product itself knows nothing of them.
#pragma once

#include <string_view>

namespace lanyard::sim {

// From now on this bug is there, and no other; empty: none.
void Plant(std::string_view name);
bool Planted(std::string_view name);

}  // namespace lanyard::sim
