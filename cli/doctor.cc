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
#include "cli/text.h"

namespace lanyard::cli {
namespace {

using nlohmann::ordered_json;

constexpr int kPoolTimeoutMs = 90'000;  // the machines are asked one after another

struct DoctorOptions {
  HttpClient::Options http;
  GatherOptions gather;
  std::string node;
  bool json = false;
};

ordered_json ToJson(const Report& report, const std::optional<PoolFacts>& pool) {
  ordered_json out = {{"healthy", IsHealthy(report)}};
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
  out["not_looked_at"] = ordered_json::array();
  for (const NotLooked& n : report.not_looked) {
    out["not_looked_at"].push_back(
        {{"where", n.where}, {"check", n.check}, {"why", n.why}, {"next", n.next}});
  }
  out["pool"] = pool.has_value() ? pool->answer : ordered_json(nullptr);
  return out;
}

// A machine's words may come from a stranger: nothing in them moves the cursor.
void PrintSafely(const std::string& text) {
  std::fputs(Printable(text, Keep::kLines).c_str(), stdout);
}

void PrintReport(const Report& report) {
  Table table({"WHERE", "CHECK", "FOUND"});
  for (const Good& g : report.good) table.AddRow({g.where, g.check, g.text});
  PrintTable(table, "Nothing was found to be well.");
  for (const Finding& f : report.findings) {
    PrintSafely(absl::StrCat("\n", f.where, ", ", f.check, ": ", f.what, "\n  cause: ", f.cause,
                             "\n  next:  ", f.next, "\n"));
  }
  for (const NotLooked& n : report.not_looked) {
    PrintSafely(absl::StrCat("\n", n.where, ", ", n.check, ": not looked at: ", n.why,
                             "\n  next:  ", n.next, "\n"));
  }
  std::printf("\n%s\n", Verdict(report).c_str());
}

// When the pool does not know a machine, its own words are a finding, too: true, and there is
// nothing else to be said of the pool.
bool IsAbsent(const DoctorOptions& o, CoordinatorFacts* coordinator, Report* report) {
  if (o.node.empty() || !absl::IsNotFound(coordinator->admin)) return false;
  report->findings.push_back(
      {o.node, "lost", Str(coordinator->admin.message()),
       "it was never joined, is switched off, or cannot reach the coordinator",
       "lanyard node list; there: systemctl status lanyard-worker; lanyard doctor"});
  coordinator->admin = absl::UnimplementedError("answered");
  return true;
}

int Doctor(DoctorOptions o) {
  o.gather.admin = o.http.admin;
  Report report;
  const MachineFacts machine = GatherMachine(o.gather);
  std::optional<PoolFacts> pool;
  CoordinatorFacts coordinator = GatherCoordinator(o.http, machine, o.node, &pool);
  const bool absent = IsAbsent(o, &coordinator, &report);
  if (o.node.empty()) CheckMachine(machine, &report);
  CheckCoordinator(coordinator, &report);
  if (pool.has_value()) {
    CheckPool(*pool, &report);
  } else if (!absent) {
    SkipPool(&report);
  }
  if (o.json) {
    Print(ToJson(report, pool));
  } else {
    PrintReport(report);
  }
  return DoctorExitCode(report);
}

}  // namespace

void RegisterDoctor(CLI::App& app) {
  const auto o = std::make_shared<DoctorOptions>();
  o->http.silence_timeout_ms = kPoolTimeoutMs;
  CLI::App* command = AddCommand(
      app, "doctor",
      "Finds what is wrong with this machine, the coordinator and the pool, and says what to do",
      "  lanyard doctor\n  lanyard doctor --node pc-7\n  lanyard doctor --json\n"
      "      {\"healthy\",\"findings\":[{\"where\",\"check\",\"what\",\"cause\",\"next\"}],"
      "\"good\":[{\"where\",\"check\",\"text\"}],"
      "\"not_looked_at\":[{\"where\",\"check\",\"why\",\"next\"}],\"pool\":{...}}\n"
      "Exit code 0 when everything was looked at and is well, 1 with findings; without findings, 3 "
      "when no pool\nwas found, 4 when something was not this user's to read, 6 when there was no "
      "time to measure a link.",
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
