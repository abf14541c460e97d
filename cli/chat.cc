#include "cli/chat.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/output.h"
#include "cli/text.h"

namespace lanyard::cli {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

// Typed text may hold bytes that are no UTF-8; JSON cannot.
constexpr auto kReplace = json::error_handler_t::replace;

std::string StringAt(const ordered_json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

absl::Status CheckMessage(const ordered_json& message, size_t index) {
  const std::string role = message.is_object() ? StringAt(message, "role") : "";
  const bool known = role == "user" || role == "assistant" || (role == "system" && index == 0);
  if (!known || !message.contains("content") || !message["content"].is_string()) {
    return InvalidArgument("its message ", index + 1,
                           " is not a text of the user or the assistant");
  }
  return absl::OkStatus();
}

}  // namespace

size_t Chat::questions() const {
  return static_cast<size_t>(
      std::count_if(messages_.begin(), messages_.end(),
                    [](const ordered_json& m) { return m["role"] == "user"; }));
}

ordered_json Chat::Body() const {
  ordered_json messages = ordered_json::array();
  if (!settings_.system.empty())
    messages.push_back({{"role", "system"}, {"content", settings_.system}});
  for (const ordered_json& m : messages_) messages.push_back(m);
  ordered_json body = {{"model", model_}};
  if (settings_.temperature.has_value()) body["temperature"] = *settings_.temperature;
  if (settings_.top_p.has_value()) body["top_p"] = *settings_.top_p;
  if (settings_.max_tokens.has_value()) body["max_tokens"] = *settings_.max_tokens;
  if (settings_.seed.has_value()) body["seed"] = *settings_.seed;
  body["messages"] = std::move(messages);
  return body;
}

std::string Chat::ToFile() const { return Body().dump(2, ' ', false, kReplace) + "\n"; }

absl::Status Chat::FromFile(std::string_view text, std::string* model) {
  const ordered_json file =
      ordered_json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!file.is_object() || !file.contains("messages") || !file["messages"].is_array())
    return InvalidArgument("it is no saved chat (a JSON object with messages)");
  ChatSettings settings;
  settings.verbose = settings_.verbose;
  for (const char* name : {"temperature", "top_p", "max_tokens", "seed"}) {
    const auto it = file.find(name);
    if (it == file.end() || it->is_null()) continue;
    RETURN_IF_ERROR(SetSetting(settings, name, it->dump(-1, ' ', false, kReplace)));
  }
  ordered_json messages = ordered_json::array();
  for (const ordered_json& message : file["messages"]) {
    const size_t index = messages.size() + (settings.system.empty() ? 0 : 1);
    RETURN_IF_ERROR(CheckMessage(message, index));
    if (message["role"] == "system") {
      settings.system = StringAt(message, "content");
    } else {
      messages.push_back({{"role", message["role"]}, {"content", message["content"]}});
    }
  }
  settings_ = std::move(settings);
  messages_ = std::move(messages);
  *model = StringAt(file, "model");
  return absl::OkStatus();
}

void Chat::PrintFigures(Clock::time_point start, std::optional<Clock::time_point> first,
                        const json& usage) const {
  const auto seconds = [](Clock::duration d) { return std::chrono::duration<double>(d).count(); };
  const auto end = Clock::now();
  const uint32_t prompt = usage.is_object() ? usage.value("prompt_tokens", 0u) : 0;
  const uint32_t tokens = usage.is_object() ? usage.value("completion_tokens", 0u) : 0;
  const double to_first = first.has_value() ? seconds(*first - start) : 0;
  const double rest = first.has_value() ? seconds(end - *first) : 0;
  // In a pipe that both streams share, the answer and its newline stand before the figures.
  std::fflush(stdout);
  std::fprintf(
      stderr,
      "prompt: %u tokens, first text after %.3f s\nanswer: %u tokens in %.3f s, %.1f tokens/s\n",
      prompt, to_first, tokens, seconds(end - start),
      tokens > 1 && rest > 0 ? (tokens - 1) / rest : 0.0);
}

absl::Status Chat::Ask(const std::string& question) {
  messages_.push_back({{"role", "user"}, {"content", question}});
  ordered_json body = Body();
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  const bool terminal = ::isatty(STDOUT_FILENO) == 1;
  std::string answer;
  absl::Status failed;
  json usage;
  const auto start = Clock::now();
  std::optional<Clock::time_point> first;
  const absl::Status status = client_.Stream(
      "/v1/chat/completions", body.dump(-1, ' ', false, kReplace), [&](std::string_view data) {
        if (data == "[DONE]") return false;
        const json chunk =
            json::parse(data.begin(), data.end(), nullptr, /*allow_exceptions=*/false);
        if (!chunk.is_object()) {
          failed = Internal("the pool sent an event that is not JSON");
          return false;
        }
        if (const auto error = chunk.find("error"); error != chunk.end() && error->is_object()) {
          failed = FailedPrecondition(
              error->value("message", "the pool ended the answer with an error"));
          return false;
        }
        if (const auto u = chunk.find("usage"); u != chunk.end() && u->is_object()) usage = *u;
        const json text = chunk.value(json::json_pointer("/choices/0/delta/content"), json());
        if (!text.is_string() || text.get_ref<const std::string&>().empty()) return true;
        if (!first.has_value()) first = Clock::now();
        const auto& piece = text.get_ref<const std::string&>();
        answer += piece;
        const std::string shown = terminal ? Printable(piece, Keep::kLines) : piece;
        failed = WriteOutput(shown);
        return failed.ok();  // what nobody can read is not computed
      });
  if (!answer.empty()) {
    std::fputs("\n", stdout);
    messages_.push_back({{"role", "assistant"}, {"content", answer}});
  } else if (!status.ok() || !failed.ok()) {
    messages_.erase(messages_.size() - 1);
  }
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(failed);
  if (settings_.verbose) PrintFigures(start, first, usage);
  return absl::OkStatus();
}

}  // namespace lanyard::cli
