#include "model/jinja/interpreter.h"

#include <algorithm>
#include <utility>

namespace lanyard::model::jinja {
namespace {

constexpr int kMaxNesting = 500;
constexpr uint64_t kBytesOfStep = 64;

// The innermost place that failed gives its position.
absl::Status At(Position position, const absl::Status& status) {
  if (status.ok() || IsPlaced(status)) return status;
  return absl::Status(status.code(), ErrorAt(position, StdView(status.message())).message());
}

}  // namespace

class Interpreter::Scope {
 public:
  explicit Scope(Interpreter* in)
      : in_(in), begin_(std::exchange(in->scope_begin_, in->bindings_.size())) {
    ++in_->scopes_;
  }
  ~Scope() {
    in_->bindings_.resize(in_->scope_begin_);
    in_->scope_begin_ = begin_;
    --in_->scopes_;
  }
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  Interpreter* const in_;
  const size_t begin_;
};

Interpreter::Interpreter(const Template& source, const Variables& context, Limits limits)
    : source_(source), left_(limits), globals_(source.names.size()), context_(source.names.size()) {
  for (NameId id = 0; id < source.names.size(); ++id) {
    const std::string& name = source.names[id];
    if (name == "loop") loop_name_ = id;
    for (const std::string_view global : {"namespace", "range", "raise_exception", "dict"}) {
      if (name != global) continue;
      auto callable = std::make_shared<Callable>();
      callable->name = name;
      context_[id] = Value::Of(std::move(callable));
    }
    for (const auto& [given, value] : context) {
      if (given == name) context_[id] = value;
    }
  }
}

absl::StatusOr<Text> Interpreter::Run() {
  Text out;
  out_ = &out;
  RETURN_IF_ERROR(Execute(source_.body));
  return out;
}

absl::Status Interpreter::Charge(uint64_t steps) {
  if (steps > left_.steps) {
    left_.steps = 0;
    return ResourceExhausted("the template takes too many steps; it may be in an endless loop");
  }
  left_.steps -= steps;
  return absl::OkStatus();
}

absl::Status Interpreter::ChargeBytes(uint64_t bytes) {
  RETURN_IF_ERROR(Charge(bytes / kBytesOfStep));
  if (bytes > left_.made_bytes)
    return ResourceExhausted("the template makes too much text and too many lists");
  left_.made_bytes -= bytes;
  return absl::OkStatus();
}

absl::StatusOr<Value> Interpreter::NewString(Text text) {
  RETURN_IF_ERROR(ChargeBytes(text.size()));
  return Value::String(std::move(text));
}

absl::Status Interpreter::CheckStorable(const Value& v) const {
  switch (v.kind()) {
    case Value::Kind::kNamespace:
    case Value::Kind::kCallable:
    case Value::Kind::kLoop:
      return Unimplemented("a ", v.TypeName(), " inside another value is not supported");
    default:
      return absl::OkStatus();
  }
}

absl::StatusOr<Value> Interpreter::NewList(std::vector<Value> items, List::Form form) {
  RETURN_IF_ERROR(ChargeBytes((items.size() + 2) * sizeof(Value)));
  auto list = std::make_shared<List>();
  for (const Value& v : items) {
    RETURN_IF_ERROR(CheckStorable(v));
    list->depth = std::max<uint16_t>(list->depth, DepthOf(v) + 1);
  }
  if (list->depth > kMaxValueDepth)
    return ResourceExhausted("lists are nested more than ", kMaxValueDepth, " deep");
  list->items = std::move(items);
  list->form = form;
  return Value::Of(std::move(list));
}

absl::StatusOr<Value> Interpreter::NewDict(const std::vector<std::pair<Value, Value>>& items) {
  RETURN_IF_ERROR(ChargeBytes((items.size() + 2) * 4 * sizeof(Value)));
  auto dict = std::make_shared<Dict>();
  for (const auto& [key, value] : items) {
    RETURN_IF_ERROR(CheckStorable(value));
    if (key.IsList() || key.IsDict())
      return InvalidArgument("unhashable type: '", key.TypeName(), "'");
    RETURN_IF_ERROR(CheckStorable(key));
    if (!key.IsString()) RETURN_IF_ERROR(Charge(dict->size()));
    dict->depth = std::max<uint16_t>(dict->depth, DepthOf(value) + 1);
    dict->Set(key, value);
  }
  if (dict->depth > kMaxValueDepth)
    return ResourceExhausted("dicts are nested more than ", kMaxValueDepth, " deep");
  return Value::Of(std::move(dict));
}

absl::Status Interpreter::Write(const Text& text) {
  RETURN_IF_ERROR(Charge(text.size() / kBytesOfStep));
  if (text.size() > left_.output_bytes)
    return ResourceExhausted("the template's output is too long");
  left_.output_bytes -= text.size();
  out_->Append(text);
  return absl::OkStatus();
}

absl::Status Interpreter::Write(std::string_view trusted) {
  RETURN_IF_ERROR(Charge(trusted.size() / kBytesOfStep));
  if (trusted.size() > left_.output_bytes)
    return ResourceExhausted("the template's output is too long");
  left_.output_bytes -= trusted.size();
  out_->Append(trusted, true);
  return absl::OkStatus();
}

absl::StatusOr<Interpreter::Flow> Interpreter::Execute(const Body& body) {
  if (++depth_ > kMaxNesting) return ResourceExhausted("the template nests too deeply");
  Flow flow = Flow::kNormal;
  for (const auto& statement : body) {
    auto result = ExecuteOne(*statement);
    if (!result.ok()) return At(statement->position, result.status());
    flow = *result;
    if (flow != Flow::kNormal) break;
  }
  --depth_;
  return flow;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteOne(const Statement& s) {
  RETURN_IF_ERROR(Charge(1));
  switch (s.kind) {
    case Statement::Kind::kData:
      RETURN_IF_ERROR(Write(s.text));
      return Flow::kNormal;
    case Statement::Kind::kOutput: {
      ASSIGN_OR_RETURN(const Value value, Eval(*s.expr));
      if (value.IsString()) {
        RETURN_IF_ERROR(Write(value.AsText()));
      } else {
        ASSIGN_OR_RETURN(const Text text, Str(value));
        RETURN_IF_ERROR(Write(text));
      }
      return Flow::kNormal;
    }
    case Statement::Kind::kIf:
      return ExecuteIf(s);
    case Statement::Kind::kFor:
      return ExecuteFor(s);
    case Statement::Kind::kSet:
    case Statement::Kind::kSetBlock:
      RETURN_IF_ERROR(ExecuteSet(s));
      return Flow::kNormal;
    case Statement::Kind::kMacro: {
      auto callable = std::make_shared<Callable>();
      callable->what = Callable::What::kMacro;
      callable->name = s.macro->name;
      callable->macro = s.macro.get();
      Bind(s.macro->name_id, Value::Of(std::move(callable)));
      return Flow::kNormal;
    }
    case Statement::Kind::kFilter: {
      ASSIGN_OR_RETURN(captured_, Capture(s.body));
      ASSIGN_OR_RETURN(const Value value, Eval(*s.expr));
      ASSIGN_OR_RETURN(const Text text, Str(value));
      RETURN_IF_ERROR(Write(text));
      return Flow::kNormal;
    }
    case Statement::Kind::kScope:
      return ExecuteWith(s);
    case Statement::Kind::kGroup:
      return Execute(s.body);
    case Statement::Kind::kBreak:
      return Flow::kBreak;
    case Statement::Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNormal;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteIf(const Statement& s) {
  for (const auto& [condition, body] : s.branches) {
    if (condition != nullptr) {
      ASSIGN_OR_RETURN(const Value value, Eval(*condition));
      if (!value.Truthy()) continue;
    }
    return Execute(body);
  }
  return Flow::kNormal;
}

// Returns all items, or those that the loop's condition lets through.
absl::StatusOr<std::vector<Value>> Interpreter::LoopItems(const Statement& s) {
  ASSIGN_OR_RETURN(const Value iterable, Eval(*s.expr));
  ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(iterable));
  if (s.condition == nullptr) return items;
  std::vector<Value> kept;
  for (Value& item : items) {
    const Scope scope(this);
    RETURN_IF_ERROR(Assign(s.target, item));
    ASSIGN_OR_RETURN(const Value keep, Eval(*s.condition));
    if (keep.Truthy()) kept.push_back(std::move(item));
  }
  return kept;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteFor(const Statement& s) {
  ASSIGN_OR_RETURN(std::vector<Value> list, LoopItems(s));
  const auto items = std::make_shared<const std::vector<Value>>(std::move(list));
  for (size_t i = 0; i < items->size(); ++i) {
    RETURN_IF_ERROR(Charge(1));
    const Scope scope(this);
    if (loop_name_) {
      auto loop = std::make_shared<Loop>();
      loop->items = items;
      loop->index0 = i;
      Bind(*loop_name_, Value::Of(std::move(loop)));
    }
    RETURN_IF_ERROR(Assign(s.target, (*items)[i]));
    ASSIGN_OR_RETURN(const Flow flow, Execute(s.body));
    if (flow == Flow::kBreak) return Flow::kNormal;
  }
  if (items->empty() && !s.otherwise.empty()) {
    const Scope scope(this);
    return Execute(s.otherwise);
  }
  return Flow::kNormal;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteWith(const Statement& s) {
  std::vector<Value> values;
  for (const auto& [target, expr] : s.assignments) {
    ASSIGN_OR_RETURN(Value value, Eval(*expr));
    values.push_back(std::move(value));
  }
  const Scope scope(this);
  for (size_t i = 0; i < values.size(); ++i)
    RETURN_IF_ERROR(Assign(s.assignments[i].first, values[i]));
  return Execute(s.body);
}

absl::Status Interpreter::ExecuteSet(const Statement& s) {
  Value value;
  if (s.kind == Statement::Kind::kSet) {
    ASSIGN_OR_RETURN(value, Eval(*s.expr));
  } else {
    ASSIGN_OR_RETURN(value, Capture(s.body));
    if (s.expr != nullptr) {
      captured_ = value;
      ASSIGN_OR_RETURN(value, Eval(*s.expr));
    }
  }
  return Assign(s.target, value);
}

// Returns the text that a body writes, as a value. The body has variables of its own.
absl::StatusOr<Value> Interpreter::Capture(const Body& body) {
  const Scope scope(this);
  Text text;
  Text* const outer = std::exchange(out_, &text);
  const auto result = Execute(body);
  out_ = outer;
  if (!result.ok()) return result.status();
  return NewString(std::move(text));
}

absl::Status Interpreter::Assign(const Target& target, const Value& value) {
  if (!target.unpack.empty()) {
    ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(value));
    if (items.size() != target.unpack.size()) {
      return InvalidArgument(items.size() > target.unpack.size() ? "too many" : "not enough",
                             " values to unpack (expected ", target.unpack.size(), ", got ",
                             items.size(), ")");
    }
    for (size_t i = 0; i < items.size(); ++i) RETURN_IF_ERROR(Assign(target.unpack[i], items[i]));
    return absl::OkStatus();
  }
  if (target.attribute.empty()) {
    Bind(target.name, value);
    return absl::OkStatus();
  }
  const Value ns = Lookup(target.name);
  if (ns.kind() != Value::Kind::kNamespace) {
    return InvalidArgument("cannot assign attribute on non-namespace object '",
                           source_.names[target.name], "'");
  }
  RETURN_IF_ERROR(CheckStorable(value));
  RETURN_IF_ERROR(Charge(ns.AsNamespace().attributes.size()));
  ns.AsNamespace().Set(target.attribute, value);
  return absl::OkStatus();
}

void Interpreter::Bind(NameId name, Value value) {
  if (scopes_ == 0) {
    globals_[name] = std::move(value);
    return;
  }
  for (size_t i = bindings_.size(); i > scope_begin_; --i) {
    if (bindings_[i - 1].name == name) {
      bindings_[i - 1].value = std::move(value);
      return;
    }
  }
  bindings_.push_back({name, std::move(value)});
}

Value Interpreter::Lookup(NameId name) const {
  for (size_t i = bindings_.size(); i > frame_begin_; --i) {
    if (bindings_[i - 1].name == name) return bindings_[i - 1].value;
  }
  if (globals_[name]) return *globals_[name];
  if (context_[name]) return *context_[name];
  return Value::Undefined(absl::StrCat("'", source_.names[name], "' is undefined"));
}

absl::Status Interpreter::BindParameters(const MacroNode& macro, const CallArguments& arguments) {
  const size_t n = macro.parameters.size();
  if (arguments.positional.size() > n) {
    return InvalidArgument("macro '", macro.name, "' takes not more than ", n, " argument(s)");
  }
  for (const auto& [name, value] : arguments.named) {
    size_t i = 0;
    while (i < n && macro.parameters[i].second != name) ++i;
    if (i == n) return InvalidArgument("macro '", macro.name, "' takes no argument '", name, "'");
    if (i < arguments.positional.size()) {
      return InvalidArgument("macro '", macro.name, "' got argument '", name, "' twice");
    }
  }
  for (size_t i = 0; i < n; ++i) {
    const auto& [id, name] = macro.parameters[i];
    if (i < arguments.positional.size()) {
      Bind(id, arguments.positional[i]);
      continue;
    }
    const Value* given = nullptr;
    for (const auto& [other, value] : arguments.named) {
      if (other == name) given = &value;
    }
    const size_t first_default = n - macro.defaults.size();
    if (given != nullptr) {
      Bind(id, *given);
    } else if (i >= first_default) {
      ASSIGN_OR_RETURN(Value value, Eval(*macro.defaults[i - first_default]));
      Bind(id, std::move(value));
    } else {
      Bind(id, Value::Undefined(absl::StrCat("parameter '", name, "' was not provided")));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Value> Interpreter::CallMacro(const MacroNode& macro,
                                             const CallArguments& arguments) {
  const size_t frame = std::exchange(frame_begin_, bindings_.size());
  absl::StatusOr<Value> result;
  {
    const Scope scope(this);
    const absl::Status bound = BindParameters(macro, arguments);
    result = bound.ok() ? Capture(macro.body) : absl::StatusOr<Value>(bound);
  }
  frame_begin_ = frame;
  return result;
}

}  // namespace lanyard::model::jinja
