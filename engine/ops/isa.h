// Which instruction set a kernel uses. Every version gives the same bits as the scalar reference.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace lanyard::ops {

enum class Isa { kScalar, kAvx2, kAvx512 };  // kAvx2: AVX2+FMA+F16C; kAvx512: F+BW+DQ+VL+VNNI

Isa BestIsa();                    // the best one of this processor
std::vector<Isa> RunnableIsas();  // all that this processor can run, kScalar first
std::string IsaName(Isa isa);     // "scalar" "avx2" "avx512"
// FailedPrecondition when this processor cannot run it.
absl::StatusOr<Isa> ParseIsa(std::string_view name);

}  // namespace lanyard::ops
