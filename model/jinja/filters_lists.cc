#include <algorithm>

#include "absl/strings/str_split.h"
#include "model/jinja/filters.h"
#include "model/jinja/strings.h"

namespace lanyard::model::jinja {
namespace {

absl::StatusOr<Value> ListFilter(Interpreter& in, const Value& v, const Bound&) {
  ASSIGN_OR_RETURN(std::vector<Value> items, in.Iterate(v));
  return in.NewList(std::move(items), List::Form::kList);
}

absl::StatusOr<Value> FirstFilter(Interpreter& in, const Value& v, const Bound&) {
  const auto empty = [] { return Value::Undefined("No first item, sequence was empty."); };
  if (v.IsList()) {  // it takes at most one item from an iterator
    List& list = v.AsList();
    if (list.next >= list.items.size()) return empty();
    const Value first = list.items[list.next];
    if (list.form == List::Form::kIterator) ++list.next;
    return first;
  }
  if (v.IsDict()) return v.AsDict().size() == 0 ? empty() : v.AsDict().items()[0].first;
  if (v.IsString()) return v.AsText().empty() ? empty() : in.Item(v, Value::Int(0));
  ASSIGN_OR_RETURN(const std::vector<Value> items, in.Iterate(v));
  return items.empty() ? empty() : items[0];
}

absl::StatusOr<Value> LastFilter(Interpreter& in, const Value& v, const Bound&) {
  const auto empty = [] { return Value::Undefined("No last item, sequence was empty."); };
  if (v.IsList()) {
    const List& list = v.AsList();
    if (list.form == List::Form::kIterator)
      return InvalidArgument("'generator' object is not reversible");
    return list.items.empty() ? empty() : list.items.back();
  }
  if (v.IsDict()) return v.AsDict().size() == 0 ? empty() : v.AsDict().items().back().first;
  if (v.IsString()) return v.AsText().empty() ? empty() : in.Item(v, Value::Int(-1));
  ASSIGN_OR_RETURN(const std::vector<Value> items, in.Iterate(v));
  return items.empty() ? empty() : items.back();
}

absl::StatusOr<Value> ItemsFilter(Interpreter& in, const Value& v, const Bound&) {
  std::vector<Value> out;
  if (!v.IsUndefined()) {
    if (!v.IsDict()) return InvalidArgument("Can only get item pairs from a mapping.");
    ASSIGN_OR_RETURN(const Value view, in.CallMethod(v, "items", {}));
    out = view.AsList().items;
  }
  return in.NewList(std::move(out), List::Form::kIterator);
}

absl::StatusOr<Value> JoinFilter(Interpreter& in, const Value& v, const Bound& a) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, in.Iterate(v));
  Text separator;
  if (a[0]) {
    ASSIGN_OR_RETURN(separator, in.Str(*a[0]));
  }
  Text out;
  for (size_t i = 0; i < items.size(); ++i) {
    Value item = items[i];
    if (a[1] && !a[1]->IsNone()) {
      ASSIGN_OR_RETURN(item, in.Path(item, *a[1]));
    }
    ASSIGN_OR_RETURN(const Text text, in.Str(item));
    if (i > 0) out.Append(separator);
    out.Append(text);
    RETURN_IF_ERROR(in.ChargeBytes(separator.size() + text.size()));
  }
  return Value::String(std::move(out));
}

Value IgnoreCase(const Value& v) {
  return v.IsString() ? Value::String(Text(Lower(v.AsBytes()), false)) : v;
}

// The value by which items are ordered.
absl::StatusOr<Value> KeyOf(Interpreter& in, const Value& item,
                            const std::optional<Value>& attribute, bool case_sensitive) {
  Value key = item;
  if (attribute && !attribute->IsNone()) {
    ASSIGN_OR_RETURN(key, in.Path(item, *attribute));
  }
  if (case_sensitive) return key;
  if (key.IsString()) RETURN_IF_ERROR(in.Charge(key.AsText().size() / 4));
  return IgnoreCase(key);
}

struct Keyed {
  Value key;
  Value item;
};

