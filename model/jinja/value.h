// The values of a template: Python's, as far as templates need them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "model/jinja/text.h"

namespace lanyard::model::jinja {

struct List;
class Dict;
struct Namespace;
struct Callable;
struct Loop;
struct MacroNode;

// A value is small and cheap to copy; strings and containers are shared. A template never changes
// containers that come from outside.
class Value {
 public:
  enum class Kind : uint8_t {
    kUndefined,
    kNone,
    kBool,
    kInt,
    kFloat,
    kString,
    kList,
    kDict,
    kNamespace,
    kCallable,
    kLoop,
  };

  Value() = default;  // undefined, without a message
  static Value None() { return Value(Rep(std::in_place_index<1>)); }
  static Value Bool(bool b) { return Value(Rep(std::in_place_index<2>, b)); }
  static Value Int(int64_t i) { return Value(Rep(std::in_place_index<3>, i)); }
  static Value Float(double d) { return Value(Rep(std::in_place_index<4>, d)); }
  static Value String(Text text) {
    return Value(Rep(std::make_shared<const Text>(std::move(text))));
  }
  static Value Trusted(std::string s) { return String(Text(std::move(s), true)); }
  static Value Of(std::shared_ptr<List> list) { return Value(Rep(std::move(list))); }
  static Value Of(std::shared_ptr<Dict> dict) { return Value(Rep(std::move(dict))); }
  static Value Of(std::shared_ptr<Namespace> ns) { return Value(Rep(std::move(ns))); }
  static Value Of(std::shared_ptr<Callable> callable) { return Value(Rep(std::move(callable))); }
  static Value Of(std::shared_ptr<Loop> loop) { return Value(Rep(std::move(loop))); }
  // `why` is the message of the error that using it gives: "'x' is undefined".
  static Value Undefined(std::string why);

  Kind kind() const { return static_cast<Kind>(rep_.index()); }
  bool IsUndefined() const { return kind() == Kind::kUndefined; }
  bool IsNone() const { return kind() == Kind::kNone; }
  bool IsString() const { return kind() == Kind::kString; }
  bool IsList() const { return kind() == Kind::kList; }
  bool IsDict() const { return kind() == Kind::kDict; }
  // Python's bool is an int.
  bool IsInt() const { return kind() == Kind::kInt || kind() == Kind::kBool; }
  bool IsNumber() const { return IsInt() || kind() == Kind::kFloat; }

  // Each of these needs the kind that its name says.
  bool AsBool() const { return std::get<2>(rep_); }
  int64_t AsInt() const { return kind() == Kind::kBool ? AsBool() : std::get<3>(rep_); }
  double AsFloat() const {
    return kind() == Kind::kFloat ? std::get<4>(rep_) : static_cast<double>(AsInt());
  }
  const Text& AsText() const { return *std::get<5>(rep_); }
  const std::string& AsBytes() const { return AsText().bytes(); }
  List& AsList() const { return *std::get<6>(rep_); }
  Dict& AsDict() const { return *std::get<7>(rep_); }
  Namespace& AsNamespace() const { return *std::get<8>(rep_); }
  const Callable& AsCallable() const { return *std::get<9>(rep_); }
  const Loop& AsLoop() const { return *std::get<10>(rep_); }
  std::string WhyUndefined() const;
  // The address of the shared part, for `is sameas`.
  const void* Identity() const;

  // Python's truth value. It looks at the container only.
  bool Truthy() const;
  // Python's name of the type, for messages: "str", "list".
  const char* TypeName() const;

 private:
  struct UndefinedRep {
    std::shared_ptr<const std::string> why;
  };
  struct NoneRep {};
  using Rep =
      std::variant<UndefinedRep, NoneRep, bool, int64_t, double, std::shared_ptr<const Text>,
                   std::shared_ptr<List>, std::shared_ptr<Dict>, std::shared_ptr<Namespace>,
                   std::shared_ptr<Callable>, std::shared_ptr<Loop>>;
  explicit Value(Rep rep) : rep_(std::move(rep)) {}
  Rep rep_;
};

struct List {
  enum class Form : uint8_t { kList, kTuple, kRange, kView, kIterator };
  std::vector<Value> items;
  Form form = Form::kList;
  uint16_t depth = 1;  // of containers in containers, with this one
  // kIterator: the items that were taken already; as in Python it can be walked once.
  size_t next = 0;

  bool HasLength() const { return form != Form::kIterator; }
  bool HasIndex() const {
    return form == Form::kList || form == Form::kTuple || form == Form::kRange;
  }
};

// It keeps the order of insertion. Keys are strings, numbers, booleans or None.
class Dict {
 public:
  const std::vector<std::pair<Value, Value>>& items() const { return items_; }
  const Value* Find(const Value& key) const;
  const Value* Find(std::string_view key) const;
  void Set(Value key, Value value);
  size_t size() const { return items_.size(); }
  uint16_t depth = 1;

 private:
  std::vector<std::pair<Value, Value>> items_;
  absl::flat_hash_map<std::string, size_t> by_text_;
};

struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
  const Value* Find(std::string_view name) const;
  void Set(std::string_view name, Value value);
};

// A macro, a global function, or a method together with the value that it belongs to.
struct Callable {
  enum class What : uint8_t { kMacro, kGlobal, kMethod };
  What what = What::kGlobal;
  std::string name;
  const MacroNode* macro = nullptr;
  Value receiver;
};

// The variable `loop` while one round runs.
struct Loop {
  std::shared_ptr<const std::vector<Value>> items;
  size_t index0 = 0;
  size_t depth0 = 0;
};

// The number of code points of valid UTF-8.
size_t CountCodePoints(std::string_view s);

// Containers nest at most this deep, whether a template or its input makes them, which bounds
// recursion over values.
inline constexpr uint16_t kMaxValueDepth = 100;
// 0 when the value is no container.
uint16_t DepthOf(const Value& v);

// Python's ==, which is false for unlike types. It takes one from *steps for each value that it
// looks at, and gives up at 0.
bool Equal(const Value& a, const Value& b, uint64_t* steps);

}  // namespace lanyard::model::jinja
