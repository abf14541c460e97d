// Statements -> ops. Simple instructions are rows of the table; those with their own shape are
// decoded by the functions below and in decode_memory.cc.
#include <algorithm>

#include "tests/ptx/convert.h"
#include "tests/ptx/decoder.h"

namespace lanyard::ptx {

std::vector<std::string_view> SplitOpcode(std::string_view opcode) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t dot = opcode.find('.');
    parts.push_back(opcode.substr(0, dot));
    if (dot == std::string_view::npos) return parts;
    opcode.remove_prefix(dot + 1);
  }
}

absl::Status Decoder::Error(std::string_view what) const {
  return InvalidArgument("kernel ", function_.name, ", PTX line ", now_->line, ": ", AbslView(what),
                         ": ", AbslView(now_->text));
}
absl::Status Decoder::Unknown(std::string_view what) const {
  return Unimplemented("kernel ", function_.name, ", PTX line ", now_->line, ": ", AbslView(what),
                       ": ", AbslView(now_->text));
}

absl::StatusOr<std::unique_ptr<Program>> Decoder::Run() {
  program_.function = function_;
  program_.module = &module_;
  for (const Register& r : function_.registers) {
    Vreg v;
    v.bits = r.bits;
    draft_.vregs.push_back(v);
  }
  RETURN_IF_ERROR(LayOut());
  RETURN_IF_ERROR(CheckContraction());
  std::vector<uint32_t> first_op;
  for (const Statement& s : function_.statements) {
    now_ = &s;
    first_op.push_back(static_cast<uint32_t>(program_.code.size()));
    RETURN_IF_ERROR(DecodeStatement());
  }
  first_op.push_back(static_cast<uint32_t>(program_.code.size()));
  Op end;
  end.run = table_.special.exit;
  end.statement =
      function_.statements.empty() ? 0 : static_cast<uint32_t>(function_.statements.size() - 1);
  if (function_.statements.empty())
    return InvalidArgument("kernel ", function_.name, " has no instructions");
  program_.code.push_back(end);
  draft_.origins.push_back(Origin::kCompute);
  draft_.is_move.push_back(false);
  for (Op& op : program_.code) {
    if (op.run == table_.special.branch) op.target = first_op[op.target];
    if (op.run == table_.special.branch_index) {
      for (int64_t k = 0; k < op.imm; ++k) {
        uint32_t& target = program_.aux[op.target + static_cast<size_t>(k)];
        target = first_op[target];
      }
    }
  }
  Allocate(&draft_, table_);
  return std::move(draft_.program);
}

// ptxas may fuse a multiplication and an addition that name no rounding: their bits would be the
// compiler's choice.
absl::Status Decoder::CheckContraction() {
  for (const char* type : {".f32", ".f64", ".f16", ".f16x2"}) {
    const Statement *multiplies = nullptr, *adds = nullptr;
    for (const Statement& s : function_.statements) {
      if (!s.opcode.ends_with(type)) continue;
      const std::string_view head =
          s.opcode.substr(0, s.opcode.size() - std::string_view(type).size());
      if (head == "mul") multiplies = &s;
      if (head == "add" || head == "sub") adds = &s;
    }
    if (multiplies == nullptr || adds == nullptr) continue;
    now_ = adds;
    return Error(absl::StrCat(
        "this and the mul of line ", multiplies->line,
        " name no rounding, so ptxas may fuse them; write .rn (compile without contraction)"));
  }
  return absl::OkStatus();
}

