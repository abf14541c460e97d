// Module, Kernel, the tables of instructions, and what is printed about them.
#include <cstdlib>

#include "tests/ptx/program.h"

namespace lanyard::ptx {

#define LANYARD_PTX_DECLARE(isa)          \
  namespace isa {                         \
  void AddIntegerRows(OpTable* table);    \
  void AddBitRows(OpTable* table);        \
  void AddFloatRows(OpTable* table);      \
  void AddConvertRows(OpTable* table);    \
  void AddMemoryHandlers(OpTable* table); \
  void AddMmaHandlers(OpTable* table);    \
  }
LANYARD_PTX_DECLARE(portable)
LANYARD_PTX_DECLARE(avx2)
LANYARD_PTX_DECLARE(avx512)
#undef LANYARD_PTX_DECLARE

void OpTable::Add(const OpSpec* specs, size_t count) {
  for (size_t i = 0; i < count; ++i)
    rows.emplace(std::string(specs[i].key) + specs[i].suffix, specs[i]);
}

namespace {

const OpTable* g_table_for_test = nullptr;

template <typename Fill>
OpTable* MakeTable(Fill fill) {
  auto* table = new OpTable;  // lives as long as the process: ops point into it
  fill(table);
  AddControlHandlers(&table->special);
  AddWarpHandlers(&table->special);
  AddAtomicHandlers(&table->special);
  return table;
}
#define LANYARD_PTX_FILL(isa)      \
  MakeTable([](OpTable* table) {   \
    isa::AddIntegerRows(table);    \
    isa::AddBitRows(table);        \
    isa::AddFloatRows(table);      \
    isa::AddConvertRows(table);    \
    isa::AddMemoryHandlers(table); \
    isa::AddMmaHandlers(table);    \
  })

}  // namespace

const OpTable* TableFor(std::string_view isa) {
  // (Every processor with FMA has F16C; clang 14 does not know its name here.)
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                          __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (isa == "portable") {
    static const OpTable* const table = LANYARD_PTX_FILL(portable);
    return table;
  }
  if (isa == "avx2" && has_avx2) {
    static const OpTable* const table = LANYARD_PTX_FILL(avx2);
    return table;
  }
  if (isa == "avx512" && has_avx512) {
    static const OpTable* const table = LANYARD_PTX_FILL(avx512);
    return table;
  }
  return nullptr;
}

const OpTable& BestTable() {
  if (g_table_for_test != nullptr) return *g_table_for_test;
  for (const char* isa : {"avx512", "avx2"}) {
    if (const OpTable* table = TableFor(isa)) return *table;
  }
  return *TableFor("portable");
}
void SetTableForTest(const OpTable* table) { g_table_for_test = table; }

std::string Program::Where(const Op& op) const {
  const Statement& s = function.statements[op.statement];
  std::string loc;
  if (s.loc_line != 0) {
    const auto file = module->files.find(s.loc_file);
    loc = absl::StrCat(
        " (", file == module->files.end() ? absl::StrCat("file ", s.loc_file) : file->second, ":",
        s.loc_line, ")");
  }
  std::string text(s.text.substr(0, 120));
  for (char& c : text) {
    if (c == '\n' || c == '\t') c = ' ';
  }
  return absl::StrCat("PTX line ", s.line, loc, ": ", text);
}

Kernel::Kernel(std::unique_ptr<Program> program) : program_(std::move(program)) {}
Kernel::~Kernel() = default;
const std::string& Kernel::name() const { return program_->function.name; }
size_t Kernel::param_bytes() const { return program_->param_bytes; }
std::span<const Kernel::Param> Kernel::params() const { return program_->params; }
size_t Kernel::static_shared_bytes() const { return program_->static_shared_bytes; }
size_t Kernel::local_bytes() const { return program_->local_bytes; }
uint32_t Kernel::max_threads() const {
  return program_->function.max_threads != 0 ? program_->function.max_threads : 1024;
}
uint32_t Kernel::min_blocks() const { return program_->function.min_blocks; }
uint32_t Kernel::live_registers() const { return program_->live_registers; }

Module::Module() = default;
Module::~Module() = default;

absl::StatusOr<std::shared_ptr<const Module>> Module::Parse(std::string_view ptx) {
  std::shared_ptr<Module> module(new Module);
  module->parsed_ = std::make_unique<ParsedModule>();
  module->parsed_->text = std::string(ptx);
  RETURN_IF_ERROR(ParseModule(module->parsed_.get()));
  for (const Function& f : module->parsed_->functions) {
    ASSIGN_OR_RETURN(std::unique_ptr<Program> program, Decode(*module->parsed_, f));
    module->kernels_.push_back(std::make_unique<Kernel>(std::move(program)));
  }
  return std::shared_ptr<const Module>(std::move(module));
}

const Kernel* Module::Find(std::string_view name) const {
  for (const auto& kernel : kernels_) {
    if (kernel->name() == name) return kernel.get();
  }
  return nullptr;
}
std::vector<std::string> Module::KernelNames() const {
  std::vector<std::string> names;
  for (const auto& kernel : kernels_) names.push_back(kernel->name());
  return names;
}
int Module::target_sm() const { return parsed_->target; }
int Module::ptx_version() const { return parsed_->version; }

std::string Counters::ToString() const {
  return absl::StrFormat(
      "%d launches, %d blocks, %d warp instructions, %d lane instructions (fp32 %d, fp64 %d, dp4a "
      "%d), %d mma, %d ldmatrix, "
      "%d shuffles, %d votes, branches %d (%d divergent), barriers %d, global loads %d (%d "
      "sectors, %d bytes), stores %d (%d sectors, "
      "%d bytes), shared %d (%d conflicts), local %d, atomics %d, cp.async %d",
      launches, blocks, warp_instructions, lane_instructions, fp32, fp64, dp4a, mma, ldmatrix,
      shuffles, votes, branches, divergent_branches, barriers, global_load_requests,
      global_read_sectors, global_read_bytes, global_store_requests, global_write_sectors,
      global_write_bytes, shared_requests, shared_conflicts, local_requests, atomics, async_copies);
}

Occupancy ComputeOccupancy(int sm, uint32_t block_threads, uint32_t registers,
                           uint32_t shared_bytes) {
  struct Limits {
    int sm;
    uint32_t max_warps, max_blocks, shared_bytes, reserved_shared;
  };
  // CUDA C++ programming guide, technical specifications by compute capability; all have 64 Ki
  // registers.
  static constexpr Limits kLimits[] = {{61, 64, 32, 96 << 10, 0},     {70, 64, 32, 96 << 10, 0},
                                       {75, 32, 16, 64 << 10, 0},     {80, 64, 32, 164 << 10, 1024},
                                       {86, 48, 16, 100 << 10, 1024}, {89, 48, 24, 100 << 10, 1024},
                                       {90, 64, 32, 228 << 10, 1024}};
  const Limits* limits = &kLimits[0];
  for (const Limits& l : kLimits) {
    if (l.sm <= sm) limits = &l;
  }
  Occupancy o;
  o.max_warps = limits->max_warps;
  const uint32_t warps = (block_threads + 31) / 32;
  if (warps == 0) return o;
  const auto least = [&](uint32_t blocks, const char* by) {
    if (o.limited_by[0] != 0 && blocks >= o.blocks) return;
    o.blocks = blocks;
    o.limited_by = by;
  };
  least(limits->max_blocks, "blocks");
  least(limits->max_warps / warps, "threads");
  // A warp's registers come in units of 256, its warps in fours.
  const uint32_t warp_registers = (std::max(registers, 1u) * 32 + 255) / 256 * 256;
  least(registers > 255 ? 0 : 65536 / warp_registers / 4 * 4 / warps, "registers");
  const uint32_t shared = (shared_bytes + limits->reserved_shared + 255) / 256 * 256;
  if (shared != 0) least(limits->shared_bytes / shared, "shared memory");
  o.warps = o.blocks * warps;
  return o;
}

}  // namespace lanyard::ptx
