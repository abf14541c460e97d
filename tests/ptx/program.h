// A kernel in its executable form, and the state of its execution. Registers are arrays of 32
// lanes: uint32_t[32] for up to 32 bits (16-bit values are zero-extended), uint64_t[32] for 64; a
// predicate is one word, a bit a lane. All lie in a warp's register file at byte offsets, with
// constants and special registers among them, so that an operand is always an offset.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "tests/ptx/machine.h"
#include "tests/ptx/parse.h"
#include "tests/ptx/shadow.h"

namespace lanyard::ptx {

struct Warp;
struct Op;
struct OpTable;

constexpr uint32_t kAllLanes = 0xffffffffu;
inline int FirstLane(uint32_t mask) { return std::countr_zero(mask); }  // mask != 0
// The windows of the generic address space, which are no host addresses.
constexpr uint64_t kSharedWindow = uint64_t{0x4000} << 48;
constexpr uint64_t kLocalWindow = uint64_t{0x5000} << 48;
constexpr uint64_t kParamWindow = uint64_t{0x6000} << 48;
constexpr uint64_t kWindowMask = uint64_t{0xf000} << 48;
// Variables in shared memory begin here, so that address 0 is no variable.
constexpr uint32_t kSharedBase = 1024;

// Executes one instruction for the lanes of `mask`, which is not 0; the guard has been applied.
// w.pc is that of the next instruction.
using Handler = void (*)(Warp& w, const Op& op, uint32_t mask);

// What a lane instruction is counted as.
enum Tally : uint8_t { kPlain, kFp32, kFp64, kDp4a, kOwnChecks, kTallies };

struct Op {
  Handler run = nullptr;
  uint32_t guard = 0, guard_xor = 0;  // lanes: word at `guard` ^ guard_xor
  uint32_t dst = 0, dst2 = 0;         // dst2: a second predicate
  uint32_t src[4] = {};
  uint32_t target = 0;     // for a branch; or the first index into Program::aux
  uint32_t statement = 0;  // index into Function::statements
  int64_t imm = 0;
  uint8_t bytes = 4;  // of one element of memory
  uint8_t count = 1;  // number of elements of a vector
  uint8_t tally = kPlain;
  uint8_t mode = 0;  // the handler's own (a comparison, a shuffle's kind)
  uint8_t flags = 0;
  // The instructions that it counts for; 0: it is one of the machine's own checks (tally
  // kOwnChecks).
  uint8_t issues = 1;
};

enum OpFlag : uint8_t {
  kNegateSource = 1,  // the last predicate source is !p
  kSignExtend = 2,
  kWideDest = 4,      // memory: the register has 64 bits
  kAtomicAccess = 8,  // ld.relaxed and the like: no data race with others of its kind
  kAddress32 = 16,    // the address register has 32 bits
  kHasDst = 32,
  kHasDst2 = 64,
  kDest16 = 128,  // memory: the register has 16 bits
};

// Where constants and special registers stand.
enum class Special : uint8_t {
  kTidX,
  kTidY,
  kTidZ,
  kNtidX,
  kNtidY,
  kNtidZ,
  kCtaidX,
  kCtaidY,
  kCtaidZ,
  kNctaidX,
  kNctaidY,
  kNctaidZ,
  kLaneId,
  kWarpId,
  kNwarpId,
  kLaneMaskEq,
  kLaneMaskLe,
  kLaneMaskLt,
  kLaneMaskGe,
  kLaneMaskGt,
  kDynamicShared,
  kTotalShared,
  kSmId,
  kNsmId,
  kGridId,
  kSymbol,
  kWrittenMask,
};
struct SpecialSlot {
  Special special;
  uint32_t offset = 0;  // in the register file
  uint8_t bits = 32;
  uint32_t variable = 0;  // kSymbol: index into ParsedModule::variables
  int64_t addend = 0;
};
// The parameter bytes (of the first 512, in words of 8) that a store's address may come from. Bit
// 63 of the last word means that it may be anything.
using ParamSet = std::array<uint64_t, 2>;
constexpr uint64_t kAnything = uint64_t{1} << 63;

class Program {
 public:
  Function function;
  const ParsedModule* module = nullptr;
  const OpTable* table = nullptr;  // the table that `code` was made with
  std::vector<Op> code;
  std::vector<uint32_t> aux;  // offsets of vector operands
  // The beginning of the register file: the true predicate and constants.
  std::vector<uint8_t> image;
  std::vector<SpecialSlot> specials;
  uint32_t file_bytes = 0;
  uint32_t live_registers = 0;
  std::vector<Kernel::Param> params;
  uint32_t param_bytes = 0;
  uint32_t static_shared_bytes = 0;  // from kSharedBase on
  uint32_t dynamic_align = 16;
  uint32_t local_bytes = 0;
  bool uses_dynamic_shared = false;
  std::vector<ParamSet> store_bases;  // of every instruction that writes global memory

