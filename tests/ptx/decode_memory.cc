// Loads, stores, atomics, address conversions.
#include <algorithm>

#include "tests/ptx/atomic.h"
#include "tests/ptx/decoder.h"

namespace lanyard::ptx {

namespace {

struct MemoryType {
  uint8_t bytes = 0;
  bool is_signed = false, is_float = false;
};
bool ParseMemoryType(std::string_view t, MemoryType* type) {
  if (t.size() < 2 || std::string_view("busf").find(t[0]) == std::string_view::npos) return false;
  const std::string_view digits = t.substr(1);
  type->bytes = digits == "8"    ? 1
                : digits == "16" ? 2
                : digits == "32" ? 4
                : digits == "64" ? 8
                                 : 0;
  type->is_signed = t[0] == 's';
  type->is_float = t[0] == 'f';
  return type->bytes != 0;
}

bool ParseSpace(std::string_view part, Space* space) {
  static const std::map<std::string_view, Space> kSpaces = {
      {"global", Space::kGlobal}, {"shared", Space::kShared}, {"shared::cta", Space::kShared},
      {"local", Space::kLocal},   {"param", Space::kParam},   {"param::entry", Space::kParam},
      {"const", Space::kConst}};
  const auto found = kSpaces.find(part);
  if (found == kSpaces.end()) return false;
  *space = found->second;
  return true;
}

// Cache hints and scopes, which change nothing here.
bool IsHint(std::string_view part) {
  static const std::string_view kHints[] = {"ca", "cg",   "cs",  "lu",  "cv",  "wb", "wt",
                                            "nc", "weak", "cta", "gpu", "sys", "uni"};
  return std::find(std::begin(kHints), std::end(kHints), part) != std::end(kHints) ||
         part.starts_with("L1::") || part.starts_with("L2::");
}

}  // namespace

absl::Status Decoder::NeedSm(int sm) const {
  if (sm <= module_.target) return absl::OkStatus();
  return Error(absl::StrCat("needs sm_", sm, ", the module's target is sm_", module_.target));
}

absl::Status Decoder::UseAddress(Field field, const Operand& o) {
  if (o.kind != OperandKind::kAddress) return Error("an address in [] expected");
  const Operand& base = o.parts[0];
  Op& op = program_.code.back();
  const bool narrow = base.kind == OperandKind::kRegister && draft_.vregs[base.reg].bits == 32;
  ASSIGN_OR_RETURN(const uint32_t vreg, Source(base, narrow ? 'w' : 'l'));
  if (narrow) op.flags |= kAddress32;
  op.imm = o.offset;
  Use(field, vreg);
  return absl::OkStatus();
}

absl::Status Decoder::AuxVector(const Operand& o, size_t count, bool define) {
  const bool single = o.kind != OperandKind::kVector;
  const size_t n = single ? 1 : o.parts.size();
  if (n != count) return Error(absl::StrCat("a vector of ", count, " registers expected, not ", n));
  for (size_t i = 0; i < n; ++i) {
    const Operand& part = single ? o : o.parts[i];
    ASSIGN_OR_RETURN(const uint32_t vreg, Source(part, 'w'));
    if (define && part.kind != OperandKind::kRegister)
      return Error("the destination must be a register");
    const auto aux = static_cast<uint32_t>(program_.aux.size());
    program_.aux.push_back(0);
    define ? Define(Field::kAux, vreg, aux) : Use(Field::kAux, vreg, aux);
  }
  return absl::OkStatus();
}

absl::Status Decoder::DecodeParamLoad(const Operand& address, uint32_t index) {
  Op& op = program_.code[index];
  const Operand& base = address.parts[0];
  op.imm = address.offset;
  if (base.kind != OperandKind::kSymbol) {
    draft_.origins[index] = Origin::kParamAnywhere;
    return UseAddress(Field::kSrc0, address);
  }
  const auto place = places_.find(base.name);
  if (place == places_.end() || place->second.space != Space::kParam)
    return Error("there is no such parameter");
  op.imm += static_cast<int64_t>(place->second.offset);
  if (op.imm < 0 ||
      static_cast<uint64_t>(op.imm) + uint64_t{op.bytes} * op.count > program_.param_bytes) {
    return Error("reads beyond the parameters");
  }
  if (op.imm % (op.bytes * op.count) != 0)
    return Error("reads a parameter at an address that is not aligned");
  draft_.origins[index] = Origin::kParam;
  return absl::OkStatus();
}

absl::Status Decoder::ParseLoadStore(LoadStore* shape) const {
  const std::vector<std::string_view> parts = SplitOpcode(now_->opcode);
  MemoryType type;
  shape->store = parts[0] == "st";
  for (size_t i = 1; i < parts.size(); ++i) {
    const std::string_view p = parts[i];
    if (ParseSpace(p, &shape->space) || IsHint(p)) continue;
    if (p == "v2" || p == "v4") {
      shape->count = p == "v2" ? 2 : 4;
    } else if (p == "volatile" || p == "relaxed" || p == "acquire" || p == "release") {
      shape->synchronises = true;
    } else if (i + 1 != parts.size() || !ParseMemoryType(p, &type)) {
      return Unknown(absl::StrCat("unknown modifier .", AbslView(p)));
    }
  }
  shape->bytes = type.bytes;
  shape->is_signed = type.is_signed;
  if (type.bytes == 0) return Error("a load or store without a type");
  if (type.bytes * shape->count > 16)
    return Unknown("accesses of more than 16 bytes are not known");
  if (now_->operands.size() == 3) return Unknown("a cache policy operand is not known");
  if (shape->store && (shape->space == Space::kParam || shape->space == Space::kConst)) {
    return Unknown("stores to this space are not known");
  }
  return absl::OkStatus();
}

// The registers that are loaded or stored: op.dst or src[1], or aux entries of a vector.
absl::Status Decoder::UseValues(const LoadStore& shape, const Operand& value) {
  Op& op = program_.code.back();
  const bool vector = value.kind == OperandKind::kVector;
  if (vector != (shape.count > 1) || (vector && value.parts.size() != shape.count)) {
    return Error("the vector operand does not fit .v2 or .v4");
  }
  uint8_t register_bits = 0;
  for (size_t i = 0; i < shape.count; ++i) {
    const Operand& part = vector ? value.parts[i] : value;
    uint32_t vreg = 0;
    if (part.kind == OperandKind::kRegister) {
      vreg = part.reg;
    } else if (!shape.store && part.kind == OperandKind::kSink) {
      vreg = Scratch(shape.bytes == 8 ? 64 : 32);
    } else if (shape.store) {
      ASSIGN_OR_RETURN(vreg, Source(part, shape.bytes == 8 ? 'l' : 'w'));
    } else {
      return Error("the destination must be a register");
    }
    const uint8_t bits = draft_.vregs[vreg].bits;
    if (bits == 1 || bits < shape.bytes * 8) return Error("a register that is too small");
    const bool fits = register_bits == 0 || register_bits == bits ||
                      (register_bits < 64 && bits < 64 && shape.store);
    if (!fits) return Error("registers of different sizes in one vector");
    register_bits = bits;
    Field field = shape.store ? Field::kSrc1 : Field::kDst;
    uint32_t aux = 0;
    if (shape.count > 1) {
      field = Field::kAux;
      aux = static_cast<uint32_t>(program_.aux.size());
      program_.aux.push_back(0);
    }
    shape.store ? Use(field, vreg, aux) : Define(field, vreg, aux);
  }
  if (register_bits == 64) op.flags |= kWideDest;
  if (register_bits == 16) op.flags |= kDest16;
  return absl::OkStatus();
}

absl::Status Decoder::DecodeLoadStore() {
  RETURN_IF_ERROR(WantOperands(2, 3));
  LoadStore shape;
  RETURN_IF_ERROR(ParseLoadStore(&shape));
  const Operand &value = now_->operands[shape.store ? 1 : 0],
                &address = now_->operands[shape.store ? 0 : 1];
  if (address.kind != OperandKind::kAddress) return Error("an address in [] expected");
  const bool param = shape.space == Space::kParam;
  const uint32_t index = Begin(shape.store ? table_.special.store
                               : param     ? table_.special.load_param
                                           : table_.special.load);
  Op& op = program_.code[index];
  op.bytes = shape.bytes;
  op.count = shape.count;
  op.mode = static_cast<uint8_t>(shape.space);
  // Old code synchronises warps by volatile shared memory; since sm_70 that is a race.
  if (shape.synchronises && shape.space != Space::kShared) op.flags |= kAtomicAccess;
  if (shape.is_signed && !shape.store) op.flags |= kSignExtend;
  op.target = static_cast<uint32_t>(program_.aux.size());
  RETURN_IF_ERROR(UseValues(shape, value));
  if (param) return DecodeParamLoad(address, index);
  draft_.origins[index] = Origin::kMemory;
  RETURN_IF_ERROR(UseAddress(Field::kSrc0, address));
  if (shape.store && (shape.space == Space::kGlobal || shape.space == Space::kGeneric)) {
    draft_.stores.push_back({draft_.refs.back().vreg});
  }
  return absl::OkStatus();
}

// Global and constant addresses are generic ones; the other spaces lie in windows.
absl::Status Decoder::DecodeAddressConversion() {
  RETURN_IF_ERROR(WantOperands(2, 2));
  std::vector<std::string_view> parts = SplitOpcode(now_->opcode);
  if (parts.back() != "u64") return Unknown("only 64-bit addresses are known");
  const bool to = parts.size() > 1 && parts[1] == "to";
  Space space = Space::kGeneric;
  if (parts.size() != (to ? 4u : 3u) || !ParseSpace(parts[to ? 2 : 1], &space))
    return Unknown("unknown address conversion");
  const uint64_t window = space == Space::kShared  ? kSharedWindow
                          : space == Space::kLocal ? kLocalWindow
                          : space == Space::kParam ? kParamWindow
                                                   : 0;
  const char* row = window == 0 ? "mov.u64" : to ? "and.b64" : "or.b64";
  const uint32_t index = Begin(table_.rows.find(row)->second.run);
  draft_.is_move[index] = window == 0;
  RETURN_IF_ERROR(UseSource(Field::kSrc0, now_->operands[1], 'l'));
  if (window != 0) Use(Field::kSrc1, Constant(64, to ? ~kWindowMask : window));
  return DefineDest(Field::kDst, now_->operands[0], 'l');
}

absl::Status Decoder::DecodeIsSpace() {
  RETURN_IF_ERROR(WantOperands(2, 2));
  const std::vector<std::string_view> parts = SplitOpcode(now_->opcode);
  Space space = Space::kGeneric;
  if (parts.size() != 2 || !ParseSpace(parts[1], &space) || space == Space::kConst)
    return Unknown("unknown space");
  const uint32_t index = Begin(table_.special.is_space);
  program_.code[index].mode = static_cast<uint8_t>(space);
  RETURN_IF_ERROR(UseSource(Field::kSrc0, now_->operands[1], 'l'));
  return DefineDest(Field::kDst, now_->operands[0], 'p');
}

absl::Status Decoder::DecodeAtomic() {
  static const std::map<std::string_view, AtomicKind> kKinds = {
      {"add", AtomicKind::kAdd},       {"min", AtomicKind::kMin},
      {"max", AtomicKind::kMax},       {"and", AtomicKind::kAnd},
      {"or", AtomicKind::kOr},         {"xor", AtomicKind::kXor},
      {"exch", AtomicKind::kExchange}, {"cas", AtomicKind::kCompare},
      {"inc", AtomicKind::kIncrement}, {"dec", AtomicKind::kDecrement}};
  const std::vector<std::string_view> parts = SplitOpcode(now_->opcode);
  const bool reduces = parts[0] == "red";
  Space space = Space::kGeneric;
  MemoryType type;
  const AtomicKind* kind = nullptr;
  for (size_t i = 1; i < parts.size(); ++i) {
    const std::string_view p = parts[i];
    if (ParseSpace(p, &space) || IsHint(p) || p == "relaxed" || p == "acquire" || p == "release" ||
        p == "acq_rel")
      continue;
    if (const auto found = kKinds.find(p); found != kKinds.end())
      kind = &found->second;
    else if (i + 1 != parts.size() || !ParseMemoryType(p, &type))
      return Unknown(absl::StrCat("unknown modifier .", AbslView(p)));
  }
  if (kind == nullptr || type.bytes < 4) return Unknown("unknown atomic");
  if (type.is_float && *kind != AtomicKind::kAdd) return Unknown("unknown atomic of floats");
  if (space != Space::kGlobal && space != Space::kShared && space != Space::kGeneric)
    return Error("no atomics in this space");
  const bool compares = *kind == AtomicKind::kCompare;
  const size_t first = reduces ? 0 : 1;
  RETURN_IF_ERROR(WantOperands(first + 2 + compares, first + 2 + compares));
  const uint32_t index = Begin(table_.special.atomic);
  Op& op = program_.code[index];
  op.bytes = type.bytes;
  op.count = static_cast<uint8_t>(space);
  op.mode = static_cast<uint8_t>(type.is_float ? AtomicKind::kAddFloat : *kind);
  if (type.is_signed) op.flags |= kSignExtend;
  draft_.origins[index] = Origin::kMemory;
  const char wide = type.bytes == 8 ? 'l' : 'w';
  RETURN_IF_ERROR(UseAddress(Field::kSrc0, now_->operands[first]));
  if (space != Space::kShared) draft_.stores.push_back({draft_.refs.back().vreg});
  RETURN_IF_ERROR(UseSource(Field::kSrc1, now_->operands[first + 1], wide));
  if (compares) RETURN_IF_ERROR(UseSource(Field::kSrc2, now_->operands[first + 2], wide));
  if (reduces || now_->operands[0].kind == OperandKind::kSink) return absl::OkStatus();
  op.flags |= kHasDst;
  return DefineDest(Field::kDst, now_->operands[0], wide);
}

}  // namespace lanyard::ptx
