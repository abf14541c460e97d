#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "model/jinja/interpreter.h"
#include "model/jinja/parser.h"

namespace lanyard::model::jinja {
namespace {

const char* Spelling(BinaryOp op) {
  switch (op) {
    case BinaryOp::kAdd:
      return "+";
    case BinaryOp::kSub:
      return "-";
    case BinaryOp::kMul:
      return "*";
    case BinaryOp::kDiv:
      return "/";
    case BinaryOp::kFloorDiv:
      return "//";
    case BinaryOp::kMod:
      return "%";
    case BinaryOp::kPow:
      return "**";
  }
  return "?";
}

absl::Status WrongTypes(BinaryOp op, const Value& a, const Value& b) {
  return InvalidArgument("unsupported operand type(s) for ", Spelling(op), ": '", a.TypeName(),
                         "' and '", b.TypeName(), "'");
}

absl::StatusOr<Value> IntegerPower(int64_t base, int64_t exponent) {
  if (exponent < 0)
    return Value::Float(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  int64_t out = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(out, base, &out)) {
      return ResourceExhausted("integer beyond 64 bits");
    }
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) {
      return ResourceExhausted("integer beyond 64 bits");
    }
  }
  return Value::Int(out);
}

absl::StatusOr<Value> Integers(BinaryOp op, int64_t a, int64_t b) {
  int64_t out = 0;
  bool overflow = false;
  switch (op) {
    case BinaryOp::kAdd:
      overflow = __builtin_add_overflow(a, b, &out);
      break;
    case BinaryOp::kSub:
      overflow = __builtin_sub_overflow(a, b, &out);
      break;
    case BinaryOp::kMul:
      overflow = __builtin_mul_overflow(a, b, &out);
      break;
    case BinaryOp::kPow:
      return IntegerPower(a, b);
    case BinaryOp::kDiv:
    case BinaryOp::kFloorDiv:
    case BinaryOp::kMod: {
      if (b == 0) return InvalidArgument("division by zero");
      if (op == BinaryOp::kDiv)
        return Value::Float(static_cast<double>(a) / static_cast<double>(b));
      if (b == -1) {  // the one quotient that may not fit
        if (op == BinaryOp::kMod) return Value::Int(0);
        overflow = __builtin_sub_overflow(int64_t{0}, a, &out);
        break;
      }
      const bool round_down = a % b != 0 && (a < 0) != (b < 0);
      out = op == BinaryOp::kMod ? a % b + (round_down ? b : 0) : a / b - (round_down ? 1 : 0);
      break;
    }
  }
  if (overflow) return ResourceExhausted("integer beyond 64 bits");
  return Value::Int(out);
}

absl::StatusOr<Value> Floats(BinaryOp op, double a, double b) {
  switch (op) {
    case BinaryOp::kAdd:
      return Value::Float(a + b);
    case BinaryOp::kSub:
      return Value::Float(a - b);
    case BinaryOp::kMul:
      return Value::Float(a * b);
    case BinaryOp::kPow:
      return Value::Float(std::pow(a, b));
    default:
      break;
  }
  if (b == 0) return InvalidArgument("division by zero");
  if (op == BinaryOp::kDiv) return Value::Float(a / b);
  double mod = std::fmod(a, b);
  if (mod != 0 && (mod < 0) != (b < 0)) mod += b;
  return Value::Float(op == BinaryOp::kMod ? mod : std::floor((a - mod) / b + 0.5));
}

int Sign(bool less, bool greater) { return less ? -1 : greater ? 1 : 0; }

}  // namespace

