#include "model/chat_template.h"

#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/field_error.h"
#include "model/counted.h"
#include "model/gguf.h"
#include "model/jinja/interpreter.h"
#include "model/jinja/lexer.h"
#include "model/jinja/parser.h"
#include "model/unicode.h"

namespace lanyard::model {
namespace {

using Json = nlohmann::ordered_json;

// Gemma's turns: a system message goes in front of the first user's text (alone, it is that text),
// and roles alternate.
constexpr char kGemmaTemplate[] = R"({{- bos_token -}}
{%- set turns = messages -%}
{%- set preface = '' -%}
{%- if messages[0]['role'] == 'system' -%}
  {%- set turns = messages[1:] -%}
  {%- set system = messages[0]['content'] -%}
  {%- set preface = (system if system is string else system[0]['text']) + '\n\n' -%}
{%- endif -%}
{%- if preface and not turns -%}
  {{- '<start_of_turn>user\n' + (preface | trim) + '<end_of_turn>\n' -}}
{%- endif -%}
{%- for turn in turns -%}
  {%- if (loop.index0 % 2 == 0) != (turn['role'] == 'user') -%}
    {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
  {%- endif -%}
  {{- '<start_of_turn>' + ('model' if turn['role'] == 'assistant' else turn['role']) + '\n' -}}
  {{- preface if loop.first else '' -}}
  {%- if turn['content'] is string -%}
    {{- turn['content'] | trim -}}
  {%- elif turn['content'] is iterable -%}
    {%- for part in turn['content'] -%}
      {%- if part['type'] != 'text' -%}
        {{- raise_exception('Only parts of type text are supported') -}}
      {%- endif -%}
      {{- part['text'] | trim -}}
    {%- endfor -%}
  {%- else -%}
    {{- raise_exception('Invalid content type') -}}
  {%- endif -%}
  {{- '<end_of_turn>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<start_of_turn>model\n' -}}
{%- endif -%})";

// True for text that does no harm where a template makes a control token of it: '<|' + message.role
// + '|>'.
bool IsUsualRole(std::string_view role) {
  constexpr std::array<std::string_view, 9> kRoles = {"system", "user",      "assistant",
                                                      "tool",   "developer", "function",
                                                      "model",  "ipython",   "context"};
  for (const std::string_view known : kRoles) {
    if (role == known) return true;
  }
  return false;
}

// Converts JSON from outside to values; none of it is trusted.
class Converter {
 public:
  absl::StatusOr<jinja::Value> Convert(const Json& j, int depth = 1) {
    if (depth > jinja::kMaxValueDepth) {
      return InvalidArgument("messages are nested more than ", jinja::kMaxValueDepth, " deep");
    }
    ++values_;
    switch (j.type()) {
      case Json::value_t::null:
        return jinja::Value::None();
      case Json::value_t::boolean:
        return jinja::Value::Bool(j.get<bool>());
      case Json::value_t::number_integer:
        return jinja::Value::Int(j.get<int64_t>());
      case Json::value_t::number_unsigned:
        if (j.get<uint64_t>() > INT64_MAX)
          return jinja::Value::Float(static_cast<double>(j.get<uint64_t>()));
        return jinja::Value::Int(j.get<int64_t>());
      case Json::value_t::number_float:
        return jinja::Value::Float(j.get<double>());
      case Json::value_t::string:
        return Untrusted(j.get_ref<const std::string&>());
      case Json::value_t::array:
        return ConvertArray(j, depth);
      case Json::value_t::object:
        return ConvertObject(j, depth);
      default:
        return InvalidArgument("messages hold a value that is not JSON");
    }
  }
  uint64_t values() const { return values_; }
  uint64_t bytes() const { return bytes_; }

