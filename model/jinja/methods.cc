// Methods of strings, dicts and loops, and global functions.
#include <algorithm>

#include "model/jinja/interpreter.h"
#include "model/jinja/parser.h"
#include "model/jinja/strings.h"
#include "model/jinja/text_ops.h"
#include "model/unicode.h"

namespace lanyard::model::jinja {
namespace {

using Method = absl::StatusOr<Value> (*)(Interpreter&, const Value&, const Bound&);

absl::Status NeedString(const Value& v, std::string_view what) {
  if (v.IsString()) return absl::OkStatus();
  if (v.IsUndefined()) return InvalidArgument(v.WhyUndefined());
  return InvalidArgument(AbslView(what), " must be str, not ", v.TypeName());
}

absl::StatusOr<std::optional<std::string>> OptionalString(const std::optional<Value>& v,
                                                          std::string_view what) {
  if (!v || v->IsNone()) return std::optional<std::string>();
  RETURN_IF_ERROR(NeedString(*v, what));
  return std::optional<std::string>(v->AsBytes());
}

absl::StatusOr<int64_t> IntegerOr(const std::optional<Value>& v, int64_t otherwise) {
  if (!v) return otherwise;
  if (!v->IsInt())
    return InvalidArgument("'", v->TypeName(), "' object cannot be interpreted as an integer");
  return v->AsInt();
}

template <bool kLeft, bool kRight>
absl::StatusOr<Value> StripMethod(Interpreter& in, const Value& v, const Bound& a) {
  ASSIGN_OR_RETURN(const auto chars, OptionalString(a[0], "strip arg"));
  RETURN_IF_ERROR(in.Charge(chars ? chars->size() * v.AsText().size() / 64 : 0));
  return in.NewString(Strip(v.AsText(), chars, kLeft, kRight));
}

template <std::string (*kFunction)(std::string_view)>
absl::StatusOr<Value> WholeMethod(Interpreter& in, const Value& v, const Bound&) {
  RETURN_IF_ERROR(in.Charge(v.AsText().size() / 4));
  return in.NewString(Whole(v.AsText(), kFunction));
}

absl::StatusOr<Value> ListOfTexts(Interpreter& in, std::vector<Text> texts) {
  std::vector<Value> items;
  for (Text& t : texts) {
    ASSIGN_OR_RETURN(Value v, in.NewString(std::move(t)));
    items.push_back(std::move(v));
  }
  return in.NewList(std::move(items), List::Form::kList);
}

template <bool kFromRight>
absl::StatusOr<Value> SplitMethod(Interpreter& in, const Value& v, const Bound& a) {
  ASSIGN_OR_RETURN(const auto separator, OptionalString(a[0], "separator"));
  ASSIGN_OR_RETURN(const int64_t max_splits, IntegerOr(a[1], -1));
  if (separator && separator->empty()) return InvalidArgument("empty separator");
  RETURN_IF_ERROR(in.ChargeBytes(v.AsText().size()));
  return ListOfTexts(in, kFromRight ? SplitFromRight(v.AsText(), separator, max_splits)
                                    : Split(v.AsText(), separator, max_splits));
}

absl::StatusOr<Value> SplitLinesMethod(Interpreter& in, const Value& v, const Bound& a) {
  RETURN_IF_ERROR(in.Charge(v.AsText().size() / 8));
  return ListOfTexts(in, SplitLines(v.AsText(), a[0] && a[0]->Truthy()));
}

bool HasAffix(std::string_view s, std::string_view affix, bool at_end) {
  if (affix.size() > s.size()) return false;
  return (at_end ? s.substr(s.size() - affix.size()) : s.substr(0, affix.size())) == affix;
}

// Takes one string, or a tuple of which one must fit.
template <bool kAtEnd>
absl::StatusOr<Value> AffixMethod(Interpreter& in, const Value& v, const Bound& a) {
  if (!a[0]) return InvalidArgument("startswith and endswith need an argument");
  std::vector<Value> choices = {*a[0]};
  if (a[0]->IsList() && a[0]->AsList().form == List::Form::kTuple) choices = a[0]->AsList().items;
  for (const Value& choice : choices) {
    RETURN_IF_ERROR(NeedString(choice, "the argument"));
    RETURN_IF_ERROR(in.Charge(1 + choice.AsText().size() / 64));
    if (HasAffix(v.AsBytes(), choice.AsBytes(), kAtEnd)) return Value::Bool(true);
  }
  return Value::Bool(false);
}

template <bool kAtEnd>
absl::StatusOr<Value> RemoveAffixMethod(Interpreter& in, const Value& v, const Bound& a) {
  if (!a[0]) return InvalidArgument("removeprefix and removesuffix need an argument");
  RETURN_IF_ERROR(NeedString(*a[0], "the argument"));
  if (!HasAffix(v.AsBytes(), a[0]->AsBytes(), kAtEnd)) return v;
  const size_t size = v.AsText().size() - a[0]->AsText().size();
  return in.NewString(v.AsText().Sub(kAtEnd ? 0 : a[0]->AsText().size(), size));
}

absl::StatusOr<Value> ReplaceMethod(Interpreter& in, const Value& v, const Bound& a) {
  if (!a[0] || !a[1]) return InvalidArgument("replace needs two arguments");
  CallArguments arguments;
  RETURN_IF_ERROR(NeedString(*a[0], "replace() argument 1"));
  RETURN_IF_ERROR(NeedString(*a[1], "replace() argument 2"));
  arguments.positional = {*a[0], *a[1]};
  if (a[2]) arguments.positional.push_back(*a[2]);
  return in.ApplyFilter("replace", v, arguments);
}

absl::StatusOr<Value> JoinMethod(Interpreter& in, const Value& v, const Bound& a) {
  if (!a[0]) return InvalidArgument("join needs an argument");
  ASSIGN_OR_RETURN(const std::vector<Value> items, in.Iterate(*a[0]));
  Text out;
  for (size_t i = 0; i < items.size(); ++i) {
    RETURN_IF_ERROR(NeedString(items[i], "each item to join"));
    if (i > 0) out.Append(v.AsText());
    out.Append(items[i].AsText());
    RETURN_IF_ERROR(in.ChargeBytes(v.AsText().size() + items[i].AsText().size()));
  }
  return Value::String(std::move(out));
}

enum class Search { kFind, kRightFind, kIndex, kCount };
template <Search kWhat>
absl::StatusOr<Value> SearchMethod(Interpreter& in, const Value& v, const Bound& a) {
  if (!a[0]) return InvalidArgument("find, rfind, index and count need an argument");
  RETURN_IF_ERROR(NeedString(*a[0], "the argument"));
  RETURN_IF_ERROR(in.Charge(v.AsText().size() / 8));
  const std::string& s = v.AsBytes();
  const std::string& sub = a[0]->AsBytes();
  if (kWhat == Search::kCount) {
    if (sub.empty()) return Value::Int(static_cast<int64_t>(CountCodePoints(s)) + 1);
    int64_t n = 0;
    for (size_t at = s.find(sub); at != std::string::npos; at = s.find(sub, at + sub.size())) ++n;
    return Value::Int(n);
  }
  const size_t at = kWhat == Search::kRightFind ? s.rfind(sub) : s.find(sub);
  if (at != std::string::npos) {
    return Value::Int(static_cast<int64_t>(CountCodePoints(std::string_view(s).substr(0, at))));
  }
  if (kWhat == Search::kIndex) return InvalidArgument("substring not found");
  return Value::Int(-1);
}

bool IsLetterOrDigit(char32_t c) { return IsAlphabetic(c) || IsDecimal(c); }

template <bool (*kIs)(char32_t)>
absl::StatusOr<Value> EveryMethod(Interpreter& in, const Value& v, const Bound&) {
  RETURN_IF_ERROR(in.Charge(v.AsText().size() / 8));
  std::string_view s = v.AsBytes();
  bool all = !s.empty();
  while (all && !s.empty()) {
    const Utf8Step step = DecodeUtf8(s);
    all = kIs(step.code_point);
    s.remove_prefix(step.bytes);
  }
  return Value::Bool(all);
}

template <bool kUpper>
absl::StatusOr<Value> CaseMethod(Interpreter& in, const Value& v, const Bound&) {
  RETURN_IF_ERROR(in.Charge(v.AsText().size() / 8));
  ASSIGN_OR_RETURN(const bool is, in.ApplyTest(kUpper ? "upper" : "lower", v, {}));
  return Value::Bool(is);
}

absl::StatusOr<Value> GetMethod(Interpreter& in, const Value& v, const Bound& a) {
  if (!a[0]) return InvalidArgument("get needs an argument");
  ASSIGN_OR_RETURN(const bool has, in.Contains(v, *a[0]));
  if (has) return *v.AsDict().Find(*a[0]);
  return a[1] ? *a[1] : Value::None();
}

enum class View { kKeys, kValues, kItems };
template <View kView>
absl::StatusOr<Value> ViewMethod(Interpreter& in, const Value& v, const Bound&) {
  std::vector<Value> out;
  for (const auto& [key, value] : v.AsDict().items()) {
    if (kView == View::kItems) {
      ASSIGN_OR_RETURN(Value pair, in.NewList({key, value}, List::Form::kTuple));
      out.push_back(std::move(pair));
    } else {
      out.push_back(kView == View::kKeys ? key : value);
    }
  }
  return in.NewList(std::move(out), List::Form::kView);
}

struct MethodRow {
  std::string_view name;
  bool of_dict;
  std::string_view parameters;
  Method method;
};

constexpr MethodRow kMethods[] = {
    {"get", true, "key,default", GetMethod},
    {"items", true, "", ViewMethod<View::kItems>},
    {"keys", true, "", ViewMethod<View::kKeys>},
    {"values", true, "", ViewMethod<View::kValues>},
    {"strip", false, "chars", StripMethod<true, true>},
    {"lstrip", false, "chars", StripMethod<true, false>},
    {"rstrip", false, "chars", StripMethod<false, true>},
    {"split", false, "sep,maxsplit", SplitMethod<false>},
    {"rsplit", false, "sep,maxsplit", SplitMethod<true>},
    {"splitlines", false, "keepends", SplitLinesMethod},
    {"startswith", false, "prefix", AffixMethod<false>},
    {"endswith", false, "suffix", AffixMethod<true>},
    {"removeprefix", false, "prefix", RemoveAffixMethod<false>},
    {"removesuffix", false, "suffix", RemoveAffixMethod<true>},
    {"replace", false, "old,new,count", ReplaceMethod},
    {"join", false, "iterable", JoinMethod},
    {"upper", false, "", WholeMethod<Upper>},
    {"lower", false, "", WholeMethod<Lower>},
    {"capitalize", false, "", WholeMethod<Capitalize>},
    {"title", false, "", WholeMethod<PythonTitle>},
    {"find", false, "sub", SearchMethod<Search::kFind>},
    {"rfind", false, "sub", SearchMethod<Search::kRightFind>},
    {"index", false, "sub", SearchMethod<Search::kIndex>},
    {"count", false, "sub", SearchMethod<Search::kCount>},
    {"isdigit", false, "", EveryMethod<IsDecimal>},
    {"isalpha", false, "", EveryMethod<IsAlphabetic>},
    {"isalnum", false, "", EveryMethod<IsLetterOrDigit>},
    {"isspace", false, "", EveryMethod<IsSpace>},
    {"isupper", false, "", CaseMethod<true>},
    {"islower", false, "", CaseMethod<false>},
};

const MethodRow* FindMethod(std::string_view name) {
  const auto* row = std::find_if(std::begin(kMethods), std::end(kMethods),
                                 [&](const MethodRow& r) { return r.name == name; });
  return row == std::end(kMethods) ? nullptr : row;
}

absl::StatusOr<Value> Range(Interpreter& in, const CallArguments& arguments) {
  ASSIGN_OR_RETURN(const Bound a, BindArguments("range", "start,stop,step", arguments));
  if (!a[0] || !arguments.named.empty()) return InvalidArgument("range needs 1 to 3 numbers");
  ASSIGN_OR_RETURN(int64_t begin, IntegerOr(a[0], 0));
  ASSIGN_OR_RETURN(int64_t end, IntegerOr(a[1], 0));
  ASSIGN_OR_RETURN(const int64_t step, IntegerOr(a[2], 1));
  if (!a[1]) end = std::exchange(begin, 0);
  if (step == 0) return InvalidArgument("range() arg 3 must not be zero");
  std::vector<Value> items;
  for (int64_t i = begin; step > 0 ? i < end : i > end;) {
    if (items.size() >= 100'000)
      return ResourceExhausted("a range of more than 100000 numbers");  // like jinja2's sandbox
    items.push_back(Value::Int(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  RETURN_IF_ERROR(in.Charge(items.size()));
  return in.NewList(std::move(items), List::Form::kRange);
}

absl::StatusOr<Value> DictOf(Interpreter& in, const CallArguments& arguments, bool as_namespace) {
  std::vector<std::pair<Value, Value>> items;
  if (arguments.positional.size() > 1)
    return InvalidArgument("dict and namespace take at most 1 positional argument");
  if (!arguments.positional.empty()) {
    const Value& from = arguments.positional[0];
    if (!from.IsDict())
      return Unimplemented("making a dict from a ", from.TypeName(), " is not supported");
    items = from.AsDict().items();
  }
  for (const auto& [name, value] : arguments.named) items.emplace_back(Value::Trusted(name), value);
  if (!as_namespace) return in.NewDict(items);
  auto ns = std::make_shared<Namespace>();
  for (const auto& [key, value] : items) {
    RETURN_IF_ERROR(in.CheckStorable(value));
    if (!key.IsString())
      return InvalidArgument("the attributes of a namespace are named by strings");
    RETURN_IF_ERROR(in.Charge(1 + ns->attributes.size()));
    ns->Set(key.AsBytes(), value);
  }
  return Value::Of(std::move(ns));
}

}  // namespace

bool HasMethod(std::string_view name) { return FindMethod(name) != nullptr || name == "cycle"; }

absl::StatusOr<Value> Interpreter::CallMethod(const Value& v, const std::string& name,
                                              const CallArguments& arguments) {
  if (v.IsUndefined()) return InvalidArgument(v.WhyUndefined());
  if (v.kind() == Value::Kind::kLoop && name == "cycle") {
    if (arguments.positional.empty()) return InvalidArgument("no items for cycling given");
    return arguments.positional[v.AsLoop().index0 % arguments.positional.size()];
  }
  const MethodRow* row = FindMethod(name);
  if (row == nullptr || (row->of_dict ? !v.IsDict() : !v.IsString())) {
    return InvalidArgument("'", v.TypeName(), " object' has no method '", name, "'");
  }
  ASSIGN_OR_RETURN(const Bound bound,
                   BindArguments(absl::StrCat("method '", name, "'"), row->parameters, arguments));
  return row->method(*this, v, bound);
}

absl::StatusOr<Value> Interpreter::CallGlobal(const std::string& name,
                                              const CallArguments& arguments) {
  if (name == "range") return Range(*this, arguments);
  if (name == "dict") return DictOf(*this, arguments, false);
  if (name == "namespace") return DictOf(*this, arguments, true);
  if (name == "raise_exception") {
    ASSIGN_OR_RETURN(const Bound a, BindArguments(name, "message", arguments));
    Text message;
    if (a[0]) {
      ASSIGN_OR_RETURN(message, Str(*a[0]));
    }
    return Refusal(message.bytes());
  }
  return Internal("unknown function ", name);
}

}  // namespace lanyard::model::jinja
