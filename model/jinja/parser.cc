#include "model/jinja/parser.h"

#include <algorithm>

namespace lanyard::model::jinja {

bool IsReserved(std::string_view name) {
  for (const std::string_view word :
       {"and", "or", "not", "in", "is", "if", "else", "elif", "for"}) {
    if (name == word) return true;
  }
  return false;
}
namespace {

struct CompareRow {
  std::string_view text;
  CompareOp op;
};
constexpr CompareRow kCompares[] = {{"==", CompareOp::kEq}, {"!=", CompareOp::kNe},
                                    {"<", CompareOp::kLt},  {"<=", CompareOp::kLe},
                                    {">", CompareOp::kGt},  {">=", CompareOp::kGe}};

}  // namespace

absl::StatusOr<Template> Parser::Parse(std::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    return InvalidArgument("the template has ", source.size(), " bytes; at most ", kMaxSourceBytes,
                           " are read");
  }
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  Parser parser(std::move(tokens));
  Template out;
  RETURN_IF_ERROR(parser.ParseBody(&out.body, {}));
  out.names = std::move(parser.names_);
  return out;
}

bool Parser::SkipOperator(std::string_view op) {
  if (!Now().IsOperator(op)) return false;
  Next();
  return true;
}

bool Parser::SkipName(std::string_view name) {
  if (!Now().IsName(name)) return false;
  Next();
  return true;
}

absl::Status Parser::Unexpected(std::string_view wanted) const {
  std::string found;
  switch (Now().type) {
    case Token::Type::kEnd:
      found = "the end of the template";
      break;
    case Token::Type::kVariableEnd:
      found = "}}";
      break;
    case Token::Type::kBlockEnd:
      found = "%}";
      break;
    case Token::Type::kString:
      found = "a string";
      break;
    case Token::Type::kData:
    case Token::Type::kVariableBegin:
    case Token::Type::kBlockBegin:
      found = "text";
      break;
    default:
      found = absl::StrCat("'", Now().text, "'");
  }
  return ErrorAt(Now().position, absl::StrCat("expected ", AbslView(wanted), ", found ", found));
}

absl::Status Parser::ExpectOperator(std::string_view op) {
  if (SkipOperator(op)) return absl::OkStatus();
  return Unexpected(absl::StrCat("'", AbslView(op), "'"));
}

absl::StatusOr<std::string> Parser::ExpectName(std::string_view what) {
  if (Now().type != Token::Type::kName) return Unexpected(what);
  return Next().text;
}

NameId Parser::Intern(const std::string& name) {
  const auto [it, is_new] = ids_.try_emplace(name, static_cast<NameId>(names_.size()));
  if (is_new) names_.push_back(name);
  return it->second;
}

ExprPtr Parser::Make(Expr::Kind kind) const {
  auto out = std::make_unique<Expr>();
  out->kind = kind;
  out->position = Now().position;
  return out;
}

absl::Status Parser::Deepen(Expr* parent, const Expr& child) {
  parent->depth = std::max<uint16_t>(parent->depth, child.depth + 1);
  if (parent->depth <= kMaxDepth) return absl::OkStatus();
  return ErrorAt(parent->position, "the expression is nested too deeply");
}

absl::Status Parser::Add(Expr* parent, ExprPtr child) {
  if (child != nullptr) RETURN_IF_ERROR(Deepen(parent, *child));
  parent->items.push_back(std::move(child));
  return absl::OkStatus();
}

absl::StatusOr<ExprPtr> Parser::ParseConditional() {
  if (++depth_ > kMaxDepth) return ErrorAt(Now().position, "the expression is nested too deeply");
  ASSIGN_OR_RETURN(ExprPtr node, ParseOr());
  while (Now().IsName("if")) {
    ExprPtr conditional = Make(Expr::Kind::kConditional);
    Next();
    ASSIGN_OR_RETURN(ExprPtr condition, ParseOr());
    ExprPtr otherwise;
    if (SkipName("else")) {
      ASSIGN_OR_RETURN(otherwise, ParseConditional());
    }
    RETURN_IF_ERROR(Add(conditional.get(), std::move(node)));
    RETURN_IF_ERROR(Add(conditional.get(), std::move(condition)));
    RETURN_IF_ERROR(Add(conditional.get(), std::move(otherwise)));
    node = std::move(conditional);
  }
  --depth_;
  return node;
}

absl::StatusOr<ExprPtr> Parser::ParseOr() {
  ASSIGN_OR_RETURN(ExprPtr left, ParseAnd());
  while (Now().IsName("or")) {
    ExprPtr node = Make(Expr::Kind::kOr);
    Next();
    ASSIGN_OR_RETURN(ExprPtr right, ParseAnd());
    RETURN_IF_ERROR(Add(node.get(), std::move(left)));
    RETURN_IF_ERROR(Add(node.get(), std::move(right)));
    left = std::move(node);
  }
  return left;
}

