// Reads JSON request bodies from strangers, with bounded depth and size, typed access, and OpenAI's
// style of error texts.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"

namespace lanyard::web {

inline constexpr int kMaxJsonDepth = 64;
inline constexpr size_t kMaxJsonValues = 1'000'000;  // bounds the memory of a parsed body

inline constexpr double kExactDoubles = 9007199254740992;  // 2^53: up to it each integer is one

// InvalidArgument (code "invalid_json") with the byte offset for anything but one well-formed JSON
// object.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view body);

// Typed access to the fields of an object. A null counts as absent. Errors name the field, with
// where the object stands in the request ("messages[2]"). The object must outlive this view.
class Fields {
 public:
  explicit Fields(const nlohmann::json& object, std::string_view where = "")
      : object_(object), where_(where) {}

  // "messages[2].name" of "name".
  std::string NameOf(std::string_view name) const;

  const nlohmann::json* Find(const char* name) const;  // nullptr when absent or null
  absl::StatusOr<std::optional<double>> Number(const char* name, double min, double max) const;
  absl::StatusOr<std::optional<int64_t>> Integer(const char* name, int64_t min, int64_t max) const;
  absl::StatusOr<bool> Bool(const char* name, bool fallback) const;
  absl::StatusOr<std::string> String(const char* name) const;  // "" when absent

 private:
  const nlohmann::json& object_;
  const std::string where_;  // empty: the request itself
};

// A value as an error may show it: JSON of bounded length.
std::string Shown(const nlohmann::json& value);

// "Invalid type for 'temperature': expected a number, but got a string instead."
absl::Status WrongType(std::string_view name, std::string_view expected,
                       const nlohmann::json& value);

}  // namespace lanyard::web
