// What the host side of the CUDA kernels needs of a device: it launches them on one stream, in
// order. The driver's Stream implements it (engine/cuda/), and so does the interpreter of the tests
// (tests/ptx/interpreter_launcher.h).
//
// Kernels are `extern "C" __global__ void NAME(XArgs args)` with exactly one struct by value,
// declared in a header that both compilers of kernels and the host's compiler read
// (engine/ops/cuda/*_args.h): pointers are 64 bits on both sides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"

namespace lanyard::ops::cuda {

struct Grid {
  uint32_t x = 1;
  uint32_t y = 1;
  uint32_t z = 1;
};

class Launcher {
 public:
  virtual ~Launcher() = default;
  // Enqueues a kernel: `grid` blocks of `block` threads with `shared_bytes` of dynamic shared
  // memory. `args` is copied before the call returns. An error belongs to this launch or to an
  // earlier one.
  virtual absl::Status Launch(std::string_view kernel, Grid grid, Grid block, uint32_t shared_bytes,
                              const void* args, size_t args_bytes) = 0;
};

// Launches with a struct of arguments.
template <typename Args>
absl::Status LaunchWith(Launcher& launcher, std::string_view kernel, Grid grid, Grid block,
                        const Args& args, uint32_t shared_bytes = 0) {
  return launcher.Launch(kernel, grid, block, shared_bytes, &args, sizeof(args));
}

}  // namespace lanyard::ops::cuda