absl::StatusOr<Value> Interpreter::Binary(BinaryOp op, const Value& a, const Value& b) {
  if (a.IsUndefined()) return InvalidArgument(a.WhyUndefined());
  if (b.IsUndefined()) return InvalidArgument(b.WhyUndefined());
  if (a.IsInt() && b.IsInt()) return Integers(op, a.AsInt(), b.AsInt());
  if (a.IsNumber() && b.IsNumber()) return Floats(op, a.AsFloat(), b.AsFloat());
  if (op == BinaryOp::kAdd && a.IsString()) {
    if (!b.IsString()) {
      return InvalidArgument("can only concatenate str (not \"", b.TypeName(), "\") to str");
    }
    Text out = a.AsText();
    out.Append(b.AsText());
    return NewString(std::move(out));
  }
  if (op == BinaryOp::kAdd && a.IsList() && b.IsList() && a.AsList().form == b.AsList().form &&
      a.AsList().form <= List::Form::kTuple) {
    std::vector<Value> items = a.AsList().items;
    items.insert(items.end(), b.AsList().items.begin(), b.AsList().items.end());
    RETURN_IF_ERROR(Charge(items.size()));
    return NewList(std::move(items), a.AsList().form);
  }
  if (op == BinaryOp::kMul && (a.IsInt() || b.IsInt())) {
    const Value& times = a.IsInt() ? a : b;
    const Value& what = a.IsInt() ? b : a;
    const auto n = static_cast<uint64_t>(std::max<int64_t>(times.AsInt(), 0));
    if (what.IsString()) {
      const uint64_t size = what.AsText().size();
      if (n != 0 && size > left_.made_bytes / n)
        return ResourceExhausted("the template makes too much text");
      Text out;
      for (uint64_t i = 0; i < n && size > 0; ++i) out.Append(what.AsText());
      return NewString(std::move(out));
    }
    if (what.IsList() && what.AsList().form <= List::Form::kTuple) {
      const uint64_t size = what.AsList().items.size();
      if (n != 0 && size * sizeof(Value) > left_.made_bytes / n) {
        return ResourceExhausted("the template makes too long a list");
      }
      std::vector<Value> items;
      for (uint64_t i = 0; i < n && size > 0; ++i) {
        items.insert(items.end(), what.AsList().items.begin(), what.AsList().items.end());
      }
      return NewList(std::move(items), what.AsList().form);
    }
  }
  if (op == BinaryOp::kMod && a.IsString())
    return Unimplemented("formatting a string with % is not supported");
  return WrongTypes(op, a, b);
}

absl::StatusOr<bool> Interpreter::IsEqual(const Value& a, const Value& b) {
  if (a.IsString() && b.IsString()) {
    RETURN_IF_ERROR(Charge(std::min(a.AsText().size(), b.AsText().size()) / 64));
    return a.AsBytes() == b.AsBytes();
  }
  const bool equal = Equal(a, b, &left_.steps);
  RETURN_IF_ERROR(Charge(1));
  return equal;
}

absl::StatusOr<int> Interpreter::Order(const Value& a, const Value& b) {
  if (a.IsUndefined()) return InvalidArgument(a.WhyUndefined());
  if (b.IsUndefined()) return InvalidArgument(b.WhyUndefined());
  if (a.IsInt() && b.IsInt()) return Sign(a.AsInt() < b.AsInt(), a.AsInt() > b.AsInt());
  if (a.IsNumber() && b.IsNumber()) {
    const double x = a.AsFloat(), y = b.AsFloat();
    if (std::isnan(x) || std::isnan(y)) return 2;
    return Sign(x<y, x> y);
  }
  if (a.IsString() && b.IsString()) {
    RETURN_IF_ERROR(Charge(std::min(a.AsText().size(), b.AsText().size()) / 64));
    // The order of UTF-8 bytes is that of the code points.
    const int order = a.AsBytes().compare(b.AsBytes());
    return Sign(order<0, order> 0);
  }
  if (a.IsList() && b.IsList() && a.AsList().form == b.AsList().form &&
      a.AsList().form <= List::Form::kTuple) {
    const auto& x = a.AsList().items;
    const auto& y = b.AsList().items;
    for (size_t i = 0; i < x.size() && i < y.size(); ++i) {
      RETURN_IF_ERROR(Charge(1));
      ASSIGN_OR_RETURN(const bool equal, IsEqual(x[i], y[i]));
      if (!equal) return Order(x[i], y[i]);
    }
    return Sign(x.size() < y.size(), x.size() > y.size());
  }
  return InvalidArgument("'<' not supported between instances of '", a.TypeName(), "' and '",
                         b.TypeName(), "'");
}

