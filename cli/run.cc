// `lanyard run`: a chat with a pool; one question, or a conversation on a terminal.
#include <histedit.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "cli/cli.h"
#include "cli/connection.h"
#include "cli/http_client.h"
#include "cli/interrupt.h"

namespace lanyard::cli {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

struct Options {
  HttpClient::Options http;
  std::string model;
  std::string prompt;
  std::string system;
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<uint32_t> max_tokens;
  std::optional<int64_t> seed;
  bool verbose = false;
};

absl::StatusOr<std::string> FirstModel(const HttpClient& client) {
  ASSIGN_OR_RETURN(const HttpReply reply, client.Get("/v1/models"));
  RETURN_IF_ERROR(StatusOfReply(reply));
  const json body = json::parse(reply.body, nullptr, /*allow_exceptions=*/false);
  if (!body.is_object() || !body.contains("data") || !body["data"].is_array() ||
      body["data"].empty() || !body["data"][0].is_object()) {
    return NotFound("the pool at ", client.url(),
                    " lists no model\n  Look at it with: lanyard node status");
  }
  const auto id = body["data"][0].find("id");
  if (id == body["data"][0].end() || !id->is_string())
    return Internal("the pool's list of models has no id");
  return id->get<std::string>();
}

class Chat {
 public:
  Chat(const HttpClient* client, Options options)
      : client_(*client), options_(std::move(options)) {}

  // Asks, and prints the answer as it comes. After an error, or after Ctrl-C without any text, the
  // question is forgotten.
  absl::Status Ask(const std::string& question);
  void Clear() { messages_ = json::array(); }
  Options& options() { return options_; }

 private:
  json Body() const;
  void PrintFigures(Clock::time_point start, std::optional<Clock::time_point> first,
                    const json& usage) const;