 private:
  jinja::Value Untrusted(const std::string& s) {
    bytes_ += s.size();
    return jinja::Value::String(jinja::Text(IsValidUtf8(s) ? s : ReplaceInvalidBytes(s), false));
  }
  absl::StatusOr<jinja::Value> ConvertArray(const Json& j, int depth) {
    auto list = std::make_shared<jinja::List>();
    for (const auto& item : j) {
      ASSIGN_OR_RETURN(jinja::Value v, Convert(item, depth + 1));
      list->depth = std::max<uint16_t>(list->depth, jinja::DepthOf(v) + 1);
      list->items.push_back(std::move(v));
    }
    return jinja::Value::Of(std::move(list));
  }
  absl::StatusOr<jinja::Value> ConvertObject(const Json& j, int depth) {
    auto dict = std::make_shared<jinja::Dict>();
    for (const auto& [key, item] : j.items()) {
      ASSIGN_OR_RETURN(jinja::Value v, Convert(item, depth + 1));
      if (key == "role" && v.IsString() && IsUsualRole(v.AsBytes()))
        v = jinja::Value::Trusted(v.AsBytes());
      dict->depth = std::max<uint16_t>(dict->depth, jinja::DepthOf(v) + 1);
      dict->Set(Untrusted(key), std::move(v));
    }
    return jinja::Value::Of(std::move(dict));
  }

