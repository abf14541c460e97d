// A PTX machine: it parses PTX text (nvcc's and clang's), executes kernels warp by warp on the CPU
// with exact integer and IEEE arithmetic, and checks every access while it runs. Tests put it in a
// card's place, so that no GPU is needed.
//
// What a launch checks: bounds, use after free, alignment, reads of unwritten memory (global,
// shared, local) and of unwritten registers, data races (shared and global; see README.md),
// barriers, shuffles, votes and mma that not all lanes reach, launch limits, endless loops. The
// first violation ends the launch with an error (kInternal for a fault in the kernel,
// kInvalidArgument for a bad launch or bad PTX, kUnimplemented for PTX that the machine does not
// know) naming kernel, PTX line (and .loc), block, thread and address. What it cannot show stands
// in README.md.
//
// Device addresses are host addresses of memory that `Memory` owns, so a fake driver can copy with
// memcpy after a check. A Memory and the Machines over it belong to one thread at a time. A Module
// is immutable and may be shared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/status.h"

namespace lanyard::ptx {

struct Dim3 {
  uint32_t x = 1, y = 1, z = 1;
  uint64_t Count() const { return uint64_t{x} * y * z; }
};

struct Allocation;  // shadow.h
class Program;      // program.h
class ParsedModule;

// A device's address space: allocations with red zones, and for every byte whether it was written.
class Memory {
 public:
  Memory();
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // New memory of `bytes` (0 is allowed: an address that nothing may touch), 256-byte aligned, not
  // initialised; `name` stands in errors. 4 KiB before and after belong to no allocation. It never
  // fails (except with bad_alloc); the caller keeps budgets.
  uint64_t Alloc(size_t bytes, std::string_view name);
  // Ends an allocation; `address` must be its first byte. Later accesses are "use after free"
  // errors: the last 64 MiB of freed memory are kept for that and hold 0xDD.
  absl::Status Free(uint64_t address);

  // The range must lie in one live allocation; otherwise the error says what is wrong (outside,
  // freed, over the end).
  absl::Status CheckRange(uint64_t address, size_t bytes) const;
  // The host must declare here what it writes by itself through the address (or by DMA in a fake
  // driver).
  absl::Status MarkInitialised(uint64_t address, size_t bytes);
  // Forgets the contents: the range counts as never written. It is for memory pools that hand a
  // block out again.
  absl::Status MarkUninitialised(uint64_t address, size_t bytes);
  // True if the whole range lies in one live allocation and every byte of it was written.
  bool IsInitialised(uint64_t address, size_t bytes) const;

  // Checked copies. Read refuses unwritten bytes; Copy carries "not initialised" along, as
  // a device copy would.
  absl::Status Write(uint64_t address, const void* from, size_t bytes);
  absl::Status Read(uint64_t address, void* to, size_t bytes) const;
  absl::Status Copy(uint64_t to, uint64_t from, size_t bytes);
  absl::Status Set(uint64_t address, uint8_t value, size_t bytes);

  template <typename T>
  uint64_t Upload(std::span<const T> values, std::string_view name) {
    static_assert(std::is_trivially_copyable_v<T>);
    const uint64_t address = Alloc(values.size_bytes(), name);
    if (!values.empty()) Write(address, values.data(), values.size_bytes()).IgnoreError();
    return address;
  }
  template <typename T>
  uint64_t Upload(const std::vector<T>& values, std::string_view name) {
    return Upload(std::span<const T>(values), name);
  }
  template <typename T>
  absl::StatusOr<std::vector<T>> Download(uint64_t address, size_t count) const {
    std::vector<T> values(count);
    RETURN_IF_ERROR(Read(address, values.data(), count * sizeof(T)));
    return values;
  }

  size_t live_bytes() const;        // bytes of live allocations, without red zones
  size_t live_allocations() const;  // a test of a pool can look for leaks
  // Describes the live allocation that holds `address`, as "name (bytes B) + offset", or what is
  // near it, for messages.
  std::string Describe(uint64_t address) const;

