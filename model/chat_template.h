// Turns a conversation into the kind of prompt that a model was trained on. The template comes with
// the model, so it is untrusted: it is parsed once, cannot do anything but make text, and runs
// within limits. Text that people wrote stays marked as such.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/tokenizer.h"

namespace lanyard::model {

namespace jinja {
struct Template;
}

// Immutable and thread-safe. It is cheap to copy.
class ChatTemplate {
 public:
  // InvalidArgument "template line 3, column 14: ..." when it is malformed or not supported. It
  // renders as Python's jinja2 does with transformers' settings (trim_blocks, lstrip_blocks, its
  // tojson), byte for byte.
  static absl::StatusOr<ChatTemplate> Parse(std::string_view source);

  // Takes the template of the file (tokenizer.chat_template), else one of our own where the
  // vocabulary tells the family (<start_of_turn>: Gemma). FailedPrecondition where there is
  // neither. bos and eos come from the tokenizer.
  static absl::StatusOr<ChatTemplate> ForModel(const GgufFile& file, const Tokenizer& tokenizer);

  struct Options {
    bool add_generation_prompt = true;
    const nlohmann::ordered_json* tools = nullptr;  // the variable `tools`; undefined where null
    // Further variables as an object (chat_template_kwargs).
    const nlohmann::ordered_json* extra = nullptr;
  };

  // `messages` is an array of objects with "role" and "content" (a string, or an array of parts
  // {"type":"text","text":..}, which are joined by newlines where the template cannot read them; a
  // string becomes a part where it reads nothing else). The role "developer" is "system" to a
  // template that does not know it. The parts
  // joined are the prompt; text of messages is not trusted, save for the usual names of roles.
  // InvalidArgument where the template refuses the messages (raise_exception), ResourceExhausted
  // where it passes a limit. Encode the result with add_special: BOS is not doubled. Ordered JSON
  // keeps the order of keys where a template writes an object out (tojson).
  absl::StatusOr<std::vector<PromptPart>> Render(const nlohmann::ordered_json& messages,
                                                 const Options& options) const;
  absl::StatusOr<std::vector<PromptPart>> Render(const nlohmann::json& messages,
                                                 const Options& options) const;

  // Render for a client's conversation: what the template does not take, or would silently leave
  // out (a system message alone, say), is a BadField about "messages[i]", or "messages" where it is
  // not known which, with the code "invalid_messages".
  absl::StatusOr<std::vector<PromptPart>> RenderChat(const nlohmann::ordered_json& messages,
                                                     const Options& options) const;
  // Whether the template's source holds the name of a variable.
  bool Mentions(std::string_view name) const;

  // Values of bos_token and eos_token; empty after Parse.
  void SetTokens(std::string bos, std::string eos);
  const std::string& source() const { return *source_; }
  bool built_in() const { return built_in_; }
  // What is wrong with it for this model, without being an error; empty after Parse.
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  absl::StatusOr<std::vector<PromptPart>> RenderOnce(nlohmann::ordered_json messages,
                                                     const Options& options) const;
  // Whether the text PROBE of such a content gets into the prompt.
  bool Reads(const nlohmann::ordered_json& content) const;
  // The first message that the template does not take, where those before it are taken.
  std::optional<size_t> FirstRefused(const nlohmann::ordered_json& messages,
                                     const Options& options) const;
  void CheckTokens(const Tokenizer& tokenizer);
  absl::Status CheckPlaces(const nlohmann::ordered_json& messages, const Options& options) const;

  std::shared_ptr<const std::string> source_;
  std::shared_ptr<const jinja::Template> template_;
  std::string bos_;
  std::string eos_;
  bool built_in_ = false;
  bool reads_parts_ = false;  // the template takes content as an array of parts
  bool reads_strings_ = true;
  std::vector<std::string> warnings_;
};

// The prompt as one string, to show it.
std::string PromptText(const std::vector<PromptPart>& parts);

}  // namespace lanyard::model
