// Runs a template. Everything is counted: steps, bytes made, depth, output; a template or a
// conversation cannot make it run long or take much memory. It has no I/O, no time, and no
// attributes beyond data.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/jinja/ast.h"

namespace lanyard::model::jinja {

struct Limits {
  uint64_t steps = 1'000'000;  // evaluated nodes; 64 bytes that are made or read count as one too
  uint64_t made_bytes = uint64_t{16} << 20;  // strings and lists that the template makes
  uint64_t output_bytes = uint64_t{16} << 20;
};

// The evaluated arguments of a call.
struct CallArguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};
// Arguments by parameter; nullopt where one was not given.
using Bound = std::vector<std::optional<Value>>;

class Interpreter {
 public:
  using Variables = std::vector<std::pair<std::string, Value>>;

  Interpreter(const Template& source, const Variables& context, Limits limits);

  absl::StatusOr<Text> Run();

  // For filters, tests and methods
  absl::Status Charge(uint64_t steps);
  absl::Status ChargeBytes(uint64_t bytes);
  absl::StatusOr<Value> NewString(Text text);
  absl::StatusOr<Value> NewList(std::vector<Value> items, List::Form form);
  absl::StatusOr<Value> NewDict(const std::vector<std::pair<Value, Value>>& items);
  // Says whether a list, dict or namespace may hold the value.
  absl::Status CheckStorable(const Value& v) const;

  // str(v) and repr(v).
  absl::StatusOr<Text> Str(const Value& v);
  absl::Status AppendRepr(const Value& v, Text* out);
  // Returns the items that a loop over v would see, and takes them if v is an iterator.
  absl::StatusOr<std::vector<Value>> Iterate(const Value& v);
  absl::StatusOr<bool> IsEqual(const Value& a, const Value& b);
  // Returns -1, 0 or 1; an error for types that Python cannot order.
  absl::StatusOr<int> Order(const Value& a, const Value& b);
  absl::StatusOr<Value> Binary(BinaryOp op, const Value& a, const Value& b);
  absl::StatusOr<bool> Contains(const Value& container, const Value& item);
  absl::StatusOr<Value> Attribute(const Value& v, const std::string& name);
  absl::StatusOr<Value> Item(const Value& v, const Value& key);
  // Follows a path such as "a.b.0", the form in which filters write attributes.
  absl::StatusOr<Value> Path(const Value& v, const Value& path);
  absl::StatusOr<Value> ApplyFilter(std::string_view name, const Value& v,
                                    const CallArguments& arguments);
  absl::StatusOr<bool> ApplyTest(std::string_view name, const Value& v,
                                 const CallArguments& arguments);
  absl::StatusOr<Value> CallMethod(const Value& v, const std::string& name,
                                   const CallArguments& arguments);

 private:
  enum class Flow : uint8_t { kNormal, kBreak, kContinue };
  struct Binding {
    NameId name;
    Value value;
  };
  // The variables of a block, which are gone at its end.
  class Scope;

  // interpreter.cc
  absl::StatusOr<Flow> Execute(const Body& body);
  absl::StatusOr<Flow> ExecuteOne(const Statement& s);
  absl::StatusOr<Flow> ExecuteIf(const Statement& s);
  absl::StatusOr<Flow> ExecuteFor(const Statement& s);
  absl::StatusOr<std::vector<Value>> LoopItems(const Statement& s);
  absl::StatusOr<Flow> ExecuteWith(const Statement& s);
  absl::Status ExecuteSet(const Statement& s);
  absl::StatusOr<Value> Capture(const Body& body);
  absl::Status Write(const Text& text);
  absl::Status Write(std::string_view trusted);
  absl::Status Assign(const Target& target, const Value& value);
  void Bind(NameId name, Value value);
  absl::StatusOr<Value> CallMacro(const MacroNode& macro, const CallArguments& arguments);
  absl::Status BindParameters(const MacroNode& macro, const CallArguments& arguments);

  // expressions.cc
  absl::StatusOr<Value> Eval(const Expr& e);
  absl::StatusOr<Value> EvalNode(const Expr& e);
  absl::StatusOr<Value> EvalContainer(const Expr& e);
  absl::StatusOr<Value> EvalSlice(const Expr& e);
  absl::StatusOr<Value> EvalCall(const Expr& e);
  absl::StatusOr<Value> EvalFilter(const Expr& e);
  absl::StatusOr<Value> EvalTest(const Expr& e);
  absl::StatusOr<Value> EvalConcat(const Expr& e);
  absl::StatusOr<Value> EvalCompare(const Expr& e);
  absl::StatusOr<Value> EvalConditional(const Expr& e);
  absl::StatusOr<Value> EvalUnary(const Expr& e);
  absl::StatusOr<CallArguments> EvalArguments(const Arguments& arguments);
  absl::StatusOr<Value> CallGlobal(const std::string& name, const CallArguments& arguments);
  Value Lookup(NameId name) const;

  const Template& source_;
  Limits left_;
  std::vector<std::optional<Value>> globals_;  // by NameId; set at the template's top level
  // By NameId; given from outside, or a global function.
  std::vector<std::optional<Value>> context_;
  std::vector<Binding> bindings_;  // of all open scopes, the innermost last
  size_t frame_begin_ = 0;         // first binding that the running macro sees
  size_t scope_begin_ = 0;         // first binding of the innermost scope
  int scopes_ = 0;                 // open scopes; 0 at the template's top level
  int depth_ = 0;
  std::optional<NameId> loop_name_;
  Text* out_ = nullptr;
  Value captured_;  // the text that a chain of filters over a block begins with
};

// Assigns arguments to the parameters "a,b,c"; an error names what is too many, unknown or given
// twice.
absl::StatusOr<Bound> BindArguments(std::string_view what, std::string_view parameters,
                                    const CallArguments& arguments);

// json.dumps(v, ...) as transformers' tojson calls it.
struct JsonOptions {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent;  // for one level; nullopt: all on one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
absl::Status AppendJson(Interpreter& in, const Value& v, const JsonOptions& options, int level,
                        Text* out);

}  // namespace lanyard::model::jinja
