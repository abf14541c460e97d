// Facts in, findings out: each check speaks when its fact is bad, and is silent when it is good.
#include "cli/doctor_checks.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/version.h"

namespace lanyard::cli {
namespace {

using nlohmann::ordered_json;

constexpr identity::UnixTime kNow = 1'800'000'000;

IdentityFacts GoodIdentity() {
  IdentityFacts out;
  out.folder = "/state/identity";
  out.key_mode = 0600;
  out.self =
      identity::Peer{"c", identity::Role::kWorker, "n", "pc-1", kNow - 3600, kNow + 20 * 3600, "1"};
  return out;
}

MachineFacts GoodMachine() {
  MachineFacts out;
  out.now = kNow;
  out.total_bytes = uint64_t{16} << 30;
  out.available_bytes = uint64_t{8} << 30;
  out.state_dir = "/state";
  out.disk_free_bytes = uint64_t{50} << 30;
  out.isa = "avx2";
  out.processors = 8;
  out.driver = NotFound("no NVIDIA driver");
  out.identities = {GoodIdentity()};
  return out;
}

CoordinatorFacts GoodCoordinator() {
  CoordinatorFacts out;
  out.url = "https://pc1:8080";
  out.join_address = "pc1:7300";
  return out;
}

PoolFacts GoodPool() {
  PoolFacts out;
  const auto node = [](const char* name) {
    return ordered_json{{"name", name},
                        {"state", "ready"},
                        {"address", "10.0.0.1:1"},
                        {"version", kVersion},
                        {"memory_bytes", uint64_t{4} << 30},
                        {"resident_bytes", uint64_t{1} << 30},
                        {"heartbeat_age_s", 0.1},
                        {"error", ""},
                        {"clock_skew_s", 0.2},
                        {"clock_error_s", 0.1},
                        {"available_bytes", uint64_t{4} << 30},
                        {"disk_free_bytes", uint64_t{40} << 30},
                        {"certificate_ends_unix_s", kNow + 80'000},
                        {"key_mode", 0600}};
  };
  const auto link = [](const char* from, const char* to) {
    return ordered_json{{"from", from},         {"to", to},
                        {"error", ""},          {"code", "OK"},
                        {"connect_ms", 0.3},    {"rtt_min_ms", 0.3},
                        {"rtt_median_ms", 0.4}, {"bytes_per_second", 110e6},
                        {"mtu_bytes", 1500},    {"large_lost", false}};
  };
  out.answer = {{"version", kVersion},
                {"protocol", kProtocolVersion},
                {"unix_ms", kNow * 1000},
                {"state", "ready"},
                {"why", ""}};
  out.answer["nodes"] = ordered_json::array({node("a"), node("b"), node("c")});
  out.answer["links"] = ordered_json::array({link("a", "b"), link("a", "c"), link("b", "a"),
                                             link("b", "c"), link("c", "a"), link("c", "b")});
  out.received_unix_ms = kNow * 1000 + 40;
  return out;
}

// "where/check" of every finding; each has a cause and a next step.
std::vector<std::string> Names(const Report& report) {
  std::vector<std::string> out;
  for (const Finding& f : report.findings) {
    EXPECT_FALSE(f.what.empty() || f.cause.empty() || f.next.empty()) << f.where << " " << f.check;
    out.push_back(f.where + "/" + f.check);
  }
  return out;
}

using Expected = std::vector<std::string>;

Expected OfMachine(const MachineFacts& facts) {
  Report report;
  CheckMachine(facts, &report);
  return Names(report);
}

Expected OfCoordinator(const CoordinatorFacts& facts) {
  Report report;
  CheckCoordinator(facts, &report);
  return Names(report);
}

std::vector<std::string> OfCoordinatorGood(const CoordinatorFacts& facts) {
  Report report;
  CheckCoordinator(facts, &report);
  std::vector<std::string> out;
  for (const Good& g : report.good)
    if (g.check != "join") out.push_back(g.check);
  return out;
}

Expected OfPool(PoolFacts facts) {
  facts.answer = ordered_json::parse(facts.answer.dump());  // as it comes from the wire
  Report report;
  CheckPool(facts, &report);
  return Names(report);
}

TEST(DoctorTest, HealthyHasNoFindings) {
  EXPECT_EQ(OfMachine(GoodMachine()), Expected{});
  EXPECT_EQ(OfCoordinator(GoodCoordinator()), Expected{});
  EXPECT_EQ(OfPool(GoodPool()), Expected{});
}

// An older cluster is told what to do, and is not ill.
TEST(DoctorTest, TheCaOfAnOlderCluster) {
  CoordinatorFacts facts = GoodCoordinator();
  facts.unconstrained_ca = true;
  Report report;
  CheckCoordinator(facts, &report);
  EXPECT_TRUE(report.findings.empty());
  EXPECT_TRUE(std::any_of(report.good.begin(), report.good.end(), [](const auto& good) {
    return good.text.find("lanyard clients --new-ca") != std::string::npos;
  }));
}

TEST(DoctorTest, Machine) {
  MachineFacts facts = GoodMachine();
  facts.available_bytes = 100 << 20;
  EXPECT_EQ(OfMachine(facts), Expected{"this machine/memory"});
  facts = GoodMachine();
  facts.disk_free_bytes = 1 << 20;
  EXPECT_EQ(OfMachine(facts), Expected{"this machine/disk"});
  facts = GoodMachine();
  facts.isa = "scalar";
  EXPECT_EQ(OfMachine(facts), Expected{"this machine/isa"});
  facts = GoodMachine();
  facts.has_nvidia_card = true;  // and the driver is not there
  EXPECT_EQ(OfMachine(facts), Expected{"this machine/card"});
  facts.driver = absl::OkStatus();
  facts.cards = {{"cuda:0 RTX", uint64_t{4} << 30, uint64_t{8} << 30}};
  EXPECT_EQ(OfMachine(facts), Expected{});
  facts.cards[0].free_bytes = 1 << 20;
  EXPECT_EQ(OfMachine(facts), Expected{"this machine/card"});
}

TEST(DoctorTest, Weights) {
  MachineFacts facts = GoodMachine();
  facts.weights.parts = 3;
  facts.weights.damaged = {"/state/weights/ab"};
  EXPECT_EQ(OfMachine(facts), Expected{"this machine/weights"});
  facts.weights = {};
  facts.weights.status = NotFound("none");
  EXPECT_EQ(OfMachine(facts), Expected{});
  facts.weights.status = Unavailable("Input/output error");
  EXPECT_EQ(OfMachine(facts), Expected{"this machine/weights"});
}

TEST(DoctorTest, Identity) {
  MachineFacts facts = GoodMachine();
  facts.identities[0].key_mode = 0644;
  EXPECT_EQ(OfMachine(facts), Expected{"this machine/key"});
  facts = GoodMachine();
  facts.now = facts.identities[0].self->not_after + 10;
  facts.identities[0].status = absl::UnauthenticatedError("expired");
  EXPECT_EQ(OfMachine(facts), Expected{"this machine/certificate"});
  facts.now = facts.identities[0].self->not_after - 3600;  // renewal is long due
  facts.identities[0].status = absl::OkStatus();
  EXPECT_EQ(OfMachine(facts), Expected{"this machine/certificate"});
  facts.now = facts.identities[0].self->not_before - 600;  // made in this machine's future
  EXPECT_EQ(OfMachine(facts), Expected{"this machine/clock"});
  facts = GoodMachine();
  facts.identities[0].status = absl::UnauthenticatedError("key and certificate do not fit");
  EXPECT_EQ(OfMachine(facts), Expected{"this machine/certificate"});
  facts.identities[0].status =
      absl::PermissionDeniedError("Permission denied");  // a service's, asked by a user
  EXPECT_EQ(OfMachine(facts), Expected{});
}

TEST(DoctorTest, Coordinator) {
  CoordinatorFacts facts = GoodCoordinator();
  facts.name = NotFound("the name 'pc1' is not known");
  EXPECT_EQ(OfCoordinator(facts), Expected{"coordinator/name"});
  facts = GoodCoordinator();
  facts.port = absl::DeadlineExceededError("does not answer");
  EXPECT_EQ(OfCoordinator(facts), Expected{"coordinator/port"});
  facts.port = Unavailable("Connection refused");
  EXPECT_EQ(OfCoordinator(facts), Expected{"coordinator/port"});
  facts = GoodCoordinator();
  facts.https = absl::UnauthenticatedError("not signed by the CA");
  EXPECT_EQ(OfCoordinator(facts), Expected{"coordinator/tls"});
  facts = GoodCoordinator();
  facts.admin = absl::PermissionDeniedError("an administrator's certificate is needed");
  EXPECT_EQ(OfCoordinator(facts), Expected{"coordinator/rights"});
  facts = GoodCoordinator();
  facts.join_port = Unavailable("Connection refused");
  EXPECT_EQ(OfCoordinator(facts), Expected{"coordinator/join"});
  facts.join_port = absl::OkStatus();
  facts.join_tls = absl::PermissionDeniedError("another cluster");
  EXPECT_EQ(OfCoordinator(facts), Expected{"coordinator/join"});
  EXPECT_EQ(OfCoordinator({}), Expected{});  // nothing is known, nothing is found
  facts = GoodCoordinator();
  facts.access = NotFound("--admin /nonexistent: there is no such folder");
  EXPECT_EQ(OfCoordinator(facts), Expected{"coordinator/access"});
  EXPECT_TRUE(OfCoordinatorGood(facts).empty());  // nothing was asked, so nothing answered
}

// "All is well" is said by no report that left something out.
TEST(DoctorTest, WhatWasNotLookedAtIsNotWell) {
  const auto check_pool = [](PoolFacts pool, Report* report) {
    pool.answer = ordered_json::parse(pool.answer.dump());  // as it comes from the wire
    CheckPool(pool, report);
  };
  Report good;
  CheckMachine(GoodMachine(), &good);
  CheckCoordinator(GoodCoordinator(), &good);
  check_pool(GoodPool(), &good);
  ASSERT_TRUE(IsHealthy(good));
  EXPECT_EQ(DoctorExitCode(good), kOk);
  EXPECT_EQ(Verdict(good), "All is well.");

  std::vector<std::pair<Report, ExitCode>> cases(4);
  CheckMachine(GoodMachine(), &cases[0].first);
  CheckCoordinator({}, &cases[0].first);  // no pool is known here
  SkipPool(&cases[0].first);
  cases[0].second = kUnreachable;
  MachineFacts machine = GoodMachine();
  machine.identities[0].status = absl::PermissionDeniedError("Permission denied");
  CheckMachine(machine, &cases[1].first);
  cases[1].second = kDenied;
  machine = GoodMachine();
  machine.weights.status = absl::PermissionDeniedError("Permission denied");
  CheckMachine(machine, &cases[2].first);
  cases[2].second = kDenied;
  PoolFacts pool = GoodPool();
  pool.answer["links"][0].update({{"code", "CANCELLED"}, {"error", "not measured"}});
  check_pool(pool, &cases[3].first);
  cases[3].second = kTimedOut;
  for (const auto& [report, code] : cases) {
    EXPECT_TRUE(report.findings.empty());
    ASSERT_FALSE(report.not_looked.empty());
    EXPECT_FALSE(IsHealthy(report));
    EXPECT_EQ(DoctorExitCode(report), code);
    EXPECT_EQ(Verdict(report).find("All is well"), std::string::npos) << Verdict(report);
    EXPECT_NE(Verdict(report).find("not looked at"), std::string::npos);
    for (const Good& g : report.good) EXPECT_EQ(g.text.find("not looked"), std::string::npos);
    Report with_finding = report;
    with_finding.findings.push_back({"a", "disk", "b", "c", "d"});
    EXPECT_EQ(DoctorExitCode(with_finding), kFailed);
  }
}

TEST(DoctorTest, PoolAndItsMachines) {
  PoolFacts facts = GoodPool();
  facts.answer["version"] = "9.0.0";  // of the same protocol: no finding
  facts.answer["nodes"][1]["version"] = "0.0.9";
  EXPECT_EQ(OfPool(facts), Expected{});
  facts.answer["protocol"] = kProtocolVersion + 2;
  EXPECT_EQ(OfPool(facts), Expected{"coordinator/version"});
  facts = GoodPool();
  ordered_json failure = {{"cause", "again"}, {"what", "w"}, {"next", "n"}, {"times", 0}};
  facts.answer["nodes"][1]["load_failure"] = failure;  // it passes by itself
  EXPECT_EQ(OfPool(facts), Expected{});
  failure["times"] = 1;
  facts.answer["nodes"][1]["load_failure"] = failure;
  EXPECT_EQ(OfPool(facts), Expected{"b/load"});
  facts.answer["state"] = "waiting for workers";
  EXPECT_EQ(OfPool(facts), (Expected{"coordinator/pool", "b/load"}));
  facts = GoodPool();
  facts.answer["nodes"][0]["slowness"] = 1.0;
  facts.answer["nodes"][2]["slowness"] = 2.4;
  EXPECT_EQ(OfPool(facts), Expected{"c/pace"});
  facts = GoodPool();
  facts.received_unix_ms += 90'000;
  EXPECT_EQ(OfPool(facts), Expected{"this machine/clock"});
  facts = GoodPool();
  facts.answer["state"] = "no plan fits";
  EXPECT_EQ(OfPool(facts), Expected{"coordinator/pool"});
  const std::vector<std::pair<const char*, ordered_json>> bad = {
      {"clock", {{"clock_skew_s", -90.0}}},
      {"memory", {{"available_bytes", 1000}}},
      {"disk", {{"disk_free_bytes", 5}}},
      {"key", {{"key_mode", 0640}}},
      {"certificate", {{"certificate_ends_unix_s", kNow + 60}}},
      {"lost", {{"state", "lost"}}},
      {"silent", {{"error", "no answer"}}},
      {"silent", {{"heartbeat_age_s", 1.2}}},
      {"memory", {{"resident_bytes", uint64_t{5} << 30}}}};
  for (const auto& [check, change] : bad) {
    facts = GoodPool();
    facts.answer["nodes"][1].update(change);
    EXPECT_EQ(OfPool(facts), Expected{absl::StrCat("b/", check)});
  }
  facts = GoodPool();
  // A cluster whose certificates are short: a minute is half of that.
  facts.certificate_life_s = 120;
  facts.answer["nodes"][1].update({{"certificate_ends_unix_s", kNow + 60}});
  EXPECT_EQ(OfPool(facts), Expected{});
  facts = GoodPool();
  facts.answer["nodes"][1].update(
      {{"clock_skew_s", 40.0}, {"clock_error_s", 20.0}});  // it may be 20
  EXPECT_EQ(OfPool(facts), Expected{});
}

TEST(DoctorTest, Links) {
  const auto with = [](std::vector<size_t> links, const ordered_json& change) {
    PoolFacts facts = GoodPool();
    for (const size_t i : links) facts.answer["links"][i].update(change);
    return OfPool(facts);
  };
  const ordered_json dropped = {{"code", "DEADLINE_EXCEEDED"},
                                {"error", "10.0.0.1:1 does not answer"}};
  EXPECT_EQ(with({0}, dropped), Expected{"a -> b/port"});  // c still reaches b
  EXPECT_EQ(with({0, 5}, dropped), Expected{"b/port"});    // nobody does: one finding, b's
  EXPECT_EQ(with({0, 5, 1}, dropped), (Expected{"b/port", "a -> c/port"}));
  EXPECT_EQ(with({0}, {{"code", "UNAUTHENTICATED"}, {"error", "x"}}), Expected{"a -> b/tls"});
  EXPECT_EQ(with({0}, {{"code", "CANCELLED"}, {"error", "not measured"}}), Expected{});
  EXPECT_EQ(with({3}, {{"large_lost", true}}), Expected{"b -> c/mtu"});
  EXPECT_EQ(with({3}, {{"rtt_median_ms", 35.0}}), Expected{"b -> c/link"});
  EXPECT_EQ(with({3}, {{"bytes_per_second", 4e6}}), Expected{"b -> c/speed"});
}

TEST(DoctorTest, AnAnswerOfOtherTypesDoesNoHarm) {
  PoolFacts facts;
  facts.answer = ordered_json::parse(
      R"({"nodes":[{"name":7},3,null],"links":[{"code":[]},"x"],"unix_ms":"no"})");
  Report report;
  CheckPool(facts, &report);
  EXPECT_FALSE(report.findings.empty());
}

}  // namespace
}  // namespace lanyard::cli
