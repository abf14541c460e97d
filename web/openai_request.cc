#include "web/openai_request.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "web/errors.h"
#include "web/json_body.h"

namespace lanyard::web {
namespace {

using coordinator::ChatMessage;
using coordinator::GenerateRequest;
using nlohmann::json;

constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max();

absl::Status NotYet(std::string_view name, std::string_view allowed) {
  return BadField(
      name,
      absl::StrCat("'", AbslView(name),
                   "' is not supported yet by this server and would change the answer; ",
                   AbslView(allowed)),
      "unsupported_parameter");
}

bool IsEmptyContainer(const json& value) {
  return (value.is_array() || value.is_object() || value.is_string()) && value.empty();
}

// Checks fields that must be absent, null, or equal to their neutral value.
absl::Status RejectUnsupported(const Fields& fields) {
  // These must be absent or an empty array, object or string.
  for (const char* name :
       {"tools", "functions", "logit_bias", "audio", "web_search_options", "suffix", "grammar",
        "json_schema", "structured_outputs", "guided_json", "guided_regex", "guided_choice",
        "guided_grammar", "stop_token_ids", "bad_words", "chat_template_kwargs", "chat_template",
        "documents", "prefill"}) {
    const json* value = fields.Find(name);
    if (value != nullptr && !IsEmptyContainer(*value)) return NotYet(name, "leave it out.");
  }
  // These must be absent or this number.
  struct Neutral {
    const char* name;
    double value;
  };
  for (const Neutral& n :
       {Neutral{"presence_penalty", 0}, Neutral{"frequency_penalty", 0}, Neutral{"n", 1},
        Neutral{"best_of", 1}, Neutral{"repeat_penalty", 1}, Neutral{"repetition_penalty", 1},
        Neutral{"min_tokens", 0}, Neutral{"typical_p", 1}, Neutral{"mirostat", 0}}) {
    const json* value = fields.Find(n.name);
    if (value == nullptr) continue;
    if (!value->is_number()) return WrongType(n.name, "a number", *value);
    if (value->get<double>() != n.value)
      return NotYet(n.name, absl::StrCat("only ", n.value, " is accepted."));
  }
  // These must be absent or false.
  for (const char* name : {"echo", "continue_final_message", "use_beam_search"}) {
    ASSIGN_OR_RETURN(const bool on, fields.Bool(name, false));
    if (on) return NotYet(name, "only false is accepted.");
  }
  if (const json* choice = fields.Find("tool_choice");
      choice != nullptr && *choice != "none" && *choice != "auto") {
    return NotYet("tool_choice", "only \"none\" and \"auto\" are accepted.");
  }
  if (const json* call = fields.Find("function_call");
      call != nullptr && *call != "none" && *call != "auto") {
    return NotYet("function_call", "only \"none\" and \"auto\" are accepted.");
  }
  if (const json* format = fields.Find("response_format"); format != nullptr) {
    if (!format->is_object()) return WrongType("response_format", "an object", *format);
    const auto type = format->find("type");
    if (type == format->end() || *type != "text")
      return NotYet("response_format", "only {\"type\":\"text\"} is accepted.");
  }
  if (const json* modalities = fields.Find("modalities");
      modalities != nullptr && *modalities != json::array({"text"})) {
    return NotYet("modalities", "only [\"text\"] is accepted.");
  }
  return absl::OkStatus();
}

absl::Status ParseStop(const Fields& fields, std::vector<std::string>* stop) {
  const json* value = fields.Find("stop");
  if (value == nullptr) return absl::OkStatus();
  if (value->is_string()) {
    if (!value->get_ref<const std::string&>().empty()) stop->push_back(value->get<std::string>());
  } else if (value->is_array()) {
    if (value->size() > kMaxStopStrings) {
      return BadField("stop",
                      absl::StrCat("Invalid 'stop': ", value->size(), " strings, but at most ",
                                   kMaxStopStrings, " are accepted."),
                      "invalid_value");
    }
    for (const json& s : *value) {
      if (!s.is_string()) return WrongType("stop", "a string or an array of strings", s);
      if (s.get_ref<const std::string&>().empty()) {
        return BadField("stop", "Invalid 'stop': a stop string must not be empty.",
                        "invalid_value");
      }
      stop->push_back(s.get<std::string>());
    }
  } else {
    return WrongType("stop", "a string or an array of strings", *value);
  }
  for (const std::string& s : *stop) {
    if (s.size() > kMaxStopBytes) {
      return BadField("stop",
                      absl::StrCat("Invalid 'stop': a string of ", s.size(), " bytes, but at most ",
                                   kMaxStopBytes, " are accepted."),
                      "invalid_value");
    }
  }
  return absl::OkStatus();
}

uint64_t RandomSeed() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return generator();
}

absl::Status ParseSampling(const Fields& fields, GenerateRequest* out) {
  ASSIGN_OR_RETURN(const auto temperature, fields.Number("temperature", 0, 2));
  ASSIGN_OR_RETURN(const auto top_p, fields.Number("top_p", 0, 1));
  ASSIGN_OR_RETURN(const auto top_k, fields.Integer("top_k", -1, kMaxTokens));
  ASSIGN_OR_RETURN(const auto min_p, fields.Number("min_p", 0, 1));
  if (top_p.has_value() && *top_p == 0) {
    return BadField(
        "top_p",
        "Invalid 'top_p': 0 is not above 0 and at most 1; for greedy answers use temperature 0.",
        "invalid_value");
  }
  out->sample.temperature = static_cast<float>(temperature.value_or(1));
  out->sample.top_p = static_cast<float>(top_p.value_or(1));
  out->sample.top_k = top_k.value_or(0) > 0 ? static_cast<uint32_t>(*top_k) : 0;
  out->sample.min_p = static_cast<float>(min_p.value_or(0));

  const json* seed = fields.Find("seed");
  if (seed == nullptr) {
    out->sample.seed = RandomSeed();
  } else if (seed->is_number_unsigned()) {
    out->sample.seed = seed->get<uint64_t>();
  } else {
    ASSIGN_OR_RETURN(const auto value, fields.Integer("seed", INT64_MIN, INT64_MAX));
    out->sample.seed = static_cast<uint64_t>(*value);
  }
  ASSIGN_OR_RETURN(out->ignore_eos, fields.Bool("ignore_eos", false));
  return absl::OkStatus();
}

// Parses what chat and text completions share.
absl::Status ParseCommon(const Fields& fields, CompletionRequest* out) {
  RETURN_IF_ERROR(RejectUnsupported(fields));
  ASSIGN_OR_RETURN(out->generate.model, fields.String("model"));
  RETURN_IF_ERROR(ParseSampling(fields, &out->generate));
  RETURN_IF_ERROR(ParseStop(fields, &out->generate.stop));
  ASSIGN_OR_RETURN(const auto max_tokens, fields.Integer("max_tokens", 1, kMaxTokens));
  ASSIGN_OR_RETURN(const auto max_completion,
                   fields.Integer("max_completion_tokens", 1, kMaxTokens));
  if (max_completion.has_value()) {
    out->generate.max_tokens = static_cast<uint32_t>(*max_completion);
  } else if (max_tokens.has_value()) {
    out->generate.max_tokens = static_cast<uint32_t>(*max_tokens);
  }
  ASSIGN_OR_RETURN(out->stream, fields.Bool("stream", false));
  if (const json* options = fields.Find("stream_options"); options != nullptr) {
    if (!options->is_object()) return WrongType("stream_options", "an object", *options);
    if (!out->stream) {
      return BadField("stream_options",
                      "The 'stream_options' parameter is only allowed when 'stream' is true.",
                      "invalid_value");
    }
    ASSIGN_OR_RETURN(out->include_usage, Fields(*options).Bool("include_usage", false));
  }
  return absl::OkStatus();
}

// Takes content as a string, or as an array of {"type":"text","text":...}.
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
      return BadField(
          part_name + ".type",
          absl::StrCat("Content parts of type ", type->dump().substr(0, 40), " in '", part_name,
                       "' are not supported by this server; only \"text\" is."),
          "unsupported_parameter");
    }
    const auto piece = part.find("text");
    if (piece == part.end() || !piece->is_string()) {
      return BadField(part_name + ".text",
                      absl::StrCat("Missing required parameter: '", part_name, ".text'."),
                      "missing_required_parameter");
    }
    *text += piece->get_ref<const std::string&>();
  }
  return absl::OkStatus();
}

