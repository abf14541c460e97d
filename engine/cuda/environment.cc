#include "engine/cuda/environment.h"

#include "base/environment.h"

namespace lanyard::cuda {
namespace {

std::string Choose(const std::string& path, const char* variable, const char* usual) {
  return path.empty() ? EnvironmentOr(variable, usual) : path;
}

}  // namespace

std::string CudaLibraryPath(const std::string& path) {
  return Choose(path, "LANYARD_CUDA_LIBRARY", "libcuda.so.1");
}

std::string NvmlLibraryPath(const std::string& path) {
  return Choose(path, "LANYARD_NVML_LIBRARY", "libnvidia-ml.so.1");
}

bool ExactBlocksWanted() { return EnvironmentOr("LANYARD_CUDA_EXACT_BLOCKS", "") == "1"; }

}  // namespace lanyard::cuda
