// Where lanes go: branches, exits, and how a warp's lanes part and meet. Groups of lanes with the
// lowest pc run first, so that those that took a branch wait where the paths join. At a .sync
// instruction lanes wait (wherever they were parked) until all that it names are there; if nobody
// can run any more, a .sync that still misses lanes is an error.
#include <bit>

#include "tests/ptx/program.h"

namespace lanyard::ptx {

namespace {

// The next pc at which a parked lane waits, above `pc`.
uint32_t NextParked(const Warp& w, uint32_t pc) {
  auto limit = static_cast<uint32_t>(w.launch->program->code.size());
  for (uint32_t rest = w.live & ~w.active; rest != 0; rest &= rest - 1) {
    const uint32_t at = w.lane_pc[FirstLane(rest)];
    if (at > pc && at < limit) limit = at;
  }
  return limit;
}

// Lanes at the lowest pc among `among`, with those of `also` that are there.
void Activate(Warp& w, uint32_t among, uint32_t also) {
  uint32_t pc = ~0u;
  for (uint32_t rest = among; rest != 0; rest &= rest - 1)
    pc = std::min(pc, w.lane_pc[FirstLane(rest)]);
  uint32_t group = 0;
  for (uint32_t rest = among | also; rest != 0; rest &= rest - 1) {
    if (w.lane_pc[FirstLane(rest)] == pc) group |= rest & (0 - rest);
  }
  w.active = group;
  w.waiting &= ~group;
  w.pc = pc;
  w.limit = NextParked(w, pc);
}

void Branch(Warp& w, const Op& op, uint32_t mask) {
  ++w.launch->counters->branches;
  const uint32_t stay = w.active & ~mask;
  if (stay != 0) {
    ++w.launch->counters->divergent_branches;
    if (op.mode == 1) {
      Fail(w, op, FirstLane(mask), "bra.uni where not all active lanes agree");
      return;
    }
    Park(w, stay, w.pc);
    w.active = mask;
  }
  if (op.target < w.pc) {
    const MachineOptions& options = *w.launch->options;
    if (w.issued - w.issued_at_barrier > options.max_instructions_between_barriers ||
        w.issued > options.max_warp_instructions) {
      Fail(w, op, FirstLane(mask),
           absl::StrCat("an endless loop: ", w.issued - w.issued_at_barrier,
                        " instructions of one warp without a barrier"));
      return;
    }
  }
  w.pc = op.target;
  if (w.active != w.live) w.limit = 0;  // look who is lowest now
}

// op.src[0]: the index; op.target: first of op.imm entries in aux.
void BranchIndex(Warp& w, const Op& op, uint32_t mask) {
  ++w.launch->counters->branches;
  const uint32_t fall_through = w.active & ~mask;
  if (fall_through != 0) Park(w, fall_through, w.pc);
  uint32_t first_target = ~0u;
  bool diverges = fall_through != 0;
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const uint32_t index = w.R<uint32_t>(op.src[0])[FirstLane(rest)];
    if (index >= static_cast<uint64_t>(op.imm)) {
      Fail(w, op, FirstLane(rest),
           absl::StrCat("brx.idx with index ", index, " into ", op.imm, " targets"));
      return;
    }
    const uint32_t target = w.launch->program->aux[op.target + index];
    diverges |= first_target != ~0u && target != first_target;
    first_target = target;
    Park(w, rest & (0 - rest), target);
  }
  w.launch->counters->divergent_branches += diverges;
  w.active = 0;
  w.limit = 0;
}

void Exit(Warp& w, const Op&, uint32_t mask) {
  w.live &= ~mask;
  w.active &= ~mask;
  w.waiting &= ~mask;
  if (w.active == 0 || w.waiting != 0) w.limit = 0;
}

void Nothing(Warp&, const Op&, uint32_t) {}

void Trap(Warp& w, const Op& op, uint32_t mask) { Fail(w, op, FirstLane(mask), "trap"); }

// Registers that a path may leave unwritten (see allocate.cc): op.dst and op.src[0] are their
// masks.
void MarkWritten(Warp& w, const Op& op, uint32_t mask) { w.P(op.dst) |= mask; }
void CheckWritten(Warp& w, const Op& op, uint32_t mask) {
  const uint32_t missing = mask & ~w.P(op.src[0]);
  if (missing == 0) return;
  const auto& name = w.launch->program->function.registers[op.target].name;
  Fail(w, op, FirstLane(missing),
       absl::StrCat("reads register ", name, ", which was not written on this path"));
}
void CopyWritten(Warp& w, const Op& op, uint32_t mask) {
  w.P(op.dst) = (w.P(op.dst) & ~mask) | (w.P(op.src[0]) & mask);
}

// Vector moves: op.count parts of op.bytes; the parts' registers are in aux, ~0u for a sink.
void Pack(Warp& w, const Op& op, uint32_t mask) {
  const uint32_t* parts = w.launch->program->aux.data() + op.target;
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const int i = FirstLane(rest);
    uint64_t v = 0;
    for (uint32_t c = 0; c < op.count; ++c) {
      const uint64_t part = w.R<uint32_t>(parts[c])[i];
      v |= (op.bytes == 2 ? part & 0xffffu : part) << (8 * op.bytes * c);
    }
    if (op.bytes * op.count == 8)
      w.R<uint64_t>(op.dst)[i] = v;
    else
      w.R<uint32_t>(op.dst)[i] = static_cast<uint32_t>(v);
  }
}
void Unpack(Warp& w, const Op& op, uint32_t mask) {
  const uint32_t* parts = w.launch->program->aux.data() + op.target;
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const int i = FirstLane(rest);
    const uint64_t v =
        op.bytes * op.count == 8 ? w.R<uint64_t>(op.src[0])[i] : w.R<uint32_t>(op.src[0])[i];
    for (uint32_t c = 0; c < op.count; ++c) {
      if (parts[c] == ~0u) continue;
      const uint64_t part = v >> (8 * op.bytes * c);
      w.R<uint32_t>(parts[c])[i] = static_cast<uint32_t>(op.bytes == 2 ? part & 0xffffu : part);
    }
  }
}