  // Only the machine calls it.
  struct Impl;
  Impl& impl() { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

// One decoded .entry. It belongs to its Module, which must outlive it.
class Kernel {
 public:
  explicit Kernel(std::unique_ptr<Program> program);
  ~Kernel();
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  const std::string& name() const;
  size_t param_bytes() const;  // size of the parameter space; Launch wants exactly this many bytes
  // The offset and bytes of each parameter, in order; a fake cuLaunchKernel gathers its void** with
  // it.
  struct Param {
    uint32_t offset_bytes = 0, bytes = 0;
  };
  std::span<const Param> params() const;
  size_t static_shared_bytes() const;  // without the launch's dynamic part
  size_t local_bytes() const;          // a thread's .local memory
  uint32_t max_threads() const;        // .maxntid's product, or 1024
  uint32_t min_blocks() const;         // .minnctapersm, or 0
  // The most registers (of 32 bits) that are live at once: a lower bound of what ptxas would
  // allocate for a thread.
  uint32_t live_registers() const;

  const Program& program() const { return *program_; }

 private:
  std::unique_ptr<Program> program_;
};

// A parsed PTX file. What it does not know is an error that names the line and shows its text, so a
// module that parses has no instruction that the machine would not execute. These are errors too:
// instructions newer than .target, .approx and .ftz (their bits are not the CPU's), mul and add
// without a rounding in one kernel (ptxas may fuse these).
class Module {
 public:
  static absl::StatusOr<std::shared_ptr<const Module>> Parse(std::string_view ptx);
  ~Module();
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  const Kernel* Find(std::string_view name) const;  // nullptr if there is none
  std::vector<std::string> KernelNames() const;     // in file order
  int target_sm() const;                            // 80 for ".target sm_80"
  int ptx_version() const;                          // 75 for ".version 7.5"

  const ParsedModule& parsed() const { return *parsed_; }

 private:
  Module();
  std::unique_ptr<ParsedModule> parsed_;
  std::vector<std::unique_ptr<Kernel>> kernels_;
};

struct LaunchConfig {
  Dim3 grid, block;
  uint32_t shared_bytes = 0;  // dynamic
  // The size that cuFuncSetAttribute(MAX_DYNAMIC_SHARED_SIZE_BYTES) allowed. 0 means not opted in:
  // static + dynamic <= 48 KiB.
  uint32_t max_dynamic_shared_bytes = 0;
};

// What happened, added up over the launches that were given the same Counters.
struct Counters {
  uint64_t launches = 0, blocks = 0;
  uint64_t warp_instructions = 0;  // issued to a warp, whatever its mask
  uint64_t lane_instructions = 0;  // executed by a lane: predicate true, not exited
  uint64_t branches = 0, divergent_branches = 0;
  uint64_t global_load_requests = 0, global_store_requests = 0;  // warp instructions
  uint64_t global_read_sectors = 0,
           global_write_sectors = 0;  // 32-byte sectors that these touch (each once a request)
  uint64_t global_read_bytes = 0, global_write_bytes = 0;  // bytes that lanes asked for
  uint64_t shared_requests = 0;
  uint64_t shared_conflicts = 0;  // wavefronts beyond the fewest that the request needs
  uint64_t local_requests = 0;
  uint64_t atomics = 0;              // lane operations
  uint64_t barriers = 0;             // warps that arrived
  uint64_t shuffles = 0, votes = 0;  // warp instructions
  uint64_t mma = 0, ldmatrix = 0;    // warp instructions
  uint64_t dp4a = 0;                 // lane instructions, dp2a too
  uint64_t fp32 = 0,
           fp64 = 0;  // lane instructions that compute in double (a fused multiply-add is one)
  uint64_t async_copies = 0;  // cp.async, lane instructions

  // The share of the bytes in touched sectors that lanes asked for; 1 is perfect coalescing (above
  // 1 lanes share bytes).
  double ReadEfficiency() const {
    return global_read_sectors ? double(global_read_bytes) / (32.0 * double(global_read_sectors))
                               : 1.0;
  }
  std::string ToString() const;
};

struct MachineOptions {
  uint64_t seed = 1;           // for the order of blocks, of warps and of the lanes of an atomic
  bool shuffle_blocks = true;  // false: ascending order
  bool shuffle_warps = true;   // false: lowest warp first, always up to the next barrier
  // The card that the machine plays. A module for a higher .target is refused, and limits of shared
  // memory follow from it.
  int sm = 86;
  uint64_t max_warp_instructions = 2'000'000'000;  // of one launch; more counts as an endless loop
  // More than this many in one warp without a barrier is an endless loop too (a lost increment ends
  // sooner).
  uint64_t max_instructions_between_barriers = 200'000'000;
  bool check_initialised = true;
  bool check_races = true;
  // Lanes of one warp that exchange data through memory without bar.warp.sync are a race since
  // sm_70. This needs check_races.
  bool check_races_in_warp = true;
};

// Executes launches one after another, each to its end. Equal seeds give equal runs.
class Machine {
 public:
  explicit Machine(Memory* memory, MachineOptions options = {});  // `memory` must outlive it
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  // Runs the whole grid. `params` is the parameter space (Kernel::param_bytes() of it). On an error
  // the memory keeps what was written so far. The counts are added to `counters`, which may be
  // null.
  absl::Status Launch(const Kernel& kernel, const LaunchConfig& config,
                      std::span<const uint8_t> params, Counters* counters = nullptr);
  // The same for one by-value struct parameter.
  template <typename Args>
  absl::Status Launch(
      const Kernel& kernel, const LaunchConfig& config, const Args& args,
      Counters* counters =
          nullptr) requires(std::is_trivially_copyable_v<Args>&& std::is_class_v<Args> &&
                            !std::is_convertible_v<Args, std::span<const uint8_t>>) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(&args);
    return Launch(kernel, config, std::span<const uint8_t>(bytes, sizeof(Args)), counters);
  }

  // The device address of a module's .global or .const variable, which is made at the module's
  // first use. NotFound if there is none.
  absl::StatusOr<uint64_t> Global(const Module& module, std::string_view name);
  // Frees the module's variables. To be called before the Module is destroyed if its machine lives
  // on.
  void Unload(const Module& module);

  Memory& memory();
  const MachineOptions& options() const;
  void set_seed(uint64_t seed);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The most blocks of a kernel that one multiprocessor can hold at once, from limits that the vendor
// publishes.
struct Occupancy {
  uint32_t blocks = 0, warps = 0, max_warps = 0;
  const char* limited_by = "";  // "threads", "registers", "shared memory", "blocks"
};
// `registers` is the number that ptxas reports (or Kernel::live_registers() as the best case); sm
// is 61, 75, 80, 86, 89 or 90.
Occupancy ComputeOccupancy(int sm, uint32_t block_threads, uint32_t registers,
                           uint32_t shared_bytes);

}  // namespace lanyard::ptx
