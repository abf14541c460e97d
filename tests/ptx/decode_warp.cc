// What lanes do together: shuffles, votes, barriers, mma, ldmatrix, cp.async.
#include "tests/ptx/decoder.h"

namespace lanyard::ptx {

absl::Status Decoder::DecodeShuffle() {
  static const std::map<std::string_view, uint8_t> kModes = {{"shfl.sync.idx.b32", 0},
                                                             {"shfl.sync.up.b32", 1},
                                                             {"shfl.sync.down.b32", 2},
                                                             {"shfl.sync.bfly.b32", 3}};
  const auto mode = kModes.find(now_->opcode);
  if (mode == kModes.end())
    return Unknown("unknown shuffle (without .sync it is gone since sm_70)");
  RETURN_IF_ERROR(WantOperands(5, 5));
  const uint32_t index = Begin(table_.special.shuffle);
  program_.code[index].mode = mode->second;
  for (size_t i = 0; i < 4; ++i) {
    RETURN_IF_ERROR(UseSource(static_cast<Field>(static_cast<size_t>(Field::kSrc0) + i),
                              now_->operands[i + 1], 'w'));
  }
  const Operand& dst = now_->operands[0];
  if (dst.kind != OperandKind::kPair) return DefineDest(Field::kDst, dst, 'w');
  RETURN_IF_ERROR(DefineDest(Field::kDst, dst.parts[0], 'w'));
  if (dst.parts[1].kind == OperandKind::kSink) return absl::OkStatus();
  program_.code[index].flags |= kHasDst2;
  return DefineDest(Field::kDst2, dst.parts[1], 'p');
}

absl::Status Decoder::DecodeVote() {
  static const std::map<std::string_view, uint8_t> kModes = {{"vote.sync.all.pred", 0},
                                                             {"vote.sync.any.pred", 1},
                                                             {"vote.sync.uni.pred", 2},
                                                             {"vote.sync.ballot.b32", 3}};
  const auto mode = kModes.find(now_->opcode);
  if (mode == kModes.end()) return Unknown("unknown vote");
  RETURN_IF_ERROR(WantOperands(3, 3));
  const uint32_t index = Begin(table_.special.vote);
  program_.code[index].mode = mode->second;
  RETURN_IF_ERROR(UseSource(Field::kSrc0, now_->operands[1], 'p'));
  RETURN_IF_ERROR(UseSource(Field::kSrc3, now_->operands[2], 'w'));
  return DefineDest(Field::kDst, now_->operands[0], mode->second == 3 ? 'w' : 'p');
}

absl::Status Decoder::DecodeMatch() {
  const std::string_view o = now_->opcode;
  const bool all = o.starts_with("match.all.sync.");
  if ((!all && !o.starts_with("match.any.sync.")) || !(o.ends_with(".b32") || o.ends_with(".b64")))
    return Unknown("unknown match");
  RETURN_IF_ERROR(NeedSm(70));
  RETURN_IF_ERROR(WantOperands(3, 3));
  const bool wide = o.ends_with(".b64");
  const uint32_t index = Begin(table_.special.match);
  program_.code[index].mode = all ? 1 : 0;
  program_.code[index].bytes = wide ? 8 : 4;
  RETURN_IF_ERROR(UseSource(Field::kSrc0, now_->operands[1], wide ? 'l' : 'w'));
  RETURN_IF_ERROR(UseSource(Field::kSrc3, now_->operands[2], 'w'));
  const Operand& dst = now_->operands[0];
  if (dst.kind != OperandKind::kPair) return DefineDest(Field::kDst, dst, 'w');
  RETURN_IF_ERROR(DefineDest(Field::kDst, dst.parts[0], 'w'));
  program_.code[index].flags |= kHasDst2;
  return DefineDest(Field::kDst2, dst.parts[1], 'p');
}

absl::Status Decoder::DecodeReduce() {
  static const std::map<std::string_view, uint8_t> kModes = {{"add", 0}, {"min", 1}, {"max", 2},
                                                             {"and", 3}, {"or", 4},  {"xor", 5}};
  const std::vector<std::string_view> parts = SplitOpcode(now_->opcode);
  const auto mode = parts.size() == 4 ? kModes.find(parts[2]) : kModes.end();
  if (mode == kModes.end() || parts[1] != "sync" || parts[3].size() != 3 ||
      parts[3].substr(1) != "32")
    return Unknown("unknown redux");
  RETURN_IF_ERROR(NeedSm(80));
  RETURN_IF_ERROR(WantOperands(3, 3));
  const uint32_t index = Begin(table_.special.reduce);
  program_.code[index].mode = mode->second;
  if (parts[3] == "s32") program_.code[index].flags |= kSignExtend;
  RETURN_IF_ERROR(UseSource(Field::kSrc0, now_->operands[1], 'w'));
  RETURN_IF_ERROR(UseSource(Field::kSrc3, now_->operands[2], 'w'));
  return DefineDest(Field::kDst, now_->operands[0], 'w');
}

absl::Status Decoder::DecodeActiveMask() {
  if (now_->opcode != "activemask.b32") return Unknown("unknown instruction");
  RETURN_IF_ERROR(WantOperands(1, 1));
  Begin(table_.special.active_mask);
  return DefineDest(Field::kDst, now_->operands[0], 'w');
}

absl::Status Decoder::DecodeBarrier() {
  std::string_view o = now_->opcode;
  if (o == "bar.warp.sync") {
    RETURN_IF_ERROR(WantOperands(1, 1));
    Begin(table_.special.warp_barrier);
    return UseSource(Field::kSrc3, now_->operands[0], 'w');
  }
  std::string name(o);
  for (const char* part : {".cta", ".aligned"}) {
    if (const size_t at = name.find(part); at != std::string::npos)
      name.erase(at, std::string_view(part).size());
  }
  const bool sync = name == "bar.sync" || name == "barrier.sync",
             arrive = name == "bar.arrive" || name == "barrier.arrive";
  if (!sync && !arrive) return Unknown("unknown barrier");
  RETURN_IF_ERROR(WantOperands(arrive ? 2 : 1, 2));
  const uint32_t index = Begin(table_.special.barrier);
  program_.code[index].mode = arrive ? 1 : 0;
  RETURN_IF_ERROR(UseSource(Field::kSrc0, now_->operands[0], 'w'));
  return now_->operands.size() == 2 ? UseSource(Field::kSrc1, now_->operands[1], 'w')
                                    : absl::OkStatus();
}

absl::Status Decoder::DecodeMma() {
  const std::vector<std::string_view> p = SplitOpcode(now_->opcode);
  if (p.size() != 10 || p[1] != "sync" || p[2] != "aligned" || p[4] != "row" || p[5] != "col")
    return Unknown("unknown mma");
  const std::string_view shape = p[3], d = p[6], a = p[7], b = p[8], c = p[9];
  const auto byte = [](std::string_view t) { return t == "s8" || t == "u8"; };
  size_t count[4] = {4, 0, 0, 4};  // registers of d, a, b, c
  Handler run = nullptr;
  int sm = 80;
  if (byte(a) && byte(b) && d == "s32" && c == "s32") {
    if (shape == "m8n8k16") {
      run = table_.special.mma_s8_8x16;
      count[0] = count[3] = 2;
      count[1] = count[2] = 1;
      sm = 75;
    } else if (shape == "m16n8k16") {
      run = table_.special.mma_s8_16x16;
      count[1] = 2;
      count[2] = 1;
    } else if (shape == "m16n8k32") {
      run = table_.special.mma_s8_16x32;
      count[1] = 4;
      count[2] = 2;
    }
  } else if (a == "f16" && b == "f16" && d == "f32" && c == "f32") {
    if (shape == "m16n8k16") {
      run = table_.special.mma_f16_16;
      count[1] = 4;
      count[2] = 2;
    } else if (shape == "m16n8k8") {
      run = table_.special.mma_f16_8;
      count[1] = 2;
      count[2] = 1;
      sm = 75;
    }
  }
  if (run == nullptr) return Unknown("unknown mma");
  RETURN_IF_ERROR(NeedSm(sm));
  RETURN_IF_ERROR(WantOperands(4, 4));
  const uint32_t index = Begin(run);
  program_.code[index].mode = static_cast<uint8_t>((a == "s8" ? 1 : 0) | (b == "s8" ? 2 : 0));
  program_.code[index].target = static_cast<uint32_t>(program_.aux.size());
  for (size_t i = 0; i < 4; ++i) RETURN_IF_ERROR(AuxVector(now_->operands[i], count[i], i == 0));
  return absl::OkStatus();
}

absl::Status Decoder::DecodeLoadMatrix() {
  const std::vector<std::string_view> p = SplitOpcode(now_->opcode);
  size_t at = 4;
  if (p.size() < 7 || p[1] != "sync" || p[2] != "aligned" || p[3] != "m8n8")
    return Unknown("unknown ldmatrix");
  const size_t count = p[at] == "x1" ? 1 : p[at] == "x2" ? 2 : p[at] == "x4" ? 4 : 0;
  const bool transposed = p[++at] == "trans";
  at += transposed;
  if (count == 0 || p.size() > at + 2 || p.back() != "b16") return Unknown("unknown ldmatrix");
  const bool shared = p.size() == at + 2;
  if (shared && p[at] != "shared" && p[at] != "shared::cta") return Unknown("unknown ldmatrix");
  RETURN_IF_ERROR(NeedSm(75));
  RETURN_IF_ERROR(WantOperands(2, 2));
  const uint32_t index = Begin(table_.special.ldmatrix);
  Op& op = program_.code[index];
  op.mode = transposed ? 1 : 0;
  op.count = static_cast<uint8_t>(count);
  op.bytes = static_cast<uint8_t>(shared ? Space::kShared : Space::kGeneric);
  op.target = static_cast<uint32_t>(program_.aux.size());
  RETURN_IF_ERROR(UseAddress(Field::kSrc0, now_->operands[1]));
  return AuxVector(now_->operands[0], count, true);
}

absl::Status Decoder::DecodeAsyncCopy() {
  const std::string_view o = now_->opcode;
  RETURN_IF_ERROR(NeedSm(80));
  if (o == "cp.async.commit_group") {
    Begin(table_.special.async_commit);
    return WantOperands(0, 0);
  }
  if (o == "cp.async.wait_all" || o == "cp.async.wait_group") {
    const bool all = o == "cp.async.wait_all";
    RETURN_IF_ERROR(WantOperands(all ? 0 : 1, all ? 0 : 1));
    const uint32_t index = Begin(table_.special.async_wait);
    program_.code[index].mode = all ? 1 : 0;
    if (all) return absl::OkStatus();
    if (now_->operands[0].kind != OperandKind::kInteger) return Error("wait_group wants a number");
    program_.code[index].imm = static_cast<int64_t>(now_->operands[0].bits);
    return absl::OkStatus();
  }
  const bool ca = o.starts_with("cp.async.ca.shared"), cg = o.starts_with("cp.async.cg.shared");
  if (!ca && !cg) return Unknown("unknown cp");
  std::vector<std::string_view> parts = SplitOpcode(o);
  for (size_t i = 3; i < parts.size(); ++i) {
    if (parts[i] != "shared" && parts[i] != "shared::cta" && parts[i] != "global" &&
        !parts[i].starts_with("L2::")) {
      return Unknown(absl::StrCat("unknown modifier .", AbslView(parts[i])));
    }
  }
  RETURN_IF_ERROR(WantOperands(3, 4));
  const Operand& size = now_->operands[2];
  if (size.kind != OperandKind::kInteger ||
      (size.bits != 16 && (cg || (size.bits != 4 && size.bits != 8)))) {
    return Error("cp.async copies 4, 8 or 16 bytes, .cg 16");
  }
  const uint32_t index = Begin(table_.special.async_copy);
  program_.code[index].bytes = static_cast<uint8_t>(size.bits);
  program_.code[index].target = static_cast<uint32_t>(program_.aux.size());
  const auto from_offset = static_cast<uint64_t>(now_->operands[1].offset);
  program_.aux.push_back(static_cast<uint32_t>(from_offset));
  program_.aux.push_back(static_cast<uint32_t>(from_offset >> 32));
  if (now_->operands[1].kind != OperandKind::kAddress) return Error("an address in [] expected");
  RETURN_IF_ERROR(UseSource(Field::kSrc1, now_->operands[1].parts[0], 'l'));
  if (now_->operands.size() == 4) RETURN_IF_ERROR(UseSource(Field::kSrc2, now_->operands[3], 'w'));
  return UseAddress(Field::kSrc0, now_->operands[0]);
}

}  // namespace lanyard::ptx