absl::StatusOr<bool> Interpreter::Contains(const Value& container, const Value& item) {
  switch (container.kind()) {
    case Value::Kind::kUndefined:
      return false;
    case Value::Kind::kString:
      if (!item.IsString()) {
        if (item.IsUndefined()) return InvalidArgument(item.WhyUndefined());
        return InvalidArgument("'in <string>' requires string as left operand, not ",
                               item.TypeName());
      }
      RETURN_IF_ERROR(Charge(container.AsText().size() / 16));
      return container.AsBytes().find(item.AsBytes()) != std::string::npos;
    case Value::Kind::kDict:
      if (item.IsList() || item.IsDict())
        return InvalidArgument("unhashable type: '", item.TypeName(), "'");
      if (!item.IsString()) RETURN_IF_ERROR(Charge(container.AsDict().size()));
      return container.AsDict().Find(item) != nullptr;
    case Value::Kind::kList: {
      ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(container));
      for (const Value& v : items) {
        ASSIGN_OR_RETURN(const bool equal, IsEqual(v, item));
        if (equal) return true;
      }
      return false;
    }
    default:
      return InvalidArgument("argument of type '", container.TypeName(), "' is not iterable");
  }
}

absl::StatusOr<std::vector<Value>> Interpreter::Iterate(const Value& v) {
  std::vector<Value> out;
  switch (v.kind()) {
    case Value::Kind::kUndefined:
      return out;
    case Value::Kind::kList: {
      List& list = v.AsList();
      RETURN_IF_ERROR(Charge(list.items.size() - list.next));
      out.assign(list.items.begin() + static_cast<std::ptrdiff_t>(list.next), list.items.end());
      if (list.form == List::Form::kIterator) list.next = list.items.size();
      return out;
    }
    case Value::Kind::kDict:
      RETURN_IF_ERROR(Charge(v.AsDict().size()));
      for (const auto& [key, value] : v.AsDict().items()) out.push_back(key);
      return out;
    case Value::Kind::kString: {
      const Text& text = v.AsText();
      const std::string& s = text.bytes();
      RETURN_IF_ERROR(Charge(s.size()));
      RETURN_IF_ERROR(ChargeBytes(s.size() * (sizeof(Value) + sizeof(Text))));
      for (size_t i = 0; i < s.size();) {
        size_t end = i + 1;
        while (end < s.size() && (static_cast<uint8_t>(s[end]) & 0xC0) == 0x80) ++end;
        out.push_back(Value::String(text.Sub(i, end - i)));
        i = end;
      }
      return out;
    }
    default:
      return InvalidArgument("'", v.TypeName(), "' object is not iterable");
  }
}

