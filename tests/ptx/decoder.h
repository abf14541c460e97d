// Turns the statements of one kernel into a Program. It is internal to decode.cc and
// decode_memory.cc.
#pragma once

#include <map>
#include <memory>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/ptx/draft.h"

namespace lanyard::ptx {

std::vector<std::string_view> SplitOpcode(std::string_view opcode);  // at '.'

class Decoder {
 public:
  Decoder(const ParsedModule& module, const Function& function, const OpTable& table)
      : module_(module), function_(function), table_(table) {}
  absl::StatusOr<std::unique_ptr<Program>> Run();

 private:
  struct Place {
    Space space = Space::kGlobal;
    uint64_t offset = 0;    // an address of its space
    uint32_t variable = 0;  // kGlobal, kConst: index into the module's variables
  };

  absl::Status Error(std::string_view what) const;    // the PTX is wrong
  absl::Status Unknown(std::string_view what) const;  // the machine does not know this PTX

  absl::Status LayOut();
  absl::Status CheckContraction();

  uint32_t Constant(uint8_t bits, uint64_t value);
  uint32_t SpecialRegister(SpecialSlot slot, uint8_t bits);
  uint32_t Scratch(uint8_t bits);
  absl::StatusOr<uint32_t> SymbolValue(const Operand& o, char kind);
  // The virtual register of a source; `kind` is as in OpSpec::signature.
  absl::StatusOr<uint32_t> Source(const Operand& o, char kind);
  absl::StatusOr<uint32_t> Label(std::string_view name) const;

  // Begins a new op with the statement's guard; the following Use and Define belong to it.
  uint32_t Begin(Handler run);
  void Use(Field field, uint32_t vreg, uint32_t aux = 0);
  void Define(Field field, uint32_t vreg, uint32_t aux = 0);
  absl::Status UseSource(Field field, const Operand& o, char kind);
  absl::Status DefineDest(Field field, const Operand& o, char kind);
  absl::Status DefinePredicates(const Operand& o);
  absl::Status WantOperands(size_t least, size_t most) const;
  // Decodes [base + offset] into Field::kSrcN of the op and its flags; the offset goes to op.imm.
  absl::Status UseAddress(Field field, const Operand& o);
  absl::Status NeedSm(int sm) const;
  // Writes the registers of a vector operand as aux entries, in order.
  absl::Status AuxVector(const Operand& o, size_t count, bool define);

  absl::Status DecodeStatement();
  absl::Status DecodeRow(const OpSpec& spec, uint8_t mode);
  absl::Status DecodeSetp();
  absl::Status DecodeConvert();
  absl::Status DecodeMove();
  absl::Status DecodeBranch();
  absl::Status DecodeIndexedBranch();
  // decode_memory.cc
  struct LoadStore {
    Space space = Space::kGeneric;
    uint8_t bytes = 0, count = 1;
    bool store = false, is_signed = false, synchronises = false;
  };
  absl::Status ParseLoadStore(LoadStore* shape) const;
  absl::Status UseValues(const LoadStore& shape, const Operand& value);
  absl::Status DecodeLoadStore();
  absl::Status DecodeParamLoad(const Operand& address, uint32_t index);
  absl::Status DecodeAddressConversion();
  absl::Status DecodeIsSpace();
  absl::Status DecodeAtomic();
  // decode_warp.cc
  absl::Status DecodeShuffle();
  absl::Status DecodeVote();
  absl::Status DecodeMatch();
  absl::Status DecodeReduce();
  absl::Status DecodeActiveMask();
  absl::Status DecodeBarrier();
  absl::Status DecodeMma();
  absl::Status DecodeLoadMatrix();
  absl::Status DecodeAsyncCopy();

  const ParsedModule& module_;
  const Function& function_;
  const OpTable& table_;
  Draft draft_;
  Program& program_ = *(draft_.program = std::make_unique<Program>());
  const Statement* now_ = nullptr;
  std::map<std::string_view, Place> places_;
  std::map<std::pair<uint8_t, uint64_t>, uint32_t> constants_;
  std::map<std::tuple<Special, uint32_t, int64_t, uint8_t>, uint32_t> specials_;
};

}  // namespace lanyard::ptx
