#include "web/openai_format.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/status.h"
#include "web/json_answer.h"

namespace lanyard::web {
namespace {

using coordinator::FinishReason;
using coordinator::TokenLogprob;
using coordinator::Usage;
using nlohmann::ordered_json;

constexpr char kReplacement[] = "\xEF\xBF\xBD";

// The number of bytes of the well-formed UTF-8 character at the front of `s`; 0 if there is none
// (RFC 3629).
size_t Utf8Length(std::string_view s) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xC2 && lead <= 0xDF   ? 2
                        : lead >= 0xE0 && lead <= 0xEF ? 3
                        : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                       : 0;
  if (length == 0 || s.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  if (lead == 0xE0 && byte(1) < 0xA0) return 0;  // overlong
  if (lead == 0xED && byte(1) > 0x9F) return 0;  // surrogates
  if (lead == 0xF0 && byte(1) < 0x90) return 0;  // overlong
  if (lead == 0xF4 && byte(1) > 0x8F) return 0;  // beyond U+10FFFF
  return length;
}

// JSON has no -inf; a log probability of an impossible token is written as OpenAI writes it.
double Finite(float logprob) { return std::isfinite(logprob) ? logprob : -9999.0; }

const char* ReasonName(FinishReason reason) {
  return reason == FinishReason::kStop ? "stop" : "length";
}

ordered_json TokenJson(const std::string& bytes, float logprob) {
  ordered_json out;
  out["token"] = bytes;
  out["logprob"] = Finite(logprob);
  ordered_json list = ordered_json::array();
  for (const unsigned char b : bytes) list.push_back(b);
  out["bytes"] = std::move(list);
  return out;
}

size_t CountCharacters(std::string_view text) {
  size_t n = 0;
  for (const char c : text) n += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return n;
}

}  // namespace

std::string JsonString(std::string_view text) {
  std::string out;
  out.reserve(text.size() + 2);
  out.push_back('"');
  for (size_t i = 0; i < text.size();) {
    const unsigned char c = static_cast<unsigned char>(text[i]);
    const size_t length = Utf8Length(text.substr(i));
    if (length == 0) {
      out += kReplacement;
      ++i;
      continue;
    }
    if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(static_cast<char>(c));
    } else if (c == '\n') {
      out += "\\n";
    } else if (c < 0x20 || c == 0x7f) {
      out += absl::StrFormat("\\u%04x", c);
    } else {
      out += text.substr(i, length);
    }
    i += length;
  }
  out.push_back('"');
  return out;
}

std::string SseEvent(std::string_view json) {
  return absl::StrCat("data: ", AbslView(json), "\n\n");
}

std::string UsageJson(const Usage& usage) {
  return absl::StrFormat(
      "{\"prompt_tokens\":%u,\"completion_tokens\":%u,\"total_tokens\":%u,"
      "\"prompt_tokens_details\":{\"cached_tokens\":%u},\"completion_tokens_details\":{\"reasoning_"
      "tokens\":0}}",
      usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens + usage.completion_tokens,
      usage.cached_tokens);
}

AnswerFormat::AnswerFormat(const AnswerInfo& info) : info_(info) {
  head_ = absl::StrCat(
      "{\"id\":", JsonString(info.id), ",\"object\":\"",
      info.chat ? "chat.completion.chunk" : "text_completion",
      "\",\"created\":", info.created_unix_s, ",\"model\":", JsonString(info.model),
      ",\"system_fingerprint\":", JsonString(info.system_fingerprint), ",\"choices\":[");
  tail_ = info.include_usage ? "],\"usage\":null}" : "]}";
}

std::string AnswerFormat::Chunk(std::string_view choice) const {
  return absl::StrCat("data: ", head_, AbslView(choice), tail_, "\n\n");
}

std::string AnswerFormat::First() const {
  if (!info_.chat) return "";
  return Chunk(
      "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_"
      "reason\":null}");
}

