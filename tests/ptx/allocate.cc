// Liveness, checks of unwritten registers, pointer origins, places in the register file.
#include <algorithm>
#include <bit>
#include <queue>

#include "tests/ptx/draft.h"

namespace lanyard::ptx {

namespace {

using Bits = std::vector<uint64_t>;
bool Test(const Bits& b, uint32_t i) { return (b[i >> 6] >> (i & 63) & 1) != 0; }
void Put(Bits& b, uint32_t i) { b[i >> 6] |= uint64_t{1} << (i & 63); }
void Drop(Bits& b, uint32_t i) { b[i >> 6] &= ~(uint64_t{1} << (i & 63)); }

struct BasicBlock {
  uint32_t begin = 0, end = 0;
  std::vector<uint32_t> next;
  Bits in, out;
};

class Allocator {
 public:
  Allocator(Draft* draft, const OpTable& table)
      : draft_(*draft), program_(*draft->program), table_(table), special_(table.special) {}

  void Run() {
    program_.table = &table_;
    FindBlocks();
    FindLive();
    std::vector<uint32_t> suspects = FindSuspects();
    if (!suspects.empty()) {
      InsertChecks(suspects);
      FindBlocks();
      FindLive();
    }
    FindOrigins();
    PlaceFixed();
    PlaceRegisters();
    for (const Ref& ref : draft_.refs) *Slot(ref) = offsets_[ref.vreg];
  }

 private:
  uint32_t* Slot(const Ref& ref) {
    Op& op = program_.code[ref.op];
    switch (ref.field) {
      case Field::kDst:
        return &op.dst;
      case Field::kSrc0:
        return &op.src[0];
      case Field::kSrc1:
        return &op.src[1];
      case Field::kSrc2:
        return &op.src[2];
      case Field::kSrc3:
        return &op.src[3];
      case Field::kGuard:
        return &op.guard;
      case Field::kDst2:
        return &op.dst2;
      case Field::kAux:
        return &program_.aux[ref.aux];
    }
    return &op.dst;
  }
  bool Guarded(uint32_t op) const {
    for (size_t i = first_ref_[op]; i < first_ref_[op + 1]; ++i) {
      if (draft_.refs[i].field == Field::kGuard) return true;
    }
    return false;
  }
  void IndexRefs() {
    first_ref_.assign(program_.code.size() + 1, draft_.refs.size());
    for (size_t i = draft_.refs.size(); i-- > 0;) first_ref_[draft_.refs[i].op] = i;
    for (size_t i = program_.code.size(); i-- > 0;)
      first_ref_[i] = std::min(first_ref_[i], first_ref_[i + 1]);
  }
  bool IsBranch(const Op& op) const {
    return op.run == special_.branch || op.run == special_.branch_index;
  }

  void FindBlocks() {
    IndexRefs();
    const auto n = static_cast<uint32_t>(program_.code.size());
    std::vector<bool> leader(n + 1, false);
    leader[0] = true;
    for (uint32_t i = 0; i < n; ++i) {
      const Op& op = program_.code[i];
      if (op.run == special_.branch) leader[op.target] = true;
      if (op.run == special_.branch_index) {
        for (int64_t k = 0; k < op.imm; ++k)
          leader[program_.aux[op.target + static_cast<size_t>(k)]] = true;
      }
      if (IsBranch(op) || op.run == special_.exit) leader[i + 1] = true;
    }
    blocks_.clear();
    std::vector<uint32_t> block_of(n + 1, 0);
    for (uint32_t i = 0; i < n; ++i) {
      if (leader[i]) {
        blocks_.emplace_back();
        blocks_.back().begin = i;
      }
      blocks_.back().end = i + 1;
      block_of[i] = static_cast<uint32_t>(blocks_.size() - 1);
    }
    for (BasicBlock& b : blocks_) {
      const uint32_t last = b.end - 1;
      const Op& op = program_.code[last];
      if (op.run == special_.branch) b.next.push_back(block_of[op.target]);
      if (op.run == special_.branch_index) {
        for (int64_t k = 0; k < op.imm; ++k)
          b.next.push_back(block_of[program_.aux[op.target + static_cast<size_t>(k)]]);
      }
      const bool ends = IsBranch(op) || op.run == special_.exit;
      if ((!ends || Guarded(last)) && b.end < n) b.next.push_back(block_of[b.end]);
    }
  }

