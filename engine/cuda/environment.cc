#include "engine/cuda/environment.h"

#include <cstdlib>
#include <string_view>

namespace lanyard::cuda {
namespace {

std::string Choose(const std::string& path, const char* variable, const char* usual) {
  if (!path.empty()) return path;
  const char* value = std::getenv(variable);
  return value != nullptr && *value != '\0' ? value : usual;
}

}  // namespace

std::string CudaLibraryPath(const std::string& path) { return Choose(path, "LANYARD_CUDA_LIBRARY", "libcuda.so.1"); }

std::string NvmlLibraryPath(const std::string& path) {
  return Choose(path, "LANYARD_NVML_LIBRARY", "libnvidia-ml.so.1");
}

bool ExactBlocksWanted() {
  const char* value = std::getenv("LANYARD_CUDA_EXACT_BLOCKS");
  return value != nullptr && std::string_view(value) == "1";
}

}  // namespace lanyard::cuda
