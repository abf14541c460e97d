// Launches: limits, blocks in a random order, warps up to their barriers.
#include "tests/ptx/machine.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "tests/ptx/program.h"

namespace lanyard::ptx {

void Fail(Warp& w, const Op& op, int lane, const std::string& what) {
  w.limit = 0;
  if (w.launch->failed) return;
  w.launch->failed = true;
  const Block& b = *w.block;
  w.launch->error = Internal("kernel ", w.launch->program->function.name, ", ",
                             w.launch->program->Where(op), ", block (", b.id.x, ",", b.id.y, ",",
                             b.id.z, "), ", ThreadName(w, lane), ": ", what);
}

void FailLanes(Warp& w, const Op& op, uint32_t mask) {
  Fail(w, op, std::countr_zero(mask),
       absl::StrFormat("needs all 32 lanes of the warp, only 0x%08x are here", mask));
}

std::string ThreadName(const Warp& w, int lane) {
  const Dim3& d = w.launch->block_dim;
  const uint32_t t = w.index * 32 + static_cast<uint32_t>(lane);
  return absl::StrCat("thread (", t % d.x, ",", t / d.x % d.y, ",", t / d.x / d.y, ")");
}

struct Machine::Impl {
  Memory* memory = nullptr;
  MachineOptions options;
  uint64_t launches = 0;
  std::map<const ParsedModule*, std::vector<uint64_t>> variables;  // addresses by index; 0: shared
  std::vector<std::vector<uint8_t>> files;                         // register files, by warp
  std::vector<Warp> warps;
  std::vector<std::vector<uint8_t>> locals;
  Block block;