  // Steps over an op backwards.
  void Step(uint32_t op, Bits* live) {
    const bool guarded = Guarded(op);
    for (size_t i = first_ref_[op]; i < first_ref_[op + 1]; ++i) {
      const Ref& ref = draft_.refs[i];
      if (ref.def && !guarded) Drop(*live, ref.vreg);
    }
    for (size_t i = first_ref_[op]; i < first_ref_[op + 1]; ++i) {
      const Ref& ref = draft_.refs[i];
      // What a guarded op does not write stays: the old value is needed.
      if ((!ref.def || guarded) && !draft_.vregs[ref.vreg].fixed) Put(*live, ref.vreg);
    }
  }

  void FindLive() {
    const size_t words = draft_.vregs.size() / 64 + 1;
    for (BasicBlock& b : blocks_) {
      b.in.assign(words, 0);
      b.out.assign(words, 0);
    }
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t k = blocks_.size(); k-- > 0;) {
        BasicBlock& b = blocks_[k];
        for (uint32_t next : b.next) {
          for (size_t i = 0; i < words; ++i) b.out[i] |= blocks_[next].in[i];
        }
        Bits live = b.out;
        for (uint32_t op = b.end; op-- > b.begin;) Step(op, &live);
        if (live != b.in) {
          b.in = std::move(live);
          changed = true;
        }
      }
    }
  }

  // Registers that may be read before they are written, and those that get copies of them.
  std::vector<uint32_t> FindSuspects() {
    std::vector<uint32_t> list;
    Bits suspect = blocks_[0].in;
    for (bool changed = true; changed;) {
      changed = false;
      for (uint32_t op = 0; op < program_.code.size(); ++op) {
        if (!draft_.is_move[op]) continue;
        uint32_t to = ~0u;
        bool from_suspect = false;
        for (size_t i = first_ref_[op]; i < first_ref_[op + 1]; ++i) {
          const Ref& ref = draft_.refs[i];
          if (ref.def)
            to = ref.vreg;
          else if (ref.field == Field::kSrc0)
            from_suspect = Test(suspect, ref.vreg);
        }
        if (from_suspect && to != ~0u && !Test(suspect, to)) {
          Put(suspect, to);
          changed = true;
        }
      }
    }
    for (uint32_t v = 0; v < draft_.vregs.size(); ++v) {
      if (Test(suspect, v)) list.push_back(v);
    }
    return list;
  }

  void InsertChecks(const std::vector<uint32_t>& suspects) {
    mask_of_.assign(draft_.vregs.size(), ~0u);
    for (uint32_t v : suspects) {
      mask_of_[v] = static_cast<uint32_t>(draft_.vregs.size());
      Vreg mask;
      mask.bits = 1;
      mask.fixed = true;
      mask.is_special = true;
      mask.special.special = Special::kWrittenMask;
      draft_.vregs.push_back(mask);
    }
    std::vector<uint32_t> moved(program_.code.size() + 1);
    for (uint32_t old = 0; old < program_.code.size(); ++old) {
      moved[old] = static_cast<uint32_t>(checked_.code.size());
      InsertChecksOf(old);
    }
    for (Op& op : checked_.code) {
      if (op.run == special_.branch) op.target = moved[op.target];
      if (op.run == special_.branch_index) {
        for (int64_t k = 0; k < op.imm; ++k) {
          uint32_t& target = program_.aux[op.target + static_cast<size_t>(k)];
          target = moved[target];
        }
      }
    }
    program_.code = std::move(checked_.code);
    draft_.refs = std::move(checked_.refs);
    draft_.origins = std::move(checked_.origins);
    draft_.is_move = std::move(checked_.is_move);
  }

  // An op between the checks of what it reads and the notes of what it writes.
  void InsertChecksOf(uint32_t old) {
    uint32_t copied_from = ~0u;
    for (size_t i = first_ref_[old]; i < first_ref_[old + 1]; ++i) {
      const Ref& ref = draft_.refs[i];
      if (ref.def || mask_of_[ref.vreg] == ~0u) continue;
      if (draft_.is_move[old] && ref.field != Field::kGuard) {
        copied_from = ref.vreg;
      } else {
        EmitCheck(old, special_.check_written, ref);
      }
    }
    checked_.code.push_back(program_.code[old]);
    checked_.origins.push_back(draft_.origins[old]);
    checked_.is_move.push_back(draft_.is_move[old]);
    for (size_t i = first_ref_[old]; i < first_ref_[old + 1]; ++i) EmitRef(draft_.refs[i]);
    for (size_t i = first_ref_[old]; i < first_ref_[old + 1]; ++i) {
      const Ref& ref = draft_.refs[i];
      if (!ref.def || mask_of_[ref.vreg] == ~0u) continue;
      EmitCheck(old, copied_from != ~0u ? special_.copy_written : special_.mark_written, ref);
      if (copied_from != ~0u) EmitRef({0, Field::kSrc0, 0, mask_of_[copied_from], false});
    }
  }

