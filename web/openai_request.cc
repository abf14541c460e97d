#include "web/openai_request.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "stage/validate.h"
#include "web/errors.h"
#include "web/json_body.h"
#include "web/known_fields.h"

namespace lanyard::web {
namespace {

using coordinator::ChatMessage;
using coordinator::GenerateRequest;
using nlohmann::json;

absl::Status AddStop(const json& value, std::vector<std::string>* stop) {
  if (!value.is_string()) return WrongType("stop", "a string or an array of strings", value);
  const auto& text = value.get_ref<const std::string&>();
  if (text.size() > coordinator::kMaxStopBytes) {
    return BadField(
        "stop",
        absl::StrCat("Invalid 'stop': a string of ", text.size(), " bytes, but at most ",
                     coordinator::kMaxStopBytes, " are accepted."),
        "invalid_value");
  }
  if (!text.empty()) stop->push_back(text);  // an empty one stops nothing
  return absl::OkStatus();
}

absl::Status ParseStop(const Fields& fields, std::vector<std::string>* stop) {
  const json* value = fields.Find("stop");
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_array()) return AddStop(*value, stop);
  if (value->size() > coordinator::kMaxStops) {
    return BadField("stop",
                    absl::StrCat("Invalid 'stop': ", value->size(), " strings, but at most ",
                                 coordinator::kMaxStops, " are accepted."),
                    "invalid_value");
  }
  for (const json& s : *value) RETURN_IF_ERROR(AddStop(s, stop));
  return absl::OkStatus();
}

uint64_t RandomSeed() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return generator();
}

// Any 64 bits, as a signed or an unsigned number. A decimal number (5.0) counts while it is certain
// which integer it is.
absl::Status ParseSeed(const Fields& fields, uint64_t* out) {
  const json* seed = fields.Find("seed");
  if (seed == nullptr) {
    *out = RandomSeed();
    return absl::OkStatus();
  }
  if (seed->is_number_integer()) {  // an unsigned one too, or a negative one of 64 bits
    *out = seed->is_number_unsigned() ? seed->get<uint64_t>()
                                      : static_cast<uint64_t>(seed->get<int64_t>());
    return absl::OkStatus();
  }
  if (seed->is_number_float() && std::fabs(seed->get<double>()) > kExactDoubles) {
    return BadField("seed",
                    absl::StrCat("Invalid 'seed': ", Shown(*seed), " is no integer between ",
                                 INT64_MIN, " and ", UINT64_MAX, " that is written out."),
                    "invalid_value");
  }
  ASSIGN_OR_RETURN(const auto value, fields.Integer("seed", INT64_MIN, INT64_MAX));
  *out = static_cast<uint64_t>(*value);
  return absl::OkStatus();
}

absl::Status ParseSampling(const Fields& fields, GenerateRequest* out) {
  ASSIGN_OR_RETURN(const auto temperature, fields.Number("temperature", 0, stage::kMaxTemperature));
  ASSIGN_OR_RETURN(const auto top_p, fields.Number("top_p", 0, 1));
  ASSIGN_OR_RETURN(const auto top_k, fields.Integer("top_k", -1, coordinator::kMaxRequestTokens));
  ASSIGN_OR_RETURN(const auto min_p, fields.Number("min_p", 0, 1));
  // Of a share of nothing the likeliest token is left: that is greedy.
  const bool greedy = top_p.has_value() && static_cast<float>(*top_p) == 0;
  out->sample.temperature = greedy ? 0 : static_cast<float>(temperature.value_or(1));
  out->sample.top_p = greedy ? 1 : static_cast<float>(top_p.value_or(1));
  out->sample.top_k = top_k.value_or(0) > 0 ? static_cast<uint32_t>(*top_k) : 0;
  out->sample.min_p = static_cast<float>(min_p.value_or(0));

  RETURN_IF_ERROR(ParseSeed(fields, &out->sample.seed));
  ASSIGN_OR_RETURN(out->ignore_eos, fields.Bool("ignore_eos", false));
  return absl::OkStatus();
}