  const std::vector<uint64_t>& Variables(const ParsedModule& module);
  absl::Status CheckLimits(const Program& program, const LaunchConfig& config, size_t params) const;
  void TrackStores(const Program& program, LaunchState* launch);
  void PrepareWarps(const Program& program, LaunchState* launch);
  uint64_t WarpValue(const SpecialSlot& slot, const Program& program, const LaunchState& launch,
                     uint32_t warp);
  void FillSpecials(const Program& program, const LaunchState& launch, Warp* w);
  void RunBlock(LaunchState* launch, uint64_t index);
  bool CompleteBarrier(LaunchState* launch);
  void FailBarrier(LaunchState* launch);
};

Machine::Machine(Memory* memory, MachineOptions options) : impl_(std::make_unique<Impl>()) {
  impl_->memory = memory;
  impl_->options = options;
}
Machine::~Machine() = default;
Memory& Machine::memory() { return *impl_->memory; }
const MachineOptions& Machine::options() const { return impl_->options; }
void Machine::set_seed(uint64_t seed) {
  impl_->options.seed = seed;
  impl_->launches = 0;
}

const std::vector<uint64_t>& Machine::Impl::Variables(const ParsedModule& module) {
  const auto found = variables.find(&module);
  if (found != variables.end()) return found->second;
  std::vector<uint64_t> addresses;
  for (const Variable& v : module.variables) {
    if (v.space == Space::kShared) {
      addresses.push_back(0);
      continue;
    }
    const uint64_t at = memory->Alloc(v.bytes, v.name);
    // Without an initialiser it is zero.
    std::vector<uint8_t> bytes(v.bytes, 0);
    std::copy(v.init.begin(), v.init.end(), bytes.begin());
    memory->Write(at, bytes.data(), bytes.size()).IgnoreError();
    memory->impl().Holding(at, 0)->read_only = v.space == Space::kConst;
    addresses.push_back(at);
  }
  return variables[&module] = std::move(addresses);
}

absl::StatusOr<uint64_t> Machine::Global(const Module& module, std::string_view name) {
  const std::vector<uint64_t>& addresses = impl_->Variables(module.parsed());
  for (size_t i = 0; i < addresses.size(); ++i) {
    if (module.parsed().variables[i].name == name && addresses[i] != 0) return addresses[i];
  }
  return NotFound("the module has no variable ", AbslView(name));
}

void Machine::Unload(const Module& module) {
  const auto found = impl_->variables.find(&module.parsed());
  if (found == impl_->variables.end()) return;
  for (uint64_t address : found->second) {
    if (address != 0) impl_->memory->Free(address).IgnoreError();
  }
  impl_->variables.erase(found);
}

absl::Status Machine::Impl::CheckLimits(const Program& program, const LaunchConfig& config,
                                        size_t params) const {
  const auto bad = [&](const auto&... parts) {
    return InvalidArgument("launch of kernel ", program.function.name, ": ", parts...);
  };
  const Dim3 &g = config.grid, &b = config.block;
  if (program.module->target > options.sm)
    return bad("the module is for sm_", program.module->target, ", the card is sm_", options.sm);
  if (g.Count() == 0 || b.Count() == 0) return bad("a grid or block of no threads");
  if (g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535)
    return bad("grid ", g.x, " x ", g.y, " x ", g.z, " (the most is 2^31-1, 65535, 65535)");
  if (b.x > 1024 || b.y > 1024 || b.z > 64 || b.Count() > 1024) {
    return bad("block ", b.x, " x ", b.y, " x ", b.z,
               " (the most is 1024 x 1024 x 64 and 1024 threads)");
  }
  const Function& f = program.function;
  if (f.max_threads != 0 && b.Count() > f.max_threads)
    return bad(b.Count(), " threads a block, the kernel was compiled for ", f.max_threads);
  if (f.required_threads != 0 && b.Count() != f.required_threads)
    return bad(b.Count(), " threads a block, .reqntid wants ", f.required_threads);
  if (params != program.param_bytes)
    return bad(params, " bytes of parameters, the kernel has ", program.param_bytes);
  const uint64_t shared = uint64_t{program.static_shared_bytes} + config.shared_bytes;
  const int sm = options.sm;
  const uint32_t most = sm >= 90               ? 232448
                        : sm == 80 || sm == 87 ? 166912
                        : sm >= 86             ? 101376
                        : sm >= 75             ? 65536
                        : sm >= 70             ? 98304
                                               : 49152;
  if (program.static_shared_bytes > 49152)
    return bad(program.static_shared_bytes, " bytes of static shared memory; 48 KiB is the most");
  if (shared > most)
    return bad(shared, " bytes of shared memory; a block of sm_", sm, " may have ", most);
  if (shared > 49152 && config.shared_bytes > config.max_dynamic_shared_bytes) {
    return bad(
        shared,
        " bytes of shared memory without opting in to more than 48 KiB (allowed dynamic bytes: ",
        config.max_dynamic_shared_bytes, ")");
  }
  return absl::OkStatus();
}

// Marks the allocations that the launch may write: only there can be races.
void Machine::Impl::TrackStores(const Program& program, LaunchState* launch) {
  for (const ParamSet& set : program.store_bases) {
    if ((set[1] & kAnything) != 0) {
      launch->track_all = true;
      return;
    }
    for (uint32_t k = 0; k < 127; ++k) {
      if ((set[k / 64] >> (k % 64) & 1) == 0 || uint64_t{k} * 8 >= program.param_bytes) continue;
      uint64_t value = 0;
      std::memcpy(&value, launch->params + uint64_t{k} * 8,
                  std::min<uint64_t>(8, program.param_bytes - uint64_t{k} * 8));
      if (Allocation* a = launch->memory->Near(value)) a->tracked_launch = launch->launch_start;
    }
  }
}

void Machine::Impl::PrepareWarps(const Program& program, LaunchState* launch) {
  const auto count = static_cast<uint32_t>((launch->block_dim.Count() + 31) / 32);
  if (files.size() < count) files.resize(count);
  if (locals.size() < count) locals.resize(count);
  warps.clear();
  warps.resize(count);
  for (uint32_t i = 0; i < count; ++i) {
    // 64-byte aligned: vectors of lanes do not cross cache lines.
    files[i].assign(program.file_bytes + 64, 0);
    Warp& w = warps[i];
    w.regs = files[i].data() + (64 - reinterpret_cast<uintptr_t>(files[i].data()) % 64) % 64;
    std::memcpy(w.regs, program.image.data(), program.image.size());
    w.launch = launch;
    w.block = &block;
    w.index = i;
    locals[i].resize(program.local_bytes * 32 + 16);
    w.local = locals[i].data();
    w.local_written.assign(program.local_bytes * 32 / 64 + 1, 0);
    FillSpecials(program, *launch, &w);
  }
}

// What differs from lane to lane; false: it does not.
bool LaneValue(Special special, const Dim3& block, uint32_t warp, uint32_t lane, uint32_t* value) {
  const uint32_t thread = warp * 32 + lane, bit = 1u << lane;
  switch (special) {
    case Special::kTidX:
      *value = thread % block.x;
      return true;
    case Special::kTidY:
      *value = thread / block.x % block.y;
      return true;
    case Special::kTidZ:
      *value = thread / block.x / block.y;
      return true;
    case Special::kLaneId:
      *value = lane;
      return true;
    case Special::kLaneMaskEq:
      *value = bit;
      return true;
    case Special::kLaneMaskLt:
      *value = bit - 1;
      return true;
    case Special::kLaneMaskLe:
      *value = bit | (bit - 1);
      return true;
    case Special::kLaneMaskGe:
      *value = ~(bit - 1);
      return true;
    case Special::kLaneMaskGt:
      *value = ~(bit | (bit - 1));
      return true;
    default:
      return false;
  }
}

uint64_t Machine::Impl::WarpValue(const SpecialSlot& slot, const Program& program,
                                  const LaunchState& launch, uint32_t warp) {
  const Dim3 &b = launch.block_dim, &g = launch.grid, &id = block.id;
  switch (slot.special) {
    case Special::kNtidX:
      return b.x;
    case Special::kNtidY:
      return b.y;
    case Special::kNtidZ:
      return b.z;
    case Special::kCtaidX:
      return id.x;
    case Special::kCtaidY:
      return id.y;
    case Special::kCtaidZ:
      return id.z;
    case Special::kNctaidX:
      return g.x;
    case Special::kNctaidY:
      return g.y;
    case Special::kNctaidZ:
      return g.z;
    case Special::kWarpId:
      return warp;
    case Special::kNwarpId:
      return warps.size();
    case Special::kDynamicShared:
      return launch.dynamic_shared_bytes;
    case Special::kTotalShared:
      return launch.dynamic_shared_bytes + program.static_shared_bytes;
    case Special::kNsmId:
      return 1;
    case Special::kGridId:
      return launches;
    case Special::kSymbol:
      return Variables(*program.module)[slot.variable] + static_cast<uint64_t>(slot.addend);
    default:
      return 0;  // there is one multiprocessor, number 0
  }
}

void Machine::Impl::FillSpecials(const Program& program, const LaunchState& launch, Warp* w) {
  for (const SpecialSlot& s : program.specials) {
    if (s.special == Special::kWrittenMask) {
      w->P(s.offset) = 0;
      continue;
    }
    uint32_t first = 0;
    const bool by_lane = LaneValue(s.special, launch.block_dim, w->index, 0, &first);
    const uint64_t same = by_lane ? 0 : WarpValue(s, program, launch, w->index);
    for (uint32_t i = 0; i < 32; ++i) {
      uint32_t own = 0;
      if (by_lane) LaneValue(s.special, launch.block_dim, w->index, i, &own);
      const uint64_t v = by_lane ? own : same;
      if (s.bits == 64) {
        w->R<uint64_t>(s.offset)[i] = v;
      } else {
        w->R<uint32_t>(s.offset)[i] = static_cast<uint32_t>(v);
      }
    }
  }
}

// Lets the warps of a barrier go that is complete. False: none is.
bool Machine::Impl::CompleteBarrier(LaunchState* launch) {
  for (uint32_t id = 0; id < 16; ++id) {
    std::vector<Warp*> here;
    bool all = true, same_place = true;
    uint32_t threads = 0;
    for (Warp& w : warps) {
      if (w.state == WarpState::kDone) continue;
      if (w.state != WarpState::kAtBarrier || w.barrier_id != id) {
        all = false;
        continue;
      }
      same_place &= here.empty() || here[0]->barrier_pc == w.barrier_pc;
      threads = w.barrier_threads;
      here.push_back(&w);
    }
    if (here.empty()) continue;
    std::vector<Block::Arrival> arrived, rest;
    for (const Block::Arrival& a : block.arrivals) (a.id == id ? arrived : rest).push_back(a);
    const bool complete = threads == 0 ? all : (here.size() + arrived.size()) * 32 == threads;
    if (!complete || (threads == 0 && !same_place)) continue;
    const uint32_t now = launch->memory->time++;
    std::vector<uint32_t> row(32, 0);
    const auto join = [&](uint32_t warp, uint32_t time) {
      for (uint32_t u = 0; u < 32; ++u) row[u] = std::max(row[u], block.sync[warp * 32 + u]);
      row[warp] = std::max(row[warp], time);
    };
    for (const Warp* w : here) join(w->index, now);
    for (const Block::Arrival& a : arrived) join(a.warp, a.time);
    for (Warp* w : here) {
      std::copy(row.begin(), row.end(), block.sync.begin() + w->index * 32);
      UpdateSyncMin(*w);
      w->state = WarpState::kReady;
      w->limit = 0;
    }
    block.arrivals = std::move(rest);
    return true;
  }
  return false;
}

// No warp can go on and no barrier is complete.
void Machine::Impl::FailBarrier(LaunchState* launch) {
  std::string where;
  Warp* culprit = nullptr;
  for (Warp& w : warps) {
    if (w.state != WarpState::kAtBarrier) continue;
    const Op& op = launch->program->code[w.barrier_pc];
    absl::StrAppend(&where, where.empty() ? "" : "; ", "warp ", w.index, " at barrier ",
                    w.barrier_id, " of PTX line ",
                    launch->program->function.statements[op.statement].line);
    culprit = &w;
  }
  if (culprit == nullptr) return;
  Fail(*culprit, launch->program->code[culprit->barrier_pc], std::countr_zero(culprit->active),
       absl::StrCat("a divergent barrier: the warps of the block wait at different barriers, or "
                    "for threads that do not come: ",
                    where));
}

void Machine::Impl::RunBlock(LaunchState* launch, uint64_t index) {
  const Program& program = *launch->program;
  block.id = {static_cast<uint32_t>(index % launch->grid.x),
              static_cast<uint32_t>(index / launch->grid.x % launch->grid.y),
              static_cast<uint32_t>(index / launch->grid.x / launch->grid.y)};
  block.block_start = ++launch->memory->time;
  std::fill(block.sync.begin(), block.sync.end(), block.block_start - 1);
  std::fill(block.shared_written.begin(), block.shared_written.end(), 0);
  if (block.in_flight != 0)
    std::fill(block.shared_in_flight.begin(), block.shared_in_flight.end(), 0);
  block.in_flight = 0;
  block.arrivals.clear();
  const uint64_t threads = launch->block_dim.Count();
  for (Warp& w : warps) {
    FillSpecials(program, *launch, &w);
    const uint64_t lanes = std::min<uint64_t>(threads - w.index * 32, 32);
    w.live = lanes == 32 ? kAllLanes : (1u << lanes) - 1;
    w.active = w.live;
    w.waiting = 0;
    w.pc = 0;
    w.limit = static_cast<uint32_t>(program.code.size());
    w.state = WarpState::kReady;
    w.last_chance = false;
    w.issued_at_barrier = w.issued;
    w.sync_min = block.block_start - 1;
    w.copies.clear();
    std::fill(std::begin(w.commits), std::end(w.commits), 0);
    if (program.local_bytes != 0) std::fill(w.local_written.begin(), w.local_written.end(), 0);
  }
  std::vector<uint32_t> ready(warps.size());
  while (!launch->failed) {
    ready.clear();
    for (const Warp& w : warps) {
      if (w.state == WarpState::kReady) ready.push_back(w.index);
    }
    if (ready.empty()) {
      if (std::all_of(warps.begin(), warps.end(),
                      [](const Warp& w) { return w.state == WarpState::kDone; }))
        return;
      if (!CompleteBarrier(launch)) FailBarrier(launch);
      continue;
    }
    if (options.shuffle_warps) {
      for (size_t i = ready.size(); i > 1; --i)
        std::swap(ready[i - 1], ready[launch->Random() % i]);
    }
    for (uint32_t i : ready) {
      RunWarp(warps[i]);
      if (launch->failed) return;
    }
  }
}

absl::Status Machine::Launch(const Kernel& kernel, const LaunchConfig& config,
                             std::span<const uint8_t> params, Counters* counters) {
  Impl& m = *impl_;
  const Program& program = kernel.program();
  RETURN_IF_ERROR(m.CheckLimits(program, config, params.size()));
  Counters scratch;
  LaunchState launch;
  launch.program = &program;
  launch.memory = &m.memory->impl();
  launch.options = &m.options;
  launch.params = params.data();
  launch.grid = config.grid;
  launch.block_dim = config.block;
  launch.dynamic_shared_bytes = config.shared_bytes;
  launch.counters = counters != nullptr ? counters : &scratch;
  if (launch.memory->time >
      0xf0000000u) {  // once in four thousand million barriers: forget who touched what
    for (auto& [base, a] : launch.memory->allocations) {
      if (!a->cells.empty()) a->cells.Resize(a->bytes);
      a->tracked_launch = 0;
    }
    m.block.shared_cells.Resize(0);
    launch.memory->time = 1;
  }
  launch.launch_start = ++launch.memory->time;
  launch.random = (m.options.seed + ++m.launches) * 0x9e3779b97f4a7c15u | 1;
  launch.last_allocation.assign(program.code.size(), nullptr);
  const uint32_t shared = program.static_shared_bytes + config.shared_bytes;
  m.block.launch = &launch;
  m.block.shared_bytes = shared;
  m.block.shared.resize(shared + 16);
  m.block.shared_written.assign(shared / 64 + 1, 0);
  m.block.shared_in_flight.assign(shared / 64 + 1, 0);
  if (m.block.shared_cells.empty() || m.block.shared_cells.size_bytes() < shared)
    m.block.shared_cells.Resize(std::max(shared, 49152u));
  m.block.sync.resize(32 * 32);
  m.PrepareWarps(program, &launch);
  if (m.options.check_races) m.TrackStores(program, &launch);

  std::vector<uint64_t> order(config.grid.Count());
  std::iota(order.begin(), order.end(), uint64_t{0});
  if (m.options.shuffle_blocks) {
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[launch.Random() % i]);
  }
  Counters& c = *launch.counters;
  ++c.launches;
  uint64_t issued = 0;
  for (const uint64_t index : order) {
    m.RunBlock(&launch, index);
    ++c.blocks;
    if (launch.failed) break;
    issued = 0;
    for (const Warp& w : m.warps) issued += w.issued;
    if (issued > m.options.max_warp_instructions) {
      Fail(m.warps[0], program.code[0], 0,
           absl::StrCat("the launch took ", issued, " warp instructions, more than the limit"));
    }
  }
  for (const Warp& w : m.warps) {
    c.warp_instructions += w.issued;
    c.lane_instructions +=
        w.tallies[kPlain] + w.tallies[kFp32] + w.tallies[kFp64] + w.tallies[kDp4a];
    c.fp32 += w.tallies[kFp32];
    c.fp64 += w.tallies[kFp64];
    c.dp4a += w.tallies[kDp4a];
  }
  return launch.failed ? launch.error : absl::OkStatus();
}

}  // namespace lanyard::ptx
