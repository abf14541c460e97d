// Filters of one value. Those over lists are in filters_lists.cc.
#include "model/jinja/filters.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "model/jinja/parser.h"
#include "model/jinja/strings.h"
#include "model/jinja/text_ops.h"

namespace lanyard::model::jinja {
namespace {

template <std::string (*kFunction)(std::string_view)>
absl::StatusOr<Value> WholeFilter(Interpreter& in, const Value& v, const Bound&) {
  ASSIGN_OR_RETURN(const Text text, in.Str(v));
  RETURN_IF_ERROR(in.Charge(text.size() / 4));
  return in.NewString(Whole(text, kFunction));
}

absl::StatusOr<Value> StringFilter(Interpreter& in, const Value& v, const Bound&) {
  if (v.IsString()) return v;
  ASSIGN_OR_RETURN(Text text, in.Str(v));
  return in.NewString(std::move(text));
}

absl::StatusOr<Value> SafeFilter(Interpreter&, const Value&, const Bound&) {
  return Unimplemented("filter 'safe' is supported only at the end of {{ ... }}");
}

absl::StatusOr<Value> LengthFilter(Interpreter& in, const Value& v, const Bound&) {
  switch (v.kind()) {
    case Value::Kind::kUndefined:
      return Value::Int(0);
    case Value::Kind::kString:
      RETURN_IF_ERROR(in.Charge(v.AsText().size() / 64));
      return Value::Int(static_cast<int64_t>(CountCodePoints(v.AsBytes())));
    case Value::Kind::kDict:
      return Value::Int(static_cast<int64_t>(v.AsDict().size()));
    case Value::Kind::kList:
      if (v.AsList().HasLength()) return Value::Int(static_cast<int64_t>(v.AsList().items.size()));
      break;
    default:
      break;
  }
  return InvalidArgument("object of type '", v.TypeName(), "' has no len()");
}

absl::StatusOr<Value> DefaultFilter(Interpreter&, const Value& v, const Bound& a) {
  const bool falsy_too = a[1] && a[1]->Truthy();
  if (!v.IsUndefined() && (!falsy_too || v.Truthy())) return v;
  return a[0] ? *a[0] : Value::Trusted("");
}

absl::StatusOr<Value> TrimFilter(Interpreter& in, const Value& v, const Bound& a) {
  ASSIGN_OR_RETURN(const Text text, in.Str(v));
  std::optional<std::string> chars;
  if (a[0] && !a[0]->IsNone()) {
    if (!a[0]->IsString()) return InvalidArgument("strip arg must be None or str");
    chars = a[0]->AsBytes();
    RETURN_IF_ERROR(in.Charge(chars->size() * text.size() / 64));
  }
  return in.NewString(Strip(text, chars, true, true));
}

absl::StatusOr<Value> ReplaceFilter(Interpreter& in, const Value& v, const Bound& a) {
  if (!a[0] || !a[1]) return InvalidArgument("filter 'replace' needs what to replace and by what");
  ASSIGN_OR_RETURN(const Text text, in.Str(v));
  ASSIGN_OR_RETURN(const Text from, in.Str(*a[0]));
  ASSIGN_OR_RETURN(const Text to, in.Str(*a[1]));
  int64_t count = -1;
  if (a[2] && !a[2]->IsNone()) {
    if (!a[2]->IsInt()) return InvalidArgument("the count of 'replace' must be an integer");
    count = a[2]->AsInt();
  }
  RETURN_IF_ERROR(in.Charge(text.size() / 16));
  std::optional<Text> out = Replace(text, from, to, count, uint64_t{16} << 20);
  if (!out) return ResourceExhausted("the template makes too much text");
  return in.NewString(*std::move(out));
}

absl::StatusOr<Value> IndentFilter(Interpreter& in, const Value& v, const Bound& a) {
  if (!v.IsString()) return InvalidArgument("filter 'indent' needs a string, got a ", v.TypeName());
  Text indent(std::string(4, ' '), true);
  if (a[0] && a[0]->IsString()) {
    indent = a[0]->AsText();
  } else if (a[0]) {
    if (!a[0]->IsInt() || a[0]->AsInt() > 1000)
      return InvalidArgument("the width of 'indent' must be 0 to 1000");
    std::string spaces(static_cast<size_t>(std::max<int64_t>(a[0]->AsInt(), 0)), ' ');
    indent = Text(std::move(spaces), true);
  }
  const bool first = a[1] && a[1]->Truthy();
  const bool blank = a[2] && a[2]->Truthy();
  Text whole = v.AsText();
  whole.Append("\n", true);
  Text out;
  const std::vector<Text> lines = SplitLines(whole, false);
  RETURN_IF_ERROR(in.ChargeBytes(whole.size() + lines.size() * indent.size()));
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.Append("\n", true);
    if (i == 0 ? first : blank || !lines[i].empty()) out.Append(indent);
    out.Append(lines[i]);
  }
  return Value::String(std::move(out));
}

absl::StatusOr<Value> ReverseFilter(Interpreter& in, const Value& v, const Bound&) {
  ASSIGN_OR_RETURN(std::vector<Value> items, in.Iterate(v));
  std::reverse(items.begin(), items.end());
  if (!v.IsString()) return in.NewList(std::move(items), List::Form::kIterator);
  Text out;
  for (const Value& c : items) out.Append(c.AsText());
  return in.NewString(std::move(out));
}

std::optional<double> ParseFloat(std::string_view s) {
  std::string digits;
  for (const char c : absl::StripAsciiWhitespace(AbslView(s))) {
    if (c != '_') digits.push_back(c);
  }
  double out;
  if (digits.find_first_of("xX") != std::string::npos || !absl::SimpleAtod(digits, &out))
    return std::nullopt;
  return out;
}

absl::StatusOr<Value> FloatFilter(Interpreter&, const Value& v, const Bound& a) {
  if (v.IsUndefined()) return InvalidArgument(v.WhyUndefined());
  if (v.IsNumber()) return Value::Float(v.AsFloat());
  if (v.IsString()) {
    if (const auto parsed = ParseFloat(v.AsBytes())) return Value::Float(*parsed);
  }
  return a[0] ? *a[0] : Value::Float(0);
}

absl::StatusOr<Value> IntFilter(Interpreter&, const Value& v, const Bound& a) {
  if (v.IsUndefined()) return InvalidArgument(v.WhyUndefined());
  const Value otherwise = a[0] ? *a[0] : Value::Int(0);
  if (a[1] && !(a[1]->IsInt() && a[1]->AsInt() == 10))
    return Unimplemented("filter 'int' with a base is not supported");
  if (v.IsInt()) return Value::Int(v.AsInt());
  double d = 0;
  if (v.IsString()) {
    int64_t exact;
    std::string digits = v.AsBytes();
    digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
    if (absl::SimpleAtoi(digits, &exact)) return Value::Int(exact);
    const auto parsed = ParseFloat(v.AsBytes());
    if (!parsed) return otherwise;
    d = *parsed;
  } else if (v.kind() == Value::Kind::kFloat) {
    d = v.AsFloat();
  } else {
    return otherwise;
  }
  if (!std::isfinite(d)) return otherwise;
  if (std::fabs(d) >= 9.2e18) return ResourceExhausted("integer beyond 64 bits");
  return Value::Int(static_cast<int64_t>(d));
}

absl::StatusOr<Value> AbsFilter(Interpreter&, const Value& v, const Bound&) {
  if (v.IsUndefined()) return InvalidArgument(v.WhyUndefined());
  if (!v.IsNumber()) return InvalidArgument("bad operand type for abs(): '", v.TypeName(), "'");
  if (v.kind() == Value::Kind::kFloat) return Value::Float(std::fabs(v.AsFloat()));
  if (v.AsInt() == INT64_MIN) return ResourceExhausted("integer beyond 64 bits");
  return Value::Int(std::abs(v.AsInt()));
}

absl::StatusOr<Value> RoundFilter(Interpreter&, const Value& v, const Bound& a) {
  if (v.IsUndefined()) return InvalidArgument(v.WhyUndefined());
  if (!v.IsNumber()) return InvalidArgument("filter 'round' needs a number, got a ", v.TypeName());
  const int64_t precision = a[0] && a[0]->IsInt() ? a[0]->AsInt() : 0;
  if (precision < 0 || precision > 50)
    return Unimplemented("'round' to ", precision, " digits is not supported");
  std::string method = "common";
  if (a[1]) method = a[1]->IsString() ? a[1]->AsBytes() : "";
  const double d = v.AsFloat();
  if (method == "common") {
    if (v.IsInt()) return Value::Int(v.AsInt());
    char buffer[500];
    std::snprintf(buffer, sizeof(buffer), "%.*f", static_cast<int>(precision),
                  d);  // exact; it rounds half to even
    double out = d;
    if (!std::isfinite(d) || !absl::SimpleAtod(buffer, &out)) return v;
    return Value::Float(out);
  }
  if (method != "ceil" && method != "floor")
    return InvalidArgument("method must be common, ceil or floor");
  const double scale = std::pow(10.0, static_cast<double>(precision));
  return Value::Float((method == "ceil" ? std::ceil(d * scale) : std::floor(d * scale)) / scale);
}

absl::StatusOr<Value> ToJsonFilter(Interpreter& in, const Value& v, const Bound& a) {
  JsonOptions options;
  options.ensure_ascii = a[0] && a[0]->Truthy();
  options.sort_keys = a[3] && a[3]->Truthy();
  if (a[1] && a[1]->IsInt()) {
    if (a[1]->AsInt() > 100)
      return InvalidArgument("an indent of ", a[1]->AsInt(), " is more than 100");
    options.indent.emplace(static_cast<size_t>(std::max<int64_t>(a[1]->AsInt(), 0)), ' ');
  } else if (a[1] && a[1]->IsString()) {
    options.indent = a[1]->AsBytes();
    if (options.indent->size() > 100) return InvalidArgument("an indent longer than 100");
  }
  if (options.indent) options.item_separator.resize(1);  // no space before a line's end
  if (a[2] && !a[2]->IsNone()) {
    ASSIGN_OR_RETURN(const std::vector<Value> pair, in.Iterate(*a[2]));
    if (pair.size() != 2 || !pair[0].IsString() || !pair[1].IsString() ||
        pair[0].AsText().size() + pair[1].AsText().size() > 100) {
      return InvalidArgument("separators of 'tojson' must be two short strings");
    }
    options.item_separator = pair[0].AsBytes();
    options.key_separator = pair[1].AsBytes();
  }
  Text out;
  RETURN_IF_ERROR(AppendJson(in, v, options, 0, &out));
  return in.NewString(std::move(out));
}

constexpr FilterRow kFilters[] = {
    {"string", "", StringFilter},
    {"safe", "", SafeFilter},
    {"upper", "", WholeFilter<Upper>},
    {"lower", "", WholeFilter<Lower>},
    {"capitalize", "", WholeFilter<Capitalize>},
    {"title", "", WholeFilter<JinjaTitle>},
    {"length", "", LengthFilter},
    {"count", "", LengthFilter},
    {"default", "default_value,boolean", DefaultFilter},
    {"d", "default_value,boolean", DefaultFilter},
    {"trim", "chars", TrimFilter},
    {"replace", "old,new,count", ReplaceFilter},
    {"indent", "width,first,blank", IndentFilter},
    {"reverse", "", ReverseFilter},
    {"float", "default", FloatFilter},
    {"int", "default,base", IntFilter},
    {"abs", "", AbsFilter},
    {"round", "precision,method", RoundFilter},
    {"tojson", "ensure_ascii,indent,separators,sort_keys", ToJsonFilter},
};

const FilterRow* FindFilter(std::string_view name) {
  for (const std::span<const FilterRow> rows :
       {std::span<const FilterRow>(kFilters), ListFilters()}) {
    for (const FilterRow& row : rows) {
      if (row.name == name) return &row;
    }
  }
  return nullptr;
}

}  // namespace

bool HasFilter(std::string_view name) {
  return FindFilter(name) != nullptr || FindItemFilter(name) != nullptr;
}

absl::StatusOr<Value> Interpreter::ApplyFilter(std::string_view name, const Value& v,
                                               const CallArguments& arguments) {
  RETURN_IF_ERROR(Charge(1));
  if (const ItemFilter item_filter = FindItemFilter(name); item_filter != nullptr) {
    return item_filter(*this, v, arguments);
  }
  const FilterRow* row = FindFilter(name);
  if (row == nullptr) return Unimplemented("filter '", AbslView(name), "' is not supported");
  ASSIGN_OR_RETURN(const Bound bound, BindArguments(absl::StrCat("filter '", AbslView(name), "'"),
                                                    row->parameters, arguments));
  return row->filter(*this, v, bound);
}

}  // namespace lanyard::model::jinja
