#include "model/jinja/value.h"

#include <algorithm>

namespace lanyard::model::jinja {

Value Value::Undefined(std::string why) {
  return Value(Rep(std::in_place_index<0>,
                   UndefinedRep{std::make_shared<const std::string>(std::move(why))}));
}

std::string Value::WhyUndefined() const {
  const auto& why = std::get<0>(rep_).why;
  return why == nullptr ? "the value is undefined" : *why;
}

const void* Value::Identity() const {
  switch (kind()) {
    case Kind::kString:
      return std::get<5>(rep_).get();
    case Kind::kList:
      return std::get<6>(rep_).get();
    case Kind::kDict:
      return std::get<7>(rep_).get();
    case Kind::kNamespace:
      return std::get<8>(rep_).get();
    case Kind::kCallable:
      return std::get<9>(rep_).get();
    case Kind::kLoop:
      return std::get<10>(rep_).get();
    default:
      return nullptr;
  }
}

bool Value::Truthy() const {
  switch (kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
      return AsBool();
    case Kind::kInt:
      return AsInt() != 0;
    case Kind::kFloat:
      return AsFloat() != 0;
    case Kind::kString:
      return !AsText().empty();
    case Kind::kList:
      return AsList().form == List::Form::kIterator || !AsList().items.empty();
    case Kind::kDict:
      return AsDict().size() > 0;
    case Kind::kNamespace:
    case Kind::kCallable:
    case Kind::kLoop:
      return true;
  }
  return false;
}

const char* Value::TypeName() const {
  switch (kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return "str";
    case Kind::kList:
      switch (AsList().form) {
        case List::Form::kList:
          return "list";
        case List::Form::kTuple:
          return "tuple";
        case List::Form::kRange:
          return "range";
        case List::Form::kView:
          return "dict view";
        case List::Form::kIterator:
          return "generator";
      }
      return "list";
    case Kind::kDict:
      return "dict";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kCallable:
      return "function";
    case Kind::kLoop:
      return "LoopContext";
  }
  return "object";
}

const Value* Dict::Find(std::string_view key) const {
  const auto it = by_text_.find(absl::string_view(key.data(), key.size()));
  return it == by_text_.end() ? nullptr : &items_[it->second].second;
}

const Value* Dict::Find(const Value& key) const {
  if (key.IsString()) return Find(key.AsBytes());
  for (const auto& [k, v] : items_) {
    uint64_t steps = 2;  // keys are no containers
    if (!k.IsString() && Equal(k, key, &steps)) return &v;
  }
  return nullptr;
}

void Dict::Set(Value key, Value value) {
  if (const Value* old = Find(key); old != nullptr) {
    *const_cast<Value*>(old) = std::move(value);
    return;
  }
  if (key.IsString()) by_text_.emplace(key.AsBytes(), items_.size());
  items_.emplace_back(std::move(key), std::move(value));
}

const Value* Namespace::Find(std::string_view name) const {
  for (const auto& [k, v] : attributes) {
    if (k == name) return &v;
  }
  return nullptr;
}

void Namespace::Set(std::string_view name, Value value) {
  for (auto& [k, v] : attributes) {
    if (k == name) {
      v = std::move(value);
      return;
    }
  }
  attributes.emplace_back(std::string(name), std::move(value));
}

size_t CountCodePoints(std::string_view s) {
  return std::count_if(s.begin(), s.end(),
                       [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; });
}

uint16_t DepthOf(const Value& v) {
  if (v.IsList()) return v.AsList().depth;
  return v.IsDict() ? v.AsDict().depth : 0;
}

namespace {

bool EqualLists(const List& a, const List& b, uint64_t* steps) {
  if (a.form != b.form || !a.HasLength() || a.items.size() != b.items.size()) return false;
  return std::equal(a.items.begin(), a.items.end(), b.items.begin(),
                    [&](const Value& x, const Value& y) { return Equal(x, y, steps); });
}

bool EqualDicts(const Dict& a, const Dict& b, uint64_t* steps) {
  if (a.size() != b.size()) return false;
  return std::all_of(a.items().begin(), a.items().end(), [&](const auto& item) {
    const Value* other = b.Find(item.first);
    return other != nullptr && Equal(item.second, *other, steps);
  });
}

}  // namespace

bool Equal(const Value& a, const Value& b, uint64_t* steps) {
  if (*steps == 0) return false;
  --*steps;
  if (a.IsNumber() && b.IsNumber()) {
    return a.IsInt() && b.IsInt() ? a.AsInt() == b.AsInt() : a.AsFloat() == b.AsFloat();
  }
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Value::Kind::kUndefined:
    case Value::Kind::kNone:
      return true;
    case Value::Kind::kString:
      return a.AsBytes() == b.AsBytes();
    case Value::Kind::kList:
      return a.Identity() == b.Identity() || EqualLists(a.AsList(), b.AsList(), steps);
    case Value::Kind::kDict:
      return a.Identity() == b.Identity() || EqualDicts(a.AsDict(), b.AsDict(), steps);
    default:
      return a.Identity() == b.Identity();
  }
}

}  // namespace lanyard::model::jinja