// The newest name that is there wins. -1 is llama.cpp's "no limit".
absl::Status ParseMaxTokens(const Fields& fields, std::optional<uint32_t> fallback,
                            std::optional<uint32_t>* out) {
  *out = fallback;
  bool found = false;
  for (const char* name :
       {"max_completion_tokens", "max_tokens", "n_predict", "num_predict", "max_new_tokens"}) {
    ASSIGN_OR_RETURN(const auto value, fields.Integer(name, -1, coordinator::kMaxRequestTokens));
    if (!value.has_value()) continue;
    if (*value == 0) {
      return BadField(name,
                      absl::StrCat("Invalid '", name,
                                   "': 0; it must be at least 1, or -1 for no limit of its own."),
                      "invalid_value");
    }
    if (found) continue;
    found = true;
    *out = *value < 0 ? std::nullopt : std::optional(static_cast<uint32_t>(*value));
  }
  return absl::OkStatus();
}

absl::Status ParseTimeout(const Fields& fields, TimeNs* out) {
  constexpr double kMostSeconds = 86400;
  ASSIGN_OR_RETURN(const auto seconds, fields.Number("timeout", 0, kMostSeconds));
  // Nobody can ask for less than a nanosecond; 0 asks for nothing.
  *out = static_cast<TimeNs>(std::ceil(seconds.value_or(0) * kSecond));
  return absl::OkStatus();
}

absl::Status ParseStream(const Fields& fields, CompletionRequest* out) {
  ASSIGN_OR_RETURN(out->stream, fields.Bool("stream", false));
  const json* options = fields.Find("stream_options");
  if (options == nullptr) return absl::OkStatus();
  if (!options->is_object()) return WrongType("stream_options", "an object", *options);
  const Fields inner(*options, "stream_options");
  // Without a stream it has nothing to act on: a whole answer always has its usage.
  ASSIGN_OR_RETURN(out->include_usage, inner.Bool("include_usage", false));
  ASSIGN_OR_RETURN(const bool each_chunk, inner.Bool("continuous_usage_stats", false));
  if (each_chunk && out->stream)
    return NotYet("stream_options.continuous_usage_stats", "only false is accepted.");
  return absl::OkStatus();
}

// OpenAI's `reasoning_effort`, and `reasoning.effort` of those who wrap it.
absl::Status ParseEffort(const Fields& fields, std::string* out) {
  const char* name = "reasoning_effort";
  ASSIGN_OR_RETURN(std::string effort, fields.String("reasoning_effort"));
  if (const json* reasoning = fields.Find("reasoning"); reasoning != nullptr) {
    if (!reasoning->is_object()) return WrongType("reasoning", "an object", *reasoning);
    ASSIGN_OR_RETURN(const std::string inner, Fields(*reasoning, "reasoning").String("effort"));
    if (effort.empty() && !inner.empty()) {
      effort = inner;
      name = "reasoning.effort";
    }
  }
  constexpr std::array<std::string_view, 9> kEfforts = {
      "none", "minimal", "low", "medium", "high", "xhigh", "max", "auto", "default"};
  if (!effort.empty() && std::find(kEfforts.begin(), kEfforts.end(), effort) == kEfforts.end()) {
    return BadField(name,
                    absl::StrCat("Invalid '", name, "': '", Shortened(effort, 40),
                                 "' is none of none, minimal, low, medium, high, xhigh, max."),
                    "invalid_value");
  }
  if (effort != "auto" && effort != "default") *out = std::move(effort);
  return absl::OkStatus();
}

// What chat and text completions share. max_tokens: where the request gives none.
absl::Status ParseCommon(const Fields& fields, std::optional<uint32_t> max_tokens,
                         CompletionRequest* out) {
  RETURN_IF_ERROR(RefuseUnsupported(fields, out->chat ? Endpoint::kChat : Endpoint::kText));
  ASSIGN_OR_RETURN(out->generate.model, fields.String("model"));
  RETURN_IF_ERROR(ParseSampling(fields, &out->generate));
  RETURN_IF_ERROR(ParseStop(fields, &out->generate.stop));
  RETURN_IF_ERROR(ParseMaxTokens(fields, max_tokens, &out->generate.max_tokens));
  RETURN_IF_ERROR(ParseEffort(fields, &out->generate.reasoning_effort));
  RETURN_IF_ERROR(ParseTimeout(fields, &out->generate.timeout));
  return ParseStream(fields, out);
}