absl::StatusOr<ExprPtr> Parser::ParseAnd() {
  ASSIGN_OR_RETURN(ExprPtr left, ParseNot());
  while (Now().IsName("and")) {
    ExprPtr node = Make(Expr::Kind::kAnd);
    Next();
    ASSIGN_OR_RETURN(ExprPtr right, ParseNot());
    RETURN_IF_ERROR(Add(node.get(), std::move(left)));
    RETURN_IF_ERROR(Add(node.get(), std::move(right)));
    left = std::move(node);
  }
  return left;
}

absl::StatusOr<ExprPtr> Parser::ParseNot() {
  if (!Now().IsName("not")) return ParseCompare();
  if (++depth_ > kMaxDepth) return ErrorAt(Now().position, "the expression is nested too deeply");
  ExprPtr node = Make(Expr::Kind::kNot);
  Next();
  ASSIGN_OR_RETURN(ExprPtr operand, ParseNot());
  RETURN_IF_ERROR(Add(node.get(), std::move(operand)));
  --depth_;
  return node;
}

absl::StatusOr<ExprPtr> Parser::ParseCompare() {
  ASSIGN_OR_RETURN(ExprPtr first, ParseSum());
  ExprPtr node = Make(Expr::Kind::kCompare);
  RETURN_IF_ERROR(Add(node.get(), std::move(first)));
  for (;;) {
    const Token& token = Now();
    const auto* row = std::find_if(std::begin(kCompares), std::end(kCompares),
                                   [&](const CompareRow& r) { return token.IsOperator(r.text); });
    if (row != std::end(kCompares)) {
      Next();
      node->compares.push_back(row->op);
    } else if (SkipName("in")) {
      node->compares.push_back(CompareOp::kIn);
    } else if (token.IsName("not") && Ahead().IsName("in")) {
      Next();
      Next();
      node->compares.push_back(CompareOp::kNotIn);
    } else {
      break;
    }
    ASSIGN_OR_RETURN(ExprPtr next, ParseSum());
    RETURN_IF_ERROR(Add(node.get(), std::move(next)));
  }
  if (node->compares.empty()) return std::move(node->items[0]);
  return node;
}

absl::StatusOr<ExprPtr> Parser::ParseSum() {
  ASSIGN_OR_RETURN(ExprPtr left, ParseConcat());
  while (Now().IsOperator("+") || Now().IsOperator("-")) {
    ExprPtr node = Make(Expr::Kind::kBinary);
    node->binary = Next().text == "+" ? BinaryOp::kAdd : BinaryOp::kSub;
    ASSIGN_OR_RETURN(ExprPtr right, ParseConcat());
    RETURN_IF_ERROR(Add(node.get(), std::move(left)));
    RETURN_IF_ERROR(Add(node.get(), std::move(right)));
    left = std::move(node);
  }
  return left;
}

absl::StatusOr<ExprPtr> Parser::ParseConcat() {
  ASSIGN_OR_RETURN(ExprPtr first, ParseProduct());
  if (!Now().IsOperator("~")) return first;
  ExprPtr node = Make(Expr::Kind::kConcat);
  RETURN_IF_ERROR(Add(node.get(), std::move(first)));
  while (SkipOperator("~")) {
    ASSIGN_OR_RETURN(ExprPtr next, ParseProduct());
    RETURN_IF_ERROR(Add(node.get(), std::move(next)));
  }
  return node;
}

absl::StatusOr<ExprPtr> Parser::ParseProduct() {
  ASSIGN_OR_RETURN(ExprPtr left, ParsePower());
  for (;;) {
    const Token& t = Now();
    BinaryOp op;
    if (t.IsOperator("*")) {
      op = BinaryOp::kMul;
    } else if (t.IsOperator("/")) {
      op = BinaryOp::kDiv;
    } else if (t.IsOperator("//")) {
      op = BinaryOp::kFloorDiv;
    } else if (t.IsOperator("%")) {
      op = BinaryOp::kMod;
    } else {
      return left;
    }
    ExprPtr node = Make(Expr::Kind::kBinary);
    node->binary = op;
    Next();
    ASSIGN_OR_RETURN(ExprPtr right, ParsePower());
    RETURN_IF_ERROR(Add(node.get(), std::move(left)));
    RETURN_IF_ERROR(Add(node.get(), std::move(right)));
    left = std::move(node);
  }
}