absl::StatusOr<Value> SortKeyed(Interpreter& in, std::vector<Keyed> keyed, bool reverse) {
  absl::Status status;
  const auto less = [&](const Keyed& a, const Keyed& b) {
    if (!status.ok()) return false;
    const auto order =
        in.Charge(1).ok() ? in.Order(a.key, b.key) : absl::StatusOr<int>(in.Charge(1));
    if (!order.ok()) status = order.status();
    return order.ok() && *order == -1;
  };
  // Python's reverse keeps the order of equal items.
  if (reverse) std::reverse(keyed.begin(), keyed.end());
  std::stable_sort(keyed.begin(), keyed.end(), less);
  if (reverse) std::reverse(keyed.begin(), keyed.end());
  RETURN_IF_ERROR(status);
  std::vector<Value> out;
  for (Keyed& k : keyed) out.push_back(std::move(k.item));
  return in.NewList(std::move(out), List::Form::kList);
}

absl::StatusOr<Value> SortFilter(Interpreter& in, const Value& v, const Bound& a) {
  const bool case_sensitive = a[1] && a[1]->Truthy();
  if (a[2] && a[2]->IsString() && a[2]->AsBytes().find(',') != std::string::npos) {
    return Unimplemented("'sort' by several attributes is not supported");
  }
  ASSIGN_OR_RETURN(const std::vector<Value> items, in.Iterate(v));
  std::vector<Keyed> keyed;
  for (const Value& item : items) {
    ASSIGN_OR_RETURN(Value key, KeyOf(in, item, a[2], case_sensitive));
    keyed.push_back({std::move(key), item});
  }
  return SortKeyed(in, std::move(keyed), a[0] && a[0]->Truthy());
}

absl::StatusOr<Value> DictSortFilter(Interpreter& in, const Value& v, const Bound& a) {
  if (!v.IsDict()) return InvalidArgument("filter 'dictsort' needs a dict, got a ", v.TypeName());
  const bool case_sensitive = a[0] && a[0]->Truthy();
  const std::string by = a[1] && a[1]->IsString() ? a[1]->AsBytes() : "key";
  if (by != "key" && by != "value")
    return InvalidArgument("You can only sort by either \"key\" or \"value\"");
  std::vector<Keyed> keyed;
  for (const auto& [key, value] : v.AsDict().items()) {
    ASSIGN_OR_RETURN(Value order_by,
                     KeyOf(in, by == "key" ? key : value, std::nullopt, case_sensitive));
    ASSIGN_OR_RETURN(Value pair, in.NewList({key, value}, List::Form::kTuple));
    keyed.push_back({std::move(order_by), std::move(pair)});
  }
  return SortKeyed(in, std::move(keyed), a[2] && a[2]->Truthy());
}

absl::StatusOr<Value> UniqueFilter(Interpreter& in, const Value& v, const Bound& a) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, in.Iterate(v));
  std::vector<Value> out, seen;
  for (const Value& item : items) {
    ASSIGN_OR_RETURN(const Value key, KeyOf(in, item, a[1], a[0] && a[0]->Truthy()));
    bool known = false;
    for (size_t i = 0; i < seen.size() && !known; ++i) {
      ASSIGN_OR_RETURN(known, in.IsEqual(seen[i], key));
    }
    if (known) continue;
    seen.push_back(key);
    out.push_back(item);
  }
  return in.NewList(std::move(out), List::Form::kIterator);
}

template <bool kMax>
absl::StatusOr<Value> ExtremeFilter(Interpreter& in, const Value& v, const Bound& a) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, in.Iterate(v));
  if (items.empty()) return Value::Undefined("No aggregated item, sequence was empty.");
  Value best = items[0], best_key;
  for (size_t i = 0; i < items.size(); ++i) {
    ASSIGN_OR_RETURN(Value key, KeyOf(in, items[i], a[1], a[0] && a[0]->Truthy()));
    if (i > 0) {
      ASSIGN_OR_RETURN(const int order, in.Order(key, best_key));
      if (order != (kMax ? 1 : -1)) continue;
    }
    best = items[i];
    best_key = std::move(key);
  }
  return best;
}

absl::StatusOr<Value> SumFilter(Interpreter& in, const Value& v, const Bound& a) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, in.Iterate(v));
  Value total = a[1] ? *a[1] : Value::Int(0);
  for (const Value& item : items) {
    Value term = item;
    if (a[0] && !a[0]->IsNone()) {
      ASSIGN_OR_RETURN(term, in.Path(item, *a[0]));
    }
    ASSIGN_OR_RETURN(total, in.Binary(BinaryOp::kAdd, total, term));
  }
  return total;
}

