// The `lanyard` command: there is one file a noun, and each registers its verbs on the CLI11 tree.
// A verb's runner returns an exit code.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "base/status.h"

namespace lanyard::cli {

// They are documented in `lanyard --help` and README.
enum ExitCode {
  kOk = 0,
  kFailed = 1,
  kUsage = 2,
  kUnreachable = 3,
  kDenied = 4,
  kNotFound = 5,
  kTimedOut = 6,
  kInterrupted = 130,
};

// Adds a subcommand whose help ends with `examples`; when it is chosen, `run` is called after
// parsing and its result is the process's exit code. It returns the subcommand, so that options can
// be added.
CLI::App* AddCommand(CLI::App& parent, const std::string& name, const std::string& description,
                     const std::string& examples, std::function<int()> run);

// Prints "error: ..." on stderr (one line, then hints) and gives the exit code that fits the
// status.
int Fail(const absl::Status& status);

// Parses and runs the command line. Every Register* of this room is called here and nowhere else.
int Main(int argc, char** argv);

void RegisterInspect(CLI::App& app);   // cli/inspect.cc
void RegisterTokenize(CLI::App& app);  // cli/tokenize.cc: tokenize, detokenize, template
void RegisterEval(CLI::App& app);      // cli/eval.cc
void RegisterBench(CLI::App& app);     // cli/bench.cc
void RegisterPlan(CLI::App& app);      // cli/plan.cc
void RegisterRun(CLI::App& app);       // cli/run.cc: run (chat)
void RegisterNode(CLI::App& app);      // cli/node.cc: list, ps, node status, stop
void RegisterKey(CLI::App& app);       // cli/key.cc: key create, list, revoke
void RegisterMember(CLI::App& app);    // cli/member.cc: token, node list, node revoke, join
void RegisterLoad(CLI::App& app);      // cli/load.cc
void RegisterUp(CLI::App& app);        // cli/up.cc
void RegisterGpuCheck(CLI::App& app);  // cli/gpu_check.cc
void RegisterDiscover(CLI::App& app);  // cli/discover.cc
void RegisterDoctor(CLI::App& app);    // cli/doctor.cc

}  // namespace lanyard::cli