absl::Status Decoder::LayOut() {
  uint32_t at = 0;
  for (const Variable& v : function_.params) {
    at = (at + v.align_bytes - 1) / v.align_bytes * v.align_bytes;
    program_.params.push_back({at, static_cast<uint32_t>(v.bytes)});
    places_[v.name] = {Space::kParam, at, 0};
    at += static_cast<uint32_t>(v.bytes);
    if (at > 4096 + 28668)
      return InvalidArgument("kernel ", function_.name, ": ", at,
                             " bytes of parameters are too many");
  }
  program_.param_bytes = at;
  // Shared variables of the file count only where the kernel names them.
  std::vector<const Variable*> shared;
  uint64_t local = 0;
  for (const Variable& v : function_.variables) {
    if (v.space == Space::kShared) {
      shared.push_back(&v);
    } else {
      local = (local + v.align_bytes - 1) / v.align_bytes * v.align_bytes;
      places_[v.name] = {Space::kLocal, local, 0};
      local += v.bytes;
    }
  }
  program_.local_bytes = static_cast<uint32_t>((local + 15) / 16 * 16);
  if (local > 512 * 1024)
    return InvalidArgument("kernel ", function_.name, ": ", local,
                           " bytes of local memory; 512 KiB is the most");
  const auto names = [&](const std::string_view name) {
    for (const Statement& s : function_.statements) {
      if (s.text.find(name) != std::string_view::npos) return true;
    }
    return false;
  };
  for (size_t i = 0; i < module_.variables.size(); ++i) {
    const Variable& v = module_.variables[i];
    if (v.space != Space::kShared) {
      places_.insert({v.name, {v.space, 0, static_cast<uint32_t>(i)}});
    } else if (names(v.name)) {
      shared.push_back(&v);
    }
  }
  uint64_t bytes = 0;
  for (const bool dynamic : {false, true}) {
    for (const Variable* v : shared) {
      if (v->is_dynamic != dynamic) continue;
      if (!v->init.empty())
        return InvalidArgument("kernel ", function_.name, ": shared memory cannot be initialised");
      const uint32_t align = dynamic ? std::max<uint32_t>(v->align_bytes, 16) : v->align_bytes;
      // All dynamic arrays begin at one place.
      if (!dynamic || !program_.uses_dynamic_shared) bytes = (bytes + align - 1) / align * align;
      places_[v->name] = {Space::kShared, kSharedBase + bytes, 0};
      program_.uses_dynamic_shared |= dynamic;
      bytes += v->bytes;
    }
  }
  if (bytes > 1 << 20)
    return InvalidArgument("kernel ", function_.name, ": ", bytes, " bytes of shared memory");
  program_.static_shared_bytes = static_cast<uint32_t>(bytes);
  return absl::OkStatus();
}

uint32_t Decoder::Constant(uint8_t bits, uint64_t value) {
  if (bits == 32) value &= 0xffffffffu;
  const auto key = std::pair(bits, value);
  const auto found = constants_.find(key);
  if (found != constants_.end()) return found->second;
  Vreg v;
  v.bits = bits;
  v.fixed = true;
  v.value = value;
  draft_.vregs.push_back(v);
  return constants_[key] = static_cast<uint32_t>(draft_.vregs.size() - 1);
}

uint32_t Decoder::SpecialRegister(SpecialSlot slot, uint8_t bits) {
  const auto key = std::tuple(slot.special, slot.variable, slot.addend, bits);
  const auto found = specials_.find(key);
  if (found != specials_.end()) return found->second;
  Vreg v;
  v.bits = bits;
  v.fixed = true;
  v.is_special = true;
  v.special = slot;
  draft_.vregs.push_back(v);
  return specials_[key] = static_cast<uint32_t>(draft_.vregs.size() - 1);
}

uint32_t Decoder::Scratch(uint8_t bits) {
  Vreg v;
  v.bits = bits;
  draft_.vregs.push_back(v);
  return static_cast<uint32_t>(draft_.vregs.size() - 1);
}

