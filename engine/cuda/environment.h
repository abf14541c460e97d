// Reads the environment variables of engine/cuda, in this one place: LANYARD_CUDA_LIBRARY,
// LANYARD_NVML_LIBRARY (tests put a fake in the driver's place) and LANYARD_CUDA_EXACT_BLOCKS
// (memory_pool.h).
#pragma once

#include <string>

namespace lanyard::cuda {

// Returns `path` if it is not empty, else the variable, else the name by which the system knows the
// library.
std::string CudaLibraryPath(const std::string& path);
std::string NvmlLibraryPath(const std::string& path);
bool ExactBlocksWanted();

}  // namespace lanyard::cuda
