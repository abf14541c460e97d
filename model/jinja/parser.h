// Makes a Template of tokens. What jinja2 refuses, and what Lanyard does not have, is refused here
// with line and column.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "model/jinja/ast.h"

namespace lanyard::model::jinja {

class Parser {
 public:
  static constexpr size_t kMaxSourceBytes = 1 << 20;
  static constexpr int kMaxDepth = 150;

  static absl::StatusOr<Template> Parse(std::string_view source);

 private:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  // parser.cc: expressions, in the order of binding strength.
  absl::StatusOr<ExprPtr> ParseExpression() { return ParseConditional(); }
  absl::StatusOr<ExprPtr> ParseConditional();
  absl::StatusOr<ExprPtr> ParseOr();
  absl::StatusOr<ExprPtr> ParseAnd();
  absl::StatusOr<ExprPtr> ParseNot();
  absl::StatusOr<ExprPtr> ParseCompare();
  absl::StatusOr<ExprPtr> ParseSum();
  absl::StatusOr<ExprPtr> ParseConcat();
  absl::StatusOr<ExprPtr> ParseProduct();
  absl::StatusOr<ExprPtr> ParsePower();
  absl::StatusOr<ExprPtr> ParseUnary(bool with_filter);
  absl::StatusOr<ExprPtr> ParsePrimary();
  absl::StatusOr<ExprPtr> ParsePostfix(ExprPtr node);
  absl::StatusOr<ExprPtr> ParseFilters(ExprPtr node);
  absl::StatusOr<ExprPtr> ParseSubscript(ExprPtr node);
  absl::StatusOr<ExprPtr> ParseCall(ExprPtr callee);
  absl::StatusOr<ExprPtr> ParseFilter(ExprPtr node);
  absl::StatusOr<ExprPtr> ParseTest(ExprPtr node);
  absl::Status ParseArguments(Expr* call);
  // Expressions with commas between them are a tuple. When `conditional` is false, parsing stops
  // before " if ".
  absl::StatusOr<ExprPtr> ParseTuple(bool conditional, bool parenthesised);
  absl::StatusOr<ExprPtr> ParseList();
  absl::StatusOr<ExprPtr> ParseDict();
  // Recursion over a tree is bounded by its depth.
  static absl::Status Deepen(Expr* parent, const Expr& child);
  static absl::Status Add(Expr* parent, ExprPtr child);
  absl::Status CheckCallee(const Expr& callee) const;

  // parser_statements.cc
  absl::Status ParseBody(Body* out, std::initializer_list<std::string_view> ends);
  absl::Status ParseOutput(Body* out);
  absl::StatusOr<std::unique_ptr<Statement>> ParseStatement();
  absl::Status ParseIf(Statement* out);
  absl::Status ParseFor(Statement* out);
  absl::Status ParseSet(Statement* out);
  absl::Status ParseMacro(Statement* out);
  absl::Status ParseFilterBlock(Statement* out);
  absl::Status ParseWith(Statement* out);
  absl::Status CheckSafe(Position position);
  absl::Status EndBlock(std::string_view name);  // takes the name of the end tag and "%}"
  absl::StatusOr<Target> ParseTarget(bool with_namespace);
  absl::StatusOr<Target> ParseOneTarget(bool with_namespace);

  const Token& Now() const { return tokens_[at_]; }
  const Token& Ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token Next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool SkipOperator(std::string_view op);
  bool SkipName(std::string_view name);
  absl::Status ExpectOperator(std::string_view op);
  absl::StatusOr<std::string> ExpectName(std::string_view what);
  absl::Status Unexpected(std::string_view wanted) const;
  NameId Intern(const std::string& name);
  ExprPtr Make(Expr::Kind kind) const;

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  int loops_ = 0;   // loops around the statement, within the macro
  int scopes_ = 0;  // for, with, macro and block set around the statement
  int safes_ = 0;   // the filters 'safe' in the tag that is being read
  absl::flat_hash_map<std::string, NameId> ids_;
  std::vector<std::string> names_;
};

// True for words that cannot be variables.
bool IsReserved(std::string_view name);

// True for filters that the interpreter has.
bool HasFilter(std::string_view name);
bool HasTest(std::string_view name);
bool HasMethod(std::string_view name);

}  // namespace lanyard::model::jinja
