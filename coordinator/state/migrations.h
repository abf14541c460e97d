// The Store's tables, as the steps that made them.
#pragma once

#include <span>

namespace lanyard::coordinator {

// The n-th entry (from 1) takes a database of version n - 1 to version n. Entries are only ever
// added: a database that went through one never sees it again.
std::span<const char* const> Migrations();

}  // namespace lanyard::coordinator
