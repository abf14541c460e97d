#pragma once

namespace lanyard {
// The product's version, for people. Nothing is decided by it (net/versions.h). It stands in a file
// of its own, so that a test can link a program of another version.
extern const char* const kVersion;
// The version of the messages in proto/lanyard/v1; net/versions.h says which of them work together.
inline constexpr unsigned kProtocolVersion = 2;
// The version of the numerics in docs/numerics.md; it is part of every numerics id.
inline constexpr unsigned kNumericsVersion = 1;
}  // namespace lanyard
