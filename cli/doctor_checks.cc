#include "cli/doctor_checks.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/size.h"
#include "base/version.h"
#include "cli/pool_json.h"
#include "cli/table.h"
#include "identity/credential.h"
#include "net/versions.h"

namespace lanyard::cli {
namespace {

using nlohmann::ordered_json;

constexpr uint64_t kLeastMemory = uint64_t{512} << 20;
constexpr uint64_t kLeastDisk = uint64_t{1} << 30;
constexpr uint64_t kLeastCardMemory = uint64_t{512} << 20;
// Certificates tolerate 300 (identity::kClockToleranceSeconds).
constexpr double kMostSkewSeconds = 30;
// Fraction of a certificate's life that must be left; renewal begins with a third.
constexpr int64_t kRenewalOverdueShare = 6;
constexpr double kMostRttMs = 20;
constexpr double kLeastBytesPerSecond = 12e6;  // the rate of 100 Mbit
constexpr double kOldHeartbeatSeconds = 1;
constexpr char kHere[] = "this machine";
constexpr char kCoordinator[] = "coordinator";

// The findings of one place, and what is well there.
class Place {
 public:
  Place(std::string where, Report* out) : where_(std::move(where)), out_(out) {}
  void Bad(const std::string& check, std::string what, std::string cause, std::string next) {
    out_->findings.push_back({where_, check, std::move(what), std::move(cause), std::move(next)});
  }
  void Good(const std::string& check, std::string text) {
    out_->good.push_back({where_, check, std::move(text)});
  }
  void Skip(const std::string& check, std::string why, std::string next, absl::StatusCode code) {
    out_->not_looked.push_back({where_, check, std::move(why), std::move(next), code});
  }