std::string AnswerFormat::Text(std::string_view text, const std::vector<TokenLogprob>& logprobs) {
  const std::string lp = LogprobsJson(logprobs);
  if (info_.chat) {
    return Chunk(absl::StrCat("{\"index\":0,\"delta\":{\"content\":", JsonString(text),
                              "},\"logprobs\":", lp, ",\"finish_reason\":null}"));
  }
  return Chunk(absl::StrCat("{\"index\":0,\"text\":", JsonString(text), ",\"logprobs\":", lp,
                            ",\"finish_reason\":null}"));
}

std::string AnswerFormat::Last(FinishReason reason, const Usage& usage) const {
  std::string out =
      Chunk(absl::StrCat("{\"index\":0,", info_.chat ? "\"delta\":{}" : "\"text\":\"\"",
                         ",\"logprobs\":null,\"finish_reason\":\"", ReasonName(reason), "\"}"));
  if (info_.include_usage) {
    absl::StrAppend(&out, "data: ", head_, "],\"usage\":", UsageJson(usage), "}\n\n");
  }
  out += "data: [DONE]\n\n";
  return out;
}

std::string AnswerFormat::LogprobsJson(const std::vector<TokenLogprob>& logprobs) {
  if (!info_.logprobs) return "null";
  if (info_.chat) {
    ordered_json content = ordered_json::array();
    for (const TokenLogprob& lp : logprobs) {
      ordered_json token = TokenJson(lp.bytes, lp.logprob);
      ordered_json top = ordered_json::array();
      for (const auto& [bytes, logprob] : lp.top) top.push_back(TokenJson(bytes, logprob));
      token["top_logprobs"] = std::move(top);
      content.push_back(std::move(token));
    }
    return absl::StrCat("{\"content\":", Dump(content), ",\"refusal\":null}");
  }
  ordered_json tokens = ordered_json::array();
  ordered_json values = ordered_json::array();
  ordered_json tops = ordered_json::array();
  ordered_json offsets = ordered_json::array();
  for (const TokenLogprob& lp : logprobs) {
    tokens.push_back(lp.bytes);
    values.push_back(Finite(lp.logprob));
    ordered_json top = ordered_json::object();
    for (const auto& [bytes, logprob] : lp.top) {
      // Invalid UTF-8 may not be a key, but its replaced form may.
      top[ordered_json::parse(JsonString(bytes)).get<std::string>()] = Finite(logprob);
    }
    tops.push_back(std::move(top));
    offsets.push_back(text_offset_);
    text_offset_ += CountCharacters(lp.bytes);
  }
  return absl::StrCat("{\"tokens\":", Dump(tokens), ",\"token_logprobs\":", Dump(values),
                      ",\"top_logprobs\":", Dump(tops), ",\"text_offset\":", Dump(offsets), "}");
}

std::string AnswerFormat::Whole(std::string_view text, const std::vector<TokenLogprob>& logprobs,
                                FinishReason reason, const Usage& usage) {
  const std::string lp = LogprobsJson(logprobs);
  const std::string choice =
      info_.chat
          ? absl::StrCat("\"message\":{\"role\":\"assistant\",\"content\":", JsonString(text),
                         ",\"refusal\":null}")
          : absl::StrCat("\"text\":", JsonString(text));
  return absl::StrCat(
      "{\"id\":", JsonString(info_.id), ",\"object\":\"",
      info_.chat ? "chat.completion" : "text_completion", "\",\"created\":", info_.created_unix_s,
      ",\"model\":", JsonString(info_.model),
      ",\"system_fingerprint\":", JsonString(info_.system_fingerprint),
      ",\"choices\":[{\"index\":0,", choice, ",\"logprobs\":", lp, ",\"finish_reason\":\"",
      ReasonName(reason), "\"}],\"usage\":", UsageJson(usage), "}");
}

}  // namespace lanyard::web
