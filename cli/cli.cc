#include "cli/cli.h"

#include <cstdio>
#include <memory>

#include "base/command_line.h"
#include "base/output.h"
#include "base/version.h"
#include "cli/interrupt.h"
#include "cli/text.h"

namespace lanyard::cli {
namespace {

// Of the verb that was parsed last.
std::function<int()>* RunnerSlot() {
  static std::function<int()> runner;
  return &runner;
}

// Words of `ollama`, `docker`, `kubectl` and `git` for what a verb does here.
const Habits& Habits() {
  static const lanyard::Habits habits = {
      {"chat", "`lanyard run`"},
      {"ask", "`lanyard run`"},
      {"prompt", "`lanyard run`"},
      {"generate", "`lanyard run --prompt TEXT`"},
      {"exec", "`lanyard run`"},
      {"serve", "`lanyard up --model FILE`, which starts a pool on this machine"},
      {"start", "`lanyard up --model FILE`, which starts a pool on this machine"},
      {"deploy", "`lanyard up --model FILE`, which starts a pool on this machine"},
      {"create", "`lanyard up --model FILE`, which starts a pool on this machine"},
      {"down", "`lanyard stop`"},
      {"kill", "`lanyard stop`"},
      {"shutdown", "`lanyard stop`"},
      {"rm", "`lanyard stop`, which ends the pool that serves the model; files stay"},
      {"delete", "`lanyard stop`, which ends the pool that serves the model; files stay"},
      {"pull", "`lanyard up --model FILE`; a model is a GGUF file that you download yourself"},
      {"push", "`lanyard up --model FILE`; a model is a GGUF file that you keep yourself"},
      {"show", "`lanyard inspect --model FILE` for a model file, or `lanyard node status`"},
      {"describe", "`lanyard inspect --model FILE` for a model file, or `lanyard node status`"},
      {"models", "`lanyard list`"},
      {"images", "`lanyard list`"},
      {"get", "`lanyard list`, or `lanyard node list`"},
      {"nodes", "`lanyard node status`"},
      {"workers", "`lanyard node status`"},
      {"status", "`lanyard node status`"},
      {"top", "`lanyard node status`, or `lanyard ps` for requests"},
      {"drain", "`lanyard node drain NAME`"},
      {"cordon", "`lanyard node drain NAME`"},
      {"uncordon", "`lanyard node drain --disable NAME`"},
      {"logs",
       "`journalctl -u lanyard-coordinator -u lanyard-worker`, or the *.log files in the "
       "state folder of `lanyard up`"},
      {"login", "`lanyard join ADDRESS`, which makes this machine an administrator's"},
      {"invite", "`lanyard token create`"},
      {"add", "`lanyard token create`, whose line you paste on the new machine"},
      {"check", "`lanyard doctor`"},
      {"diagnose", "`lanyard doctor`"},
  };
  return habits;
}

int PrintHelp(const CLI::App& root, const std::vector<std::string>& words) {
  const CLI::App* at = &root;
  std::string parents;
  for (const std::string& word : words) {
    const CLI::App* next = nullptr;
    for (const CLI::App* verb : at->get_subcommands([](const CLI::App*) { return true; })) {
      if (verb->check_name(word)) next = verb;
    }
    if (next == nullptr && at->get_subcommands([](const CLI::App*) { return true; }).empty()) {
      std::fprintf(stderr, "error: %s has no verbs, and so no help of '%s'; see: lanyard help %s\n",
                   FullName(*at).c_str(), word.c_str(),
                   FullName(*at).substr(root.get_name().size() + 1).c_str());
      return kUsage;
    }
    if (next == nullptr) {
      std::fputs(NoSuchVerb(*at, word, Habits()).c_str(), stderr);
      return kUsage;
    }
    parents = FullName(*at);
    at = next;
  }
  // The root would show the help of the verb that was parsed, which is `help`.
  const std::string text = at == &root ? root.get_formatter()->make_help(&root, root.get_name(),
                                                                         CLI::AppFormatMode::Normal)
                                       : at->help(parents);
  std::fputs(text.c_str(), stdout);
  return kOk;
}

void RegisterHelp(CLI::App& app) {
  const auto words = std::make_shared<std::vector<std::string>>();
  AddCommand(app, "help", "Shows the help of a verb",
             "  lanyard help run\n  lanyard help node drain",
             [&app, words] { return PrintHelp(app, *words); })
      ->add_option("VERB", *words, "The verb, and the verb within it (default: all of them)");
  AddCommand(app, "version", "Shows the version", "  lanyard version", [] {
    std::printf("%s\n", VersionText().c_str());
    return static_cast<int>(kOk);
  });
}

}  // namespace

CLI::App* AddCommand(CLI::App& parent, const std::string& name, const std::string& description,
                     const std::string& examples, std::function<int()> run) {
  CLI::App* command = parent.add_subcommand(name, description);
  if (!examples.empty()) command->footer("Examples:\n" + examples);
  if (run) command->callback([run = std::move(run)] { *RunnerSlot() = run; });
  return command;
}

int Fail(const absl::Status& status) {
  // In a pipe that both streams share, what was said before stands before it.
  std::fflush(stdout);
  std::fprintf(stderr, "error: %s\n", Printable(StdView(status.message()), Keep::kLines).c_str());
  return ExitCodeOf(status.code());
}

int FailUsage(const absl::Status& status) {
  const int code = Fail(status);
  return absl::IsInvalidArgument(status) ? kUsage : code;
}

absl::Status ShownOnce(const std::string& undo) {
  const absl::Status shown = FlushOutput();
  return shown.ok() ? shown : Internal(shown.message(), "; ", undo);
}

std::string VersionText() { return std::string("lanyard ") + kVersion; }

std::unique_ptr<CLI::App> MakeCommands() {
  auto app = std::make_unique<CLI::App>(
      "Lanyard: one private LLM inference pool out of your office machines", "lanyard");
  app->set_version_flag("--version", VersionText());
  app->require_subcommand(1);
  app->footer("Exit codes: " + ExitCodesText() +
              ".\n"
              "Environment: LANYARD_URL, LANYARD_API_KEY, LANYARD_ADMIN, LANYARD_CA, LANYARD_CERT, "
              "LANYARD_CERT_KEY, NO_COLOR.");
  RegisterRun(*app);
  RegisterUp(*app);
  RegisterNode(*app);
  RegisterMember(*app);
  RegisterKey(*app);
  RegisterClients(*app);
  RegisterDoctor(*app);
  RegisterDiscover(*app);
  RegisterPlan(*app);
  RegisterInspect(*app);
  RegisterTokenize(*app);
  RegisterEval(*app);
  RegisterBench(*app);
  RegisterLoad(*app);
  RegisterGpuCheck(*app);
  RegisterHelp(*app);
  return app;
}

std::string ParseOnly(const std::vector<std::string>& words) {
  const auto app = MakeCommands();
  std::vector<const char*> argv = {"lanyard"};
  for (const std::string& word : words) argv.push_back(word.c_str());
  try {
    ParseWords(*app, static_cast<int>(argv.size()), argv.data());
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0) return UsageError(*app, error, Habits());
  }
  return "";
}

int Main(int argc, char** argv) {
  HoldStandardStreams();
  const auto app = MakeCommands();
  if (const auto code = ParseCommandLine(*app, argc, argv, Habits()); code.has_value())
    return *code;
  return EndOfOutput(ExitCodeAfterSignals((*RunnerSlot())()));
}

}  // namespace lanyard::cli