absl::StatusOr<uint32_t> Decoder::SymbolValue(const Operand& o, char kind) {
  static const std::map<std::string_view, Special> kSpecials = {
      {"%tid.x", Special::kTidX},
      {"%tid.y", Special::kTidY},
      {"%tid.z", Special::kTidZ},
      {"%ntid.x", Special::kNtidX},
      {"%ntid.y", Special::kNtidY},
      {"%ntid.z", Special::kNtidZ},
      {"%ctaid.x", Special::kCtaidX},
      {"%ctaid.y", Special::kCtaidY},
      {"%ctaid.z", Special::kCtaidZ},
      {"%nctaid.x", Special::kNctaidX},
      {"%nctaid.y", Special::kNctaidY},
      {"%nctaid.z", Special::kNctaidZ},
      {"%laneid", Special::kLaneId},
      {"%warpid", Special::kWarpId},
      {"%nwarpid", Special::kNwarpId},
      {"%lanemask_eq", Special::kLaneMaskEq},
      {"%lanemask_le", Special::kLaneMaskLe},
      {"%lanemask_lt", Special::kLaneMaskLt},
      {"%lanemask_ge", Special::kLaneMaskGe},
      {"%lanemask_gt", Special::kLaneMaskGt},
      {"%dynamic_smem_size", Special::kDynamicShared},
      {"%total_smem_size", Special::kTotalShared},
      {"%smid", Special::kSmId},
      {"%nsmid", Special::kNsmId},
      {"%gridid", Special::kGridId}};
  const uint8_t bits = kind == 'l' ? 64 : 32;
  if (const auto found = kSpecials.find(o.name); found != kSpecials.end()) {
    return SpecialRegister({found->second, 0, bits, 0, 0}, bits);
  }
  if (o.name == "WARP_SZ") return Constant(bits, 32);
  const auto place = places_.find(o.name);
  if (place == places_.end()) {
    return Unknown(absl::StrCat(o.name.starts_with("%")
                                    ? "unknown special register or undeclared register "
                                    : "unknown name ",
                                AbslView(o.name)));
  }
  if (place->second.space == Space::kGlobal || place->second.space == Space::kConst) {
    if (bits != 64) return Error("a global variable's address has 64 bits");
    return SpecialRegister({Special::kSymbol, 0, bits, place->second.variable, o.offset}, bits);
  }
  return Constant(bits, place->second.offset + static_cast<uint64_t>(o.offset));
}

absl::StatusOr<uint32_t> Decoder::Source(const Operand& o, char kind) {
  switch (o.kind) {
    case OperandKind::kRegister: {
      const uint8_t bits = draft_.vregs[o.reg].bits;
      const bool fits = kind == 'p'   ? bits == 1
                        : kind == 'l' ? bits == 64
                                      : bits == 16 || bits == 32;
      if (!fits)
        return Error(absl::StrCat("register ", function_.registers[o.reg].name, " has ", bits,
                                  " bits, which does not fit"));
      if (o.negated && kind != 'p') return Error("'!' before a register that is no predicate");
      return o.reg;
    }
    case OperandKind::kInteger:
      if (kind == 'p') return Constant(1, o.bits != 0);
      if (kind == 'h') return Constant(32, o.bits & 0xffffu);
      return Constant(kind == 'l' ? 64 : 32, o.bits);
    case OperandKind::kFloat: {
      if (kind == 'p') return Error("a float where a predicate belongs");
      double d;
      std::memcpy(&d, &o.bits, 8);
      if (o.bits_are_f32 && kind != 'l') return Constant(32, o.bits);
      if (!o.bits_are_f32 && kind == 'l') return Constant(64, o.bits);
      if (o.bits_are_f32) {
        const auto small = static_cast<uint32_t>(o.bits);
        float f;
        std::memcpy(&f, &small, 4);
        d = f;
        uint64_t bits;
        std::memcpy(&bits, &d, 8);
        return Constant(64, bits);
      }
      const auto f = static_cast<float>(d);
      uint32_t bits;
      std::memcpy(&bits, &f, 4);
      return Constant(32, bits);
    }
    case OperandKind::kSymbol:
      return SymbolValue(o, kind);
    default:
      return Error("an operand of a kind that this instruction does not take");
  }
}

uint32_t Decoder::Begin(Handler run) {
  Op op;
  op.run = run;
  op.statement = static_cast<uint32_t>(now_ - function_.statements.data());
  program_.code.push_back(op);
  draft_.origins.push_back(Origin::kCompute);
  draft_.is_move.push_back(false);
  const auto index = static_cast<uint32_t>(program_.code.size() - 1);
  if (now_->guard >= 0) {
    Use(Field::kGuard, static_cast<uint32_t>(now_->guard));
    program_.code[index].guard_xor = now_->guard_negated ? kAllLanes : 0;
  }
  return index;
}

