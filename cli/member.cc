// Who belongs to the cluster: `lanyard token create|list|revoke`, `lanyard node list|drain|revoke`,
// `lanyard join`. All but the last need an administrator's certificate.
#include <pwd.h>
#include <unistd.h>

#include <cctype>
#include <cstdio>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/clock.h"
#include "base/command_line.h"
#include "base/environment.h"
#include "base/file.h"
#include "cli/admin_folder.h"
#include "cli/cli.h"
#include "cli/connection.h"
#include "cli/duration.h"
#include "cli/http_client.h"
#include "cli/interrupt.h"
#include "cli/pool_json.h"
#include "cli/table.h"
#include "identity/join_token.h"
#include "net/channel.h"
#include "net/enrolment.h"

namespace lanyard::cli {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMostNameBytes = 64;  // of a node
constexpr char kTokens[] = "/admin/v1/tokens";
constexpr char kMembers[] = "/admin/v1/members";
constexpr char kDrains[] = "/admin/v1/drains";

struct MemberOptions {
  HttpClient::Options http;
  std::string role = "worker";
  std::string ttl = "1h";
  uint32_t uses = 1;
  std::string name;  // a node's name, or its id
  std::string address;
  std::string token;
  std::string token_file;
  std::string folder;
  bool disable = false;
  uint32_t wait_s = 60;
  bool json = false;
};

absl::StatusOr<int64_t> ParseTokenLife(const std::string& text) {
  ASSIGN_OR_RETURN(const int64_t seconds, ParseSeconds(text));
  if (seconds <= identity::kMaxTokenSeconds) return seconds;
  return InvalidArgument("a token for ", text, "; it may live 7d at most");
}

// Prints the answer of one call, by `text` or as it is.
template <typename F>
int Show(const MemberOptions& o, const absl::StatusOr<ordered_json>& reply, const F& text) {
  if (!reply.ok()) return Fail(reply.status());
  if (o.json) {
    Print(*reply);
  } else {
    text(*reply);
  }
  return kOk;
}

int CreateToken(const MemberOptions& o) {
  const auto seconds = ParseTokenLife(o.ttl);
  if (!seconds.ok()) return FailUsage(Annotate(seconds.status(), "--ttl"));
  const auto client = HttpClient::Create(o.http);
  if (!client.ok()) return Fail(client.status());
  const ordered_json body = {{"role", o.role}, {"ttl_seconds", *seconds}, {"uses", o.uses}};
  const auto token = ObjectOf(*client, client->Post(kTokens, OneLine(body)));
  const int code = Show(
      o, token, [](const ordered_json& made) { std::printf("%s\n", Text(made, "line").c_str()); });
  if (code != kOk) return code;
  const std::string id = Text(*token, "id");
  const absl::Status shown = ShownOnce(absl::StrCat(
      "the token ", id, " was made and nobody has it\n  Withdraw it: lanyard token revoke ", id));
  if (!shown.ok()) return Fail(shown);
  if (o.json) return kOk;
  const std::string join = Text(*token, "join");
  const bool here = net::IsLoopbackHost(join.substr(0, join.rfind(':')));
  std::fprintf(stderr, "%s Good for %u %s within %s; shown this once.\n",
               here ? "This pool listens on this machine only: paste that here. For one that other "
                      "machines join: lanyard-coordinator --listen ADDRESS:PORT."
                    : "Paste that on the machine that joins.",
               o.uses, o.uses == 1 ? "use" : "uses", o.ttl.c_str());
  return kOk;
}

int ListTokens(const MemberOptions& o) {
  const auto client = HttpClient::Create(o.http);
  if (!client.ok()) return Fail(client.status());
  return Show(o, GetJson(*client, kTokens), [](const ordered_json& reply) {
    Table table({"ID", "ROLE", "USED", "EXPIRES"});
    for (const auto& token : List(reply, "tokens")) {
      table.AddRow({Text(token, "id"), Text(token, "role"),
                    absl::StrCat(Count(token, "used"), " of ", Count(token, "uses")),
                    DateText(token, "expires_unix_s", "-")});
    }
    PrintTable(table, "No token can be used. Make one with: lanyard token create");
  });
}

int RevokeToken(const MemberOptions& o) {
  const auto client = HttpClient::Create(o.http);
  if (!client.ok()) return Fail(client.status());
  return Show(o,
              ObjectOf(*client, client->Delete(absl::StrCat(kTokens, "/", EscapeForPath(o.name)))),
              [&](const ordered_json&) {
                std::printf("The token %s can no longer be used.\n", o.name.c_str());
              });
}

int ListMembers(const MemberOptions& o) {
  const auto client = HttpClient::Create(o.http);
  if (!client.ok()) return Fail(client.status());
  return Show(o, GetJson(*client, kMembers), [](const ordered_json& reply) {
    Table table({"NAME", "ROLE", "STATE", "JOINED", "CERTIFICATE UNTIL", "FROM", "ID"});
    for (const auto& node : List(reply, "members")) {
      const bool revoked =
          node.contains("revoked_unix_s") && node["revoked_unix_s"].is_number_integer();
      const bool ran_out =
          static_cast<int64_t>(Count(node, "certificate_ends_unix_s")) < std::time(nullptr);
      const bool drained =
          node.contains("drained_unix_s") && node["drained_unix_s"].is_number_integer();
      const char* state = revoked                             ? "revoked"
                          : !Text(node, "quarantine").empty() ? "quarantine"
                          : drained                           ? "drained"
                          : ran_out                           ? "away"
                                                              : "member";
      table.AddRow(
          {Text(node, "name"), Text(node, "role"), state, DateText(node, "joined_unix_s", "-"),
           DateText(node, "certificate_ends_unix_s", "-"), Text(node, "from"), Text(node, "id")});
    }
    PrintTable(table, "The cluster has no members.");
    for (const auto& node : List(reply, "members")) {
      if (const std::string why = Text(node, "quarantine"); !why.empty()) {
        std::printf("'%s' is in quarantine for %s\n", Text(node, "name").c_str(), why.c_str());
      }
    }
  });
}

// Says what a drained node still does; empty when it has no layers.
absl::StatusOr<std::string> StillDoes(const HttpClient& client, const std::string& name) {
  ASSIGN_OR_RETURN(const ordered_json status, GetJson(client, "/admin/v1/status"));
  for (const auto& node : List(status, "nodes")) {
    if (Text(node, "name") != name || !node.value("has_stage", ordered_json(false)).is_boolean() ||
        !node.value("has_stage", ordered_json(false)).get<bool>()) {
      continue;
    }
    size_t running = 0;
    for (const auto& request : List(status, "requests"))
      running += Text(request, "state") != "queued";
    return absl::StrCat("'", name, "' still computes its layers; ", running,
                        running == 1 ? " request runs" : " requests run");
  }
  if (Text(status, "state") == "loading") return std::string("the others load its layers");
  return std::string();
}

absl::Status WaitUntilDrained(const HttpClient& client, const std::string& name, uint32_t seconds) {
  CatchInterrupts();
  const TimeNs end = MonotonicNow() + static_cast<TimeNs>(seconds) * kSecond;
  std::string said;
  while (true) {
    ASSIGN_OR_RETURN(const std::string still, StillDoes(client, name));
    if (still.empty()) return absl::OkStatus();
    if (still != said) std::fprintf(stderr, "%s\n", still.c_str());
    said = still;
    if (Interrupted()) return absl::CancelledError("interrupted; the drain goes on");
    if (MonotonicNow() >= end) {
      return absl::DeadlineExceededError(absl::StrCat(
          "not drained after ", seconds, " s: ", still, "\n  It goes on; `lanyard node drain ",
          name, "` waits again, with --disable it is called off"));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

int DrainNode(const MemberOptions& o) {
  const auto client = HttpClient::Create(o.http);
  if (!client.ok()) return Fail(client.status());
  const std::string path = absl::StrCat(kDrains, "/", EscapeForPath(o.name));
  const auto node = ObjectOf(*client, o.disable ? client->Delete(path) : client->Post(path, "{}"));
  if (!node.ok()) return Fail(node.status());
  const std::string name = Text(*node, "name");
  if (!o.disable && o.wait_s > 0) {
    if (const absl::Status waited = WaitUntilDrained(*client, name, o.wait_s); !waited.ok())
      return Fail(waited);
  }
  return Show(o, node, [&](const ordered_json&) {
    if (o.disable) {
      std::printf(
          "The worker '%s' may be used again, if the pool gets better by "
          "it.\n",
          name.c_str());
    } else if (o.wait_s > 0) {
      std::printf("The worker '%s' has no layers: it can be stopped.\n", name.c_str());
    } else {
      std::printf("The layers of worker '%s' go to others.\n", name.c_str());
    }
  });
}

int RevokeNode(const MemberOptions& o) {
  const auto client = HttpClient::Create(o.http);
  if (!client.ok()) return Fail(client.status());
  return Show(
      o, ObjectOf(*client, client->Delete(absl::StrCat(kMembers, "/", EscapeForPath(o.name)))),
      [](const ordered_json& node) {
        std::printf(
            "The %s '%s' (node %s) is revoked: its connections are cut, and its key gets no "
            "certificate.\n",
            Text(node, "role").c_str(), Text(node, "name").c_str(), Text(node, "id").c_str());
      });
}

// "ada-pc7", or what of it is known: a name for whoever sits here.
std::string OwnName() {
  const passwd* const user = ::getpwuid(::geteuid());
  std::string out;
  for (const char c : std::string(user == nullptr ? "" : user->pw_name)) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) out += c;
  }
  if (out.empty()) out = "admin";
  if (const std::string host = HostName(); !host.empty()) absl::StrAppend(&out, "-", host);
  return out.substr(0, kMostNameBytes);
}

int Join(const MemberOptions& o) {
  net::EnrolmentOptions enrol{o.folder.empty() ? OwnAdminFolder() : o.folder, o.address, o.token,
                              identity::Role::kAdmin, o.name.empty() ? OwnName() : o.name};
  if (enrol.token.empty() && !o.token_file.empty()) {
    auto token = ReadSmallInput(o.token_file);
    if (!token.ok()) return Fail(token.status());
    enrol.token = *std::move(token);
  }
  const auto enrolment = net::Enrolment::Open(enrol);
  if (!enrolment.ok()) return Fail(enrolment.status());
  if (o.json) {
    Print({{"name", (*enrolment)->name()}, {"folder", enrol.folder}});
  } else {
    std::printf(
        "This machine administers the cluster as '%s' (%s). Try: lanyard node list, and for "
        "programs that ask the pool: lanyard clients\n",
        (*enrolment)->name().c_str(), enrol.folder.c_str());
  }
  return kOk;
}

void RegisterTokens(CLI::App& app, const std::shared_ptr<MemberOptions>& options) {
  CLI::App* token =
      AddCommand(app, "token", "Lines that let a machine join the cluster",
                 "  lanyard token create\n  lanyard token create --ttl 30m --uses 30", nullptr);
  token->require_subcommand(1);
  CLI::App* create = AddCommand(
      *token, "create", "Prints the line to paste on the machine that joins",
      "  lanyard token create\n  lanyard token create --uses 30 --ttl 30m\n"
      "  lanyard token create --role admin\n"
      "      --json: {\"id\",\"role\",\"expires_unix_s\",\"uses\",\"token\",\"join\",\"line\"}",
      [options] { return CreateToken(*options); });
  create->add_option("--role", options->role, "worker, or admin for a machine that administers")
      ->check(CLI::IsMember({"worker", "admin"}))
      ->capture_default_str();
  create->add_option("--ttl", options->ttl, "How long it is good, at most 7d: 30m, 1h, 2d")
      ->check(ParsesAs(ParseTokenLife))
      ->capture_default_str();
  create->add_option("--uses", options->uses, "How many machines may use it")
      ->check(CLI::Range(1u, identity::kMaxTokenUses))
      ->capture_default_str();
  CLI::App* list = AddCommand(*token, "list", "Tokens that can still be used",
                              "  lanyard token list", [options] { return ListTokens(*options); });
  CLI::App* revoke =
      AddCommand(*token, "revoke", "Withdraws a token", "  lanyard token revoke 8f3a…",
                 [options] { return RevokeToken(*options); });
  revoke->add_option("ID", options->name, "As lanyard token list shows it")->required();
  for (CLI::App* command : {create, list, revoke}) {
    AddConnectionFlags(command, &options->http);
    command->add_flag("--json", options->json, "One line of JSON");
  }
}

}  // namespace

void RegisterMember(CLI::App& app) {
  const auto options = std::make_shared<MemberOptions>();
  options->http.silence_timeout_ms = 10'000;
  RegisterTokens(app, options);

  CLI::App* node = app.get_subcommand("node");
  CLI::App* list = AddCommand(*node, "list", "Who belongs to the cluster",
                              "  lanyard node list\n  lanyard node list --json",
                              [options] { return ListMembers(*options); });
  CLI::App* revoke = AddCommand(
      *node, "revoke", "Throws a machine out: within a second it sends and receives nothing",
      "  lanyard node revoke pc-7", [options] { return RevokeNode(*options); });
  revoke->add_option("NAME-or-ID", options->name, "As lanyard node list shows it")->required();
  CLI::App* drain =
      AddCommand(*node, "drain",
                 "Gives a worker's layers to the others, so that it can be stopped; no answer ends",
                 "  lanyard node drain pc-7\n  lanyard node drain pc-7 --wait 300\n"
                 "  lanyard node drain --disable pc-7",
                 [options] { return DrainNode(*options); });
  drain->add_option("NAME-or-ID", options->name, "As lanyard node list shows it")->required();
  drain->add_flag("--disable", options->disable, "Takes it back");
  drain
      ->add_option("--wait", options->wait_s,
                   "Seconds to wait until it has no layers; 0: not at all")
      ->capture_default_str();
  for (CLI::App* command : {list, drain, revoke}) {
    AddConnectionFlags(command, &options->http);
    command->add_flag("--json", options->json, "One line of JSON");
  }

  CLI::App* join = AddCommand(app, "join", "Makes this machine one that administers a cluster",
                              "  lanyard join 192.168.1.10:7470 --token lyt1…\n"
                              "  lanyard join 192.168.1.10:7470 --token lyt1… --name laptop",
                              [options] { return Join(*options); });
  join->add_option("ADDRESS", options->address,
                   "Where machines join, as `lanyard token create --role admin` prints it")
      ->required();
  join->add_option("--token", options->token, "That it prints");
  join->add_option("--token-file", options->token_file, "A file that holds the token");
  join->add_option("--name", options->name,
                   "What the cluster calls this administrator (default: USER-HOST)");
  join->add_option("--folder", options->folder,
                   "Where the certificate is kept (default: ~/.local/state/lanyard/admin)");
  join->add_flag("--json", options->json, "One line of JSON");
}

}  // namespace lanyard::cli
