// Lets a test configure libfakecuda.so anew and ask what happened. This is a header only; it needs
// LANYARD_BIN_DIR (lanyard_test sets it). The library is loaded once a process and stays; Reset
// forgets everything that was made of it before.
//
//   FakeCuda& fake = FakeCuda::Get();  // also sets LANYARD_CUDA_LIBRARY for Driver::Open()
//   fake.Reset("devices=2,seed=7");
//   ... ; EXPECT_EQ(fake.Reports(), "");
//
// A process that is started by a test gets LANYARD_CUDA_LIBRARY and LANYARD_FAKE_CUDA in its
// environment instead, and may be given LANYARD_FAKE_CUDA_REPORT=file (what checks found, a line
// each) and LANYARD_FAKE_CUDA_STATS=file (JSON at exit).
#pragma once

#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace lanyard::fake_cuda {

inline std::string LibraryPath() { return std::string(LANYARD_BIN_DIR) + "/libfakecuda.so"; }
inline std::string NvmlLibraryPath() { return std::string(LANYARD_BIN_DIR) + "/libfakenvml.so"; }

class FakeCuda {
 public:
  static FakeCuda& Get() {
    static FakeCuda* fake = new FakeCuda();
    return *fake;
  }

  // Returns false when the text is no configuration.
  bool Reset(const std::string& config) { return reset_(config.c_str()) == 0; }
  std::string Stats() const { return stats_(); }      // JSON, with the keys of hooks.cc
  std::string Reports() const { return reports_(); }  // what the checks found, a line for each
  void SetOthers(int device, uint64_t bytes) { set_others_(device, bytes); }
  uint64_t UsedBytes(int device) const { return used_(device); }
  // A call that asks a card for its free memory waits meanwhile.
  void Hang(bool on) { hang_(on ? 1 : 0); }

 private:
  FakeCuda() {
    setenv("LANYARD_CUDA_LIBRARY", LibraryPath().c_str(), 1);
    setenv("LANYARD_NVML_LIBRARY", NvmlLibraryPath().c_str(), 1);
    library_ = dlopen(LibraryPath().c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library_ == nullptr) {
      std::fprintf(stderr, "%s\n", dlerror());
      std::abort();
    }
    Resolve(reset_, "lanyard_fake_cuda_reset");
    Resolve(stats_, "lanyard_fake_cuda_stats");
    Resolve(reports_, "lanyard_fake_cuda_reports");
    Resolve(set_others_, "lanyard_fake_cuda_set_others");
    Resolve(used_, "lanyard_fake_cuda_used");
    Resolve(hang_, "lanyard_fake_cuda_hang");
  }
  template <typename F>
  void Resolve(F& function, const char* name) {
    function = reinterpret_cast<F>(dlsym(library_, name));
    if (function == nullptr) std::abort();
  }

  void* library_ = nullptr;
  int (*reset_)(const char*) = nullptr;
  const char* (*stats_)() = nullptr;
  const char* (*reports_)() = nullptr;
  void (*set_others_)(int, uint64_t) = nullptr;
  uint64_t (*used_)(int) = nullptr;
  void (*hang_)(int) = nullptr;
};

}  // namespace lanyard::fake_cuda