void Decoder::Use(Field field, uint32_t vreg, uint32_t aux) {
  draft_.refs.push_back({static_cast<uint32_t>(program_.code.size() - 1), field, aux, vreg, false});
}
void Decoder::Define(Field field, uint32_t vreg, uint32_t aux) {
  draft_.refs.push_back({static_cast<uint32_t>(program_.code.size() - 1), field, aux, vreg, true});
}

absl::Status Decoder::UseSource(Field field, const Operand& o, char kind) {
  ASSIGN_OR_RETURN(const uint32_t vreg, Source(o, kind));
  Use(field, vreg);
  if (kind == 'p' && o.negated) program_.code.back().flags |= kNegateSource;
  return absl::OkStatus();
}

absl::Status Decoder::DefineDest(Field field, const Operand& o, char kind) {
  if (o.kind != OperandKind::kRegister || o.negated)
    return Error("the destination must be a register");
  ASSIGN_OR_RETURN(const uint32_t vreg, Source(o, kind));
  Define(field, vreg);
  return absl::OkStatus();
}

absl::Status Decoder::WantOperands(size_t least, size_t most) const {
  const size_t n = now_->operands.size();
  if (n >= least && n <= most) return absl::OkStatus();
  return Error(absl::StrCat("has ", n, " operands, not ", least,
                            least == most ? "" : absl::StrCat(" to ", most)));
}

// Destination p or p|q of setp and the like; a _ is no destination.
absl::Status Decoder::DefinePredicates(const Operand& o) {
  const bool pair = o.kind == OperandKind::kPair;
  for (int i = 0; i < (pair ? 2 : 1); ++i) {
    const Operand& part = pair ? o.parts[static_cast<size_t>(i)] : o;
    if (part.kind == OperandKind::kSink) continue;
    RETURN_IF_ERROR(DefineDest(i == 0 ? Field::kDst : Field::kDst2, part, 'p'));
    program_.code.back().flags |= i == 0 ? kHasDst : kHasDst2;
  }
  return absl::OkStatus();
}

absl::Status Decoder::DecodeRow(const OpSpec& spec, uint8_t mode) {
  const std::string_view signature = spec.signature;
  const bool compares = signature[0] == 'p' && now_->opcode.starts_with("setp");
  const size_t sources = signature.size() - 1;
  RETURN_IF_ERROR(WantOperands(signature.size() + (mode != 0), signature.size() + (mode != 0)));
  if (spec.min_sm > module_.target) {
    return Error(
        absl::StrCat("needs sm_", spec.min_sm, ", the module's target is sm_", module_.target));
  }
  const uint32_t index = Begin(spec.run);
  program_.code[index].tally = spec.tally;
  program_.code[index].mode = compares ? mode : spec.mode;
  for (size_t i = 0; i < sources; ++i) {
    RETURN_IF_ERROR(UseSource(static_cast<Field>(static_cast<size_t>(Field::kSrc0) + i),
                              now_->operands[i + 1], signature[i + 1]));
  }
  if (mode != 0) RETURN_IF_ERROR(UseSource(Field::kSrc2, now_->operands[3], 'p'));
  if (compares) return DefinePredicates(now_->operands[0]);
  draft_.is_move[index] = now_->opcode.starts_with("mov.");
  return DefineDest(Field::kDst, now_->operands[0], signature[0]);
}

absl::Status Decoder::DecodeSetp() {
  std::string key(now_->opcode);
  uint8_t mode = 0;
  const char* const kCombinations[] = {".and.", ".or.", ".xor."};
  for (uint8_t i = 0; i < 3; ++i) {
    const size_t at = key.find(kCombinations[i]);
    if (at == std::string::npos) continue;
    key.erase(at, std::string_view(kCombinations[i]).size() - 1);
    mode = static_cast<uint8_t>(i + 1);
  }
  const auto row = table_.rows.find(key);
  if (row == table_.rows.end()) return Unknown("unknown comparison");
  return DecodeRow(row->second, mode);
}

