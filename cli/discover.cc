// `lanyard discover`: which coordinators answer in this network.
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/cli.h"
#include "cli/pool_json.h"
#include "cli/table.h"
#include "net/discovery.h"

namespace lanyard::cli {
namespace {

struct DiscoverOptions {
  net::DiscoverOptions discover;
  bool json = false;
};

int Discover(const DiscoverOptions& o) {
  const auto found = net::Discover(o.discover);
  if (!found.ok()) return Fail(found.status());
  if (o.json) {
    nlohmann::ordered_json out = nlohmann::ordered_json::array();
    for (const net::Beacon& beacon : *found) {
      out.push_back({{"cluster", beacon.cluster},
                     {"version", beacon.version},
                     {"addresses", beacon.addresses}});
    }
    Print({{"coordinators", std::move(out)}});
  } else if (!found->empty()) {
    Table table({"CLUSTER", "VERSION", "ADDRESSES"});
    for (const net::Beacon& beacon : *found) {
      std::string addresses;
      for (const std::string& address : beacon.addresses)
        absl::StrAppend(&addresses, addresses.empty() ? "" : " ", address);
      table.AddRow({beacon.cluster, beacon.version, addresses});
    }
    PrintTable(table, "");
  }
  if (!found->empty()) return kOk;
  return Fail(NotFound("no coordinator answers in this network (UDP port ", o.discover.port,
                       ")\n  It may be in another one, run with --no-discovery, or listen on "
                       "loopback: then give its address."));
}

}  // namespace

void RegisterDiscover(CLI::App& app) {
  const auto o = std::make_shared<DiscoverOptions>();
  CLI::App* command =
      AddCommand(app, "discover", "Looks for coordinators in this network",
                 "  lanyard discover\n  lanyard discover --json\n"
                 "      {\"coordinators\":[{\"cluster\",\"version\",\"addresses\":[...]}]}\n"
                 "What answers proves nothing yet: a token's CA hash decides who is believed.",
                 [o] { return Discover(*o); });
  command->add_option("--timeout-ms", o->discover.timeout_ms, "How long to listen")
      ->check(CLI::Range(100, 60'000))
      ->capture_default_str();
  command->add_option("--port", o->discover.port, "UDP port of the coordinators (--discovery-port)")
      ->capture_default_str();
  command->add_flag("--json", o->json, "One line of JSON");
}

}  // namespace lanyard::cli
