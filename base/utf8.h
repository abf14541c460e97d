// UTF-8 as it comes from elsewhere: command lines, names, messages (RFC 3629).
#pragma once

#include <cstddef>
#include <string_view>

#include "base/status.h"

namespace lanyard {

// The length of the well-formed sequence at text[at], where there is a byte; 0 when there is none.
size_t Utf8Length(std::string_view text, size_t at);

// Where the first byte is that belongs to no such sequence; npos: all of it is UTF-8.
size_t FindNoUtf8(std::string_view text);

// InvalidArgument names that byte. Of everything that may travel in JSON or in a message.
absl::Status CheckUtf8(std::string_view text);

}  // namespace lanyard
