// `lanyard doctor`: what is wrong with this machine, the coordinator and the pool, why, and what to
// do next.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/cli.h"
#include "cli/connection.h"
#include "cli/doctor_checks.h"
#include "cli/doctor_gather.h"
#include "cli/pool_json.h"
#include "cli/table.h"

namespace lanyard::cli {
namespace {

using nlohmann::ordered_json;

constexpr int kPoolTimeoutMs = 90'000;  // the machines are asked one after another

struct Options {
  HttpClient::Options http;
  GatherOptions gather;
  std::string node;
  bool json = false;
};

ordered_json ToJson(const Report& report, const std::optional<PoolFacts>& pool) {
  ordered_json out = {{"healthy", report.findings.empty()}};
  out["findings"] = ordered_json::array();
  for (const Finding& f : report.findings) {
    out["findings"].push_back({{"where", f.where},
                               {"check", f.check},
                               {"what", f.what},
                               {"cause", f.cause},
                               {"next", f.next}});
  }
  out["good"] = ordered_json::array();
  for (const Good& g : report.good)
    out["good"].push_back({{"where", g.where}, {"check", g.check}, {"text", g.text}});
  out["pool"] = pool.has_value() ? pool->answer : ordered_json(nullptr);
  return out;
}

void PrintReport(const Report& report) {
  Table table({"WHERE", "CHECK", "FOUND"});
  for (const Good& g : report.good) table.AddRow({g.where, g.check, g.text});
  std::fputs(table.ToString().c_str(), stdout);
  for (const Finding& f : report.findings) {
    // A machine's words may come from a stranger, so nothing in them may move the cursor.
    std::string text = absl::StrCat("\n", f.where, ", ", f.check, ": ", f.what,
                                    "\n  cause: ", f.cause, "\n  next:  ", f.next, "\n");
    for (char& c : text) {
      if ((static_cast<unsigned char>(c) < 0x20 && c != '\n') || c == 0x7f) c = '?';
    }
    std::fputs(text.c_str(), stdout);
  }
  if (report.findings.empty()) {
    std::printf("\nAll is well.\n");
  } else {
    std::printf("\n%zu %s.\n", report.findings.size(),
                report.findings.size() == 1 ? "finding" : "findings");
  }
}

// When the pool does not know a machine, its own words are a finding, too.
void CheckAbsent(const Options& o, CoordinatorFacts* coordinator, Report* report) {
  if (o.node.empty() || !absl::IsNotFound(coordinator->admin)) return;
  report->findings.push_back(
      {o.node, "lost", Str(coordinator->admin.message()),
       "it was never joined, is switched off, or cannot reach the coordinator",
       "lanyard node list; there: systemctl status lanyard-worker; lanyard doctor"});
  coordinator->admin = absl::UnimplementedError("answered");
}

int Doctor(Options o) {
  o.gather.admin = o.http.admin;
  Report report;
  const MachineFacts machine = GatherMachine(o.gather);
  std::optional<PoolFacts> pool;
  CoordinatorFacts coordinator = GatherCoordinator(o.http, machine, o.node, &pool);
  CheckAbsent(o, &coordinator, &report);
  if (o.node.empty()) CheckMachine(machine, &report);
  CheckCoordinator(coordinator, &report);
  if (pool.has_value()) CheckPool(*pool, &report);
  if (o.json) {
    Print(ToJson(report, pool));
  } else {
    PrintReport(report);
  }
  return report.findings.empty() ? kOk : kFailed;
}

}  // namespace

void RegisterDoctor(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  o->http.silence_timeout_ms = kPoolTimeoutMs;
  CLI::App* command = AddCommand(
      app, "doctor",
      "Finds what is wrong with this machine, the coordinator and the pool, and says what to do",
      "  lanyard doctor\n  lanyard doctor --node pc-7\n  lanyard doctor --json\n"
      "      {\"healthy\",\"findings\":[{\"where\",\"check\",\"what\",\"cause\",\"next\"}],"
      "\"good\":[{\"where\",\"check\",\"text\"}],\"pool\":{...}}\n"
      "Exit code 0 when all is well, 1 with findings.",
      [o] { return Doctor(*o); });
  command->add_option("--node", o->node, "One machine of the pool, and the ways to and from it");
  command->add_option("--state", o->gather.state_dir,
                      "This machine's worker keeps its state here (default: "
                      "/var/lib/lanyard/worker, else ~/.local/state/lanyard)");
  command->add_flag("--deep", o->gather.deep,
                    "Read every kept part of a model and compare it with its digest");
  AddConnectionFlags(command, &o->http);
  command->add_flag("--json", o->json, "One line of JSON");
}

}  // namespace lanyard::cli