absl::Status Decoder::DecodeConvert() {
  RETURN_IF_ERROR(WantOperands(2, 2));
  const Operand& dst = now_->operands[0];
  const bool narrow = dst.kind == OperandKind::kRegister && draft_.vregs[dst.reg].bits == 16;
  std::string key(now_->opcode);
  if (narrow && key.starts_with("cvt.s8.")) key.replace(0, 7, "cvt.s8/16.");
  if (const auto row = table_.rows.find(key); row != table_.rows.end())
    return DecodeRow(row->second, 0);
  Op shape;
  const absl::StatusOr<std::string_view> signature = DecodeConversion(now_->opcode, narrow, &shape);
  if (!signature.ok())
    return absl::IsUnimplemented(signature.status())
               ? Unknown(StdView(signature.status().message()))
               : Error(StdView(signature.status().message()));
  const uint32_t index = Begin(shape.run);
  program_.code[index].imm = shape.imm;
  program_.code[index].tally = shape.tally;
  RETURN_IF_ERROR(UseSource(Field::kSrc0, now_->operands[1], (*signature)[1]));
  return DefineDest(Field::kDst, dst, (*signature)[0]);
}

absl::Status Decoder::DecodeMove() {
  RETURN_IF_ERROR(WantOperands(2, 2));
  const Operand &dst = now_->operands[0], &src = now_->operands[1];
  const std::vector<std::string_view> parts = SplitOpcode(now_->opcode);
  const std::string_view type = parts.back();
  const bool wide = type == "b64" || type == "u64" || type == "s64" || type == "f64";
  if (src.kind == OperandKind::kSymbol &&
      (src.name == "%clock" || src.name == "%clock64" || src.name == "%clock_hi")) {
    const uint32_t index = Begin(table_.special.clock);
    program_.code[index].bytes = src.name == "%clock64" ? 8 : 4;
    return DefineDest(Field::kDst, dst, src.name == "%clock64" ? 'l' : 'w');
  }
  if (dst.kind == OperandKind::kVector || src.kind == OperandKind::kVector) {
    const bool packs = src.kind == OperandKind::kVector;
    const std::vector<Operand>& list = packs ? src.parts : dst.parts;
    const uint8_t bytes = wide ? static_cast<uint8_t>(8 / std::max<size_t>(list.size(), 1))
                               : static_cast<uint8_t>(4 / std::max<size_t>(list.size(), 1));
    if ((type != "b64" && type != "b32") || (list.size() != 2 && list.size() != 4) || bytes < 2)
      return Unknown("unknown vector move");
    const uint32_t index = Begin(packs ? table_.special.pack : table_.special.unpack);
    program_.code[index].bytes = bytes;
    program_.code[index].count = static_cast<uint8_t>(list.size());
    program_.code[index].target = static_cast<uint32_t>(program_.aux.size());
    if (packs && wide) draft_.origins[index] = Origin::kAnything;
    if (packs)
      RETURN_IF_ERROR(DefineDest(Field::kDst, dst, wide ? 'l' : 'w'));
    else
      RETURN_IF_ERROR(UseSource(Field::kSrc0, src, wide ? 'l' : 'w'));
    for (const Operand& part : list) {
      const auto aux = static_cast<uint32_t>(program_.aux.size());
      program_.aux.push_back(~0u);
      if (!packs && part.kind == OperandKind::kSink) continue;
      ASSIGN_OR_RETURN(const uint32_t vreg, Source(part, 'w'));
      if (!packs && part.kind != OperandKind::kRegister)
        return Error("the destination must be a register");
      packs ? Use(Field::kAux, vreg, aux) : Define(Field::kAux, vreg, aux);
    }
    return absl::OkStatus();
  }
  const auto row = table_.rows.find(now_->opcode);
  if (row == table_.rows.end()) return Unknown("unknown move");
  return DecodeRow(row->second, 0);
}