 private:
  const std::string where_;
  Report* const out_;
};

std::string Says(const absl::Status& status) { return Str(status.message()); }

void CheckMemory(Place& place, uint64_t available, uint64_t total) {
  const std::string text = absl::StrCat(
      FormatSize(available), total > 0 ? absl::StrCat(" of ", FormatSize(total)) : "", " free");
  if (available >= kLeastMemory) return place.Good("memory", text);
  place.Bad("memory", absl::StrCat("only ", text),
            "other programs hold the memory, or the machine is too small for a share",
            "close what is not needed (ps aux --sort=-rss | head), or give Lanyard less: "
            "lanyard-worker --memory 400MiB");
}

void CheckDisk(Place& place, uint64_t free_bytes, const std::string& folder) {
  const std::string text =
      absl::StrCat(FormatSize(free_bytes), " free", folder.empty() ? "" : " in " + folder);
  if (free_bytes >= kLeastDisk) return place.Good("disk", text);
  place.Bad("disk", absl::StrCat("only ", text),
            "weights are kept there, and a share of a model may need more",
            absl::StrCat("make room (df -h", folder.empty() ? "" : " " + folder,
                         "), or choose another folder with --state"));
}

void CheckKeyMode(Place& place, uint32_t mode, const std::string& file) {
  if (mode == 0) return;
  const std::string text = absl::StrFormat("%s has mode %04o", file, mode);
  if ((mode & 077U) == 0) return place.Good("key", text);
  place.Bad("key", text + ": others on this machine can read it",
            "its permissions were changed, or it was copied",
            absl::StrCat(
                "chmod 600 ", file,
                "; if others may have read it, lanyard node revoke this machine and join it anew"));
}

// `left` is how many seconds a certificate is still valid, of the `life` that it was given for.
void CheckEnd(Place& place, int64_t left, int64_t life, const std::string& whose) {
  const std::string next =
      "systemctl status lanyard-worker there: a running daemon renews it by itself when it reaches "
      "the coordinator";
  if (left <= 0) {
    place.Bad("certificate",
              absl::StrCat(whose, " expired ", FormatSeconds(static_cast<double>(-left)), " ago"),
              "nothing renewed it: the daemon was off, or it did not reach the coordinator", next);
  } else if (left < life / kRenewalOverdueShare) {
    place.Bad("certificate",
              absl::StrCat(whose, " ends in ", FormatSeconds(static_cast<double>(left)),
                           ", its renewal is overdue"),
              "the daemon does not run, or does not reach the coordinator's join port", next);
  } else {
    place.Good("certificate",
               absl::StrCat(whose, " is good for ", FormatSeconds(static_cast<double>(left))));
  }
}

void CheckIdentity(Place& place, const IdentityFacts& facts, identity::UnixTime now) {
  if (absl::IsPermissionDenied(facts.status)) {
    return place.Skip("certificate", absl::StrCat(facts.folder, " is not this user's to read"),
                      "sudo lanyard doctor", facts.status.code());
  }
  CheckKeyMode(place, facts.key_mode, facts.folder + "/node.key");
  if (facts.begun) {
    return place.Good("certificate",
                      absl::StrCat(facts.folder, ": none yet, a join was begun here"));
  }
  if (facts.coordinators && !facts.status.ok()) {
    return place.Bad("key", absl::StrCat(facts.folder, ": ", Says(facts.status)),
                     "the coordinator cannot start with it",
                     absl::StrCat("put node.key back from a copy, or move ", facts.folder,
                                  " away: the coordinator makes another key when it starts"));
  }
  const std::string whose =
      facts.self ? absl::StrCat("the certificate of ", identity::RoleName(facts.self->role), " '",
                                facts.self->name, "'")
                 : "";
  if (facts.self && now < facts.self->not_before) {
    return place.Bad("clock",
                     absl::StrCat(whose, " is valid only in ",
                                  FormatSeconds(static_cast<double>(facts.self->not_before - now))),
                     "this machine's clock is behind the coordinator's",
                     "timedatectl set-ntp true");
  }
  if (facts.self && (facts.status.ok() || now >= facts.self->not_after)) {
    return CheckEnd(place, facts.self->not_after - now, identity::LifeSeconds(*facts.self), whose);
  }
  if (!facts.status.ok()) {
    place.Bad("certificate", absl::StrCat(facts.folder, ": ", Says(facts.status)),
              "key, certificate and CA in the folder do not belong together, or joining was never "
              "finished",
              absl::StrCat("move ", facts.folder,
                           " away and join anew with a token of: lanyard token create"));
  }
}

void CheckCards(Place& place, const MachineFacts& facts) {
  if (!facts.driver.ok()) {
    if (!facts.has_nvidia_card) return place.Good("card", "no NVIDIA card");
    return place.Bad("card",
                     absl::StrCat("an NVIDIA card that cannot be used: ", Says(facts.driver)),
                     "the driver is not installed, too old, or not loaded",
                     "nvidia-smi; Debian: apt install nvidia-driver, then restart the machine");
  }
  for (const CardFacts& card : facts.cards) {
    const std::string text = absl::StrCat(
        card.name, card.free_bytes ? ", " + FormatSize(*card.free_bytes) + " free" : "",
        facts.driver_version.empty() ? "" : ", driver " + facts.driver_version);
    if (!card.free_bytes || *card.free_bytes >= kLeastCardMemory) {
      place.Good("card", text);
    } else {
      place.Bad("card", absl::StrCat("hardly any memory of a card is free: ", text),
                "other programs hold it", "nvidia-smi shows which");
    }
  }
}

void CheckWeights(Place& place, const WeightFacts& facts, const std::string& state_dir) {
  const std::string folder = state_dir + "/weights";
  if (absl::IsNotFound(facts.status)) return place.Good("weights", "none kept yet");
  if (absl::IsPermissionDenied(facts.status)) {
    return place.Skip("weights", folder + " is not this user's to read", "sudo lanyard doctor",
                      facts.status.code());
  }
  if (!facts.status.ok()) {
    return place.Bad("weights", absl::StrCat(folder, ": ", Says(facts.status)),
                     "the folder cannot be read", "ls -ld " + folder);
  }
  if (!facts.damaged.empty()) {
    return place.Bad("weights",
                     absl::StrCat(facts.damaged.size(), " of ", facts.parts,
                                  " parts are damaged, the first is ", facts.damaged.front()),
                     "the disk failed, or something else wrote there",
                     "smartctl -a the disk; rm the files: they are fetched again");
  }
  place.Good(
      "weights",
      absl::StrCat(
          facts.parts, " parts, ", FormatSize(facts.bytes),
          facts.hashed ? ", every one as it should be" : " (--deep reads them all)",
          facts.unfinished > 0 ? absl::StrCat(", ", facts.unfinished, " being fetched") : ""));
}

// Describes an address that does not answer. `there` is the machine, `port` what listens.
void CheckPort(Place& place, const std::string& check, const absl::Status& status,
               const std::string& service) {
  if (absl::IsNotFound(status)) {
    place.Bad("name", Says(status), "the name is in no DNS and not in /etc/hosts",
              "use the machine's address instead of its name, or add it to /etc/hosts; getent "
              "hosts NAME shows what is known");
  } else if (absl::IsDeadlineExceeded(status)) {
    place.Bad(check, Says(status), "the machine is off, or a firewall between drops the connection",
              absl::StrCat("there: systemctl status ", service,
                           "; nft list ruleset (or ufw status): the port must be open"));
  } else {
    place.Bad(
        check, Says(status),
        "refused: nothing listens at that address and port; unreachable: there is no route to it",
        absl::StrCat("there: systemctl status ", service,
                     "; ss -ltnp shows what listens; ip route get ADDRESS here"));
  }
}

// Other versions of the same protocol work together (net/versions.h), so they are told and are no
// finding.
void CheckVersion(Place& place, const std::string& version) {
  place.Good("version", version == kVersion
                            ? version
                            : absl::StrCat(version, "; this program is ", kVersion,
                                           ", and both speak protocol ", kProtocolVersion));
}

void CheckCoordinatorVersion(Place& place, const ordered_json& answer) {
  const net::Program coordinator{static_cast<uint32_t>(Count(answer, "protocol")),
                                 Text(answer, "version")};
  const absl::Status taken = net::CheckWorkerProgram({}, coordinator);
  if (taken.ok()) return CheckVersion(place, coordinator.version);
  place.Bad("version", absl::StrCat("with what is installed here: ", taken.message()),
            "not every machine was upgraded, or not in this order",
            "apt install --only-upgrade 'lanyard-*', or ansible-playbook upgrade.yml: the "
            "coordinator first");
}

void CheckLoads(Place& place, const ordered_json& node) {
  const auto failure = node.find("load_failure");
  if (failure == node.end() || !failure->is_object()) return;
  const std::string what = absl::StrCat("it failed to load: ", Text(*failure, "why"));
  if (Count(*failure, "times") == 0) return place.Good("load", what);
  place.Bad("load", what, Text(*failure, "what"), Text(*failure, "next"));
}

void CheckPace(Place& place, const ordered_json& node) {
  const double slowness = Real(node, "slowness");
  if (slowness <= 1) return;
  place.Bad("pace",
            absl::StrFormat("it takes %.1f times as long for its layers as its speed promises, "
                            "beside the other machines of the plan",
                            slowness),
            "another program uses its processor, or it runs slowly: low power, heat, a throttled "
            "virtual machine",
            "there: top; cpupower frequency-info; or tell its worker the truth with --speed");
}

bool FailsToLoad(const ordered_json& node) {
  const auto failure = node.find("load_failure");
  return failure != node.end() && failure->is_object() && Count(*failure, "times") > 0;
}

void CheckClock(Place& place, double skew_s, double error_s, const std::string& against) {
  const std::string text = absl::StrFormat("%.1f s %s %s", std::abs(skew_s),
                                           skew_s < 0 ? "behind" : "ahead of", against);
  if (std::abs(skew_s) - std::abs(error_s) <= kMostSkewSeconds) return place.Good("clock", text);
  place.Bad("clock", "the clock is " + text,
            "no time service runs; at 5 minutes certificates stop being accepted",
            "timedatectl set-ntp true (or: systemctl status chrony systemd-timesyncd)");
}

void CheckNode(const ordered_json& node, const PoolFacts& facts, Report* out) {
  const std::string name = Text(node, "name");
  Place place(name, out);
  const std::string error = Text(node, "error");
  if (Text(node, "state") == "lost") {
    return place.Bad("lost", "it was in the pool and is gone",
                     "it was switched off, crashed, or lost its network",
                     "there: systemctl status lanyard-worker; journalctl -u lanyard-worker -n 50; "
                     "lanyard doctor");
  }
  if (!error.empty()) {
    return place.Bad("silent", absl::StrCat("no diagnosis: ", error),
                     "the machine is overloaded, stopped, or its link is very slow",
                     "there: systemctl status lanyard-worker; top");
  }
  place.Good("state", absl::StrCat(Text(node, "state"), " at ", Text(node, "address")));
  CheckVersion(place, Text(node, "version"));
  CheckLoads(place, node);
  CheckPace(place, node);
  CheckClock(place, Real(node, "clock_skew_s"), Real(node, "clock_error_s"), "the coordinator's");
  CheckMemory(place, Count(node, "available_bytes"), 0);
  CheckDisk(place, Count(node, "disk_free_bytes"), "");
  CheckKeyMode(place, static_cast<uint32_t>(Count(node, "key_mode")), "node.key");
  if (const uint64_t ends = Count(node, "certificate_ends_unix_s"); ends != 0) {
    // This goes by the coordinator's clock, since the coordinator made it.
    CheckEnd(
        place,
        static_cast<int64_t>(ends) - static_cast<int64_t>(Count(facts.answer, "unix_ms")) / 1000,
        facts.certificate_life_s, "its certificate");
  }
  if (Count(node, "resident_bytes") > Count(node, "memory_bytes")) {
    place.Bad("memory",
              absl::StrCat("it uses ", FormatSize(Count(node, "resident_bytes")),
                           " of its limit of ", FormatSize(Count(node, "memory_bytes"))),
              "its --memory is smaller than what its share takes",
              "give it more: --memory, or in worker.toml");
  }
  if (const double age = Real(node, "heartbeat_age_s"); age > kOldHeartbeatSeconds) {
    place.Bad("silent", absl::StrFormat("nothing was heard from it for %.1f s", age),
              "its link or its processor is overloaded", "there: top; here: ping its address");
  }
}

std::string Rate(double bytes_per_second) {
  return absl::StrFormat("%.0f Mbit/s", bytes_per_second * 8 / 1e6);
}

void CheckReached(Place& place, const ordered_json& link) {
  const std::string to = Text(link, "to");
  const std::string figures =
      absl::StrFormat("round trip %.2f ms, %s, MTU %d", Real(link, "rtt_median_ms"),
                      Rate(Real(link, "bytes_per_second")), Count(link, "mtu_bytes"));
  if (link.value("large_lost", ordered_json(false)) == true) {
    return place.Bad("mtu",
                     absl::StrCat("small messages come back, large ones do not (MTU here: ",
                                  Count(link, "mtu_bytes"), ")"),
                     "something between carries smaller packets than both ends believe (a tunnel, "
                     "a VPN, jumbo frames on one side)",
                     absl::StrCat("ping -M do -s 1472 ", to,
                                  "; set the same MTU on both: ip link set DEVICE mtu 1400"));
  }
  if (Real(link, "rtt_median_ms") > kMostRttMs) {
    return place.Bad("link", figures,
                     "Wi-Fi, a VPN, or another site is between; every token passes there once",
                     "connect both to the same switch by cable; ping shows when it is good");
  }
  if (const double rate = Real(link, "bytes_per_second"); rate > 0 && rate < kLeastBytesPerSecond) {
    return place.Bad("speed", figures, "a 100 Mbit port, a bad cable, Wi-Fi, or other traffic",
                     "ethtool DEVICE | grep Speed on both; try another cable or port");
  }
  place.Good("link", figures);
}

bool IsReached(const ordered_json& link) { return Text(link, "code") == "OK"; }

// A machine whose port cannot be reached is one finding, and not one for each that tried.
void CheckLinks(const ordered_json& links, Report* out) {
  for (const ordered_json& link : links) {
    const std::string from = Text(link, "from"), to = Text(link, "to"), error = Text(link, "error");
    if (IsReached(link)) {
      Place way(absl::StrCat(from, " -> ", to), out);
      CheckReached(way, link);
      continue;
    }
    size_t tried = 0, failed = 0;
    bool first = true, seen = false, back = false;
    for (const ordered_json& other : links) {
      if (Text(other, "from") == to && Text(other, "to") == from) back = IsReached(other);
      if (Text(other, "to") != to) continue;
      ++tried;
      if (&other == &link) seen = true;
      if (!IsReached(other)) {
        ++failed;
        if (!seen) first = false;
      }
    }
    const bool nobody = tried > 1 && failed == tried;
    if (nobody && !first) continue;
    Place place(nobody ? to : absl::StrCat(from, " -> ", to), out);
    const std::string what =
        nobody ? absl::StrCat("no machine reaches its stage port: ", error) : error;
    const std::string code = Text(link, "code");
    if (code == "DEADLINE_EXCEEDED" || code == "UNAVAILABLE") {
      place.Bad("port", what,
                absl::StrCat("a firewall on ", to,
                             " or between, no route, or an address that others cannot reach",
                             back ? "; the other way works" : ""),
                absl::StrCat("on ", to,
                             ": nft list ruleset (or ufw status), ss -ltnp; lanyard-worker "
                             "--listen must name an address "
                             "of the office's network"));
    } else if (code == "CANCELLED") {
      place.Skip("link", error, absl::StrCat("lanyard doctor --node ", from),
                 absl::StatusCode::kDeadlineExceeded);
    } else {
      place.Bad("tls", what,
                "it refuses this machine: another cluster, a revoked node, or other clocks",
                "lanyard node list; compare the clocks: date");
    }
  }
}

}  // namespace

void CheckMachine(const MachineFacts& facts, Report* out) {
  Place place(kHere, out);
  CheckMemory(place, facts.available_bytes, facts.total_bytes);
  CheckDisk(place, facts.disk_free_bytes, facts.state_dir);
  if (facts.isa == "scalar") {
    place.Bad("isa", absl::StrCat(facts.processors, " processors without AVX2"),
              "the processor is from before 2013, or a virtual machine hides what it can",
              "in a virtual machine: pass the host's processor through (qemu -cpu host); else let "
              "faster machines do the work");
  } else {
    place.Good("isa", absl::StrCat(facts.isa, ", ", facts.processors, " processors"));
  }
  CheckCards(place, facts);
  CheckWeights(place, facts.weights, facts.state_dir);
  for (const IdentityFacts& identity : facts.identities) CheckIdentity(place, identity, facts.now);
}

void CheckCoordinator(const CoordinatorFacts& facts, Report* out) {
  Place place(kCoordinator, out);
  if (facts.url.empty()) {
    place.Skip("port",
               "this machine administers no cluster, no pool of `lanyard up` runs here, and no "
               "--url is given",
               "lanyard doctor --url ADDRESS, or make this machine an administrator's: "
               "lanyard join",
               absl::StatusCode::kUnavailable);
  } else if (!facts.access.ok()) {
    place.Bad("access", Says(facts.access),
              "an address, a folder or a file that was named cannot be used",
              "lanyard doctor --help shows how a pool is named");
  } else if (!facts.name.ok()) {
    CheckPort(place, "name", facts.name, "lanyard-coordinator");
  } else if (!facts.port.ok()) {
    CheckPort(place, "port", facts.port, "lanyard-coordinator");
  } else if (!facts.https.ok()) {
    place.Good("port", absl::StrFormat("%s answers in %.1f ms", facts.url, facts.connect_ms));
    place.Bad("tls", Says(facts.https),
              "it is another cluster's, somebody else's, or its certificate ran out",
              "compare the address with the coordinator's log (HTTP on ...); lanyard join ADDRESS "
              "--token T makes a new identity");
  } else {
    place.Good("port", absl::StrFormat("%s answers in %.1f ms", facts.url, facts.connect_ms));
    place.Good("tls", absl::StrCat("it is the cluster's coordinator",
                                   facts.unconstrained_ca
                                       ? "; the CA that its HTTPS clients trust could sign for "
                                         "every web site: `lanyard clients --new-ca` makes one "
                                         "that cannot, which clients must be given"
                                       : ""));
    if (!facts.admin.ok() && !absl::IsUnimplemented(facts.admin)) {
      place.Bad("rights", Says(facts.admin),
                "the machines of the pool are shown to administrators only",
                "on the coordinator: lanyard token create --role admin, then here: lanyard join "
                "ADDRESS --token T --name YOU");
    }
  }
  if (facts.join_address.empty()) return;
  if (!facts.join_port.ok()) {
    CheckPort(place, "join", Annotate(facts.join_port, "where machines join"),
              "lanyard-coordinator");
  } else if (!facts.join_tls.ok()) {
    place.Bad("join", Says(facts.join_tls),
              "another cluster or another program is at the address that this machine joined",
              "lanyard-worker --join with the coordinator's address of today");
  } else {
    place.Good("join", absl::StrCat("machines join at ", facts.join_address));
  }
}

void CheckPool(const PoolFacts& facts, Report* out) {
  Place place(kCoordinator, out);
  const ordered_json& answer = facts.answer;
  CheckCoordinatorVersion(place, answer);
  const double skew_s = (static_cast<double>(facts.received_unix_ms) -
                         static_cast<double>(Count(answer, "unix_ms"))) /
                        1000;
  Place here(kHere, out);
  CheckClock(here, skew_s, 0, "the coordinator's");
  const std::string state = Text(answer, "state"), why = Text(answer, "why");
  const ordered_json& nodes = List(answer, "nodes");
  if (state == "no plan fits") {
    place.Bad("pool", absl::StrCat("no plan fits: ", why),
              "the machines together have too little memory for model and context",
              "add a machine (lanyard token create), give workers more --memory, or serve a "
              "smaller --context");
  } else if (state == "waiting for workers" &&
             std::any_of(nodes.begin(), nodes.end(), FailsToLoad)) {
    place.Bad("pool", absl::StrCat("it serves nothing: ", why),
              "a machine that is needed fails to load its part",
              "see what is said of that machine below");
  } else if (state == "waiting for workers") {
    place.Bad("pool", absl::StrCat("it waits for workers: ", why), "too few machines have joined",
              "lanyard node list; lanyard token create prints the line for another machine");
  } else {
    place.Good("pool", absl::StrCat(state, why.empty() ? "" : ": " + why));
  }
  for (const ordered_json& node : nodes) CheckNode(node, facts, out);
  CheckLinks(List(answer, "links"), out);
}

void SkipPool(Report* out) {
  Place(kCoordinator, out)
      .Skip("pool",
            "the coordinator gave no answer about the machines of the pool and the ways between "
            "them",
            "mend what stands above, then: lanyard doctor", absl::StatusCode::kUnavailable);
}

bool IsHealthy(const Report& report) {
  return report.findings.empty() && report.not_looked.empty();
}

ExitCode DoctorExitCode(const Report& report) {
  if (!report.findings.empty()) return kFailed;
  return report.not_looked.empty() ? kOk : ExitCodeOf(report.not_looked.front().code);
}

std::string Verdict(const Report& report) {
  const size_t n = report.findings.size(), skipped = report.not_looked.size();
  if (IsHealthy(report)) return "All is well.";
  const std::string unseen =
      skipped == 0
          ? ""
          : absl::StrCat(skipped, skipped == 1 ? " thing was" : " things were", " not looked at.");
  if (n == 0) return absl::StrCat("What was looked at is well, but ", unseen);
  return absl::StrCat(n, n == 1 ? " finding." : " findings.", unseen.empty() ? "" : " ", unseen);
}

}  // namespace lanyard::cli
