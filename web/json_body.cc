#include "web/json_body.h"

#include <cmath>

#include "absl/strings/match.h"
#include "web/errors.h"

namespace lanyard::web {
namespace {

using nlohmann::json;

absl::Status NotJson(std::string_view why) {
  return BadField(
      "", absl::StrCat("We could not parse the JSON body of your request (", AbslView(why), ")."),
      "invalid_json");
}

// The parser below builds a tree, so the size of that tree is bounded before it runs. Strings are
// skipped.
absl::Status CheckBounds(std::string_view body) {
  int depth = 0;
  size_t values = 0;
  bool in_string = false;
  for (size_t i = 0; i < body.size(); ++i) {
    const char c = body[i];
    if (in_string) {
      if (c == '\\')
        ++i;
      else if (c == '"')
        in_string = false;
      continue;
    }
    switch (c) {
      case '"':
        in_string = true;
        break;
      case '{':
      case '[':
        ++values;
        if (++depth > kMaxJsonDepth) {
          return BadField("",
                          absl::StrCat("The JSON body is nested more than ", kMaxJsonDepth,
                                       " levels deep (at byte ", i, ")."),
                          "invalid_json");
        }
        break;
      case '}':
      case ']':
        --depth;
        break;
      case ',':
        ++values;
        break;
      case '\0':  // the parser below would take it for the end
        return NotJson(absl::StrCat("at byte ", i + 1, " of ", body.size(), ": a NUL"));
      default:
        break;
    }
  }
  if (values > kMaxJsonValues) {
    return BadField("",
                    absl::StrCat("The JSON body holds ", values, " values; at most ",
                                 kMaxJsonValues, " are accepted."),
                    "invalid_json");
  }
  return absl::OkStatus();
}

std::string_view KindOf(const json& value) {
  switch (value.type()) {
    case json::value_t::boolean:
      return "a boolean";
    case json::value_t::string:
      return "a string";
    case json::value_t::array:
      return "an array";
    case json::value_t::object:
      return "an object";
    case json::value_t::null:
      return "null";
    case json::value_t::number_float:
      return "a decimal number";
    default:
      return "an integer";
  }
}

}  // namespace

absl::StatusOr<json> ParseJsonObject(std::string_view body) {
  if (body.find_first_not_of(" \t\r\n") == std::string_view::npos) {
    return BadField("", "The request has no body; send a JSON object.", "invalid_json");
  }
  RETURN_IF_ERROR(CheckBounds(body));
  try {
    json parsed = json::parse(body.begin(), body.end());
    if (parsed.is_object()) return parsed;
    return BadField("",
                    absl::StrCat("The request body must be a JSON object, but it is ",
                                 AbslView(KindOf(parsed)), "."),
                    "invalid_json");
  } catch (const json::parse_error& e) {
    if (e.byte > body.size()) {
      return NotJson(absl::StrCat("it ends too early, after ", body.size(),
                                  body.size() == 1 ? " byte" : " bytes"));
    }
    if (absl::StrContains(e.what(), "surrogate")) {
      return NotJson(absl::StrCat("at byte ", e.byte, " of ", body.size(),
                                  ": half of a surrogate pair; a character like an emoji takes two "
                                  "\\u escapes, and one of them is not there"));
    }
    return NotJson(absl::StrCat("at byte ", e.byte, " of ", body.size(),
                                ": not well-formed JSON. NaN and Infinity are not JSON; text must "
                                "be UTF-8"));
  } catch (const json::out_of_range&) {
    return NotJson("it holds a number that is larger than any double, about 1.8e308");
  }
}

std::string Shown(const json& value) {
  return Shortened(value.dump(-1, ' ', false, json::error_handler_t::replace));
}

absl::Status WrongType(std::string_view name, std::string_view expected, const json& value) {
  return BadField(
      name,
      absl::StrCat("Invalid type for '", AbslView(name), "': expected ", AbslView(expected),
                   ", but got ", AbslView(KindOf(value)), " instead."),
      "invalid_type");
}

std::string Fields::NameOf(std::string_view name) const {
  return where_.empty() ? std::string(name) : absl::StrCat(where_, ".", AbslView(name));
}

const json* Fields::Find(const char* name) const {
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

absl::StatusOr<std::optional<double>> Fields::Number(const char* name, double min,
                                                     double max) const {
  const json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) return WrongType(NameOf(name), "a number", *value);
  const double number = value->get<double>();
  if (!(number >= min && number <= max)) {  // also catches NaN
    return BadField(NameOf(name),
                    absl::StrCat("Invalid '", NameOf(name), "': ", number, " is not between ", min,
                                 " and ", max, "."),
                    "invalid_value");
  }
  return number;
}

absl::StatusOr<std::optional<int64_t>> Fields::Integer(const char* name, int64_t min,
                                                       int64_t max) const {
  const json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  int64_t number = 0;
  bool in_range = true;
  if (value->is_number_unsigned()) {
    const uint64_t u = value->get<uint64_t>();
    in_range = u <= static_cast<uint64_t>(INT64_MAX);
    number = in_range ? static_cast<int64_t>(u) : 0;
  } else if (value->is_number_integer()) {
    number = value->get<int64_t>();
  } else if (value->is_number_float()) {
    // Some clients write 5.0 for 5.
    const double d = value->get<double>();
    if (d != std::floor(d)) return WrongType(NameOf(name), "an integer", *value);
    in_range = std::fabs(d) <= kExactDoubles;
    number = in_range ? static_cast<int64_t>(d) : 0;
  } else {
    return WrongType(NameOf(name), "an integer", *value);
  }
  if (!in_range || number < min || number > max) {
    return BadField(NameOf(name),
                    absl::StrCat("Invalid '", NameOf(name), "': ", Shown(*value),
                                 " is not between ", min, " and ", max, "."),
                    "invalid_value");
  }
  return number;
}

absl::StatusOr<bool> Fields::Bool(const char* name, bool fallback) const {
  const json* value = Find(name);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) return WrongType(NameOf(name), "a boolean", *value);
  return value->get<bool>();
}

absl::StatusOr<std::string> Fields::String(const char* name) const {
  const json* value = Find(name);
  if (value == nullptr) return std::string();
  if (!value->is_string()) return WrongType(NameOf(name), "a string", *value);
  return value->get<std::string>();
}

}  // namespace lanyard::web
