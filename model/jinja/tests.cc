// The tests that stand after "is", and BindArguments.
#include <algorithm>
#include <array>

#include "absl/strings/str_split.h"
#include "model/jinja/interpreter.h"
#include "model/jinja/parser.h"
#include "model/jinja/strings.h"
#include "model/unicode.h"

namespace lanyard::model::jinja {
namespace {

// Tests that need the value alone.
using SimpleTest = bool (*)(const Value&);

// str.isupper and str.islower: there is some cased character and none of the other case.
bool AllCased(std::string_view s, bool upper) {
  bool some = false;
  while (!s.empty()) {
    const Utf8Step step = DecodeUtf8(s);
    if (upper ? IsLowerCase(step.code_point) : IsUpperCase(step.code_point)) return false;
    some = some || (upper ? IsUpperCase(step.code_point) : IsLowerCase(step.code_point));
    s.remove_prefix(step.bytes);
  }
  return some;
}

bool IsSequence(const Value& v) {
  if (v.IsList()) return v.AsList().HasIndex();
  return v.IsString() || v.IsDict() || v.IsUndefined();
}
bool IsIterable(const Value& v) {
  return v.IsList() || v.IsString() || v.IsDict() || v.IsUndefined();
}

struct SimpleRow {
  std::string_view name;
  SimpleTest test;
};
constexpr SimpleRow kSimple[] = {
    {"defined", [](const Value& v) { return !v.IsUndefined(); }},
    {"undefined", [](const Value& v) { return v.IsUndefined(); }},
    {"none", [](const Value& v) { return v.IsNone(); }},
    {"string", [](const Value& v) { return v.IsString(); }},
    {"mapping", [](const Value& v) { return v.IsDict(); }},
    {"iterable", IsIterable},
    {"sequence", IsSequence},
    {"boolean", [](const Value& v) { return v.kind() == Value::Kind::kBool; }},
    {"true", [](const Value& v) { return v.kind() == Value::Kind::kBool && v.AsBool(); }},
    {"false", [](const Value& v) { return v.kind() == Value::Kind::kBool && !v.AsBool(); }},
    {"integer", [](const Value& v) { return v.kind() == Value::Kind::kInt; }},
    {"float", [](const Value& v) { return v.kind() == Value::Kind::kFloat; }},
    {"number", [](const Value& v) { return v.IsNumber(); }},
    {"callable", [](const Value& v) { return v.kind() == Value::Kind::kCallable; }},
};

struct CompareNames {
  CompareOp op;
  std::array<std::string_view, 3> names;
};
constexpr CompareNames kCompareNames[] = {
    {CompareOp::kEq, {"eq", "equalto", "=="}},    {CompareOp::kNe, {"ne", "!=", "!="}},
    {CompareOp::kLt, {"lt", "lessthan", "<"}},    {CompareOp::kLe, {"le", "<=", "<="}},
    {CompareOp::kGt, {"gt", "greaterthan", ">"}}, {CompareOp::kGe, {"ge", ">=", ">="}},
    {CompareOp::kIn, {"in", "in", "in"}},
};

const CompareNames* FindCompare(std::string_view name) {
  for (const CompareNames& row : kCompareNames) {
    if (std::find(row.names.begin(), row.names.end(), name) != row.names.end()) return &row;
  }
  return nullptr;
}

constexpr std::string_view kWithInteger[] = {"even", "odd", "divisibleby"};

bool NeedsInteger(std::string_view name) {
  return std::find(std::begin(kWithInteger), std::end(kWithInteger), name) !=
         std::end(kWithInteger);
}

absl::StatusOr<bool> CompareTest(Interpreter& in, CompareOp op, const Value& a, const Value& b) {
  if (op == CompareOp::kIn) return in.Contains(b, a);
  if (op == CompareOp::kEq || op == CompareOp::kNe) {
    ASSIGN_OR_RETURN(const bool equal, in.IsEqual(a, b));
    return equal == (op == CompareOp::kEq);
  }
  ASSIGN_OR_RETURN(const int order, in.Order(a, b));
  switch (op) {
    case CompareOp::kLt:
      return order == -1;
    case CompareOp::kLe:
      return order == -1 || order == 0;
    case CompareOp::kGt:
      return order == 1;
    default:
      return order == 1 || order == 0;
  }
}

}  // namespace

bool HasTest(std::string_view name) {
  return name == "upper" || name == "lower" || name == "sameas" || FindCompare(name) != nullptr ||
         NeedsInteger(name) ||
         std::any_of(std::begin(kSimple), std::end(kSimple),
                     [&](const SimpleRow& r) { return r.name == name; });
}

absl::StatusOr<bool> Interpreter::ApplyTest(std::string_view name, const Value& v,
                                            const CallArguments& arguments) {
  RETURN_IF_ERROR(Charge(1));
  for (const SimpleRow& row : kSimple) {
    if (row.name != name) continue;
    RETURN_IF_ERROR(BindArguments(absl::StrCat("test '", AbslView(name), "'"), "", arguments));
    return row.test(v);
  }
  const bool case_test = name == "upper" || name == "lower";
  const bool alone = name == "even" || name == "odd" || case_test;
  ASSIGN_OR_RETURN(const Bound bound, BindArguments(absl::StrCat("test '", AbslView(name), "'"),
                                                    alone ? "" : "other", arguments));
  if (!alone && !bound[0]) return InvalidArgument("test '", AbslView(name), "' needs an argument");
  if (case_test) {
    ASSIGN_OR_RETURN(const Text text, Str(v));
    RETURN_IF_ERROR(Charge(text.size() / 8));
    return AllCased(text.bytes(), name == "upper");
  }
  if (const CompareNames* row = FindCompare(name); row != nullptr)
    return CompareTest(*this, row->op, v, *bound[0]);
  if (name == "sameas") {
    const Value& other = *bound[0];
    if (v.kind() != other.kind()) return false;
    return v.Identity() != nullptr ? v.Identity() == other.Identity() : IsEqual(v, other);
  }
  if (NeedsInteger(name)) {
    if (v.IsUndefined()) return InvalidArgument(v.WhyUndefined());
    if (!v.IsInt() || (!alone && !bound[0]->IsInt())) {
      return InvalidArgument("test '", AbslView(name), "' needs integers, got a ", v.TypeName());
    }
    const int64_t by = alone ? 2 : bound[0]->AsInt();
    if (by == 0) return InvalidArgument("division by zero");
    const bool divides = by == -1 || v.AsInt() % by == 0;
    return name == "odd" ? !divides : divides;
  }
  return Unimplemented("test '", AbslView(name), "' is not supported");
}

absl::StatusOr<Bound> BindArguments(std::string_view what, std::string_view parameters,
                                    const CallArguments& arguments) {
  std::vector<absl::string_view> names;
  if (!parameters.empty()) names = absl::StrSplit(AbslView(parameters), ',');
  if (arguments.positional.size() > names.size()) {
    return InvalidArgument(AbslView(what), " takes at most ", names.size(), " argument(s), got ",
                           arguments.positional.size());
  }
  Bound out(names.size());
  for (size_t i = 0; i < arguments.positional.size(); ++i) out[i] = arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto it = std::find(names.begin(), names.end(), name);
    if (it == names.end()) return InvalidArgument(AbslView(what), " has no argument '", name, "'");
    std::optional<Value>& slot = out[it - names.begin()];
    if (slot) return InvalidArgument(AbslView(what), " got argument '", name, "' twice");
    slot = value;
  }
  return out;
}

}  // namespace lanyard::model::jinja