  uint64_t values_ = 0;
  uint64_t bytes_ = 0;
};

// Content as an array of text parts becomes one string, of a line for each part.
Json JoinParts(Json messages) {
  if (!messages.is_array()) return messages;
  for (auto& message : messages) {
    if (!message.is_object() || !message.contains("content") || !message["content"].is_array())
      continue;
    std::string joined;
    bool all_text = true;
    for (const auto& part : message["content"]) {
      if (&part != &message["content"].front()) joined += '\n';
      all_text = all_text && part.is_object() && part.value("type", "") == "text" &&
                 part.contains("text") && part["text"].is_string();
      if (all_text) joined += part["text"].get<std::string>();
    }
    if (all_text) message["content"] = std::move(joined);
  }
  return messages;
}

// What OpenAI calls the developer's message is the system's to a template that knows no developer.
void DeveloperToSystem(Json* messages) {
  for (auto& message : *messages) {
    if (message.is_object() && message.contains("role") && message["role"] == "developer")
      message["role"] = "system";
  }
}

// Content as a string becomes an array of one text part.
Json SplitParts(Json messages) {
  for (auto& message : messages) {
    if (!message.is_object() || !message.contains("content") || !message["content"].is_string())
      continue;
    Json part = {{"type", "text"}, {"text", message["content"]}};
    message["content"] = Json::array({std::move(part)});
  }
  return messages;
}

bool HasText(const Json& message) {
  return message.is_object() && message.contains("content") && message["content"].is_string() &&
         message["content"].get_ref<const std::string&>().find_first_not_of(" \t\r\n") !=
             std::string::npos;
}

// Texts that are nothing but control tokens, wherever a template writes them: <|im_end|>,
// <start_of_turn>, </s>. What people also write as tags (<think>, <tools>) is none of them.
bool IsControlText(std::string_view text) {
  const std::string_view name = text.substr(1, text.size() - 2);
  const auto between = [&](std::string_view bar) {
    return name.size() > 2 * bar.size() && name.starts_with(bar) && name.ends_with(bar);
  };
  return between("|") || between("｜") || name.find("_of_") != name.npos || name == "s" ||
         name == "/s" || name == "bos" || name == "eos";
}

// Those of a text, each as often as it is there.
std::vector<std::string_view> ControlTexts(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t at = text.find('<'); at != text.npos; at = text.find('<', at + 1)) {
    const size_t end = text.find_first_of("<> \n", at + 1);
    if (end == text.npos || text[end] != '>') continue;
    const std::string_view found = text.substr(at, end + 1 - at);
    if (IsControlText(found)) out.push_back(found);
  }
  return out;
}

std::string Mark(size_t i) { return absl::StrCat("qzx", i, "xzq"); }

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Parse(std::string_view source) {
  ASSIGN_OR_RETURN(jinja::Template parsed, jinja::Parser::Parse(source));
  ChatTemplate out;
  out.source_ = std::make_shared<const std::string>(source);
  out.template_ = std::make_shared<const jinja::Template>(std::move(parsed));
  out.reads_parts_ = out.Reads(Json::array({{{"type", "text"}, {"text", "PROBE"}}}));
  out.reads_strings_ = out.Reads("PROBE");
  return out;
}

absl::StatusOr<ChatTemplate> ChatTemplate::ForModel(const GgufFile& file,
                                                    const Tokenizer& tokenizer) {
  std::string_view source;
  bool built_in = false;
  if (file.Has("tokenizer.chat_template")) {
    ASSIGN_OR_RETURN(source, file.String("tokenizer.chat_template"));
  } else {
    const auto turn = tokenizer.FindToken("<start_of_turn>");
    if (!turn || !tokenizer.IsSpecial(*turn)) {
      return FailedPrecondition(
          "the model file has no chat template (tokenizer.chat_template) and its vocabulary is of "
          "no family known to "
          "have one; use /v1/completions with a prompt of your own, or convert the model with its "
          "template");
    }
    source = kGemmaTemplate;
    built_in = true;
  }
  ASSIGN_OR_RETURN(ChatTemplate out, Parse(source));
  out.SetTokens(tokenizer.bos_text(), tokenizer.eos_text());
  out.built_in_ = built_in;
  out.CheckTokens(tokenizer);
  return out;
}

// A control token that the vocabulary lacks, or has without its text, is read letter by letter, and
// the model answers worse without a word about it.
void ChatTemplate::CheckTokens(const Tokenizer& tokenizer) {
  std::set<std::string, std::less<>> lacking;
  const Json system = {{"role", "system"}, {"content", "a"}};
  const Json user = {{"role", "user"}, {"content", "a"}};
  const Json assistant = {{"role", "assistant"}, {"content", "a"}};
  for (const Json& messages : {Json::array({user}), Json::array({user, assistant, user}),
                               Json::array({system, user, assistant, user})}) {
    const auto parts = Render(messages, Options());
    if (!parts.ok()) continue;
    for (const PromptPart& part : *parts) {
      if (!part.trusted) continue;
      for (const std::string_view text : ControlTexts(part.text)) {
        if (!tokenizer.IsToken(text)) lacking.emplace(text);
      }
    }
  }
  Counted counted;
  for (const std::string& text : lacking) counted.Add("'", EscapeText(text), "'");
  counted.Report(
      "the chat template writes control tokens that the vocabulary lacks, so that the model reads "
      "them letter by letter; the file was converted wrongly: convert the model again",
      &warnings_);
}

void ChatTemplate::SetTokens(std::string bos, std::string eos) {
  bos_ = std::move(bos);
  eos_ = std::move(eos);
}

// Some templates only add strings; given an array they fail, or print it. Others only walk arrays.
bool ChatTemplate::Reads(const Json& content) const {
  const Json probe = {{{"role", "user"}, {"content", content}}};
  const auto parts = RenderOnce(probe, Options());
  if (!parts.ok()) return false;
  const std::string text = PromptText(*parts);
  return text.find("PROBE") != std::string::npos && text.find("'type'") == std::string::npos &&
         text.find("\"type\"") == std::string::npos;
}

absl::StatusOr<std::vector<PromptPart>> ChatTemplate::Render(const Json& given,
                                                             const Options& options) const {
  if (!given.is_array()) return InvalidArgument("messages must be a JSON array");
  Json messages = !reads_parts_ ? JoinParts(given) : reads_strings_ ? given : SplitParts(given);
  if (!Mentions("developer")) DeveloperToSystem(&messages);
  return RenderOnce(std::move(messages), options);
}

std::optional<size_t> ChatTemplate::FirstRefused(const Json& messages,
                                                 const Options& options) const {
  const auto takes = [&](size_t count) {
    return Render(Json(messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(count)),
                  options)
        .ok();
  };
  // So few renderings do for a long conversation. With one message too few a template may refuse
  // what it takes with the next one, and then it is not known whose fault it is.
  size_t taken = 0, refused = messages.size();
  while (refused - taken > 1) {
    const size_t middle = taken + (refused - taken) / 2;
    (takes(middle) ? taken : refused) = middle;
  }
  const bool recovers = refused < messages.size() && takes(refused + 1);
  return recovers || messages.empty() ? std::nullopt : std::optional(refused - 1);
}

absl::Status ChatTemplate::CheckPlaces(const Json& messages, const Options& options) const {
  Json marked = JoinParts(messages);
  for (size_t i = 0; i < marked.size(); ++i) {
    if (HasText(marked[i])) marked[i]["content"] = Mark(i);
  }
  const auto parts = Render(marked, options);
  if (!parts.ok()) return absl::OkStatus();  // it depends on what was said; then nothing is known
  const std::string prompt = PromptText(*parts);
  for (size_t i = 0; i < marked.size(); ++i) {
    if (!HasText(marked[i]) || prompt.find(Mark(i)) != std::string::npos) continue;
    return BadField(absl::StrCat("messages[", i, "]"),
                    absl::StrCat("The model's chat template has no place for 'messages[", i,
                                 "]' (role '", marked[i].value("role", ""),
                                 "') and would leave it out; move its text into a message that the "
                                 "template takes."),
                    "invalid_messages");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<PromptPart>> ChatTemplate::RenderChat(const Json& messages,
                                                                 const Options& options) const {
  auto parts = Render(messages, options);
  if (!parts.ok()) {
    const bool refused = jinja::IsRefusal(parts.status());
    const std::optional<size_t> first = refused ? FirstRefused(messages, options) : std::nullopt;
    const std::string param = first ? absl::StrCat("messages[", *first, "]") : "messages";
    std::string what = refused ? "does not take these messages" : "failed with these messages";
    if (first) {
      what = absl::StrCat("does not take '", param, "'",
                          *first > 0 ? " after the messages before it" : "");
    }
    return BadField(
        param, absl::StrCat("The model's chat template ", what, ": ", parts.status().message()),
        refused ? "invalid_messages" : "chat_template_failed");
  }
  RETURN_IF_ERROR(CheckPlaces(messages, options));
  return parts;
}

bool ChatTemplate::Mentions(std::string_view name) const {
  return source_->find(name) != std::string::npos;
}

absl::StatusOr<std::vector<PromptPart>> ChatTemplate::Render(const nlohmann::json& messages,
                                                             const Options& options) const {
  return Render(Json(messages), options);
}

absl::StatusOr<std::vector<PromptPart>> ChatTemplate::RenderOnce(Json messages,
                                                                 const Options& options) const {
  Converter converter;
  jinja::Interpreter::Variables variables;
  ASSIGN_OR_RETURN(jinja::Value given, converter.Convert(messages));
  messages = nullptr;  // it may be megabytes, and the interpreter makes copies of its own
  variables.emplace_back("messages", std::move(given));
  variables.emplace_back("add_generation_prompt",
                         jinja::Value::Bool(options.add_generation_prompt));
  variables.emplace_back("bos_token", jinja::Value::Trusted(bos_));
  variables.emplace_back("eos_token", jinja::Value::Trusted(eos_));
  if (options.tools != nullptr) {
    ASSIGN_OR_RETURN(jinja::Value tools, converter.Convert(*options.tools));
    variables.emplace_back("tools", std::move(tools));
  }
  if (options.extra != nullptr && options.extra->is_object()) {
    for (const auto& [name, value] : options.extra->items()) {
      ASSIGN_OR_RETURN(jinja::Value v, converter.Convert(value));
      variables.emplace_back(name, std::move(v));
    }
  }
  // The limits grow with the input, so that a long conversation is no attack and a template cannot
  // make it one.
  jinja::Limits limits;
  limits.steps += 300 * converter.values() + converter.bytes();
  limits.made_bytes += 16 * converter.bytes();
  limits.output_bytes += 2 * converter.bytes();
  jinja::Interpreter interpreter(*template_, variables, limits);
  ASSIGN_OR_RETURN(const jinja::Text text, interpreter.Run());
  std::vector<PromptPart> out;
  text.ForEachRun([&](std::string_view bytes, bool trusted) {
    out.push_back({std::string(bytes), trusted});
  });
  return out;
}

std::string PromptText(const std::vector<PromptPart>& parts) {
  std::string out;
  for (const PromptPart& part : parts) out += part.text;
  return out;
}

}  // namespace lanyard::model