// content: a string, or an array of {"type":"text","text":...}, which are joined by newlines as
// llama.cpp and vLLM do it.
absl::Status ParseContent(const json& content, const std::string& where, std::string* text) {
  if (content.is_string()) {
    *text = content.get<std::string>();
    return absl::OkStatus();
  }
  if (!content.is_array())
    return WrongType(where, "a string or an array of content parts", content);
  for (size_t i = 0; i < content.size(); ++i) {
    const std::string part_name = absl::StrCat(where, "[", i, "]");
    const json& part = content[i];
    if (!part.is_object()) return WrongType(part_name, "an object", part);
    const auto type = part.find("type");
    if (type == part.end() || !type->is_string()) {
      return BadField(part_name + ".type",
                      absl::StrCat("Missing required parameter: '", part_name, ".type'."),
                      "missing_required_parameter");
    }
    if (*type != "text") {
      return BadField(part_name + ".type",
                      absl::StrCat("Content parts of type ", Shown(*type), " in '", part_name,
                                   "' are not supported by this server; only \"text\" is."),
                      "unsupported_parameter");
    }
    const auto piece = part.find("text");
    if (piece == part.end() || !piece->is_string()) {
      return BadField(part_name + ".text",
                      absl::StrCat("Missing required parameter: '", part_name, ".text'."),
                      "missing_required_parameter");
    }
    if (i > 0) *text += '\n';
    *text += piece->get_ref<const std::string&>();
  }
  return absl::OkStatus();
}

// `content`, or what an assistant gave instead of it: `refusal`.
absl::Status ParseText(const Fields& fields, ChatMessage* out) {
  const std::string where = fields.NameOf("content");
  ASSIGN_OR_RETURN(std::string refusal, fields.String("refusal"));
  const json* content = fields.Find("content");
  if (content != nullptr) {
    RETURN_IF_ERROR(ParseContent(*content, where, &out->content));
  } else if (out->role != "assistant") {
    return BadField(
        where, absl::StrCat("Missing required parameter: '", where, "' (a string or text parts)."),
        "missing_required_parameter");
  }
  if (refusal.empty()) return absl::OkStatus();
  if (out->role != "assistant" || !out->content.empty()) {
    return NotYet(fields.NameOf("refusal"),
                  "it is read where an assistant's message has no content.");
  }
  out->content = std::move(refusal);
  return absl::OkStatus();
}

absl::StatusOr<ChatMessage> ParseMessage(const json& message, size_t index) {
  const std::string where = absl::StrCat("messages[", index, "]");
  if (!message.is_object()) return WrongType(where, "an object", message);
  const Fields fields(message, where);
  const json* role = fields.Find("role");
  if (role == nullptr) {
    return BadField(where + ".role",
                    absl::StrCat("Missing required parameter: '", where, ".role'."),
                    "missing_required_parameter");
  }
  if (!role->is_string()) return WrongType(where + ".role", "a string", *role);
  ChatMessage out;
  out.role = role->get<std::string>();
  if (out.role == "tool" || out.role == "function") {
    return BadField(
        where + ".role",
        absl::StrCat("Messages of role '", out.role, "' are not supported yet by this server."),
        "unsupported_parameter");
  }
  if (out.role != "system" && out.role != "developer" && out.role != "user" &&
      out.role != "assistant") {
    return BadField(
        where + ".role",
        absl::StrCat(
            "Invalid value: ", Shown(*role), " for '", where,
            ".role'. Supported values are: 'system', 'developer', 'user' and 'assistant'."),
        "invalid_value");
  }
  RETURN_IF_ERROR(RefuseInMessage(fields));
  RETURN_IF_ERROR(ParseText(fields, &out));
  ASSIGN_OR_RETURN(out.name, fields.String("name"));
  return out;
}

