#include "tests/ptx/parse.h"

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "tests/ptx/lexer.h"

namespace lanyard::ptx {

const char* SpaceName(Space space) {
  switch (space) {
    case Space::kGeneric:
      return "generic";
    case Space::kGlobal:
      return "global";
    case Space::kShared:
      return "shared";
    case Space::kLocal:
      return "local";
    case Space::kParam:
      return "param";
    case Space::kConst:
      return "const";
  }
  return "?";
}

namespace {

// Bytes of ".u32" and the like, 0 if it is no type; .pred is 1 with *bits = 1.
uint32_t TypeBits(std::string_view type) {
  if (type == ".pred") return 1;
  if (type == ".f16x2" || type == ".bf16x2") return 32;
  if (type == ".bf16") return 16;
  if (type.size() < 3 || type[0] != '.' ||
      std::string_view("bsuf").find(type[1]) == std::string_view::npos)
    return 0;
  const std::string_view digits = type.substr(2);
  if (digits == "8") return 8;
  if (digits == "16") return 16;
  if (digits == "32") return 32;
  if (digits == "64") return 64;
  return 0;
}

std::optional<uint64_t> Integer(std::string_view text) {
  int base = 10;
  if (!text.empty() && (text.back() == 'U' || text.back() == 'u')) text.remove_suffix(1);
  if (text.size() > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
    base = 16;
    text.remove_prefix(2);
  } else if (text.size() > 2 && text[0] == '0' && (text[1] == 'b' || text[1] == 'B')) {
    base = 2;
    text.remove_prefix(2);
  } else if (text.size() > 1 && text[0] == '0') {
    base = 8;
  }
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

class Parser {
 public:
  explicit Parser(ParsedModule* module) : module_(*module) {}

  absl::Status Run() {
    ASSIGN_OR_RETURN(tokens_, Lex(module_.text));
    while (!AtEnd()) RETURN_IF_ERROR(TopLevel());
    if (module_.target == 0) return InvalidArgument("PTX has no .target");
    return absl::OkStatus();
  }

 private:
  const Token& Peek(size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  const Token& Next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool AtEnd() const { return at_ + 1 >= tokens_.size(); }
  bool Accept(std::string_view text) {
    if (Peek().text != text || AtEnd()) return false;
    ++at_;
    return true;
  }

  std::string LineText(int line) const {
    std::string_view rest = module_.text;
    for (int i = 1; i < line && !rest.empty(); ++i) {
      const size_t newline = rest.find('\n');
      if (newline == std::string_view::npos) break;
      rest.remove_prefix(newline + 1);
    }
    rest = rest.substr(0, std::min<size_t>(rest.find('\n'), 160));
    const size_t first = rest.find_first_not_of(" \t");
    return std::string(first == std::string_view::npos ? rest : rest.substr(first));
  }
  absl::Status Error(const Token& token, std::string_view what) const {
    return InvalidArgument("PTX line ", token.line, ": ", AbslView(what), ": ",
                           LineText(token.line));
  }
  absl::Status Unknown(const Token& token, std::string_view what) const {
    return Unimplemented("PTX line ", token.line, ": ", AbslView(what), ": ", LineText(token.line));
  }
  absl::Status Expect(std::string_view text) {
    if (Accept(text)) return absl::OkStatus();
    return Error(Peek(), absl::StrCat("'", AbslView(text), "' expected, found '",
                                      AbslView(Peek().text), "'"));
  }
  void SkipLine() {
    for (const int line = Peek().line; !AtEnd() && Peek().line == line;) ++at_;
  }
  absl::Status SkipBraces() {
    RETURN_IF_ERROR(Expect("{"));
    for (int depth = 1; depth > 0;) {
      if (AtEnd()) return Error(Peek(), "a '{' without an end");
      const std::string_view t = Next().text;
      depth += t == "{" ? 1 : t == "}" ? -1 : 0;
    }
    return absl::OkStatus();
  }

  absl::Status TopLevel() {
    const Token& token = Peek();
    const std::string_view t = token.text;
    if (t == ".version") return ParseVersion();
    if (t == ".target") return ParseTarget();
    if (t == ".address_size") {
      Next();
      if (Next().text != "64") return Unknown(token, "only 64-bit addresses are known");
      return absl::OkStatus();
    }
    if (t == ".file") return ParseFile();
    if (t == ".section") {
      Next();
      Next();
      return SkipBraces();
    }
    if (t == ".pragma") {
      while (!AtEnd() && !Accept(";")) Next();
      return absl::OkStatus();
    }
    if (t == ";") {
      Next();
      return absl::OkStatus();
    }
    if (t == ".visible" || t == ".weak" || t == ".common" || t == ".extern") {
      is_extern_ = t == ".extern";
      Next();
      const bool function = Peek().text == ".func" || Peek().text == ".entry";
      absl::Status status = function ? ParseFunction(is_extern_) : TopLevel();
      is_extern_ = false;
      return status;
    }
    if (t == ".entry" || t == ".func") return ParseFunction(false);
    if (t == ".global" || t == ".const" || t == ".shared") return ParseVariable(&module_.variables);
    return Unknown(token, absl::StrCat("'", AbslView(t), "' is not known at this place"));
  }

  absl::Status ParseVersion() {
    Next();
    const std::string_view t = Peek().text;
    const size_t dot = t.find('.');
    const auto major = Integer(t.substr(0, dot));
    const auto minor = dot == std::string_view::npos ? std::nullopt : Integer(t.substr(dot + 1));
    if (!major || !minor) return Error(Peek(), ".version is not major.minor");
    module_.version = static_cast<int>(*major * 10 + *minor);
    if (module_.version < 60 || module_.version > 99)
      return Unknown(Peek(), "PTX versions 6.0 to 9.x are known");
    Next();
    return absl::OkStatus();
  }

  absl::Status ParseTarget() {
    Next();
    const int line = Peek().line;
    const Token& token = Next();
    if (!token.text.starts_with("sm_")) return Error(token, ".target sm_NN expected");
    std::string_view digits = token.text.substr(3);
    if (!digits.empty() && (digits.back() == 'a' || digits.back() == 'f')) digits.remove_suffix(1);
    const auto number = Integer(digits);
    if (!number || *number < 50) return Error(token, ".target sm_NN expected");
    module_.target = static_cast<int>(*number);
    while (!AtEnd() && Peek().line == line) {
      if (Accept(",")) continue;
      if (Peek().text != "debug" && Peek().text != "texmode_independent")
        return Unknown(Peek(), "unknown .target option");
      Next();
    }
    return absl::OkStatus();
  }

  absl::Status ParseFile() {
    Next();
    const auto number = Integer(Peek().text);
    if (!number) return Error(Peek(), ".file wants a number");
    Next();
    std::string_view name = Peek().text;
    if (name.size() >= 2 && name[0] == '"')
      module_.files[static_cast<int>(*number)] = std::string(name.substr(1, name.size() - 2));
    for (const int line = Peek().line; !AtEnd() && Peek().line == line;) ++at_;
    return absl::OkStatus();
  }

  absl::Status ParseVariable(std::vector<Variable>* into) {
    const Token& first = Next();
    Variable v;
    v.line = first.line;
    v.space = first.text == ".global"   ? Space::kGlobal
              : first.text == ".const"  ? Space::kConst
              : first.text == ".shared" ? Space::kShared
              : first.text == ".local"  ? Space::kLocal
                                        : Space::kParam;
    uint32_t element_bits = 0;
    bool align_given = false;
    while (Peek().text.starts_with(".")) {
      const Token& t = Next();
      if (t.text == ".align") {
        const auto n = Integer(Next().text);
        if (!n || *n == 0 || *n > 65536 || (*n & (*n - 1)) != 0)
          return Error(t, ".align wants a power of two");
        v.align_bytes = static_cast<uint32_t>(*n);
        align_given = true;
      } else if (t.text == ".ptr" || t.text == ".global" || t.text == ".shared" ||
                 t.text == ".const" || t.text == ".local") {
        if (v.space != Space::kParam) return Unknown(t, "unknown attribute of a variable");
        if (Accept(".align")) Next();  // what a .ptr points to, not the parameter
      } else if (TypeBits(t.text) >= 8) {
        element_bits = TypeBits(t.text);
      } else {
        return Unknown(t, absl::StrCat("unknown type or attribute '", AbslView(t.text), "'"));
      }
      if (t.text == ".ptr") {
        while (Peek().text.starts_with(".")) {
          if (Next().text == ".align") Next();
        }
      }
    }
    if (element_bits == 0) return Error(first, "a variable without a type");
    if (!align_given) v.align_bytes = element_bits / 8;
    const Token& name = Next();
    if (!name.IsWord()) return Error(name, "a variable's name expected");
    v.name = name.text;
    uint64_t count = 1;
    while (Accept("[")) {
      if (Accept("]")) {
        v.is_dynamic = true;
        count = 0;
        continue;
      }
      const auto n = Integer(Next().text);
      if (!n || *n > (uint64_t{1} << 32)) return Error(name, "an array's size is not a number");
      count *= *n;
      RETURN_IF_ERROR(Expect("]"));
    }
    v.bytes = count * (element_bits / 8);
    if (v.is_dynamic && !(is_extern_ && v.space == Space::kShared))
      return Error(name, "only .extern .shared may leave out its size");
    if (is_extern_ && !v.is_dynamic)
      return Unknown(name, "external variables are not known: one module is all there is");
    if (Accept("=")) RETURN_IF_ERROR(ParseInitialiser(element_bits / 8, &v));
    if (v.space != Space::kParam) RETURN_IF_ERROR(Expect(";"));
    into->push_back(std::move(v));
    return absl::OkStatus();
  }

  absl::Status ParseInitialiser(uint32_t element_bytes, Variable* v) {
    const bool list = Accept("{");
    size_t at = 0;
    v->init.assign(v->bytes, 0);
    do {
      if (list && Peek().text == "}") break;
      if (Peek().text == "{") return Unknown(Peek(), "nested initialisers are not known");
      Operand value;
      const Token& token = Peek();
      RETURN_IF_ERROR(ParseOperand(&value));
      uint64_t bits = value.bits;
      if (value.kind == OperandKind::kFloat && element_bytes == 4 && !value.bits_are_f32) {
        double d;
        std::memcpy(&d, &bits, 8);
        const float f = static_cast<float>(d);
        uint32_t small;
        std::memcpy(&small, &f, 4);
        bits = small;
      } else if (value.kind != OperandKind::kInteger && value.kind != OperandKind::kFloat) {
        return Unknown(token, "only numbers are known in an initialiser");
      }
      if (at + element_bytes > v->bytes)
        return Error(token, "more initial values than the variable holds");
      std::memcpy(v->init.data() + at, &bits, element_bytes);
      at += element_bytes;
    } while (list && Accept(","));
    return list ? Expect("}") : absl::OkStatus();
  }

  absl::Status ParseFunction(bool is_extern) {
    Function f;
    f.is_entry = Next().text == ".entry";
    if (Accept("(")) {  // a .func's results
      while (!AtEnd() && !Accept(")")) Next();
    }
    f.line = Peek().line;
    f.name = std::string(Next().text);
    if (Accept("(")) {
      while (!Accept(")")) {
        if (AtEnd()) return Error(Peek(), "a parameter list without an end");
        if (Accept(",")) continue;
        if (!f.is_entry) {
          Next();
          continue;
        }
        if (Peek().text != ".param") return Error(Peek(), ".param expected");
        RETURN_IF_ERROR(ParseVariable(&f.params));
      }
    }
    while (Peek().text != "{" && !(Peek().text == ";")) {
      if (AtEnd()) return Error(Peek(), "a function without a body");
      RETURN_IF_ERROR(ParsePerformance(&f));
    }
    if (Accept(";")) {
      if (f.is_entry && !is_extern) return Unknown(Peek(), "an .entry without a body");
      return absl::OkStatus();
    }
    if (!f.is_entry) return SkipBraces();  // a call of it is refused
    function_ = &f;
    scopes_.clear();
    loc_file_ = loc_line_ = 0;
    RETURN_IF_ERROR(ParseBody());
    function_ = nullptr;
    for (const Function& other : module_.functions) {
      if (other.name == f.name)
        return InvalidArgument("PTX line ", f.line, ": kernel ", f.name, " is there twice");
    }
    module_.functions.push_back(std::move(f));
    return absl::OkStatus();
  }

  absl::Status ParsePerformance(Function* f) {
    const Token& t = Next();
    if (t.text == ".noreturn") return absl::OkStatus();
    if (t.text == ".pragma") {
      Next();
      Accept(";");
      return absl::OkStatus();
    }
    uint64_t product = 1;
    do {
      const auto n = Integer(Peek().text);
      if (!n) return Unknown(t, absl::StrCat("unknown directive '", AbslView(t.text), "'"));
      product *= *n;
      Next();
    } while (Accept(","));
    if (t.text == ".maxntid") {
      f->max_threads = static_cast<uint32_t>(product);
    } else if (t.text == ".reqntid") {
      f->max_threads = f->required_threads = static_cast<uint32_t>(product);
    } else if (t.text == ".minnctapersm") {
      f->min_blocks = static_cast<uint32_t>(product);
    } else if (t.text != ".maxnreg") {
      return Unknown(t, absl::StrCat("unknown directive '", AbslView(t.text), "'"));
    }
    return absl::OkStatus();
  }

  absl::Status ParseBody() {
    RETURN_IF_ERROR(Expect("{"));
    scopes_.emplace_back();
    while (!scopes_.empty()) {
      if (AtEnd()) return Error(Peek(), "a function's body without an end");
      const Token& token = Peek();
      if (Accept("{")) {
        scopes_.emplace_back();
      } else if (Accept("}")) {
        scopes_.pop_back();
      } else if (Accept(";")) {
        continue;
      } else if (token.text.starts_with(".")) {
        RETURN_IF_ERROR(ParseBodyDirective());
      } else if (Peek(1).text == ":" && token.IsWord()) {
        Next();
        Next();
        if (Peek().text == ".branchtargets") {
          RETURN_IF_ERROR(ParseBranchTargets(token.text));
          continue;
        }
        if (!function_->labels.emplace(token.text, function_->statements.size()).second) {
          return Error(token, "the label is there twice");
        }
      } else {
        RETURN_IF_ERROR(ParseStatement());
      }
    }
    return absl::OkStatus();
  }

  absl::Status ParseBranchTargets(std::string_view name) {
    Next();
    auto& targets = function_->branch_targets[name];
    do {
      targets.push_back(Next().text);
    } while (Accept(","));
    return Expect(";");
  }

  absl::Status ParseBodyDirective() {
    const Token& token = Peek();
    if (token.text == ".reg") return ParseRegisters();
    if (token.text == ".shared" || token.text == ".local")
      return ParseVariable(&function_->variables);
    if (token.text == ".loc") {
      Next();
      const auto file = Integer(Peek().text), line = Integer(Peek(1).text);
      if (!file || !line) return Error(token, ".loc wants file and line");
      loc_file_ = static_cast<int>(*file);
      loc_line_ = static_cast<int>(*line);
      SkipLine();
      return absl::OkStatus();
    }
    if (token.text == ".pragma") {
      while (!AtEnd() && !Accept(";")) Next();
      return absl::OkStatus();
    }
    return Unknown(token, absl::StrCat("unknown directive '", AbslView(token.text), "'"));
  }

  absl::Status ParseRegisters() {
    Next();
    const Token& type = Next();
    const uint32_t bits = TypeBits(type.text);
    if (bits == 0) return Unknown(type, "unknown register type");
    do {
      const Token& name = Next();
      if (!name.IsWord()) return Error(name, "a register's name expected");
      if (!Accept("<")) {
        Declare(name.text, bits);
        continue;
      }
      const auto count = Integer(Next().text);
      if (!count || *count > 1'000'000) return Error(name, "a register count is not a number");
      RETURN_IF_ERROR(Expect(">"));
      for (uint64_t i = 0; i < *count; ++i) {
        Declare(absl::StrCat(AbslView(name.text), i), bits);
      }
    } while (Accept(","));
    return Expect(";");
  }
  void Declare(std::string_view name, uint32_t bits) {
    scopes_.back()[std::string(name)] = static_cast<uint32_t>(function_->registers.size());
    function_->registers.push_back(
        {std::string(name), static_cast<uint8_t>(bits == 8 ? 16 : bits)});
  }
  std::optional<uint32_t> FindRegister(std::string_view name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      const auto found = scope->find(std::string(name));
      if (found != scope->end()) return found->second;
    }
    return std::nullopt;
  }

  absl::Status ParseStatement() {
    Statement s;
    const Token& first = Peek();
    s.line = first.line;
    s.loc_file = loc_file_;
    s.loc_line = loc_line_;
    if (Accept("@")) {
      s.guard_negated = Accept("!");
      const auto reg = FindRegister(Peek().text);
      if (!reg || function_->registers[*reg].bits != 1)
        return Error(Peek(), "a guard must be a predicate register");
      s.guard = static_cast<int>(*reg);
      Next();
    }
    const Token& opcode = Next();
    if (!opcode.IsWord()) return Error(opcode, "an instruction expected");
    s.opcode = opcode.text;
    if (Peek().text == "(" || opcode.text == "call" || opcode.text.starts_with("call.")) {
      return Unknown(opcode, "calls of functions are not known; inline the function");
    }
    while (Peek().text != ";") {
      if (AtEnd()) return Error(opcode, "an instruction without ';'");
      Operand operand;
      RETURN_IF_ERROR(ParseOperand(&operand));
      s.operands.push_back(std::move(operand));
      if (Peek().text != ";") RETURN_IF_ERROR(Expect(","));
    }
    const Token& end = Next();
    s.text = std::string_view(first.text.data(), end.text.data() + 1 - first.text.data());
    function_->statements.push_back(std::move(s));
    return absl::OkStatus();
  }

  absl::Status ParseOperand(Operand* operand) {
    if (Accept("{")) {
      operand->kind = OperandKind::kVector;
      while (!Accept("}")) {
        if (AtEnd()) return Error(Peek(), "a '{' without an end");
        Operand part;
        RETURN_IF_ERROR(ParseOperand(&part));
        operand->parts.push_back(std::move(part));
        Accept(",");
      }
      return absl::OkStatus();
    }
    if (Accept("[")) {
      operand->kind = OperandKind::kAddress;
      Operand base;
      RETURN_IF_ERROR(ParseOperand(&base));
      operand->offset = base.offset;
      base.offset = 0;
      operand->parts.push_back(std::move(base));
      return Expect("]");
    }
    RETURN_IF_ERROR(ParseScalar(operand));
    if (Accept("|")) {
      Operand second;
      RETURN_IF_ERROR(ParseScalar(&second));
      Operand pair;
      pair.kind = OperandKind::kPair;
      pair.parts.push_back(std::move(*operand));
      pair.parts.push_back(std::move(second));
      *operand = std::move(pair);
    }
    return absl::OkStatus();
  }

  absl::Status ParseScalar(Operand* operand) {
    operand->negated = Accept("!");
    const bool minus = Accept("-");
    const Token& token = Next();
    const std::string_view t = token.text;
    if (!token.IsWord())
      return Error(token, absl::StrCat("an operand expected, found '", AbslView(t), "'"));
    if (t == "_") return absl::OkStatus();
    if (t[0] >= '0' && t[0] <= '9') return ParseNumber(token, minus, operand);
    if (minus) return Error(token, "'-' before something that is no number");
    if (const auto reg = function_ ? FindRegister(t) : std::nullopt) {
      operand->kind = OperandKind::kRegister;
      operand->reg = *reg;
    } else {
      operand->kind = OperandKind::kSymbol;
      operand->name = t;
    }
    while (Peek().text == "+" || Peek().text == "-") {
      const bool down = Next().text == "-";
      const bool negative = Accept("-") != down;
      const auto n = Integer(Peek().text);
      if (!n) return Error(Peek(), "an offset must be a number");
      Next();
      operand->offset += static_cast<int64_t>(negative ? 0 - *n : *n);
    }
    return absl::OkStatus();
  }

  absl::Status ParseNumber(const Token& token, bool minus, Operand* operand) {
    const std::string_view t = token.text;
    if (t.size() > 2 && t[0] == '0' && (t[1] == 'f' || t[1] == 'F' || t[1] == 'd' || t[1] == 'D')) {
      const bool single = t[1] == 'f' || t[1] == 'F';
      uint64_t bits = 0;
      const auto [end, error] = std::from_chars(t.data() + 2, t.data() + t.size(), bits, 16);
      if (error != std::errc() || end != t.data() + t.size() || t.size() != (single ? 10u : 18u)) {
        return Error(token, "a float in hexadecimal wants 8 (0f) or 16 (0d) digits");
      }
      operand->kind = OperandKind::kFloat;
      operand->bits_are_f32 = single;
      operand->bits = minus ? bits ^ (single ? 0x80000000u : uint64_t{1} << 63) : bits;
      return absl::OkStatus();
    }
    if (const auto value = Integer(t)) {
      operand->kind = OperandKind::kInteger;
      operand->bits = minus ? 0 - *value : *value;
      return absl::OkStatus();
    }
    const std::string copy(t);
    char* end = nullptr;
    const double value = std::strtod(copy.c_str(), &end);
    if (end != copy.c_str() + copy.size())
      return Error(token, absl::StrCat("'", copy, "' is no number"));
    operand->kind = OperandKind::kFloat;
    const double with_sign = minus ? -value : value;
    std::memcpy(&operand->bits, &with_sign, 8);
    return absl::OkStatus();
  }

  ParsedModule& module_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  bool is_extern_ = false;
  Function* function_ = nullptr;
  std::vector<std::map<std::string, uint32_t, std::less<>>> scopes_;
  int loc_file_ = 0, loc_line_ = 0;
};

}  // namespace

absl::Status ParseModule(ParsedModule* module) { return Parser(module).Run(); }

}  // namespace lanyard::ptx