  const HttpClient& client_;
  Options options_;
  json messages_ = json::array();
};

json Chat::Body() const {
  json messages = json::array();
  if (!options_.system.empty())
    messages.push_back({{"role", "system"}, {"content", options_.system}});
  for (const json& m : messages_) messages.push_back(m);
  json body = {{"model", options_.model},
               {"messages", std::move(messages)},
               {"stream", true},
               {"stream_options", {{"include_usage", true}}}};
  if (options_.temperature.has_value()) body["temperature"] = *options_.temperature;
  if (options_.top_p.has_value()) body["top_p"] = *options_.top_p;
  if (options_.max_tokens.has_value()) body["max_tokens"] = *options_.max_tokens;
  if (options_.seed.has_value()) body["seed"] = *options_.seed;
  return body;
}

void Chat::PrintFigures(Clock::time_point start, std::optional<Clock::time_point> first,
                        const json& usage) const {
  const auto seconds = [](Clock::duration d) { return std::chrono::duration<double>(d).count(); };
  const auto end = Clock::now();
  const uint32_t prompt = usage.is_object() ? usage.value("prompt_tokens", 0u) : 0;
  const uint32_t tokens = usage.is_object() ? usage.value("completion_tokens", 0u) : 0;
  const double to_first = first.has_value() ? seconds(*first - start) : 0;
  const double rest = first.has_value() ? seconds(end - *first) : 0;
  std::fprintf(
      stderr,
      "prompt: %u tokens, first text after %.3f s\nanswer: %u tokens in %.3f s, %.1f tokens/s\n",
      prompt, to_first, tokens, seconds(end - start),
      tokens > 1 && rest > 0 ? (tokens - 1) / rest : 0.0);
}

absl::Status Chat::Ask(const std::string& question) {
  messages_.push_back({{"role", "user"}, {"content", question}});
  std::string answer;
  absl::Status failed;
  json usage;
  const auto start = Clock::now();
  std::optional<Clock::time_point> first;
  const absl::Status status = client_.Stream(
      "/v1/chat/completions", Body().dump(-1, ' ', false, json::error_handler_t::replace),
      [&](std::string_view data) {
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
        answer += text.get_ref<const std::string&>();
        std::fputs(text.get_ref<const std::string&>().c_str(), stdout);
        std::fflush(stdout);
        return true;
      });
  if (!answer.empty()) {
    std::fputs("\n", stdout);
    messages_.push_back({{"role", "assistant"}, {"content", answer}});
  } else if (!status.ok() || !failed.ok()) {
    messages_.erase(messages_.size() - 1);
  }
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(failed);
  if (options_.verbose) PrintFigures(start, first, usage);
  return absl::OkStatus();
}

constexpr char kHelp[] =
    "  /set temperature X | top_p X | max_tokens N | seed N | system TEXT | verbose on|off\n"
    "  /show             the settings\n"
    "  /clear            forgets the conversation\n"
    "  /bye              leaves (so does Ctrl-D)\n"
    "  \"\"\"               starts and ends a text of several lines\n"
    "  Ctrl-C            ends the answer\n";

// Takes a text such as "temperature 0.5". Returns an empty text when it worked, else what is wrong.
std::string Set(Options& options, const std::string& text) {
  std::istringstream in(text);
  std::string name;
  in >> name;
  std::string value;
  std::getline(in >> std::ws, value);
  std::istringstream number(value);
  const auto parse = [&](auto& target) {
    typename std::decay_t<decltype(target)>::value_type parsed{};
    if (value == "default") {
      target.reset();
    } else if (number >> parsed && number.eof()) {
      target = parsed;
    } else {
      return "'" + value + "' is not a value for " + name + " (a number, or default)";
    }
    return std::string();
  };
  if (name == "temperature") return parse(options.temperature);
  if (name == "top_p") return parse(options.top_p);
  if (name == "max_tokens")
    return value.rfind('-', 0) == 0 ? "max_tokens must be 1 or more" : parse(options.max_tokens);
  if (name == "seed") return parse(options.seed);
  if (name == "system") {
    options.system = value;
    return "";
  }
  if (name == "verbose") {
    options.verbose = value != "off";
    return "";
  }
  return "there is no setting '" + name +
         "'; try temperature, top_p, max_tokens, seed, system or verbose";
}

void Show(const Options& o, const std::string& url) {
  const auto or_default = [](const auto& value) {
    return value.has_value() ? Str(absl::StrCat(*value)) : std::string("default");
  };
  std::printf(
      "model        %s\nurl          %s\ntemperature  %s\ntop_p        %s\nmax_tokens   %s\nseed   "
      "      %s\nsystem       %s\n",
      o.model.c_str(), url.c_str(), or_default(o.temperature).c_str(), or_default(o.top_p).c_str(),
      or_default(o.max_tokens).c_str(), or_default(o.seed).c_str(),
      o.system.empty() ? "none" : o.system.c_str());
}

// libedit's editor and history.
class LineEditor {
 public:
  LineEditor() : history_(::history_init()), editor_(::el_init("lanyard", stdin, stdout, stderr)) {
    HistEvent event;
    ::history(history_, &event, H_SETSIZE, 500);
    ::el_set(editor_, EL_CLIENTDATA, this);
    ::el_set(editor_, EL_PROMPT, &LineEditor::Prompt);
    ::el_set(editor_, EL_EDITOR, "emacs");
    ::el_set(editor_, EL_HIST, ::history, history_);
  }
  ~LineEditor() {
    ::el_end(editor_);
    ::history_end(history_);
  }
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  // Returns nullopt at the end of input and, with *interrupted set, after Ctrl-C.
  std::optional<std::string> Read(const char* prompt, bool* interrupted) {
    prompt_ = prompt;
    int count = 0;
    const char* line = ::el_gets(editor_, &count);
    *interrupted = Interrupted().exchange(false);
    if (line == nullptr || count <= 0) return std::nullopt;
    HistEvent event;
    ::history(history_, &event, H_ENTER, line);
    std::string out(line, static_cast<size_t>(count));
    if (!out.empty() && out.back() == '\n') out.pop_back();
    return out;
  }

