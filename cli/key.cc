// `lanyard key create`, `list` and `revoke`: the API keys of a pool. They need an administrator's
// certificate.
#include <cstdio>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/command_line.h"
#include "cli/admin_folder.h"
#include "cli/cli.h"
#include "cli/client_lines.h"
#include "cli/connection.h"
#include "cli/duration.h"
#include "cli/http_client.h"
#include "cli/pool_json.h"
#include "cli/table.h"

namespace lanyard::cli {
namespace {

using nlohmann::ordered_json;

constexpr char kPath[] = "/admin/v1/keys";

struct KeyOptions {
  HttpClient::Options http;
  std::string name;
  std::string ttl;
  bool json = false;
};

std::string State(const ordered_json& key) {
  if (key.contains("revoked_unix_s") && !key["revoked_unix_s"].is_null()) return "revoked";
  const auto expires = key.find("expires_unix_s");
  const bool expired = expires != key.end() && expires->is_number_integer() &&
                       expires->get<int64_t>() <= std::time(nullptr);
  return expired ? "expired" : "valid";
}

// Under a new key: the commands that use it. Nothing where they are not to be had, since the key is
// made.
void SayHowToUse(const HttpClient::Options& http, const HttpClient& client) {
  if (http.admin.empty()) return;
  const auto access = FetchClientAccess(client, http.admin);
  if (!access.ok()) return;
  std::fprintf(stderr, "With the key in LANYARD_API_KEY:\n");
  for (const ClientLine& line : ClientLines(*access)) {
    if (line.client == "curl" || line.client == "openai")
      std::fprintf(stderr, "  %s\n", line.line.c_str());
  }
  std::fprintf(stderr, "Node, requests, desktop programs, other machines: lanyard clients\n");
}

int Create(const KeyOptions& o) {
  ordered_json body = {{"name", o.name}};
  if (!o.ttl.empty()) {
    const auto seconds = ParseSeconds(o.ttl);
    if (!seconds.ok()) return Fail(Annotate(seconds.status(), "--ttl"));
    body["ttl_seconds"] = *seconds;
  }
  HttpClient::Options http = o.http;
  if (const absl::Status used = FindPool(&http); !used.ok()) return Fail(used);
  const auto client = HttpClient::Create(http);
  if (!client.ok()) return Fail(client.status());
  const auto key = ObjectOf(*client, client->Post(kPath, OneLine(body)));
  if (!key.ok()) return Fail(key.status());
  // The key stands alone on stdout, for KEY=$(lanyard key create NAME).
  o.json ? Print(*key) : (void)std::printf("%s\n", Text(*key, "key").c_str());
  const std::string name = Text(*key, "name");
  const absl::Status shown = ShownOnce(
      absl::StrCat("the key of '", name,
                   "' was made and nobody has it\n  Revoke it: lanyard key revoke ", name));
  if (!shown.ok()) return Fail(shown);
  if (o.json) return kOk;
  std::fprintf(stderr, "This is the only time that the key of '%s' is shown. Valid until: %s.\n",
               name.c_str(), DateText(*key, "expires_unix_s", "it is revoked").c_str());
  SayHowToUse(http, *client);
  return kOk;
}

int ListKeys(const KeyOptions& o) {
  const auto client = HttpClient::Create(o.http);
  if (!client.ok()) return Fail(client.status());
  const auto reply = GetJson(*client, kPath);
  if (!reply.ok()) return Fail(reply.status());
  if (o.json) {
    Print({{"keys", List(*reply, "keys")}});
    return kOk;
  }
  Table table({"NAME", "ID", "STATE", "CREATED", "EXPIRES", "LAST USED"});
  for (const auto& key : List(*reply, "keys")) {
    if (!key.is_object()) continue;
    table.AddRow({Text(key, "name"), Text(key, "id"), State(key),
                  DateText(key, "created_unix_s", "-"), DateText(key, "expires_unix_s", "never"),
                  DateText(key, "last_used_unix_s", "never")});
  }
  PrintTable(table, "There is no API key. Make one with: lanyard key create NAME");
  return kOk;
}

int Revoke(const KeyOptions& o) {
  const auto client = HttpClient::Create(o.http);
  if (!client.ok()) return Fail(client.status());
  const auto key =
      ObjectOf(*client, client->Delete(absl::StrCat(kPath, "/", EscapeForPath(o.name))));
  if (!key.ok()) return Fail(key.status());
  if (o.json) {
    Print(*key);
  } else {
    std::printf("The key '%s' (%s) is revoked; what it was being answered ends within a second.\n",
                Text(*key, "name").c_str(), Text(*key, "id").c_str());
  }
  return kOk;
}

}  // namespace

void RegisterKey(CLI::App& app) {
  const auto options = std::make_shared<KeyOptions>();
  options->http.silence_timeout_ms = 10'000;
  const char* kInfo =
      "{\"id\",\"name\",\"created_unix_s\",\"expires_unix_s\",\"last_used_unix_s\",\"revoked_unix_"
      "s\"}";
  CLI::App* key = AddCommand(
      app, "key", "API keys of a pool",
      "  lanyard key create laptop --ttl 90d\n  lanyard key list\n  lanyard key revoke laptop",
      nullptr);
  key->require_subcommand(1);

  CLI::App* create =
      AddCommand(*key, "create", "Makes a key and prints it, this once",
                 absl::StrCat("  lanyard key create laptop --ttl 90d\n  export "
                              "LANYARD_API_KEY=$(lanyard key create script)\n",
                              "  lanyard key create laptop --json\n      ", kInfo, " and \"key\""),
                 [options] { return Create(*options); });
  create->add_option("NAME", options->name, "Whose it is: letters, digits and . _ - @ +")
      ->required();
  create
      ->add_option("--ttl", options->ttl,
                   "How long it is valid: 12h, 90d, 52w (default: until it is revoked)")
      ->check(ParsesAs(ParseSeconds));

  CLI::App* list = AddCommand(
      *key, "list", "Lists every key, without its text",
      absl::StrCat("  lanyard key list\n  lanyard key list --json\n      {\"keys\":[", kInfo, "]}"),
      [options] { return ListKeys(*options); });
  list->alias("ls");

  CLI::App* revoke = AddCommand(*key, "revoke", "Ends a key, and what it is being answered",
                                "  lanyard key revoke laptop\n  lanyard key revoke 3f2a90b1c4d5",
                                [options] { return Revoke(*options); });
  revoke->add_option("NAME-or-ID", options->name, "As lanyard key list shows it")->required();

  for (CLI::App* command : {create, list, revoke}) {
    AddConnectionFlags(command, &options->http);
    command->add_flag("--json", options->json, "One line of JSON");
  }
}

}  // namespace lanyard::cli
