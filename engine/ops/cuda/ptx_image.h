// The kernels as PTX text, which cmake/cuda.cmake makes from every engine/ops/cuda/*.cu: one module
// for each file and level. A device takes the highest level that is not above its compute
// capability (61: dp4a; 75: int8 m8n8k16; 80: m16n8k32, cp.async) and its driver compiles all
// modules of it; a kernel's name is unique among them.
#pragma once

#include <span>
#include <string_view>

namespace lanyard::ops::cuda {

struct PtxFile {
  std::string_view name;  // name of the .cu file, without its ending
  std::string_view text;
};

enum class Compiler { kClang, kNvcc };

// The levels that this binary has, ascending; empty where it was built without a compiler of
// kernels.
std::span<const int> PtxLevels();
// The modules of a level: clang's (PTX ISA 7.4, for drivers from R470) where clang was there, else
// nvcc's. Empty for a level that this binary does not have.
std::span<const PtxFile> PtxImages(int level);

// The modules of both compilers, for tests; only the library lanyard_ptx_both has them. Empty where
// a compiler was missing.
std::span<const PtxFile> PtxImagesOf(Compiler compiler, int level);

}  // namespace lanyard::ops::cuda
