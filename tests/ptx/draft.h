// A kernel while it is decoded: operands are virtual registers (numbers), which Allocate turns into
// offsets.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "tests/ptx/program.h"

namespace lanyard::ptx {

enum class Field : uint8_t { kDst, kSrc0, kSrc1, kSrc2, kSrc3, kGuard, kDst2, kAux };

// Where a virtual register stands in an op.
struct Ref {
  uint32_t op = 0;
  Field field = Field::kDst;
  uint32_t aux = 0;  // kAux: index
  uint32_t vreg = 0;
  bool def = false;
};

struct Vreg {
  uint8_t bits = 32;
  // A constant or special register: it stands before everything else and is never written.
  bool fixed = false;
  uint64_t value = 0;
  bool is_special = false;
  SpecialSlot special;
};

// What the pointer analysis must know of an op.
enum class Origin : uint8_t { kCompute, kParam, kParamAnywhere, kMemory, kAnything };

struct Draft {
  std::unique_ptr<Program> program;
  std::vector<Vreg> vregs;      // the function's registers first
  std::vector<Ref> refs;        // by op, ascending
  std::vector<Origin> origins;  // by op
  std::vector<bool> is_move;    // by op: a plain copy, which may copy what was never written
  struct GlobalStore {
    uint32_t address;  // vreg
  };
  std::vector<GlobalStore> stores;
};

// Adds checks of registers that may be read before they are written, finds where stores may go,
// gives every virtual register its place, and fills the rest of *draft->program.
void Allocate(Draft* draft, const OpTable& table);

}  // namespace lanyard::ptx