absl::StatusOr<ExprPtr> Parser::ParsePower() {
  ASSIGN_OR_RETURN(ExprPtr left, ParseUnary(true));
  while (Now().IsOperator("**")) {
    ExprPtr node = Make(Expr::Kind::kBinary);
    node->binary = BinaryOp::kPow;
    Next();
    ASSIGN_OR_RETURN(ExprPtr right, ParseUnary(true));
    RETURN_IF_ERROR(Add(node.get(), std::move(left)));
    RETURN_IF_ERROR(Add(node.get(), std::move(right)));
    left = std::move(node);
  }
  return left;
}

absl::StatusOr<ExprPtr> Parser::ParseUnary(bool with_filter) {
  if (++depth_ > kMaxDepth) return ErrorAt(Now().position, "the expression is nested too deeply");
  ExprPtr node;
  if (Now().IsOperator("-") || Now().IsOperator("+")) {
    node = Make(Now().text == "-" ? Expr::Kind::kNegative : Expr::Kind::kPositive);
    Next();
    ASSIGN_OR_RETURN(ExprPtr operand, ParseUnary(false));
    RETURN_IF_ERROR(Add(node.get(), std::move(operand)));
  } else {
    ASSIGN_OR_RETURN(node, ParsePrimary());
  }
  ASSIGN_OR_RETURN(node, ParsePostfix(std::move(node)));
  if (with_filter) {
    ASSIGN_OR_RETURN(node, ParseFilters(std::move(node)));
  }
  --depth_;
  return node;
}

absl::StatusOr<ExprPtr> Parser::ParsePrimary() {
  ExprPtr node = Make(Expr::Kind::kConstant);
  switch (Now().type) {
    case Token::Type::kString: {
      std::string text;
      while (Now().type == Token::Type::kString) text += Next().text;
      node->constant = Value::Trusted(std::move(text));
      return node;
    }
    case Token::Type::kInteger:
      node->constant = Value::Int(Next().integer);
      return node;
    case Token::Type::kFloat:
      node->constant = Value::Float(Next().number);
      return node;
    case Token::Type::kName: {
      if (IsReserved(Now().text)) return Unexpected("an expression");
      const std::string name = Next().text;
      if (name == "true" || name == "True") {
        node->constant = Value::Bool(true);
      } else if (name == "false" || name == "False") {
        node->constant = Value::Bool(false);
      } else if (name == "none" || name == "None") {
        node->constant = Value::None();
      } else {
        node->kind = Expr::Kind::kName;
        node->name_id = Intern(name);
        node->text = name;
      }
      return node;
    }
    default:
      break;
  }
  if (Now().IsOperator("[")) return ParseList();
  if (Now().IsOperator("{")) return ParseDict();
  if (SkipOperator("(")) {
    ASSIGN_OR_RETURN(ExprPtr inner, ParseTuple(true, true));
    RETURN_IF_ERROR(ExpectOperator(")"));
    return inner;
  }
  return Unexpected("an expression");
}

absl::StatusOr<ExprPtr> Parser::ParseList() {
  ExprPtr node = Make(Expr::Kind::kList);
  Next();
  while (!Now().IsOperator("]")) {
    if (!node->items.empty()) RETURN_IF_ERROR(ExpectOperator(","));
    if (Now().IsOperator("]")) break;
    ASSIGN_OR_RETURN(ExprPtr item, ParseExpression());
    RETURN_IF_ERROR(Add(node.get(), std::move(item)));
  }
  Next();
  return node;
}

absl::StatusOr<ExprPtr> Parser::ParseDict() {
  ExprPtr node = Make(Expr::Kind::kDict);
  Next();
  while (!Now().IsOperator("}")) {
    if (!node->items.empty()) RETURN_IF_ERROR(ExpectOperator(","));
    if (Now().IsOperator("}")) break;
    ASSIGN_OR_RETURN(ExprPtr key, ParseExpression());
    RETURN_IF_ERROR(ExpectOperator(":"));
    ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
    RETURN_IF_ERROR(Add(node.get(), std::move(key)));
    RETURN_IF_ERROR(Add(node.get(), std::move(value)));
  }
  Next();
  return node;
}

absl::StatusOr<ExprPtr> Parser::ParseTuple(bool conditional, bool parenthesised) {
  ExprPtr node = Make(Expr::Kind::kTuple);
  bool is_tuple = false;
  const auto at_end = [&] {
    return Now().type == Token::Type::kVariableEnd || Now().type == Token::Type::kBlockEnd ||
           Now().IsOperator(")") || Now().IsName("recursive");
  };
  while (!at_end()) {
    ASSIGN_OR_RETURN(ExprPtr item, conditional ? ParseExpression() : ParseOr());
    RETURN_IF_ERROR(Add(node.get(), std::move(item)));
    if (!SkipOperator(",")) break;
    is_tuple = true;
  }
  if (is_tuple || (node->items.empty() && parenthesised)) return node;
  if (node->items.empty()) return Unexpected("an expression");
  return std::move(node->items[0]);
}

}  // namespace lanyard::model::jinja
