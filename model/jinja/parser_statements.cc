#include <string>

#include "model/jinja/parser.h"

namespace lanyard::model::jinja {

// Parses data, outputs and statements until a tag whose name is in `ends`; that tag's name is then
// the next token. Without ends it goes on until the template is over.
absl::Status Parser::ParseBody(Body* out, std::initializer_list<std::string_view> ends) {
  if (++depth_ > kMaxDepth) return ErrorAt(Now().position, "the statements are nested too deeply");
  for (;;) {
    const Token& token = Now();
    if (token.type == Token::Type::kEnd) {
      if (ends.size() == 0) break;
      return ErrorAt(token.position, absl::StrCat("the template ends where '",
                                                  AbslView(*ends.begin()), "' is expected"));
    }
    if (token.type == Token::Type::kData) {
      auto data = std::make_unique<Statement>();
      data->kind = Statement::Kind::kData;
      data->position = token.position;
      data->text = Next().text;
      out->push_back(std::move(data));
    } else if (token.type == Token::Type::kVariableBegin) {
      RETURN_IF_ERROR(ParseOutput(out));
    } else {
      Next();  // {%
      bool end = false;
      for (const std::string_view name : ends) end = end || Now().IsName(name);
      if (end) break;
      ASSIGN_OR_RETURN(std::unique_ptr<Statement> statement, ParseStatement());
      out->push_back(std::move(statement));
    }
  }
  --depth_;
  return absl::OkStatus();
}

absl::Status Parser::ParseOutput(Body* out) {
  auto output = std::make_unique<Statement>();
  output->kind = Statement::Kind::kOutput;
  output->position = Next().position;
  ASSIGN_OR_RETURN(output->expr, ParseTuple(true, false));
  // To mark as safe changes nothing in plain text where it comes last; inside an expression jinja2
  // would escape the rest.
  if (output->expr->kind == Expr::Kind::kFilter && output->expr->text == "safe" &&
      output->expr->arguments.positional.empty() && output->expr->arguments.named.empty()) {
    output->expr->text = "string";
    --safes_;
  }
  RETURN_IF_ERROR(CheckSafe(output->position));
  if (Now().type != Token::Type::kVariableEnd) return Unexpected("}}");
  Next();
  out->push_back(std::move(output));
  return absl::OkStatus();
}

absl::Status Parser::CheckSafe(Position position) {
  if (safes_ == 0) return absl::OkStatus();
  return ErrorAt(position, "filter 'safe' is supported only at the end of {{ ... }}");
}

absl::Status Parser::EndBlock(std::string_view name) {
  if (!name.empty() && !SkipName(name)) return Unexpected(absl::StrCat("'", AbslView(name), "'"));
  if (Now().type != Token::Type::kBlockEnd) return Unexpected("%}");
  RETURN_IF_ERROR(CheckSafe(Now().position));
  Next();
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Statement>> Parser::ParseStatement() {
  auto out = std::make_unique<Statement>();
  out->position = Now().position;
  ASSIGN_OR_RETURN(const std::string name, ExpectName("the name of a statement"));
  if (name == "if") {
    RETURN_IF_ERROR(ParseIf(out.get()));
  } else if (name == "for") {
    RETURN_IF_ERROR(ParseFor(out.get()));
  } else if (name == "set") {
    RETURN_IF_ERROR(ParseSet(out.get()));
  } else if (name == "macro") {
    RETURN_IF_ERROR(ParseMacro(out.get()));
  } else if (name == "filter") {
    RETURN_IF_ERROR(ParseFilterBlock(out.get()));
  } else if (name == "with") {
    RETURN_IF_ERROR(ParseWith(out.get()));
  } else if (name == "break" || name == "continue") {
    if (loops_ == 0) return ErrorAt(out->position, absl::StrCat("'", name, "' outside of a loop"));
    out->kind = name == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue;
    RETURN_IF_ERROR(EndBlock(""));
  } else if (name == "generation") {
    out->kind = Statement::Kind::kGroup;
    RETURN_IF_ERROR(EndBlock(""));
    RETURN_IF_ERROR(ParseBody(&out->body, {"endgeneration"}));
    RETURN_IF_ERROR(EndBlock("endgeneration"));
  } else {
    return ErrorAt(out->position, absl::StrCat("statement '", name, "' is not supported"));
  }
  return out;
}

absl::Status Parser::ParseIf(Statement* out) {
  out->kind = Statement::Kind::kIf;
  for (;;) {
    ASSIGN_OR_RETURN(ExprPtr condition, ParseTuple(false, false));
    RETURN_IF_ERROR(EndBlock(""));
    Body body;
    RETURN_IF_ERROR(ParseBody(&body, {"elif", "else", "endif"}));
    out->branches.emplace_back(std::move(condition), std::move(body));
    if (SkipName("elif")) continue;
    if (SkipName("else")) {
      RETURN_IF_ERROR(EndBlock(""));
      Body otherwise;
      RETURN_IF_ERROR(ParseBody(&otherwise, {"endif"}));
      out->branches.emplace_back(nullptr, std::move(otherwise));
    }
    return EndBlock("endif");
  }
}

absl::Status Parser::ParseFor(Statement* out) {
  out->kind = Statement::Kind::kFor;
  ASSIGN_OR_RETURN(out->target, ParseTarget(false));
  if (!SkipName("in")) return Unexpected("'in'");
  ASSIGN_OR_RETURN(out->expr, ParseTuple(false, false));
  if (SkipName("if")) {
    ASSIGN_OR_RETURN(out->condition, ParseExpression());
  }
  if (Now().IsName("recursive"))
    return ErrorAt(Now().position, "recursive loops are not supported");
  RETURN_IF_ERROR(EndBlock(""));
  ++loops_;
  ++scopes_;
  RETURN_IF_ERROR(ParseBody(&out->body, {"endfor", "else"}));
  --loops_;
  if (SkipName("else")) {
    RETURN_IF_ERROR(EndBlock(""));
    RETURN_IF_ERROR(ParseBody(&out->otherwise, {"endfor"}));
  }
  --scopes_;
  return EndBlock("endfor");
}

absl::StatusOr<Target> Parser::ParseOneTarget(bool with_namespace) {
  Target out;
  out.position = Now().position;
  if (SkipOperator("(")) {
    ASSIGN_OR_RETURN(out, ParseTarget(with_namespace));
    RETURN_IF_ERROR(ExpectOperator(")"));
    return out;
  }
  ASSIGN_OR_RETURN(const std::string name, ExpectName("a name to assign to"));
  for (const std::string_view constant :
       {"true", "false", "none", "True", "False", "None", "loop"}) {
    if (name == constant)
      return ErrorAt(out.position, absl::StrCat("cannot assign to '", name, "'"));
  }
  out.name = Intern(name);
  if (with_namespace && SkipOperator(".")) {
    ASSIGN_OR_RETURN(out.attribute, ExpectName("the name of an attribute"));
  }
  return out;
}

absl::StatusOr<Target> Parser::ParseTarget(bool with_namespace) {
  if (++depth_ > kMaxDepth) return ErrorAt(Now().position, "the target is nested too deeply");
  ASSIGN_OR_RETURN(Target first, ParseOneTarget(with_namespace));
  --depth_;
  if (!Now().IsOperator(",")) return first;
  Target out;
  out.position = first.position;
  out.unpack.push_back(std::move(first));
  while (SkipOperator(",")) {
    if (Now().IsName("in") || Now().IsOperator("=") || Now().IsOperator(")")) break;
    ASSIGN_OR_RETURN(Target next, ParseOneTarget(with_namespace));
    out.unpack.push_back(std::move(next));
  }
  return out;
}

absl::Status Parser::ParseSet(Statement* out) {
  ASSIGN_OR_RETURN(out->target, ParseTarget(true));
  if (SkipOperator("=")) {
    out->kind = Statement::Kind::kSet;
    ASSIGN_OR_RETURN(out->expr, ParseTuple(true, false));
    return EndBlock("");
  }
  out->kind = Statement::Kind::kSetBlock;
  while (SkipOperator("|")) {
    ASSIGN_OR_RETURN(out->expr, ParseFilter(std::move(out->expr)));
  }
  RETURN_IF_ERROR(EndBlock(""));
  ++scopes_;
  const int loops = std::exchange(loops_, 0);
  RETURN_IF_ERROR(ParseBody(&out->body, {"endset"}));
  loops_ = loops;
  --scopes_;
  return EndBlock("endset");
}

absl::Status Parser::ParseMacro(Statement* out) {
  out->kind = Statement::Kind::kMacro;
  if (scopes_ > 0) {
    return ErrorAt(out->position,
                   "a macro inside a loop, a macro or another block is not supported");
  }
  auto macro = std::make_unique<MacroNode>();
  ASSIGN_OR_RETURN(macro->name, ExpectName("the name of the macro"));
  macro->name_id = Intern(macro->name);
  RETURN_IF_ERROR(ExpectOperator("("));
  while (!Now().IsOperator(")")) {
    if (!macro->parameters.empty()) RETURN_IF_ERROR(ExpectOperator(","));
    const Position at = Now().position;
    ASSIGN_OR_RETURN(const std::string parameter, ExpectName("the name of a parameter"));
    for (const auto& [id, other] : macro->parameters) {
      if (other == parameter)
        return ErrorAt(at, absl::StrCat("parameter '", parameter, "' is named twice"));
    }
    macro->parameters.emplace_back(Intern(parameter), parameter);
    if (SkipOperator("=")) {
      ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
      macro->defaults.push_back(std::move(value));
    } else if (!macro->defaults.empty()) {
      return ErrorAt(at, "a parameter without a default follows one with a default");
    }
  }
  Next();
  RETURN_IF_ERROR(EndBlock(""));
  ++scopes_;
  const int loops = std::exchange(loops_, 0);
  RETURN_IF_ERROR(ParseBody(&macro->body, {"endmacro"}));
  loops_ = loops;
  --scopes_;
  out->macro = std::move(macro);
  return EndBlock("endmacro");
}

absl::Status Parser::ParseFilterBlock(Statement* out) {
  out->kind = Statement::Kind::kFilter;
  do {
    ASSIGN_OR_RETURN(out->expr, ParseFilter(std::move(out->expr)));
  } while (SkipOperator("|"));
  RETURN_IF_ERROR(EndBlock(""));
  ++scopes_;
  const int loops = std::exchange(loops_, 0);
  RETURN_IF_ERROR(ParseBody(&out->body, {"endfilter"}));
  loops_ = loops;
  --scopes_;
  return EndBlock("endfilter");
}

absl::Status Parser::ParseWith(Statement* out) {
  out->kind = Statement::Kind::kScope;
  while (Now().type != Token::Type::kBlockEnd) {
    if (!out->assignments.empty()) RETURN_IF_ERROR(ExpectOperator(","));
    ASSIGN_OR_RETURN(Target target, ParseOneTarget(false));
    RETURN_IF_ERROR(ExpectOperator("="));
    ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
    out->assignments.emplace_back(std::move(target), std::move(value));
  }
  RETURN_IF_ERROR(EndBlock(""));
  ++scopes_;
  RETURN_IF_ERROR(ParseBody(&out->body, {"endwith"}));
  --scopes_;
  return EndBlock("endwith");
}

}  // namespace lanyard::model::jinja
