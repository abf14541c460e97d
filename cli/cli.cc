#include "cli/cli.h"

#include <cstdio>
#include <memory>

#include "base/version.h"

namespace lanyard::cli {
namespace {

int* ExitCodeSlot() {
  static int code = kOk;
  return &code;
}

}  // namespace

CLI::App* AddCommand(CLI::App& parent, const std::string& name, const std::string& description,
                     const std::string& examples, std::function<int()> run) {
  CLI::App* command = parent.add_subcommand(name, description);
  if (!examples.empty()) command->footer("Examples:\n" + examples);
  if (run) command->callback([run = std::move(run)] { *ExitCodeSlot() = run(); });
  return command;
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "error: %s\n", Str(status.message()).c_str());
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      return kUnreachable;
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return kDenied;
    case absl::StatusCode::kNotFound:
      return kNotFound;
    case absl::StatusCode::kDeadlineExceeded:
      return kTimedOut;
    case absl::StatusCode::kCancelled:
      return kInterrupted;
    default:
      return kFailed;
  }
}

int Main(int argc, char** argv) {
  CLI::App app{"Lanyard: one private LLM inference pool out of your office machines", "lanyard"};
  app.set_version_flag("--version", std::string("lanyard ") + kVersion);
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 ok, 1 failed, 2 usage, 3 unreachable, 4 denied, 5 not found, 6 timed out, 130 "
      "interrupted.\n"
      "Environment: LANYARD_URL, LANYARD_API_KEY, LANYARD_ADMIN, LANYARD_CA, LANYARD_CERT, "
      "LANYARD_CERT_KEY, NO_COLOR.");
  // Each file of this room has its line here.
  RegisterEval(app);
  RegisterBench(app);
  RegisterInspect(app);
  RegisterTokenize(app);
  RegisterPlan(app);
  RegisterLoad(app);
  RegisterNode(app);
  RegisterMember(app);
  RegisterKey(app);
  RegisterRun(app);
  RegisterUp(app);
  RegisterGpuCheck(app);
  RegisterDiscover(app);
  RegisterDoctor(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    const int code = app.exit(e);
    return code == 0 ? kOk : kUsage;
  }
  return *ExitCodeSlot();
}

}  // namespace lanyard::cli