 private:
  static char* Prompt(EditLine* editor) {
    void* self = nullptr;
    ::el_get(editor, EL_CLIENTDATA, &self);
    return const_cast<char*>(static_cast<LineEditor*>(self)->prompt_);
  }
  History* history_;
  EditLine* editor_;
  const char* prompt_ = "";
};

// Reads the rest of a text that began with """.
std::string ReadBlock(LineEditor& editor, std::string text) {
  const std::string quotes = "\"\"\"";
  text.erase(0, quotes.size());
  while (text.find(quotes) == std::string::npos) {
    bool interrupted = false;
    const auto line = editor.Read("... ", &interrupted);
    if (!line.has_value()) return "";
    text += "\n" + *line;
  }
  text.resize(text.find(quotes));
  return text;
}

int Converse(Chat& chat, const std::string& url) {
  std::printf("Chatting with %s at %s. /? for help, /bye to leave.\n", chat.options().model.c_str(),
              url.c_str());
  LineEditor editor;
  while (true) {
    bool interrupted = false;
    std::optional<std::string> line = editor.Read(">>> ", &interrupted);
    if (!line.has_value()) {
      std::printf("\n");
      if (!interrupted) return kOk;
      std::printf("/bye leaves.\n");
      continue;
    }
    if (line->rfind("\"\"\"", 0) == 0) line = ReadBlock(editor, *line);
    if (line->find_first_not_of(" \t\n") == std::string::npos) continue;
    if (*line == "/bye" || *line == "/exit" || *line == "/quit") return kOk;
    if (*line == "/?" || *line == "/help") {
      std::fputs(kHelp, stdout);
    } else if (*line == "/clear") {
      chat.Clear();
      std::printf("The conversation is forgotten.\n");
    } else if (*line == "/show") {
      Show(chat.options(), url);
    } else if (line->rfind("/set ", 0) == 0) {
      const std::string wrong = Set(chat.options(), line->substr(5));
      if (!wrong.empty()) std::printf("%s\n", wrong.c_str());
    } else if (line->front() == '/' && line->find(' ') == std::string::npos &&
               line->find('/', 1) == std::string::npos) {
      std::printf("There is no command %s.\n%s", line->c_str(), kHelp);
    } else if (const absl::Status status = chat.Ask(*line); !status.ok()) {
      if (!absl::IsCancelled(status)) Fail(status);
      Interrupted().store(false);
    }
  }
}

int Run(Options options) {
  CatchInterrupts();
  options.http.stop = &Interrupted();
  const auto client = HttpClient::Create(options.http);
  if (!client.ok()) return Fail(client.status());
  if (options.model.empty()) {
    auto model = FirstModel(*client);
    if (!model.ok()) return Fail(model.status());
    options.model = std::move(*model);
  }
  if (options.prompt.empty() && ::isatty(STDIN_FILENO) == 0) {
    options.prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
    if (options.prompt.empty()) {
      return Fail(InvalidArgument(
          "no question: give --prompt TEXT, or text on standard input, or run it on a terminal"));
    }
  }
  const std::string prompt = options.prompt;
  Chat chat(&*client, std::move(options));
  if (prompt.empty()) return Converse(chat, client->url());
  const absl::Status status = chat.Ask(prompt);
  return status.ok() ? kOk : Fail(status);
}

}  // namespace

void RegisterRun(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* run =
      AddCommand(app, "run", "Chats with a pool",
                 "  lanyard run                                  a conversation, on a terminal\n"
                 "  lanyard run --prompt 'Why is the sky blue?' --temperature 0\n"
                 "  cat letter.txt | lanyard run --system 'Summarise this letter.'",
                 [options] { return Run(*options); });
  run->add_option("MODEL", options->model, "Id of a model of the pool (default: its first)");
  AddConnectionFlags(run, &options->http);
  run->add_option("--prompt", options->prompt,
                  "One question; without it text on standard input, or a conversation");
  run->add_option("--system", options->system, "What the model is told before the conversation");
  run->add_option("--temperature", options->temperature, "0 always takes the likeliest token")
      ->check(CLI::Range(0.0, 2.0));
  run->add_option("--top-p", options->top_p,
                  "Draws from the likeliest tokens of this much probability")
      ->check(CLI::Range(0.0, 1.0));
  run->add_option("--max-tokens", options->max_tokens, "Tokens of an answer at most")
      ->check(CLI::PositiveNumber);
  run->add_option("--seed", options->seed, "Equal seeds give equal answers");
  run->add_flag("--verbose", options->verbose,
                "Prints counts of tokens and rates after each answer, on standard error");
}

}  // namespace lanyard::cli
