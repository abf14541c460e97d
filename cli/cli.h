// The `lanyard` command: there is one file a noun, and each registers its verbs on the CLI11 tree.
// A verb's runner returns an exit code.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/exit_code.h"
#include "base/status.h"

namespace lanyard::cli {

// Adds a subcommand whose help ends with `examples`; when it is chosen, Main calls `run` after
// parsing, which does nothing itself, and its result is the process's exit code. Returns it so that
// options can be added.
CLI::App* AddCommand(CLI::App& parent, const std::string& name, const std::string& description,
                     const std::string& examples, std::function<int()> run);

// Prints "error: ..." on stderr (one line, then hints) and gives the exit code that fits the
// status.
int Fail(const absl::Status& status);
// The same of what was typed, or may be: InvalidArgument is kUsage here.
int FailUsage(const absl::Status& status);

// For what is shown once: OK when all that was printed arrived, else an error that ends with
// `undo`, which says how to take back what nobody has seen.
absl::Status ShownOnce(const std::string& undo);

// Every verb with its options. Each Register* of this room is called there and nowhere else.
std::unique_ptr<CLI::App> MakeCommands();

// The usage error of these words after `lanyard`; empty when they can be run. Runs nothing.
std::string ParseOnly(const std::vector<std::string>& words);

// Parses and runs.
int Main(int argc, char** argv);

std::string VersionText();

void RegisterInspect(CLI::App& app);   // cli/inspect.cc
void RegisterTokenize(CLI::App& app);  // cli/tokenize.cc: tokenize, detokenize, template
void RegisterEval(CLI::App& app);      // cli/eval.cc
void RegisterBench(CLI::App& app);     // cli/bench.cc
void RegisterPlan(CLI::App& app);      // cli/plan.cc
void RegisterRun(CLI::App& app);       // cli/run.cc: run (chat)
void RegisterNode(CLI::App& app);      // cli/node.cc: list, ps, node status, stop
void RegisterKey(CLI::App& app);       // cli/key.cc: key create, list, revoke
void RegisterMember(CLI::App& app);    // cli/member.cc: token, node list, node revoke, join
void RegisterClients(CLI::App& app);   // cli/clients.cc
void RegisterLoad(CLI::App& app);      // cli/load.cc
void RegisterUp(CLI::App& app);        // cli/up.cc
void RegisterGpuCheck(CLI::App& app);  // cli/gpu_check.cc
void RegisterDiscover(CLI::App& app);  // cli/discover.cc
void RegisterDoctor(CLI::App& app);    // cli/doctor.cc

}  // namespace lanyard::cli
