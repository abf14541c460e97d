// A Launcher over the PTX machine: the host side of the kernels runs on it as on a card's stream,
// and tests compare the results with the CPU's scalar references. One image is one compiler's PTX
// of one level.
#pragma once

#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/ops/cuda/launcher.h"
#include "engine/ops/cuda/ptx_image.h"
#include "tests/ptx/machine.h"

namespace lanyard::ptx {

struct Image {
  ops::cuda::Compiler compiler = ops::cuda::Compiler::kClang;
  int level = 75;
  bool operator==(const Image&) const = default;
  std::string Name() const {
    return (compiler == ops::cuda::Compiler::kClang ? "clang" : "nvcc") + std::to_string(level);
  }
};

// The images that this build has, from such a level on. LANYARD_PTX_IMAGE=clang75 keeps one of
// them.
inline std::vector<Image> AllImages(int from_level = 0) {
  std::vector<Image> out;
  const char* only = std::getenv("LANYARD_PTX_IMAGE");
  for (const auto compiler : {ops::cuda::Compiler::kClang, ops::cuda::Compiler::kNvcc}) {
    for (const int level : {61, 75, 80}) {
      const Image image{compiler, level};
      if (level < from_level || ops::cuda::PtxImagesOf(compiler, level).empty()) continue;
      if (only == nullptr || image.Name() == only) out.push_back(image);
    }
  }
  return out;
}

class InterpreterLauncher final : public ops::cuda::Launcher {
 public:
  static absl::StatusOr<std::unique_ptr<InterpreterLauncher>> Make(Image image, uint64_t seed = 1) {
    MachineOptions options;
    options.seed = seed;
    options.sm = image.level;
    std::unique_ptr<InterpreterLauncher> out(new InterpreterLauncher(options));
    ASSIGN_OR_RETURN(out->modules_, ModulesOf(image));
    return out;
  }

  absl::Status Launch(std::string_view kernel, ops::cuda::Grid grid, ops::cuda::Grid block,
                      uint32_t shared_bytes, const void* args, size_t args_bytes) override {
    for (const auto& module : *modules_) {
      const Kernel* found = module->Find(kernel);
      if (found == nullptr) continue;
      LaunchConfig config{{grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, shared_bytes};
      config.max_dynamic_shared_bytes = shared_bytes;  // as the driver's stream opts in
      return machine_.Launch(*found, config, {static_cast<const uint8_t*>(args), args_bytes},
                             &counters_);
    }
    return NotFound("no module has the kernel ", AbslView(kernel));
  }

  Memory& memory() { return memory_; }
  Machine& machine() { return machine_; }
  Counters& counters() { return counters_; }

  // Makes memory with these values and returns a device pointer, which the host must not follow.
  template <typename T>
  T* Upload(const std::vector<T>& values, std::string_view name) {
    return reinterpret_cast<T*>(memory_.Upload(values, name));
  }
  template <typename T>
  T* Alloc(size_t count, std::string_view name) {
    return reinterpret_cast<T*>(memory_.Alloc(count * sizeof(T), name));
  }
  template <typename T>
  absl::StatusOr<std::vector<T>> Download(const T* address, size_t count) const {
    return memory_.Download<T>(reinterpret_cast<uint64_t>(address), count);
  }
  template <typename T>
  absl::Status Write(T* address, const std::vector<T>& values) {
    return memory_.Write(reinterpret_cast<uint64_t>(address), values.data(),
                         values.size() * sizeof(T));
  }

 private:
  using Modules = std::vector<std::shared_ptr<const Module>>;

  explicit InterpreterLauncher(MachineOptions options) : machine_(&memory_, options) {}

  // Images are parsed once in a process. LANYARD_PTX_OVERRIDE names a PTX file that stands in for
  // the module of its file name (matmul.clang.75.ptx, say): the planted bugs are run in this way.
  static absl::StatusOr<std::shared_ptr<const Modules>> ModulesOf(Image image) {
    static auto& parsed = *new std::map<std::string, std::shared_ptr<const Modules>>;
    auto& entry = parsed[image.Name()];
    if (entry != nullptr) return entry;
    Modules modules;
    for (const ops::cuda::PtxFile& file : ops::cuda::PtxImagesOf(image.compiler, image.level)) {
      std::string text(file.text);
      if (const char* path = std::getenv("LANYARD_PTX_OVERRIDE"); path != nullptr) {
        const std::string_view leaf =
            std::string_view(path).substr(std::string_view(path).rfind('/') + 1);
        if (leaf.substr(0, leaf.find('.')) == file.name) {
          std::ifstream in(path);
          std::stringstream all;
          all << in.rdbuf();
          text = all.str();
        }
      }
      auto module = Module::Parse(text);
      if (!module.ok())
        return Annotate(module.status(), std::string(file.name) + " of " + image.Name());
      modules.push_back(*std::move(module));
    }
    entry = std::make_shared<const Modules>(std::move(modules));
    return entry;
  }

  Memory memory_;
  Machine machine_;
  std::shared_ptr<const Modules> modules_;
  Counters counters_;
};

}  // namespace lanyard::ptx
