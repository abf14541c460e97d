#include <algorithm>
#include <utility>

#include "model/jinja/interpreter.h"

namespace lanyard::model::jinja {
namespace {

constexpr int kMaxDepth = 500;

absl::StatusOr<std::optional<int64_t>> SliceBound(const Value& v) {
  if (v.IsNone()) return std::optional<int64_t>();
  if (!v.IsInt()) return InvalidArgument("slice indices must be integers or None");
  return std::optional<int64_t>(v.AsInt());
}

// The indices that [begin:end:step] takes out of n items, counted as in Python.
struct SliceRange {
  int64_t begin, end, step;
};
SliceRange Resolve(std::optional<int64_t> begin, std::optional<int64_t> end, int64_t step,
                   int64_t n) {
  const int64_t low = step < 0 ? -1 : 0;
  const int64_t high = step < 0 ? n - 1 : n;
  const auto clamp = [&](int64_t i) {
    if (i < 0) i = i < -n ? low : i + n;
    return std::clamp(i, low, std::max(low, high));
  };
  return {begin ? clamp(*begin) : (step < 0 ? high : low),
          end ? clamp(*end) : (step < 0 ? low : high), step};
}

}  // namespace

absl::StatusOr<Value> Interpreter::Eval(const Expr& e) {
  RETURN_IF_ERROR(Charge(1));
  if (++depth_ > kMaxDepth) return ResourceExhausted("the template nests too deeply");
  auto result = EvalNode(e);
  --depth_;
  if (!result.ok() && !IsPlaced(result.status())) {
    return absl::Status(result.status().code(),
                        ErrorAt(e.position, StdView(result.status().message())).message());
  }
  return result;
}

absl::StatusOr<Value> Interpreter::EvalNode(const Expr& e) {
  switch (e.kind) {
    case Expr::Kind::kConstant:
      return e.constant;
    case Expr::Kind::kName:
      return Lookup(e.name_id);
    case Expr::Kind::kList:
    case Expr::Kind::kTuple:
    case Expr::Kind::kDict:
      return EvalContainer(e);
    case Expr::Kind::kAttribute: {
      ASSIGN_OR_RETURN(const Value v, Eval(*e.items[0]));
      return Attribute(v, e.text);
    }
    case Expr::Kind::kItem: {
      ASSIGN_OR_RETURN(const Value v, Eval(*e.items[0]));
      ASSIGN_OR_RETURN(const Value key, Eval(*e.items[1]));
      return Item(v, key);
    }
    case Expr::Kind::kSlice:
      return EvalSlice(e);
    case Expr::Kind::kCall:
      return EvalCall(e);
    case Expr::Kind::kFilter:
      return EvalFilter(e);
    case Expr::Kind::kTest:
      return EvalTest(e);
    case Expr::Kind::kNot:
    case Expr::Kind::kNegative:
    case Expr::Kind::kPositive:
      return EvalUnary(e);
    case Expr::Kind::kAnd:
    case Expr::Kind::kOr: {
      ASSIGN_OR_RETURN(Value left, Eval(*e.items[0]));
      if (left.Truthy() == (e.kind == Expr::Kind::kOr)) return left;
      return Eval(*e.items[1]);
    }
    case Expr::Kind::kBinary: {
      ASSIGN_OR_RETURN(const Value a, Eval(*e.items[0]));
      ASSIGN_OR_RETURN(const Value b, Eval(*e.items[1]));
      return Binary(e.binary, a, b);
    }
    case Expr::Kind::kConcat:
      return EvalConcat(e);
    case Expr::Kind::kCompare:
      return EvalCompare(e);
    case Expr::Kind::kConditional:
      return EvalConditional(e);
  }
  return Internal("unknown expression");
}

absl::StatusOr<Value> Interpreter::EvalContainer(const Expr& e) {
  std::vector<Value> items;
  for (const ExprPtr& item : e.items) {
    ASSIGN_OR_RETURN(Value v, Eval(*item));
    items.push_back(std::move(v));
  }
  if (e.kind != Expr::Kind::kDict) {
    return NewList(std::move(items),
                   e.kind == Expr::Kind::kTuple ? List::Form::kTuple : List::Form::kList);
  }
  std::vector<std::pair<Value, Value>> pairs;
  for (size_t i = 0; i < items.size(); i += 2)
    pairs.emplace_back(std::move(items[i]), std::move(items[i + 1]));
  return NewDict(pairs);
}

absl::StatusOr<Value> Interpreter::EvalSlice(const Expr& e) {
  ASSIGN_OR_RETURN(const Value v, Eval(*e.items[0]));
  std::optional<int64_t> parts[3];
  for (int i = 0; i < 3; ++i) {
    if (e.items[i + 1] == nullptr) continue;
    ASSIGN_OR_RETURN(const Value part, Eval(*e.items[i + 1]));
    ASSIGN_OR_RETURN(parts[i], SliceBound(part));
  }
  const int64_t step = parts[2].value_or(1);
  if (step == 0) return InvalidArgument("slice step cannot be zero");
  if (v.IsUndefined()) return InvalidArgument(v.WhyUndefined());
  if (v.IsList() && v.AsList().HasIndex()) {
    const List& list = v.AsList();
    const auto n = static_cast<int64_t>(list.items.size());
    const SliceRange r = Resolve(parts[0], parts[1], step, n);
    std::vector<Value> out;
    for (int64_t i = r.begin; step > 0 ? i < r.end : i > r.end;) {
      out.push_back(list.items[i]);
      if (__builtin_add_overflow(i, step, &i)) break;
    }
    RETURN_IF_ERROR(Charge(out.size()));
    return NewList(std::move(out), list.form);
  }
  if (!v.IsString()) return InvalidArgument("'", v.TypeName(), "' object cannot be sliced");
  const Text& text = v.AsText();
  const std::string& s = text.bytes();
  std::vector<size_t> offsets;  // offsets of the characters, and of the end
  for (size_t i = 0; i < s.size(); ++i) {
    if ((static_cast<uint8_t>(s[i]) & 0xC0) != 0x80) offsets.push_back(i);
  }
  const auto n = static_cast<int64_t>(offsets.size());
  offsets.push_back(s.size());
  RETURN_IF_ERROR(Charge(s.size() / 16));
  const SliceRange r = Resolve(parts[0], parts[1], step, n);
  if (step == 1) {
    if (r.begin >= r.end) return Value::Trusted("");
    return NewString(text.Sub(offsets[r.begin], offsets[r.end] - offsets[r.begin]));
  }
  Text out;
  for (int64_t i = r.begin; step > 0 ? i < r.end : i > r.end;) {
    out.Append(text.Sub(offsets[i], offsets[i + 1] - offsets[i]));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  RETURN_IF_ERROR(Charge(out.size()));
  return NewString(std::move(out));
}

absl::StatusOr<CallArguments> Interpreter::EvalArguments(const Arguments& arguments) {
  CallArguments out;
  for (const ExprPtr& e : arguments.positional) {
    ASSIGN_OR_RETURN(Value v, Eval(*e));
    out.positional.push_back(std::move(v));
  }
  for (const auto& [name, e] : arguments.named) {
    ASSIGN_OR_RETURN(Value v, Eval(*e));
    out.named.emplace_back(name, std::move(v));
  }
  return out;
}

absl::StatusOr<Value> Interpreter::EvalCall(const Expr& e) {
  const Expr& callee = *e.items[0];
  if (callee.kind == Expr::Kind::kAttribute) {
    ASSIGN_OR_RETURN(const Value receiver, Eval(*callee.items[0]));
    ASSIGN_OR_RETURN(const CallArguments arguments, EvalArguments(e.arguments));
    return CallMethod(receiver, callee.text, arguments);
  }
  ASSIGN_OR_RETURN(const Value f, Eval(callee));
  ASSIGN_OR_RETURN(const CallArguments arguments, EvalArguments(e.arguments));
  if (f.IsUndefined()) return InvalidArgument(f.WhyUndefined());
  if (f.kind() != Value::Kind::kCallable)
    return InvalidArgument("'", f.TypeName(), "' object is not callable");
  const Callable& callable = f.AsCallable();
  switch (callable.what) {
    case Callable::What::kMacro:
      return CallMacro(*callable.macro, arguments);
    case Callable::What::kGlobal:
      return CallGlobal(callable.name, arguments);
    case Callable::What::kMethod:
      return CallMethod(callable.receiver, callable.name, arguments);
  }
  return Internal("unknown callable");
}

absl::StatusOr<Value> Interpreter::EvalFilter(const Expr& e) {
  Value v = captured_;
  if (e.items[0] != nullptr) {
    ASSIGN_OR_RETURN(v, Eval(*e.items[0]));
  }
  ASSIGN_OR_RETURN(const CallArguments arguments, EvalArguments(e.arguments));
  return ApplyFilter(e.text, v, arguments);
}

absl::StatusOr<Value> Interpreter::EvalTest(const Expr& e) {
  ASSIGN_OR_RETURN(const Value v, Eval(*e.items[0]));
  ASSIGN_OR_RETURN(const CallArguments arguments, EvalArguments(e.arguments));
  ASSIGN_OR_RETURN(const bool result, ApplyTest(e.text, v, arguments));
  return Value::Bool(result);
}

absl::StatusOr<Value> Interpreter::EvalConcat(const Expr& e) {
  Text out;
  for (const ExprPtr& item : e.items) {
    ASSIGN_OR_RETURN(const Value v, Eval(*item));
    ASSIGN_OR_RETURN(const Text text, Str(v));
    out.Append(text);
  }
  return NewString(std::move(out));
}

absl::StatusOr<Value> Interpreter::EvalCompare(const Expr& e) {
  ASSIGN_OR_RETURN(Value left, Eval(*e.items[0]));
  for (size_t i = 0; i < e.compares.size(); ++i) {
    ASSIGN_OR_RETURN(Value right, Eval(*e.items[i + 1]));
    bool holds = false;
    const CompareOp op = e.compares[i];
    if (op == CompareOp::kEq || op == CompareOp::kNe) {
      ASSIGN_OR_RETURN(const bool equal, IsEqual(left, right));
      holds = equal == (op == CompareOp::kEq);
    } else if (op == CompareOp::kIn || op == CompareOp::kNotIn) {
      ASSIGN_OR_RETURN(const bool in, Contains(right, left));
      holds = in == (op == CompareOp::kIn);
    } else {
      ASSIGN_OR_RETURN(const int order, Order(left, right));
      holds = op == CompareOp::kLt   ? order == -1
              : op == CompareOp::kLe ? order == -1 || order == 0
              : op == CompareOp::kGt ? order == 1
                                     : order == 1 || order == 0;
    }
    if (!holds) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

absl::StatusOr<Value> Interpreter::EvalConditional(const Expr& e) {
  ASSIGN_OR_RETURN(const Value condition, Eval(*e.items[1]));
  if (condition.Truthy()) return Eval(*e.items[0]);
  if (e.items[2] != nullptr) return Eval(*e.items[2]);
  return Value::Undefined("the inline if-expression has no else and its condition is false");
}

absl::StatusOr<Value> Interpreter::EvalUnary(const Expr& e) {
  ASSIGN_OR_RETURN(const Value v, Eval(*e.items[0]));
  if (e.kind == Expr::Kind::kNot) return Value::Bool(!v.Truthy());
  if (v.IsUndefined()) return InvalidArgument(v.WhyUndefined());
  if (!v.IsNumber()) {
    return InvalidArgument("bad operand type for unary ",
                           e.kind == Expr::Kind::kNegative ? "-" : "+", ": '", v.TypeName(), "'");
  }
  if (v.kind() == Value::Kind::kFloat) {
    return Value::Float(e.kind == Expr::Kind::kNegative ? -v.AsFloat() : v.AsFloat());
  }
  int64_t out = v.AsInt();
  if (e.kind == Expr::Kind::kNegative && __builtin_sub_overflow(int64_t{0}, out, &out)) {
    return ResourceExhausted("integer beyond 64 bits");
  }
  return Value::Int(out);
}

}  // namespace lanyard::model::jinja
