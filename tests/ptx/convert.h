// Conversions of any pair of types, for the decoder.
#pragma once

#include <string_view>

#include "base/status.h"
#include "tests/ptx/program.h"

namespace lanyard::ptx {

// For "cvt..." opcodes that are no rows of the table: gives the handler, op->imm and the signature
// ("lw": 64 bits from 32). InvalidArgument if PTX does not know the combination, Unimplemented if
// the machine does not.
absl::StatusOr<std::string_view> DecodeConversion(std::string_view opcode, bool dest_is_16_bits,
                                                  Op* op);

}  // namespace lanyard::ptx
