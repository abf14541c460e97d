// What follows a primary expression: attributes, subscripts, calls, filters and tests.
#include "model/jinja/parser.h"

namespace lanyard::model::jinja {

absl::StatusOr<ExprPtr> Parser::ParsePostfix(ExprPtr node) {
  for (;;) {
    if (Now().IsOperator(".") || Now().IsOperator("[")) {
      ASSIGN_OR_RETURN(node, ParseSubscript(std::move(node)));
    } else if (Now().IsOperator("(")) {
      ASSIGN_OR_RETURN(node, ParseCall(std::move(node)));
    } else {
      return node;
    }
  }
}

absl::StatusOr<ExprPtr> Parser::ParseFilters(ExprPtr node) {
  for (;;) {
    if (SkipOperator("|")) {
      ASSIGN_OR_RETURN(node, ParseFilter(std::move(node)));
    } else if (Now().IsName("is")) {
      ASSIGN_OR_RETURN(node, ParseTest(std::move(node)));
    } else if (Now().IsOperator("(")) {
      ASSIGN_OR_RETURN(node, ParseCall(std::move(node)));
    } else {
      return node;
    }
  }
}

absl::StatusOr<ExprPtr> Parser::ParseSubscript(ExprPtr node) {
  ExprPtr out = Make(Expr::Kind::kItem);
  if (SkipOperator(".")) {
    if (Now().type == Token::Type::kInteger) {
      ExprPtr index = Make(Expr::Kind::kConstant);
      index->constant = Value::Int(Next().integer);
      RETURN_IF_ERROR(Add(out.get(), std::move(node)));
      RETURN_IF_ERROR(Add(out.get(), std::move(index)));
      return out;
    }
    out->kind = Expr::Kind::kAttribute;
    ASSIGN_OR_RETURN(out->text, ExpectName("the name of an attribute"));
    RETURN_IF_ERROR(Add(out.get(), std::move(node)));
    return out;
  }
  Next();  // [
  ExprPtr parts[3];
  int part = 0;
  while (!Now().IsOperator("]")) {
    if (Now().IsOperator(":")) {
      out->kind = Expr::Kind::kSlice;
      if (++part > 2) return Unexpected("']'");
      Next();
    } else if (parts[part] != nullptr) {
      return Unexpected("']'");
    } else {
      ASSIGN_OR_RETURN(parts[part], ParseExpression());
    }
  }
  if (out->kind == Expr::Kind::kItem && parts[0] == nullptr) return Unexpected("an expression");
  Next();
  RETURN_IF_ERROR(Add(out.get(), std::move(node)));
  RETURN_IF_ERROR(Add(out.get(), std::move(parts[0])));
  if (out->kind == Expr::Kind::kSlice) {
    RETURN_IF_ERROR(Add(out.get(), std::move(parts[1])));
    RETURN_IF_ERROR(Add(out.get(), std::move(parts[2])));
  }
  return out;
}

absl::Status Parser::ParseArguments(Expr* call) {
  Arguments* out = &call->arguments;
  RETURN_IF_ERROR(ExpectOperator("("));
  bool first = true;
  while (!Now().IsOperator(")")) {
    if (!first) RETURN_IF_ERROR(ExpectOperator(","));
    if (Now().IsOperator(")")) break;
    first = false;
    if (Now().IsOperator("*") || Now().IsOperator("**")) {
      return ErrorAt(Now().position, "* and ** in a call are not supported");
    }
    if (Now().type == Token::Type::kName && Ahead().IsOperator("=")) {
      std::string name = Next().text;
      Next();
      ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
      RETURN_IF_ERROR(Deepen(call, *value));
      for (const auto& [other, unused] : out->named) {
        if (other == name)
          return ErrorAt(value->position, absl::StrCat("argument '", name, "' is given twice"));
      }
      out->named.emplace_back(std::move(name), std::move(value));
    } else {
      if (!out->named.empty())
        return ErrorAt(Now().position, "an argument without a name follows one with a name");
      ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
      RETURN_IF_ERROR(Deepen(call, *value));
      out->positional.push_back(std::move(value));
    }
  }
  Next();
  return absl::OkStatus();
}

// A missing method or global is found now, and not in the first chat that reaches it.
absl::Status Parser::CheckCallee(const Expr& callee) const {
  if (callee.kind == Expr::Kind::kAttribute && !HasMethod(callee.text)) {
    return ErrorAt(callee.position, absl::StrCat("method '", callee.text, "' is not supported"));
  }
  return absl::OkStatus();
}

absl::StatusOr<ExprPtr> Parser::ParseCall(ExprPtr callee) {
  RETURN_IF_ERROR(CheckCallee(*callee));
  ExprPtr node = Make(Expr::Kind::kCall);
  RETURN_IF_ERROR(Add(node.get(), std::move(callee)));
  RETURN_IF_ERROR(ParseArguments(node.get()));
  return node;
}

absl::StatusOr<ExprPtr> Parser::ParseFilter(ExprPtr node) {
  ExprPtr out = Make(Expr::Kind::kFilter);
  ASSIGN_OR_RETURN(out->text, ExpectName("the name of a filter"));
  if (!HasFilter(out->text)) {
    return ErrorAt(out->position, absl::StrCat("filter '", out->text, "' is not supported"));
  }
  if (out->text == "safe") ++safes_;
  RETURN_IF_ERROR(Add(out.get(), std::move(node)));
  if (Now().IsOperator("(")) RETURN_IF_ERROR(ParseArguments(out.get()));
  return out;
}

absl::StatusOr<ExprPtr> Parser::ParseTest(ExprPtr node) {
  ExprPtr out = Make(Expr::Kind::kTest);
  Next();
  const bool negated = SkipName("not");
  const Position at = Now().position;
  ASSIGN_OR_RETURN(out->text, ExpectName("the name of a test"));
  if (!HasTest(out->text))
    return ErrorAt(at, absl::StrCat("test '", out->text, "' is not supported"));
  RETURN_IF_ERROR(Add(out.get(), std::move(node)));
  const Token& t = Now();
  const bool starts_argument = t.type == Token::Type::kString || t.type == Token::Type::kInteger ||
                               t.type == Token::Type::kFloat || t.IsOperator("[") ||
                               t.IsOperator("{") ||
                               (t.type == Token::Type::kName && !t.IsName("else") &&
                                !t.IsName("or") && !t.IsName("and") && !t.IsName("is"));
  if (t.IsOperator("(")) {
    RETURN_IF_ERROR(ParseArguments(out.get()));
  } else if (starts_argument) {
    ASSIGN_OR_RETURN(ExprPtr argument, ParsePrimary());
    ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
    RETURN_IF_ERROR(Deepen(out.get(), *argument));
    out->arguments.positional.push_back(std::move(argument));
  } else if (t.IsName("is")) {
    return ErrorAt(t.position, "tests cannot be chained with 'is'");
  }
  if (!negated) return out;
  ExprPtr inverse = Make(Expr::Kind::kNot);
  inverse->position = out->position;
  RETURN_IF_ERROR(Add(inverse.get(), std::move(out)));
  return inverse;
}

}  // namespace lanyard::model::jinja