absl::StatusOr<ChatMessage> ParseMessage(const json& message, size_t index) {
  const std::string where = absl::StrCat("messages[", index, "]");
  if (!message.is_object()) return WrongType(where, "an object", message);
  const Fields fields(message);
  const json* role = fields.Find("role");
  if (role == nullptr) {
    return BadField(where + ".role",
                    absl::StrCat("Missing required parameter: '", where, ".role'."),
                    "missing_required_parameter");
  }
  if (!role->is_string()) return WrongType(where + ".role", "a string", *role);
  ChatMessage out;
  out.role = role->get<std::string>();
  if (out.role == "developer") out.role = "system";
  if (out.role == "tool" || out.role == "function") {
    return BadField(
        where + ".role",
        absl::StrCat("Messages of role '", out.role, "' are not supported yet by this server."),
        "unsupported_parameter");
  }
  if (out.role != "system" && out.role != "user" && out.role != "assistant") {
    return BadField(
        where + ".role",
        absl::StrCat(
            "Invalid value: ", role->dump().substr(0, 60), " for '", where,
            ".role'. Supported values are: 'system', 'developer', 'user' and 'assistant'."),
        "invalid_value");
  }
  if (const json* calls = fields.Find("tool_calls");
      calls != nullptr && !IsEmptyContainer(*calls)) {
    return NotYet(where + ".tool_calls", "leave it out.");
  }
  const json* content = fields.Find("content");
  if (content != nullptr) {
    RETURN_IF_ERROR(ParseContent(*content, where + ".content", &out.content));
  } else if (out.role != "assistant") {
    return BadField(
        where + ".content",
        absl::StrCat("Missing required parameter: '", where, ".content' (a string or text parts)."),
        "missing_required_parameter");
  }
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
      return BadField("prompt", absl::StrCat("Invalid 'prompt': ", id.dump(), " is no token id."),
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
  RETURN_IF_ERROR(ParseCommon(fields, &out));
  ASSIGN_OR_RETURN(out.generate.logprobs, fields.Bool("logprobs", false));
  ASSIGN_OR_RETURN(const auto top, fields.Integer("top_logprobs", 0, 20));
  if (top.has_value() && !out.generate.logprobs) {
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
  RETURN_IF_ERROR(ParseCommon(fields, &out));
  if (!out.generate.max_tokens.has_value()) out.generate.max_tokens = kDefaultCompletionTokens;
  ASSIGN_OR_RETURN(const auto logprobs, fields.Integer("logprobs", 0, 20));
  out.generate.logprobs = logprobs.has_value();
  out.generate.top_logprobs = static_cast<uint32_t>(logprobs.value_or(0));
  return out;
}

}  // namespace lanyard::web
