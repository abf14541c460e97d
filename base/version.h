#pragma once

namespace lanyard {
inline constexpr char kVersion[] = "0.1.0";
// Version of the messages in proto/lanyard/v1; peers of another one are refused at the handshake.
inline constexpr unsigned kProtocolVersion = 1;
// Version of the numerics in docs/numerics.md; part of every numerics id.
inline constexpr unsigned kNumericsVersion = 1;
}  // namespace lanyard
