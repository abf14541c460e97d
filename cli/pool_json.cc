#include "cli/pool_json.h"

#include <cctype>
#include <cstdio>
#include <ctime>

namespace lanyard::cli {

using nlohmann::ordered_json;

absl::StatusOr<ordered_json> ObjectOf(const HttpClient& client,
                                      const absl::StatusOr<HttpReply>& reply) {
  RETURN_IF_ERROR(reply.status());
  RETURN_IF_ERROR(StatusOfReply(*reply));
  ordered_json body = ordered_json::parse(reply->body, nullptr, /*allow_exceptions=*/false);
  if (!body.is_object()) {
    return Internal("what answers at ", client.url(), " is not a Lanyard pool (no JSON object)");
  }
  return body;
}

absl::StatusOr<ordered_json> GetJson(const HttpClient& client, const std::string& path) {
  return ObjectOf(client, client.Get(path));
}

std::string Text(const ordered_json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return "";
  return it->is_string() ? it->get<std::string>() : it->dump();
}

uint64_t Count(const ordered_json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_number_unsigned() ? it->get<uint64_t>() : 0;
}

double Real(const ordered_json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_number() ? it->get<double>() : 0;
}

const ordered_json& List(const ordered_json& object, const char* key) {
  static const ordered_json kEmpty = ordered_json::array();
  const auto it = object.find(key);
  return it != object.end() && it->is_array() ? *it : kEmpty;
}

void Print(const ordered_json& value) { std::printf("%s\n", OneLine(value).c_str()); }

std::string DateText(const nlohmann::ordered_json& object, const char* key, const char* none) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_number_integer()) return none;
  const auto seconds = static_cast<std::time_t>(it->get<int64_t>());
  std::tm local{};
  char text[32] = "";
  if (localtime_r(&seconds, &local) == nullptr) return "?";
  std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M", &local);
  return text;
}

std::string EscapeForPath(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const auto u = static_cast<unsigned char>(c);
    if (std::isalnum(u) != 0 || c == '-' || c == '_' || c == '.') {
      out += c;
    } else {
      absl::StrAppend(&out, absl::StrFormat("%%%02X", u));
    }
  }
  return out;
}

}  // namespace lanyard::cli