absl::Status Decoder::DecodeBranch() {
  RETURN_IF_ERROR(WantOperands(1, 1));
  if (now_->opcode != "bra" && now_->opcode != "bra.uni") return Unknown("unknown branch");
  const uint32_t index = Begin(table_.special.branch);
  program_.code[index].mode = now_->opcode == "bra.uni" ? 1 : 0;
  ASSIGN_OR_RETURN(program_.code[index].target, Label(now_->operands[0].name));
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> Decoder::Label(std::string_view name) const {
  const auto label = function_.labels.find(name);
  if (label == function_.labels.end())
    return Error(absl::StrCat("there is no label ", AbslView(name)));
  return label->second;
}

absl::Status Decoder::DecodeIndexedBranch() {
  RETURN_IF_ERROR(WantOperands(2, 2));
  if (!now_->opcode.starts_with("brx.idx")) return Unknown("unknown branch");
  const auto targets = function_.branch_targets.find(now_->operands[1].name);
  if (targets == function_.branch_targets.end()) return Error("there is no such .branchtargets");
  const uint32_t index = Begin(table_.special.branch_index);
  RETURN_IF_ERROR(UseSource(Field::kSrc0, now_->operands[0], 'w'));
  program_.code[index].imm = static_cast<int64_t>(targets->second.size());
  program_.code[index].target = static_cast<uint32_t>(program_.aux.size());
  for (std::string_view name : targets->second) {
    ASSIGN_OR_RETURN(const uint32_t at, Label(name));
    program_.aux.push_back(at);
  }
  return absl::OkStatus();
}

absl::Status Decoder::DecodeStatement() {
  const std::string_view opcode = now_->opcode;
  for (const char* refused : {".approx", ".full", ".ftz"}) {
    if (opcode.find(refused) != std::string_view::npos) {
      return Unknown(
          absl::StrCat(refused, " is refused: its bits are not those of IEEE arithmetic"));
    }
  }
  const std::string_view head = opcode.substr(0, opcode.find('.'));
  using Function = absl::Status (Decoder::*)();
  static const std::map<std::string_view, Function> kOwnShape = {
      {"mov", &Decoder::DecodeMove},
      {"setp", &Decoder::DecodeSetp},
      {"cvt", &Decoder::DecodeConvert},
      {"bra", &Decoder::DecodeBranch},
      {"brx", &Decoder::DecodeIndexedBranch},
      {"ld", &Decoder::DecodeLoadStore},
      {"ldu", &Decoder::DecodeLoadStore},
      {"st", &Decoder::DecodeLoadStore},
      {"cvta", &Decoder::DecodeAddressConversion},
      {"isspacep", &Decoder::DecodeIsSpace},
      {"atom", &Decoder::DecodeAtomic},
      {"red", &Decoder::DecodeAtomic},
      {"shfl", &Decoder::DecodeShuffle},
      {"vote", &Decoder::DecodeVote},
      {"match", &Decoder::DecodeMatch},
      {"redux", &Decoder::DecodeReduce},
      {"activemask", &Decoder::DecodeActiveMask},
      {"bar", &Decoder::DecodeBarrier},
      {"barrier", &Decoder::DecodeBarrier},
      {"mma", &Decoder::DecodeMma},
      {"ldmatrix", &Decoder::DecodeLoadMatrix},
      {"cp", &Decoder::DecodeAsyncCopy}};
  if (const auto own = kOwnShape.find(head); own != kOwnShape.end()) return (this->*own->second)();
  if (opcode == "ret" || opcode == "ret.uni" || opcode == "exit") {
    Begin(table_.special.exit);
    return absl::OkStatus();
  }
  if (opcode == "trap") {
    Begin(table_.special.trap);
    return absl::OkStatus();
  }
  // Order in memory is sequential here anyway; hints do nothing.
  for (const char* nothing : {"membar", "fence", "prefetch", "prefetchu", "nanosleep",
                              "griddepcontrol", "applypriority", "discard", "pmevent"}) {
    if (head != nothing) continue;
    if (opcode.starts_with("fence.proxy") || opcode.starts_with("fence.mbarrier"))
      return Unknown("unknown fence");
    Begin(table_.special.nothing);
    return absl::OkStatus();
  }
  const auto row = table_.rows.find(opcode);
  if (row == table_.rows.end()) return Unknown("unknown instruction");
  return DecodeRow(row->second, 0);
}

absl::StatusOr<std::unique_ptr<Program>> Decode(const ParsedModule& module,
                                                const Function& function) {
  return Decoder(module, function, BestTable()).Run();
}

}  // namespace lanyard::ptx
