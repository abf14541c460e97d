// PTX text -> statements. The parser knows the grammar and the names (scopes of registers,
// symbols); what an instruction means is decoder.h's. Views point into ParsedModule::text.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace lanyard::ptx {

enum class Space : uint8_t { kGeneric, kGlobal, kShared, kLocal, kParam, kConst };
const char* SpaceName(Space space);

enum class OperandKind : uint8_t {
  kRegister,  // reg; negated for !%p
  kInteger,   // bits (two's complement)
  kFloat,     // bits of a double, or of a float if bits_are_f32
  kSymbol,    // name + offset: a variable, a label or a special register (name begins with %)
  kAddress,   // [parts[0] + offset]
  kVector,    // {parts...}
  kPair,      // parts[0] | parts[1]
  kSink,      // _
};

struct Operand {
  OperandKind kind = OperandKind::kSink;
  bool negated = false;
  bool bits_are_f32 = false;
  uint32_t reg = 0;  // index into Function::registers
  uint64_t bits = 0;
  int64_t offset = 0;
  std::string_view name;
  std::vector<Operand> parts;
};

struct Statement {
  int line = 0;
  int loc_file = 0, loc_line = 0;  // of the last .loc; 0 if there was none
  std::string_view text;           // as it stands in the file, with the guard's '@'
  std::string_view opcode;         // with its modifiers, "ld.global.nc.v4.u32"
  int guard = -1;                  // register, or -1
  bool guard_negated = false;
  std::vector<Operand> operands;
};

struct Register {
  std::string name;
  uint8_t bits = 32;  // 1 (.pred), 16, 32 or 64
};

struct Variable {
  std::string_view name;
  Space space = Space::kGlobal;
  uint32_t align_bytes = 1;
  uint64_t bytes = 0;
  bool is_dynamic = false;    // .extern .shared x[]
  std::vector<uint8_t> init;  // empty: none
  int line = 0;
};

struct Function {
  std::string name;
  bool is_entry = false;
  int line = 0;
  std::vector<Variable> params;
  std::vector<Variable> variables;  // .shared and .local of the body
  std::vector<Register> registers;
  std::vector<Statement> statements;
  std::map<std::string_view, uint32_t> labels;  // -> index of the statement that follows
  std::map<std::string_view, std::vector<std::string_view>>
      branch_targets;  // name: .branchtargets a, b;
  uint32_t max_threads = 0, required_threads = 0, min_blocks = 0;
};

class ParsedModule {
 public:
  std::string text;
  int version = 0;  // 75 for 7.5
  int target = 0;   // 80 for sm_80
  std::vector<Variable> variables;
  std::vector<Function> functions;
  std::map<int, std::string> files;  // .file
};

// Fills *module from module->text. Errors are kInvalidArgument or kUnimplemented and name line and
// text.
absl::Status ParseModule(ParsedModule* module);

}  // namespace lanyard::ptx