absl::Status ParseMessages(const Fields& fields, std::vector<ChatMessage>* out) {
  const json* messages = fields.Find("messages");
  if (messages == nullptr) {
    return BadField("messages", "Missing required parameter: 'messages'.",
                    "missing_required_parameter");
  }
  if (!messages->is_array()) return WrongType("messages", "an array of messages", *messages);
  if (messages->empty()) {
    return BadField("messages", "Invalid 'messages': empty array. Expected at least 1 message.",
                    "empty_array");
  }
  if (messages->size() > kMaxMessages) {
    return BadField(
        "messages",
        absl::StrCat("Invalid 'messages': array too long. Expected at most ", kMaxMessages,
                     " messages, but got ", messages->size(), ". Shorten the conversation."),
        "array_above_max_length");
  }
  out->reserve(messages->size());
  for (size_t i = 0; i < messages->size(); ++i) {
    ASSIGN_OR_RETURN(ChatMessage message, ParseMessage((*messages)[i], i));
    out->push_back(std::move(message));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> ParseTokenIds(const json& ids) {
  std::vector<int32_t> out;
  out.reserve(ids.size());
  for (const json& id : ids) {
    if (!id.is_number_integer())
      return WrongType("prompt", "a string or an array of token ids", id);
    const int64_t value =
        id.is_number_unsigned() && id.get<uint64_t>() > static_cast<uint64_t>(INT32_MAX)
            ? -1
            : id.get<int64_t>();
    if (value < 0 || value > INT32_MAX) {
      return BadField("prompt", absl::StrCat("Invalid 'prompt': ", Shown(id), " is no token id."),
                      "invalid_value");
    }
    out.push_back(static_cast<int32_t>(value));
  }
  return out;
}

absl::Status ParsePrompt(const Fields& fields, GenerateRequest* out) {
  const json* prompt = fields.Find("prompt");
  if (prompt == nullptr) {
    return BadField("prompt", "Missing required parameter: 'prompt'.",
                    "missing_required_parameter");
  }
  if (prompt->is_array() && !prompt->empty() && !prompt->front().is_number()) {
    if (prompt->size() > 1) {
      return BadField(
          "prompt",
          absl::StrCat("Invalid 'prompt': ", prompt->size(), " prompts in one request are not ",
                       "supported yet by this server; send one request for each."),
          "unsupported_parameter");
    }
    prompt = &prompt->front();
  }
  if (prompt->is_string()) {
    out->prompt = prompt->get<std::string>();
    return absl::OkStatus();
  }
  if (!prompt->is_array()) return WrongType("prompt", "a string or an array of token ids", *prompt);
  if (prompt->empty()) return BadField("prompt", "Invalid 'prompt': empty array.", "empty_array");
  ASSIGN_OR_RETURN(out->prompt, ParseTokenIds(*prompt));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CompletionRequest> ParseChatRequest(std::string_view body) {
  ASSIGN_OR_RETURN(const json object, ParseJsonObject(body));
  const Fields fields(object);
  CompletionRequest out;
  out.chat = true;
  std::vector<ChatMessage> messages;
  RETURN_IF_ERROR(ParseMessages(fields, &messages));
  out.generate.prompt = std::move(messages);
  RETURN_IF_ERROR(ParseCommon(fields, std::nullopt, &out));
  ASSIGN_OR_RETURN(out.generate.logprobs, fields.Bool("logprobs", false));
  ASSIGN_OR_RETURN(const auto top, fields.Integer("top_logprobs", 0, coordinator::kMaxTopLogprobs));
  if (top.value_or(0) > 0 && !out.generate.logprobs) {
    return BadField("top_logprobs", "'top_logprobs' needs 'logprobs': true.", "invalid_value");
  }
  out.generate.top_logprobs = static_cast<uint32_t>(top.value_or(0));
  return out;
}

absl::StatusOr<CompletionRequest> ParseTextRequest(std::string_view body) {
  ASSIGN_OR_RETURN(const json object, ParseJsonObject(body));
  const Fields fields(object);
  CompletionRequest out;
  RETURN_IF_ERROR(ParsePrompt(fields, &out.generate));
  RETURN_IF_ERROR(ParseCommon(fields, kDefaultCompletionTokens, &out));
  ASSIGN_OR_RETURN(out.generate.parse_special, fields.Bool("parse_special", true));
  ASSIGN_OR_RETURN(const auto logprobs,
                   fields.Integer("logprobs", 0, coordinator::kMaxTopLogprobs));
  out.generate.logprobs = logprobs.has_value();
  out.generate.top_logprobs = static_cast<uint32_t>(logprobs.value_or(0));
  return out;
}

}  // namespace lanyard::web
