// A conversation with a pool: its messages and settings, a question and its streamed answer, and
// the same as a file.
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/status.h"
#include "cli/chat_settings.h"
#include "cli/http_client.h"

namespace lanyard::cli {

class Chat {
 public:
  // `client` must outlive it.
  Chat(const HttpClient* client, std::string model, ChatSettings settings)
      : client_(*client), model_(std::move(model)), settings_(std::move(settings)) {}

  // Asks and prints the answer as it comes. After an error or Ctrl-C without any text the question
  // is forgotten.
  absl::Status Ask(const std::string& question);
  void Clear() { messages_ = nlohmann::ordered_json::array(); }

  ChatSettings& settings() { return settings_; }
  const ChatSettings& settings() const { return settings_; }
  const std::string& model() const { return model_; }
  const std::string& url() const { return client_.url(); }
  size_t questions() const;

  // Text of a file: what POST /v1/chat/completions takes, so that other programs read it too.
  std::string ToFile() const;
  // Takes messages and settings from such a text, not the model; all of it or nothing.
  // InvalidArgument says what is wrong with it. *model becomes the one that it was saved with.
  absl::Status FromFile(std::string_view text, std::string* model);

 private:
  using Clock = std::chrono::steady_clock;
  nlohmann::ordered_json Body() const;
  void PrintFigures(Clock::time_point start, std::optional<Clock::time_point> first,
                    const nlohmann::json& usage) const;

  const HttpClient& client_;
  std::string model_;
  ChatSettings settings_;
  nlohmann::ordered_json messages_ = nlohmann::ordered_json::array();
};

}  // namespace lanyard::cli
