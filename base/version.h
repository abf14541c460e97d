#pragma once

namespace lanyard {
inline constexpr char kVersion[] = "0.1.0";
// The version of the messages in proto/lanyard/v1; peers of another version are refused at the
// handshake.
inline constexpr unsigned kProtocolVersion = 1;
// The version of the numerics in docs/numerics.md; it is part of every numerics id.
inline constexpr unsigned kNumericsVersion = 1;
}  // namespace lanyard
