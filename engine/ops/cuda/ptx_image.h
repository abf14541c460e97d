// The kernels as PTX text, made by cmake/cuda.cmake from every engine/ops/cuda/*.cu: one module a
// file and level. A device takes the highest level that is not above its compute capability (61:
// dp4a; 75: int8 m8n8k16; 80: m16n8k32, cp.async) and its driver compiles all modules of it; a
// kernel's name is unique among them.
#pragma once

#include <span>
#include <string_view>

namespace lanyard::ops::cuda {

struct PtxFile {
  std::string_view name;  // of the .cu, without ending
  std::string_view text;
};

enum class Compiler { kClang, kNvcc };

// Levels that this binary has, ascending; empty where it was built without a compiler of kernels.
std::span<const int> PtxLevels();
// The modules of a level: clang's (PTX ISA 7.4, for drivers from R470) where clang was there, else
// nvcc's. Empty for a level that is not there.
std::span<const PtxFile> PtxImages(int level);

// Both compilers' modules, for tests; only in the library lanyard_ptx_both. Empty where a compiler
// was not there.
std::span<const PtxFile> PtxImagesOf(Compiler compiler, int level);

}  // namespace lanyard::ops::cuda