  // Makes "PTX line 12 (rows.cu:34): st.global.f32 ..." for messages.
  std::string Where(const Op& op) const;
};

// --- Execution

enum class WarpState : uint8_t { kReady, kAtBarrier, kDone };

struct AsyncCopy {
  uint32_t to;  // shared address
  uint32_t lane;
  uint32_t group;  // number of the commit that took it; ~0u: none yet
  uint32_t bytes;
  uint32_t statement;
  std::array<uint8_t, 16> data;
};

struct LaunchState;

struct Block {
  LaunchState* launch = nullptr;
  Dim3 id;
  uint32_t shared_bytes = 0;             // static + dynamic
  std::vector<uint8_t> shared;           // [0] is address kSharedBase
  std::vector<uint64_t> shared_written;  // one bit for each byte
  std::vector<uint64_t> shared_in_flight;
  CellTable shared_cells;
  uint32_t in_flight = 0;  // copies that are under way
  // bar.arrive: the warps that arrived at a named barrier and went on, and when they did.
  struct Arrival {
    uint32_t warp, id, time;
  };
  std::vector<Arrival> arrivals;
  uint32_t block_start = 0;  // time
  // sync[w * 32 + u]: what warp u did up to this time is ordered before what warp w does now. A
  // warp's own entry is for bar.warp.sync.
  std::vector<uint32_t> sync;
};

struct Warp {
  uint8_t* regs = nullptr;
  uint32_t pc = 0, limit = 0;  // at pc >= limit the lanes are regrouped (lowest pc first)
  uint32_t active = 0, live = 0;
  uint32_t waiting = 0;       // lanes that wait at a .sync instruction for others
  uint32_t lane_pc[32] = {};  // of live lanes that are not active
  LaunchState* launch = nullptr;
  Block* block = nullptr;
  uint32_t index = 0;
  WarpState state = WarpState::kReady;
  // Waiting lanes run although not all came: their instruction may accept those that still live.
  bool last_chance = false;
  uint32_t barrier_id = 0, barrier_threads = 0, barrier_pc = 0;  // threads: 0 for all
  uint32_t sync_min = 0;  // the smallest entry of block->sync's row
  uint64_t issued = 0, issued_at_barrier = 0;
  uint64_t tallies[kTallies] = {};
  uint8_t* local = nullptr;             // [lane][local_bytes]
  std::vector<uint64_t> local_written;  // one bit for each byte
  std::vector<AsyncCopy> copies;
  uint32_t commits[32] = {};  // cp.async groups that each lane closed

  template <typename T>
  T* R(uint32_t offset) const {
    return reinterpret_cast<T*>(regs + offset);
  }
  uint32_t& P(uint32_t offset) const { return *reinterpret_cast<uint32_t*>(regs + offset); }
};

struct LaunchState {
  const Program* program = nullptr;
  Memory::Impl* memory = nullptr;
  const MachineOptions* options = nullptr;
  const uint8_t* params = nullptr;
  Dim3 grid, block_dim;
  uint32_t dynamic_shared_bytes = 0;
  bool track_all = false;  // a store may go anywhere
  Counters* counters = nullptr;
  uint32_t launch_start = 0;  // time
  uint64_t random = 1;
  std::vector<Allocation*> last_allocation;  // by op
  bool failed = false;
  absl::Status error;