absl::StatusOr<Value> Interpreter::Attribute(const Value& v, const std::string& name) {
  if (v.IsUndefined()) return InvalidArgument(v.WhyUndefined());
  const auto missing = [&] {
    return Value::Undefined(
        absl::StrCat("'", v.TypeName(), " object' has no attribute '", name, "'"));
  };
  if (v.kind() == Value::Kind::kNamespace) {
    const Value* found = v.AsNamespace().Find(name);
    return found == nullptr ? missing() : *found;
  }
  if (v.kind() == Value::Kind::kLoop) {
    const Loop& loop = v.AsLoop();
    const auto i = static_cast<int64_t>(loop.index0);
    const auto n = static_cast<int64_t>(loop.items->size());
    if (name == "index") return Value::Int(i + 1);
    if (name == "index0") return Value::Int(i);
    if (name == "first") return Value::Bool(i == 0);
    if (name == "last") return Value::Bool(i + 1 == n);
    if (name == "length") return Value::Int(n);
    if (name == "revindex") return Value::Int(n - i);
    if (name == "revindex0") return Value::Int(n - i - 1);
    if (name == "depth") return Value::Int(1);
    if (name == "depth0") return Value::Int(0);
    if (name == "previtem")
      return i > 0 ? (*loop.items)[i - 1] : Value::Undefined("there is no previous item");
    if (name == "nextitem")
      return i + 1 < n ? (*loop.items)[i + 1] : Value::Undefined("there is no next item");
    return missing();
  }
  // As in Python, methods come before keys.
  const bool has_methods = v.IsDict() || v.IsString();
  if (has_methods && HasMethod(name)) {
    const bool dict_method = name == "get" || name == "items" || name == "keys" || name == "values";
    if (v.IsDict() == dict_method) {
      auto callable = std::make_shared<Callable>();
      callable->what = Callable::What::kMethod;
      callable->name = name;
      callable->receiver = v;
      return Value::Of(std::move(callable));
    }
  }
  if (v.IsDict()) {
    const Value* found = v.AsDict().Find(std::string_view(name));
    if (found != nullptr) return *found;
  }
  return missing();
}

absl::StatusOr<Value> Interpreter::Item(const Value& v, const Value& key) {
  if (v.IsUndefined()) return InvalidArgument(v.WhyUndefined());
  if (v.IsDict()) {
    if (!key.IsString()) RETURN_IF_ERROR(Charge(v.AsDict().size()));
    const Value* found = v.AsDict().Find(key);
    if (found != nullptr) return *found;
  }
  if (key.IsInt() && v.IsList() && v.AsList().HasIndex()) {
    const auto& items = v.AsList().items;
    const auto n = static_cast<int64_t>(items.size());
    const int64_t i = key.AsInt() < 0 ? key.AsInt() + n : key.AsInt();
    if (i >= 0 && i < n) return items[i];
    return Value::Undefined(absl::StrCat("the ", v.TypeName(), " has no item ", key.AsInt()));
  }
  if (key.IsInt() && v.IsString()) {
    const Text& text = v.AsText();
    RETURN_IF_ERROR(Charge(text.size() / 16));
    const auto n = static_cast<int64_t>(CountCodePoints(text.bytes()));
    const int64_t i = key.AsInt() < 0 ? key.AsInt() + n : key.AsInt();
    if (i < 0 || i >= n) return Value::Undefined(absl::StrCat("the str has no item ", key.AsInt()));
    size_t at = 0;
    for (int64_t left = i; at < text.size(); ++at) {
      if ((static_cast<uint8_t>(text.bytes()[at]) & 0xC0) != 0x80 && left-- == 0) break;
    }
    size_t end = at + 1;
    while (end < text.size() && (static_cast<uint8_t>(text.bytes()[end]) & 0xC0) == 0x80) ++end;
    return NewString(text.Sub(at, end - at));
  }
  if (key.IsString()) return Attribute(v, key.AsBytes());
  return Value::Undefined(absl::StrCat("'", v.TypeName(), " object' has no such item"));
}

absl::StatusOr<Value> Interpreter::Path(const Value& v, const Value& path) {
  if (path.IsInt()) return Item(v, path);
  if (!path.IsString())
    return InvalidArgument("an attribute must be named by a string or a number");
  Value at = v;
  for (const absl::string_view part : absl::StrSplit(path.AsBytes(), '.')) {
    int64_t index;
    const bool number = !part.empty() &&
                        part.find_first_not_of("0123456789") == absl::string_view::npos &&
                        absl::SimpleAtoi(part, &index);
    ASSIGN_OR_RETURN(at, Item(at, number ? Value::Int(index)
                                         : Value::Trusted(std::string(part.data(), part.size()))));
  }
  return at;
}

}  // namespace lanyard::model::jinja
