// For the machine's own tests: small PTX texts that run on all instruction sets that this processor
// has.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/ptx/machine.h"
#include "tests/ptx/program.h"

namespace lanyard::ptx {

// A module with one kernel "k", which has parameters p0.. (64 bits each) and registers of every
// class.
inline std::string KernelText(std::string_view body, int params = 2, int sm = 80,
                              std::string_view before = "") {
  std::string text = absl::StrCat(".version 7.5\n.target sm_", sm, "\n.address_size 64\n",
                                  AbslView(before), "\n.visible .entry k(");
  for (int i = 0; i < params; ++i)
    absl::StrAppend(&text, i == 0 ? "" : ",", "\n  .param .u64 p", i);
  absl::StrAppend(
      &text,
      ")\n{\n  .reg .pred %p<16>;\n  .reg .b16 %h<16>;\n  .reg .b32 %r<40>;\n  .reg .f32 %f<32>;\n",
      "  .reg .b64 %rd<40>;\n  .reg .f64 %fd<16>;\n", AbslView(body), "\n}\n");
  return text;
}

inline absl::StatusOr<std::shared_ptr<const Module>> ParseKernel(std::string_view body,
                                                                 int params = 2, int sm = 80,
                                                                 std::string_view before = "") {
  return Module::Parse(KernelText(body, params, sm, before));
}

struct Shape {
  uint32_t blocks = 1, threads = 32;
  uint32_t shared_bytes = 0;
};

// Parses and launches kernel k.
inline absl::Status RunText(Machine* machine, const std::string& text, std::vector<uint64_t> params,
                            Shape shape = {}, Counters* counters = nullptr) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const Module> module, Module::Parse(text));
  const Kernel* kernel = module->Find("k");
  if (kernel == nullptr) return NotFound("no kernel k");
  const auto* bytes = reinterpret_cast<const uint8_t*>(params.data());
  LaunchConfig config;
  config.grid = {shape.blocks, 1, 1};
  config.block = {shape.threads, 1, 1};
  config.shared_bytes = shape.shared_bytes;
  const absl::Status status = machine->Launch(
      *kernel, config, std::span<const uint8_t>(bytes, params.size() * 8), counters);
  machine->Unload(*module);
  return status;
}

// Calls f once for each table of instructions that this processor runs.
inline void OnEveryIsa(const std::function<void()>& f) {
  for (const char* isa : {"portable", "avx2", "avx512"}) {
    const OpTable* table = TableFor(isa);
    if (table == nullptr) continue;
    SCOPED_TRACE(isa);
    SetTableForTest(table);
    f();
  }
  SetTableForTest(nullptr);
}

#define EXPECT_FAILS(expression, part)                                           \
  do {                                                                           \
    const absl::Status status_here = (expression);                               \
    EXPECT_FALSE(status_here.ok());                                              \
    EXPECT_THAT(std::string(status_here.message()), ::testing::HasSubstr(part)); \
  } while (0)
#define EXPECT_OK(expression)                                            \
  do {                                                                   \
    const absl::Status status_here = (expression);                       \
    EXPECT_TRUE(status_here.ok()) << std::string(status_here.message()); \
  } while (0)
#define ASSERT_OK(expression)                                            \
  do {                                                                   \
    const absl::Status status_here = (expression);                       \
    ASSERT_TRUE(status_here.ok()) << std::string(status_here.message()); \
  } while (0)

}  // namespace lanyard::ptx