constexpr FilterRow kListFilters[] = {
    {"list", "", ListFilter},
    {"first", "", FirstFilter},
    {"last", "", LastFilter},
    {"items", "", ItemsFilter},
    {"join", "d,attribute", JoinFilter},
    {"sort", "reverse,case_sensitive,attribute", SortFilter},
    {"dictsort", "case_sensitive,by,reverse", DictSortFilter},
    {"unique", "case_sensitive,attribute", UniqueFilter},
    {"min", "case_sensitive,attribute", ExtremeFilter<false>},
    {"max", "case_sensitive,attribute", ExtremeFilter<true>},
    {"sum", "attribute,start", SumFilter},
};

// Returns the arguments after the first `skip` positional ones.
CallArguments Rest(const CallArguments& arguments, size_t skip) {
  CallArguments out = arguments;
  out.positional.erase(out.positional.begin(),
                       out.positional.begin() + static_cast<std::ptrdiff_t>(skip));
  return out;
}

absl::StatusOr<Value> MapAttribute(Interpreter& in, const std::vector<Value>& items,
                                   const CallArguments& arguments) {
  ASSIGN_OR_RETURN(const Bound a, BindArguments("filter 'map'", "attribute,default", arguments));
  std::vector<Value> out;
  for (const Value& item : items) {
    ASSIGN_OR_RETURN(Value mapped, in.Path(item, *a[0]));
    if (mapped.IsUndefined() && a[1]) mapped = *a[1];
    out.push_back(std::move(mapped));
  }
  return in.NewList(std::move(out), List::Form::kIterator);
}

// jinja2 does not look into false values: a 0 has no items, although it cannot be iterated.
absl::StatusOr<std::vector<Value>> ItemsOf(Interpreter& in, const Value& v) {
  if (!v.Truthy()) return std::vector<Value>();
  return in.Iterate(v);
}

absl::StatusOr<Value> MapFilter(Interpreter& in, const Value& v, const CallArguments& arguments) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, ItemsOf(in, v));
  const bool by_attribute = arguments.positional.empty() && !arguments.named.empty() &&
                            std::any_of(arguments.named.begin(), arguments.named.end(),
                                        [](const auto& n) { return n.first == "attribute"; });
  if (by_attribute) return MapAttribute(in, items, arguments);
  if (arguments.positional.empty() || !arguments.positional[0].IsString()) {
    return InvalidArgument("map requires a filter argument");
  }
  const std::string name = arguments.positional[0].AsBytes();
  const CallArguments rest = Rest(arguments, 1);
  std::vector<Value> out;
  for (const Value& item : items) {
    ASSIGN_OR_RETURN(Value mapped, in.ApplyFilter(name, item, rest));
    out.push_back(std::move(mapped));
  }
  return in.NewList(std::move(out), List::Form::kIterator);
}

// select, reject, selectattr, rejectattr: they take the items for which a test (or truth) holds, of
// the item or of its attribute.
template <bool kWanted, bool kAttribute>
absl::StatusOr<Value> SelectFilter(Interpreter& in, const Value& v,
                                   const CallArguments& arguments) {
  ASSIGN_OR_RETURN(const std::vector<Value> items, ItemsOf(in, v));
  const size_t at = kAttribute ? 1 : 0;
  if (arguments.positional.size() < at)
    return InvalidArgument("Missing parameter for attribute name");
  const bool has_test = arguments.positional.size() > at;
  if (has_test && !arguments.positional[at].IsString())
    return InvalidArgument("the name of a test must be a string");
  const CallArguments rest = has_test ? Rest(arguments, at + 1) : CallArguments{};
  std::vector<Value> out;
  for (const Value& item : items) {
    RETURN_IF_ERROR(in.Charge(1));
    Value looked_at = item;
    if (kAttribute) {
      ASSIGN_OR_RETURN(looked_at, in.Path(item, arguments.positional[0]));
    }
    bool holds = looked_at.Truthy();
    if (has_test) {
      ASSIGN_OR_RETURN(holds, in.ApplyTest(arguments.positional[at].AsBytes(), looked_at, rest));
    }
    if (holds == kWanted) out.push_back(item);
  }
  return in.NewList(std::move(out), List::Form::kIterator);
}

}  // namespace

std::span<const FilterRow> ListFilters() { return kListFilters; }

ItemFilter FindItemFilter(std::string_view name) {
  if (name == "map") return MapFilter;
  if (name == "select") return SelectFilter<true, false>;
  if (name == "reject") return SelectFilter<false, false>;
  if (name == "selectattr") return SelectFilter<true, true>;
  if (name == "rejectattr") return SelectFilter<false, true>;
  return nullptr;
}

}  // namespace lanyard::model::jinja