// isspacep: op.mode is the Space.
void IsSpace(Warp& w, const Op& op, uint32_t mask) {
  uint32_t result = 0;
  for (uint32_t i = 0; i < 32; ++i) {
    const uint64_t window = w.R<uint64_t>(op.src[0])[i] & kWindowMask;
    const Space space = window == kSharedWindow  ? Space::kShared
                        : window == kLocalWindow ? Space::kLocal
                        : window == kParamWindow ? Space::kParam
                                                 : Space::kGlobal;
    result |= uint32_t{space == static_cast<Space>(op.mode)} << i;
  }
  w.P(op.dst) = (w.P(op.dst) & ~mask) | (result & mask);
}

// A clock that only grows: instructions issued.
void Clock(Warp& w, const Op& op, uint32_t mask) {
  for (uint32_t i = 0; i < 32; ++i) {
    if ((mask >> i & 1u) == 0) continue;
    if (op.bytes == 8)
      w.R<uint64_t>(op.dst)[i] = w.issued;
    else
      w.R<uint32_t>(op.dst)[i] = static_cast<uint32_t>(w.issued);
  }
}

}  // namespace

void Park(Warp& w, uint32_t mask, uint32_t pc) {
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) w.lane_pc[FirstLane(rest)] = pc;
}

bool Arrive(Warp& w, const Op& op, uint32_t mask, uint32_t required) {
  const uint32_t missing = required & w.live & ~mask;
  if (missing == 0) {
    w.last_chance = false;
    return true;
  }
  if (w.last_chance) {
    Fail(w, op, FirstLane(mask),
         absl::StrFormat(
             "lanes 0x%08x are at this instruction and wait for lanes 0x%08x, which do not come "
             "(they are at PTX line %d)",
             mask, missing,
             w.launch->program->function
                 .statements[w.launch->program->code[w.lane_pc[FirstLane(missing)]].statement]
                 .line));
    return false;
  }
  const auto self = static_cast<uint32_t>(&op - w.launch->program->code.data());
  const uint32_t rest = w.active & ~mask;  // a false guard: they go on
  Park(w, mask, self);
  w.waiting |= mask;
  if (rest != 0) Park(w, rest, w.pc);
  w.active = 0;
  w.limit = 0;
  return false;
}

bool Regroup(Warp& w) {
  if (w.launch->failed) return false;
  if (w.state == WarpState::kAtBarrier) return false;
  if (w.active != 0) Park(w, w.active, w.pc);
  w.active = 0;
  w.last_chance = false;
  if (w.live == 0) {
    w.state = WarpState::kDone;
    return false;
  }
  const uint32_t runnable = w.live & ~w.waiting;
  if (runnable != 0) {
    Activate(w, runnable, w.waiting);
    return true;
  }
  // Everybody waits. Some group may have all it needs by now (others exited); otherwise its Arrive
  // fails the launch.
  uint32_t best = w.waiting;
  for (uint32_t rest = w.waiting; rest != 0; rest &= rest - 1) {
    const uint32_t pc = w.lane_pc[FirstLane(rest)];
    uint32_t group = 0;
    for (uint32_t more = w.waiting; more != 0; more &= more - 1) {
      if (w.lane_pc[FirstLane(more)] == pc) group |= more & (0 - more);
    }
    const Op& op = w.launch->program->code[pc];
    if (group == w.live ||
        (op.src[3] != 0 && (w.R<uint32_t>(op.src[3])[FirstLane(rest)] & w.live & ~group) == 0)) {
      best = group;
      break;
    }
  }
  Activate(w, best, 0);
  w.last_chance = true;
  return true;
}

void RunWarp(Warp& w) {
  const Op* code = w.launch->program->code.data();
  for (;;) {
    if (w.pc >= w.limit && !Regroup(w)) return;
    const Op& op = code[w.pc++];
    const uint32_t mask = w.active & (w.P(op.guard) ^ op.guard_xor);
    w.issued += op.issues;
    w.tallies[op.tally] += mask == kAllLanes ? 32u : static_cast<uint32_t>(std::popcount(mask));
    if (mask != 0) op.run(w, op, mask);
  }
}

void AddControlHandlers(SpecialHandlers* h) {
  h->branch = Branch;
  h->branch_index = BranchIndex;
  h->exit = Exit;
  h->mark_written = MarkWritten;
  h->check_written = CheckWritten;
  h->copy_written = CopyWritten;
  h->pack = Pack;
  h->unpack = Unpack;
  h->is_space = IsSpace;
  h->clock = Clock;
  h->trap = Trap;
  h->nothing = Nothing;
}

}  // namespace lanyard::ptx
