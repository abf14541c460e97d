// Values as text: str(), repr() and JSON.
#include <algorithm>
#include <cmath>

#include "model/jinja/interpreter.h"
#include "model/jinja/strings.h"

namespace lanyard::model::jinja {
namespace {

struct Brackets {
  std::string_view open, close;
};
Brackets BracketsOf(List::Form form) {
  switch (form) {
    case List::Form::kTuple:
      return {"(", ")"};
    case List::Form::kView:
      return {"dict_view([", "])"};
    default:
      return {"[", "]"};
  }
}

}  // namespace

absl::StatusOr<Text> Interpreter::Str(const Value& v) {
  switch (v.kind()) {
    case Value::Kind::kUndefined:
      return Text();
    case Value::Kind::kString:
      RETURN_IF_ERROR(Charge(v.AsText().size() / 64));
      return v.AsText();
    default:
      break;
  }
  Text out;
  RETURN_IF_ERROR(AppendRepr(v, &out));
  return out;
}

absl::Status Interpreter::AppendRepr(const Value& v, Text* out) {
  RETURN_IF_ERROR(Charge(1));
  switch (v.kind()) {
    case Value::Kind::kUndefined:
      out->Append("Undefined", true);
      break;
    case Value::Kind::kNone:
      out->Append("None", true);
      break;
    case Value::Kind::kBool:
      out->Append(v.AsBool() ? "True" : "False", true);
      break;
    case Value::Kind::kInt:
      out->Append(std::to_string(v.AsInt()), true);
      break;
    case Value::Kind::kFloat:
      out->Append(ReprFloat(v.AsFloat()), true);
      break;
    case Value::Kind::kString: {
      const std::string repr = ReprString(v.AsBytes());
      RETURN_IF_ERROR(ChargeBytes(repr.size()));
      out->Append(repr, v.AsText().AllTrusted());
      break;
    }
    case Value::Kind::kList: {
      const List& list = v.AsList();
      if (list.form != List::Form::kList && list.form != List::Form::kTuple) {
        return Unimplemented("writing a ", v.TypeName(),
                             " as text is not supported; use the filter 'list' first");
      }
      const Brackets brackets = BracketsOf(list.form);
      out->Append(brackets.open, true);
      for (size_t i = 0; i < list.items.size(); ++i) {
        if (i > 0) out->Append(", ", true);
        RETURN_IF_ERROR(AppendRepr(list.items[i], out));
      }
      if (list.form == List::Form::kTuple && list.items.size() == 1) out->Append(",", true);
      out->Append(brackets.close, true);
      break;
    }
    case Value::Kind::kDict: {
      out->Append("{", true);
      bool first = true;
      for (const auto& [key, value] : v.AsDict().items()) {
        if (!first) out->Append(", ", true);
        first = false;
        RETURN_IF_ERROR(AppendRepr(key, out));
        out->Append(": ", true);
        RETURN_IF_ERROR(AppendRepr(value, out));
      }
      out->Append("}", true);
      break;
    }
    default:
      return Unimplemented("writing a ", v.TypeName(), " as text is not supported");
  }
  return absl::OkStatus();
}

namespace {

absl::Status NewLine(Interpreter& in, const JsonOptions& options, int level, Text* out) {
  if (!options.indent) return absl::OkStatus();
  std::string line = "\n";
  for (int i = 0; i < level; ++i) line += *options.indent;
  RETURN_IF_ERROR(in.ChargeBytes(line.size()));
  out->Append(line, true);
  return absl::OkStatus();
}

// Writes a key as JSON does: numbers, booleans and None become strings.
absl::Status AppendKey(Interpreter& in, const Value& key, const JsonOptions& options, Text* out) {
  if (key.IsString()) return AppendJson(in, key, options, 0, out);
  Text text;
  RETURN_IF_ERROR(AppendJson(in, key, options, 0, &text));
  out->Append("\"" + text.bytes() + "\"", true);
  return absl::OkStatus();
}

absl::Status AppendJsonDict(Interpreter& in, const Dict& dict, const JsonOptions& options,
                            int level, Text* out) {
  std::vector<std::pair<Value, Value>> items = dict.items();
  if (options.sort_keys) {
    absl::Status status;
    RETURN_IF_ERROR(in.Charge(items.size() * 8));
    std::stable_sort(items.begin(), items.end(), [&](const auto& a, const auto& b) {
      const auto order = in.Order(a.first, b.first);
      if (!order.ok()) status = order.status();
      return order.ok() && *order < 0;
    });
    RETURN_IF_ERROR(status);
  }
  out->Append("{", true);
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out->Append(options.item_separator, true);
    RETURN_IF_ERROR(NewLine(in, options, level + 1, out));
    RETURN_IF_ERROR(AppendKey(in, items[i].first, options, out));
    out->Append(options.key_separator, true);
    RETURN_IF_ERROR(AppendJson(in, items[i].second, options, level + 1, out));
  }
  if (!items.empty()) RETURN_IF_ERROR(NewLine(in, options, level, out));
  out->Append("}", true);
  return absl::OkStatus();
}

}  // namespace

absl::Status AppendJson(Interpreter& in, const Value& v, const JsonOptions& options, int level,
                        Text* out) {
  RETURN_IF_ERROR(in.Charge(1));
  switch (v.kind()) {
    case Value::Kind::kNone:
      out->Append("null", true);
      return absl::OkStatus();
    case Value::Kind::kBool:
      out->Append(v.AsBool() ? "true" : "false", true);
      return absl::OkStatus();
    case Value::Kind::kInt:
      out->Append(std::to_string(v.AsInt()), true);
      return absl::OkStatus();
    case Value::Kind::kFloat: {
      const double d = v.AsFloat();
      out->Append(std::isnan(d)   ? "NaN"
                  : std::isinf(d) ? (d < 0 ? "-Infinity" : "Infinity")
                                  : ReprFloat(d),
                  true);
      return absl::OkStatus();
    }
    case Value::Kind::kString: {
      const std::string json = JsonString(v.AsBytes(), options.ensure_ascii);
      RETURN_IF_ERROR(in.ChargeBytes(json.size()));
      out->Append(json, v.AsText().AllTrusted());
      return absl::OkStatus();
    }
    case Value::Kind::kDict:
      return AppendJsonDict(in, v.AsDict(), options, level, out);
    case Value::Kind::kList: {
      const List& list = v.AsList();
      if (list.form > List::Form::kTuple) break;
      out->Append("[", true);
      for (size_t i = 0; i < list.items.size(); ++i) {
        if (i > 0) out->Append(options.item_separator, true);
        RETURN_IF_ERROR(NewLine(in, options, level + 1, out));
        RETURN_IF_ERROR(AppendJson(in, list.items[i], options, level + 1, out));
      }
      if (!list.items.empty()) RETURN_IF_ERROR(NewLine(in, options, level, out));
      out->Append("]", true);
      return absl::OkStatus();
    }
    default:
      break;
  }
  return InvalidArgument("Object of type ", v.TypeName(), " is not JSON serializable");
}

}  // namespace lanyard::model::jinja