  uint64_t Random() {
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    return random;
  }
};

// The kernel did something wrong: keeps the first message, "kernel k, <where>, block (x,y,z),
// thread (x,y,z): what", and stops the warp. `lane` is the culprit (or one of them).
void Fail(Warp& w, const Op& op, int lane, const std::string& what);
void FailLanes(Warp& w, const Op& op,
               uint32_t mask);  // an instruction for all 32 lanes has only these
// The thread and block of a lane, "thread (3,0,0)".
std::string ThreadName(const Warp& w, int lane);

// The faults of memory accesses.
enum class Fault : uint8_t {
  kMisaligned,
  kOutside,
  kUnwritten,
  kInFlight,
  kReadOnly,
  kMixedSpaces,
  kBadAddress
};
struct AccessFault {
  Space space;
  Fault fault;
  int lane;
  uint64_t address;
};
void FailAccess(Warp& w, const Op& op, const AccessFault& f);
void FailRace(Warp& w, const Op& op, Space space, const Conflict& conflict);

// For the addresses of a warp's access: bytes of the lowest and highest lane, all their bits, and
// the 32-byte sectors in which they lie.
struct Range {
  uint64_t low = 0, high = 0, bits = 0;
  uint32_t sectors = 0;
};
// Lanes outside of mask get the first lane's address, so that loops may run over all 32.
using Measure = Range (*)(uint32_t mask, uint64_t* addresses);

enum AccessKind : uint8_t { kRead, kWrite, kReadWrite };
// Checks an access of a warp and counts it; addresses of lanes in mask become host addresses.
// `data` holds 16 bytes a lane for writes (null: an atomic, whose value is not known). False means
// that the launch failed.
struct Access {
  Space space = Space::kGlobal;
  AccessKind kind = kRead;
  uint32_t bytes = 4;
  bool atomic = false;
  const uint8_t* data = nullptr;
};
bool CheckGlobal(Warp& w, const Op& op, uint32_t mask, uint64_t* addresses, const Access& access);
bool CheckShared(Warp& w, const Op& op, uint32_t mask, uint64_t* addresses, const Access& access);
bool CheckLocal(Warp& w, const Op& op, uint32_t mask, uint64_t* addresses, const Access& access);
inline bool CheckAccess(Warp& w, const Op& op, uint32_t mask, uint64_t* addresses,
                        const Access& access) {
  if (access.space == Space::kShared) return CheckShared(w, op, mask, addresses, access);
  if (access.space == Space::kLocal) return CheckLocal(w, op, mask, addresses, access);
  return CheckGlobal(w, op, mask, addresses, access);
}
// For the windows of the generic space: finds the space of the lanes' addresses, which become
// addresses of that space. Lanes of several spaces are a fault, since no kernel needs them.
bool ResolveGeneric(Warp& w, const Op& op, uint32_t mask, uint64_t* addresses, Space* space);

// The lanes in `mask` are at a .sync instruction that lanes `required` must reach. True means that
// they are all here. False means that those in mask were parked (they will be back with the others,
// or the launch fails); the handler must return without doing anything.
bool Arrive(Warp& w, const Op& op, uint32_t mask, uint32_t required);
// Removes the lanes in `mask` from the running group; they go on at `pc`. The caller sets active/pc
// of the rest.
void Park(Warp& w, uint32_t mask, uint32_t pc);
// Picks the lanes that go on: those with the lowest pc. False means that the warp is done or at a
// barrier, or that the launch failed.
bool Regroup(Warp& w);
// Runs instructions up to the next barrier or the end.
void RunWarp(Warp& w);
// Orders the warp's lanes (bar.warp.sync); see Block::sync.
void SyncWarpItself(Warp& w);
void UpdateSyncMin(Warp& w);

// --- Instructions

// A row of the table of simple instructions. `signature` is the destination, then the sources; w:
// 32 bits or fewer, l: 64 bits, p: predicate (a source may be !p), h: like w with 16-bit constants,
// s: a shift (32 bits). "p" destinations may be pairs p|q if `pair`.
struct OpSpec {
  const char* key;  // opcode with modifiers
  Handler run;
  const char* signature;
  uint8_t tally = kPlain;
  uint8_t mode = 0;
  uint8_t min_sm = 0;
  const char* suffix = "";  // comes after key
};

// The instructions that are no rows of the table: the decoder gives them operands by hand.
struct SpecialHandlers {
  Handler branch, branch_index, exit, mark_written, check_written, copy_written;
  Handler load_param, load, store;  // op.mode: the Space
  Handler pack, unpack;
  Handler shuffle, vote, match, reduce, active_mask, warp_barrier, barrier;
  Handler atomic;
  Handler mma_s8_8x16, mma_s8_16x16, mma_s8_16x32, mma_f16_8, mma_f16_16, ldmatrix;
  Handler async_copy, async_commit, async_wait;
  Handler is_space, clock, trap, nothing;
  Measure measure;
};

// Fills in what is the same for every instruction set.
void AddControlHandlers(SpecialHandlers* handlers);
void AddWarpHandlers(SpecialHandlers* handlers);
void AddAtomicHandlers(SpecialHandlers* handlers);

struct OpTable {
  std::map<std::string, OpSpec, std::less<>> rows;  // by key + suffix
  SpecialHandlers special = {};
  // It is not inline: the files of one instruction set must not bring copies of the library's
  // templates.
  void Add(const OpSpec* specs, size_t count);
};

// There is a table for each instruction set, which is made once. This is the best one that this
// processor runs.
const OpTable& BestTable();
// `isa` is "portable", "avx2" or "avx512", for tests and measurements. Null: this processor does
// not run it.
const OpTable* TableFor(std::string_view isa);
void SetTableForTest(const OpTable* table);

// Decodes functions of a parsed module.
absl::StatusOr<std::unique_ptr<Program>> Decode(const ParsedModule& module,
                                                const Function& function);

}  // namespace lanyard::ptx
