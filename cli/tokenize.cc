// lanyard tokenize, detokenize and template: they show what a model's vocabulary and chat template
// make of text.
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/file.h"
#include "base/log.h"
#include "base/output.h"
#include "cli/cli.h"
#include "cli/pool_json.h"
#include "model/chat_template.h"
#include "model/detokenizer.h"
#include "model/gguf.h"
#include "model/tokenizer.h"
#include "web/openai_request.h"

namespace lanyard::cli {
namespace {

using model::GgufFile;
using model::Tokenizer;

struct TokenizeOptions {
  std::string model;
  bool add_special = false;
  bool parse_special = false;
  bool nul = false;
  bool skip_special = false;
};

struct Loaded {
  std::unique_ptr<GgufFile> file;
  std::unique_ptr<Tokenizer> tokenizer;
};

absl::StatusOr<Loaded> Load(const std::string& path) {
  Loaded out;
  ASSIGN_OR_RETURN(out.file, GgufFile::Open(path));
  auto tokenizer = Tokenizer::Load(*out.file);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), path);
  out.tokenizer = *std::move(tokenizer);
  return out;
}

absl::StatusOr<nlohmann::ordered_json> ReadJson(const char* what) {
  ASSIGN_OR_RETURN(const std::string text, ReadStandardInput());
  nlohmann::ordered_json out =
      nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (out.is_discarded() || !out.is_array()) return InvalidArgument("stdin is not ", what);
  return out;
}

absl::StatusOr<std::string> IdsLine(const Tokenizer& tokenizer, std::string_view text,
                                    const TokenizeOptions& options) {
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                   tokenizer.Encode(text, {options.add_special, options.parse_special}));
  return nlohmann::json(ids).dump() + "\n";
}

absl::Status Tokenize(const TokenizeOptions& options) {
  ASSIGN_OR_RETURN(const Loaded loaded, Load(options.model));
  ASSIGN_OR_RETURN(const std::string input, ReadStandardInput());
  if (!options.nul) {
    ASSIGN_OR_RETURN(const std::string line, IdsLine(*loaded.tokenizer, input, options));
    return WriteOutput(line);
  }
  std::string_view rest = input;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\0'), rest.size());
    ASSIGN_OR_RETURN(const std::string line,
                     IdsLine(*loaded.tokenizer, rest.substr(0, end), options));
    RETURN_IF_ERROR(WriteOutput(line));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return absl::OkStatus();
}

absl::Status Detokenize(const TokenizeOptions& options) {
  ASSIGN_OR_RETURN(const Loaded loaded, Load(options.model));
  ASSIGN_OR_RETURN(const nlohmann::ordered_json ids, ReadJson("a JSON array of token ids"));
  model::StreamDecoder decoder(loaded.tokenizer.get(),
                               {.render_special = !options.skip_special, .whole_text = true});
  std::string text;
  for (const auto& id : ids) {
    if (!id.is_number_integer() || id < 0 || id >= loaded.tokenizer->n_vocab()) {
      return InvalidArgument(id.dump(), " is not a token id of this vocabulary, which has ",
                             loaded.tokenizer->n_vocab(), " tokens");
    }
    text += decoder.Push(id.get<int32_t>());
  }
  return WriteOutput(text + decoder.Flush());
}

absl::Status Template(const TokenizeOptions& options) {
  ASSIGN_OR_RETURN(const Loaded loaded, Load(options.model));
  ASSIGN_OR_RETURN(const auto chat, model::ChatTemplate::ForModel(*loaded.file, *loaded.tokenizer));
  for (const std::string& warning : chat.warnings()) LogWarning("the model's file: ", warning);
  ASSIGN_OR_RETURN(nlohmann::ordered_json messages, ReadJson("a JSON list of messages"));
  // What the API refuses is refused in its words, and the rest becomes what it makes of it.
  const std::string body = OneLine(nlohmann::ordered_json{{"messages", std::move(messages)}});
  ASSIGN_OR_RETURN(const web::CompletionRequest request, web::ParseChatRequest(body));
  messages = nlohmann::ordered_json::array();
  for (const auto& message :
       std::get<std::vector<coordinator::ChatMessage>>(request.generate.prompt)) {
    messages.push_back({{"role", message.role}, {"content", message.content}});
    if (!message.name.empty()) messages.back()["name"] = message.name;
  }
  ASSIGN_OR_RETURN(const auto parts, chat.RenderChat(messages, {}));
  return WriteOutput(model::PromptText(parts));
}

CLI::App* AddVerb(CLI::App& app, const char* name, const char* description, const char* examples,
                  const std::shared_ptr<TokenizeOptions>& options,
                  absl::Status (*run)(const TokenizeOptions&)) {
  CLI::App* command = AddCommand(app, name, description, examples, [options, run] {
    const absl::Status status = run(*options);
    return status.ok() ? static_cast<int>(kOk) : Fail(status);
  });
  command->add_option("--model", options->model, "a GGUF file; one with a vocabulary alone will do")
      ->required();
  return command;
}

}  // namespace

void RegisterTokenize(CLI::App& app) {
  const auto options = std::make_shared<TokenizeOptions>();
  CLI::App* tokenize = AddVerb(app, "tokenize", "Token ids of the text on stdin, as a JSON array",
                               "  printf 'Hello world' | lanyard tokenize --model smollm2.gguf\n"
                               "  printf 'one\\0two\\0' | lanyard tokenize -0 --model smollm2.gguf",
                               options, Tokenize);
  tokenize->add_flag("--add-special", options->add_special, "add BOS and EOS as the model asks");
  tokenize->add_flag(
      "--parse-special", options->parse_special,
      "texts of control tokens become those tokens; with --add-special these are the ids "
      "of a raw prompt of /v1/completions");
  tokenize->add_flag("-0", options->nul, "texts that each end with a NUL; one array a line");
  CLI::App* detokenize = AddVerb(app, "detokenize", "Text of the JSON array of token ids on stdin",
                                 "  echo '[19556, 905]' | lanyard detokenize --model smollm2.gguf",
                                 options, Detokenize);
  detokenize->add_flag("--skip-special", options->skip_special, "leave control tokens out");
  AddVerb(
      app, "template",
      "The prompt of the JSON list of messages on stdin, with the generation prompt",
      "  echo '[{\"role\":\"user\",\"content\":\"Hi\"}]' | lanyard template --model smollm2.gguf",
      options, Template);
}

}  // namespace lanyard::cli