  void EmitRef(Ref ref) {
    ref.op = static_cast<uint32_t>(checked_.code.size() - 1);
    checked_.refs.push_back(ref);
  }

  // A check, copy or mark of ref's register, for the lanes for which the op `old` runs.
  void EmitCheck(uint32_t old, Handler run, const Ref& ref) {
    Op op;
    op.run = run;
    op.statement = program_.code[old].statement;
    op.target = ref.vreg;
    op.issues = 0;
    op.tally = kOwnChecks;
    // The guard itself is read by all lanes.
    const bool guarded = ref.field != Field::kGuard;
    if (guarded) op.guard_xor = program_.code[old].guard_xor;
    checked_.code.push_back(op);
    checked_.origins.push_back(Origin::kCompute);
    checked_.is_move.push_back(false);
    for (size_t i = first_ref_[old]; guarded && i < first_ref_[old + 1]; ++i) {
      if (draft_.refs[i].field == Field::kGuard) EmitRef(draft_.refs[i]);
    }
    EmitRef({0, ref.def ? Field::kDst : Field::kSrc0, 0, mask_of_[ref.vreg], false});
  }

  // Which parameters a register's value may come from, whatever was done with it on the way.
  void FindOrigins() {
    std::vector<ParamSet> sets(draft_.vregs.size(), ParamSet{});
    for (size_t v = 0; v < draft_.vregs.size(); ++v) {
      if (draft_.vregs[v].is_special && draft_.vregs[v].special.special == Special::kSymbol)
        sets[v][1] |= kAnything;
    }
    for (bool changed = true; changed;) {
      changed = false;
      for (uint32_t i = 0; i < program_.code.size(); ++i) {
        ParamSet result{};
        for (size_t r = first_ref_[i]; r < first_ref_[i + 1]; ++r) {
          const Ref& ref = draft_.refs[r];
          if (!ref.def && draft_.origins[i] == Origin::kCompute) {
            result[0] |= sets[ref.vreg][0];
            result[1] |= sets[ref.vreg][1];
          }
        }
        const Op& op = program_.code[i];
        if (draft_.origins[i] == Origin::kParam) {
          const auto last = static_cast<uint64_t>(op.imm) + uint64_t{op.bytes} * op.count - 1;
          for (uint64_t k = static_cast<uint64_t>(op.imm) / 8; k <= last / 8; ++k) {
            if (k >= 127)
              result[1] |= kAnything;
            else
              result[k / 64] |= uint64_t{1} << (k % 64);
          }
        }
        for (size_t r = first_ref_[i]; r < first_ref_[i + 1]; ++r) {
          const Ref& ref = draft_.refs[r];
          if (!ref.def) continue;
          ParamSet mine = result;
          const bool wide = draft_.vregs[ref.vreg].bits == 64;
          if (draft_.origins[i] == Origin::kAnything ||
              draft_.origins[i] == Origin::kParamAnywhere ||
              (draft_.origins[i] == Origin::kMemory && wide)) {
            mine[1] |= kAnything;
          }
          ParamSet& set = sets[ref.vreg];
          if (((mine[0] & ~set[0]) | (mine[1] & ~set[1])) != 0) {
            set[0] |= mine[0];
            set[1] |= mine[1];
            changed = true;
          }
        }
      }
    }
    for (const Draft::GlobalStore& store : draft_.stores) {
      if (std::find(program_.store_bases.begin(), program_.store_bases.end(),
                    sets[store.address]) == program_.store_bases.end()) {
        program_.store_bases.push_back(sets[store.address]);
      }
    }
  }

