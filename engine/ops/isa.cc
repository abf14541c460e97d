#include "engine/ops/isa.h"

namespace lanyard::ops {
namespace {

bool HasAvx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}

bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

bool Runs(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return true;
    case Isa::kAvx2: return HasAvx2();
    case Isa::kAvx512: return HasAvx512();
  }
  return false;
}

}  // namespace

Isa BestIsa() { return RunnableIsas().back(); }

std::vector<Isa> RunnableIsas() {
  std::vector<Isa> out;
  for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (Runs(isa)) out.push_back(isa);
  }
  return out;
}

std::string IsaName(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return "scalar";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
  }
  return "unknown";
}

absl::StatusOr<Isa> ParseIsa(std::string_view name) {
  for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (name != IsaName(isa)) continue;
    if (Runs(isa)) return isa;
    return FailedPrecondition("this processor cannot run instruction set '", AbslView(name),
                              "'; the best it has is '", IsaName(BestIsa()), "'");
  }
  return InvalidArgument("unknown instruction set '", AbslView(name),
                         "'; known: scalar, avx2, avx512");
}

}  // namespace lanyard::ops
