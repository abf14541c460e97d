// `lanyard run`: a chat with a pool; one question, or a conversation on a terminal.
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/command_line.h"
#include "base/file.h"
#include "cli/chat.h"
#include "cli/cli.h"
#include "cli/connection.h"
#include "cli/conversation.h"
#include "cli/http_client.h"
#include "cli/interrupt.h"
#include "cli/pool_json.h"

namespace lanyard::cli {
namespace {

struct RunOptions {
  HttpClient::Options http;
  std::string model;  // or the question's first word
  std::vector<std::string> question;
  std::string prompt;
  ChatSettings settings;
};

struct Request {
  std::string model;
  std::string question;  // of the words; empty: none
};

absl::StatusOr<std::vector<std::string>> ServedModels(const HttpClient& client) {
  ASSIGN_OR_RETURN(const auto body, GetJson(client, "/v1/models"));
  std::vector<std::string> out;
  for (const auto& model : List(body, "data")) {
    if (std::string id = model.is_object() ? Text(model, "id") : ""; !id.empty())
      out.push_back(std::move(id));
  }
  if (out.empty()) {
    return NotFound("the pool at ", client.url(),
                    " lists no model\n  Look at it with: lanyard node status");
  }
  return out;
}

std::string ShellQuoted(const std::string& text) {
  return "'" + absl::StrReplaceAll(text, {{"'", "'\\''"}}) + "'";
}

// The first word is the model where the pool serves it. Else it may be a mistyped model as well as
// a question, and only one with a space in it is surely the latter.
absl::StatusOr<Request> ReadWords(const std::vector<std::string>& words,
                                  const std::vector<std::string>& served) {
  if (words.empty()) return Request{.model = served.front(), .question = ""};
  if (std::find(served.begin(), served.end(), words.front()) != served.end()) {
    const std::vector<std::string> rest(words.begin() + 1, words.end());
    return Request{.model = words.front(), .question = absl::StrJoin(rest, " ")};
  }
  const std::string all = absl::StrJoin(words, " ");
  if (words.front().find_first_of(" \t\n") != std::string::npos)
    return Request{.model = served.front(), .question = all};
  const std::string how = words.size() == 1 ? "lanyard run --prompt " : "lanyard run ";
  return NotFound("the model '", words.front(), "' does not exist here; this pool serves '",
                  absl::StrJoin(served, "', '"), "'\n  If it is a question: ", how,
                  ShellQuoted(all));
}

// All of standard input. Who forgot that it is open is told what is waited for.
absl::StatusOr<std::string> ReadPipedInput() {
  pollfd p{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
  constexpr int kPatienceMs = 3000;
  if (::poll(&p, 1, kPatienceMs) == 0) {
    std::fprintf(stderr,
                 "Waiting for standard input, which is read as a part of the question "
                 "(without it: < /dev/null).\n");
  }
  return ReadStandardInput();
}

// What was piped in, then what is asked about it.
std::string Joined(std::string input, const std::string& question) {
  input.erase(input.find_last_not_of(" \t\r\n") + 1);
  if (input.empty()) return question;
  return question.empty() ? input : input + "\n\n" + question;
}

int Run(const RunOptions& options) {
  CatchInterrupts();
  HttpClient::Options http = options.http;
  http.stop = &Interrupted();
  const auto client = HttpClient::Create(http);
  if (!client.ok()) return Fail(client.status());
  const auto served = ServedModels(*client);
  if (!served.ok()) return Fail(served.status());
  std::vector<std::string> words = options.question;
  if (!options.model.empty()) words.insert(words.begin(), options.model);
  const auto request = ReadWords(words, *served);
  if (!request.ok()) return Fail(request.status());
  if (!options.prompt.empty() && !request->question.empty()) {
    Fail(InvalidArgument("the question is given twice, as --prompt and as '", request->question,
                         "'; leave one out"));
    return kUsage;
  }
  std::string question = options.prompt;
  if (question.empty() && ::isatty(STDIN_FILENO) == 0) {
    auto input = ReadPipedInput();
    if (!input.ok()) return Fail(input.status());
    question = Joined(*std::move(input), request->question);
    if (question.empty()) {
      return Fail(
          InvalidArgument("no question: give one, as in: lanyard run 'Why is the sky blue?'"
                          "; or text on standard input; or run it on a terminal"));
    }
  } else if (question.empty()) {
    question = request->question;
  }
  Chat chat(&*client, request->model, options.settings);
  if (question.empty()) return Converse(chat);
  const absl::Status status = chat.Ask(question);
  return status.ok() ? kOk : Fail(status);
}

// "--top-p" sets top_p, with the rule that /set has.
void AddSettingFlag(CLI::App* run, ChatSettings* settings, const Setting& setting) {
  const std::string name = setting.name;
  std::string help = setting.values;
  help.front() = absl::ascii_toupper(help.front());
  const std::string flag = "--" + absl::StrReplaceAll(name, {{"_", "-"}});
  CLI::Option* option = run->add_option_function<std::string>(
      flag,
      [settings, name, flag](const std::string& value) {
        const absl::Status set = SetSetting(*settings, name, value);
        if (!set.ok()) throw CLI::ValidationError(flag, Str(set.message()));
      },
      help);
  MayBeEmpty(MayHoldAnyBytes(option));  // the setting says itself what it takes
}

}  // namespace

void RegisterRun(CLI::App& app) {
  const auto options = std::make_shared<RunOptions>();
  CLI::App* run = AddCommand(
      app, "run", "Chats with a pool",
      "  lanyard run   # a conversation, on a terminal\n"
      "  lanyard run 'Why is the sky blue?' --temperature 0\n"
      "  lanyard run smollm2 'Why is the sky blue?'   # asks this model of the pool\n"
      "  cat letter.txt | lanyard run 'Summarise this letter.'\n"
      "  lanyard run --prompt 'Hello'   # leaves standard input alone, which suits loops",
      [options] { return Run(*options); });
  run->add_option("MODEL", options->model, "Id of a model of the pool (default: its first)");
  MayHoldAnyBytes(
      run->add_option("QUESTION", options->question,
                      "One question; with text on standard input it is about that text; without "
                      "both a conversation"));
  AddConnectionFlags(run, &options->http);
  MayHoldAnyBytes(
      run->add_option("--prompt", options->prompt, "The question; standard input is not read"));
  ChatSettings* settings = &options->settings;
  for (const Setting& setting : Settings()) {
    if (std::string_view(setting.name) == "verbose") continue;
    AddSettingFlag(run, settings, setting);
  }
  run->add_flag("--verbose", settings->verbose,
                "Prints counts of tokens and rates after each answer, on standard error");
}

}  // namespace lanyard::cli