  // The true predicate, constants and special registers.
  void PlaceFixed() {
    offsets_.assign(draft_.vregs.size(), 0);
    std::vector<uint8_t>& image = program_.image;
    image.assign(4, 0xff);
    for (const uint8_t bits : {1, 32, 64}) {
      const uint32_t bytes = bits == 1 ? 4 : bits * 4u;
      image.resize((image.size() + 63) / 64 * 64 - (bits == 1 ? 64 - 4 : 0));
      for (uint32_t v = 0; v < draft_.vregs.size(); ++v) {
        const Vreg& vreg = draft_.vregs[v];
        if (!vreg.fixed || (vreg.bits == 16 ? 32 : vreg.bits) != bits) continue;
        offsets_[v] = static_cast<uint32_t>(image.size());
        image.resize(image.size() + bytes);
        if (vreg.is_special) {
          SpecialSlot slot = vreg.special;
          slot.offset = offsets_[v];
          slot.bits = bits;
          program_.specials.push_back(slot);
          continue;
        }
        uint8_t* at = image.data() + offsets_[v];
        if (bits == 1) {
          const uint32_t word = vreg.value != 0 ? kAllLanes : 0;
          std::memcpy(at, &word, 4);
        }
        for (uint32_t i = 0; bits != 1 && i < 32; ++i)
          std::memcpy(at + i * (bits / 8u), &vreg.value, bits / 8u);
      }
    }
    image.resize((image.size() + 63) / 64 * 64);
  }

  void FindIntervals(std::vector<uint32_t>* start, std::vector<uint32_t>* end) {
    start->assign(draft_.vregs.size(), ~0u);
    end->assign(draft_.vregs.size(), 0);
    const auto extend = [&](uint32_t v, uint32_t at) {
      (*start)[v] = std::min((*start)[v], at);
      (*end)[v] = std::max((*end)[v], at);
    };
    for (const BasicBlock& b : blocks_) {
      for (uint32_t v = 0; v < draft_.vregs.size(); ++v) {
        if (Test(b.in, v)) extend(v, b.begin);
        if (Test(b.out, v)) extend(v, b.end);
      }
    }
    for (const Ref& ref : draft_.refs) {
      if (!draft_.vregs[ref.vreg].fixed) extend(ref.vreg, ref.op);
    }
  }

  // Linear scan: a place is free again after the op that last needs it.
  void PlaceRegisters() {
    std::vector<uint32_t> start, end, order;
    FindIntervals(&start, &end);
    for (uint32_t v = 0; v < draft_.vregs.size(); ++v) {
      if (start[v] != ~0u) order.push_back(v);
    }
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
      return std::pair(start[a], a) < std::pair(start[b], b);
    });
    const auto kind = [&](uint32_t v) {
      return draft_.vregs[v].bits == 1 ? 0 : draft_.vregs[v].bits == 64 ? 2 : 1;
    };
    std::vector<uint32_t> free[3], place(draft_.vregs.size(), 0);
    uint32_t used[3] = {};
    using Entry = std::pair<uint32_t, uint32_t>;  // end, vreg
    std::priority_queue<Entry, std::vector<Entry>, std::greater<>> running;
    uint32_t live = 0;
    for (uint32_t v : order) {
      while (!running.empty() && running.top().first < start[v]) {
        const uint32_t old = running.top().second;
        running.pop();
        free[kind(old)].push_back(place[old]);
        live -= static_cast<uint32_t>(kind(old));
      }
      const int k = kind(v);
      if (free[k].empty()) {
        place[v] = used[k]++;
      } else {
        place[v] = free[k].back();
        free[k].pop_back();
      }
      live += static_cast<uint32_t>(k);
      program_.live_registers = std::max(program_.live_registers, live);
      running.push({end[v], v});
    }
    const auto first = static_cast<uint32_t>(program_.image.size());
    const uint32_t base[3] = {first, (first + used[0] * 4 + 63) / 64 * 64,
                              (first + used[0] * 4 + 63) / 64 * 64 + used[1] * 128};
    const uint32_t bytes[3] = {4, 128, 256};
    for (uint32_t v : order) offsets_[v] = base[kind(v)] + place[v] * bytes[kind(v)];
    program_.file_bytes = base[2] + used[2] * 256;
  }

  Draft& draft_;
  Program& program_;
  const OpTable& table_;
  const SpecialHandlers& special_;
  std::vector<BasicBlock> blocks_;
  std::vector<uint32_t> mask_of_;  // of a suspect: the virtual register of its mask
  struct {
    std::vector<Op> code;
    std::vector<Ref> refs;
    std::vector<Origin> origins;
    std::vector<bool> is_move;
  } checked_;
  std::vector<size_t> first_ref_;
  std::vector<uint32_t> offsets_;
};

}  // namespace

void Allocate(Draft* draft, const OpTable& table) { Allocator(draft, table).Run(); }

}  // namespace lanyard::ptx
