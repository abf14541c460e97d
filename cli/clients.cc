// `lanyard clients`: what each kind of HTTP client needs to reach the pool and to trust it.
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/environment.h"
#include "base/file.h"
#include "cli/admin_folder.h"
#include "cli/cli.h"
#include "cli/client_lines.h"
#include "cli/connection.h"
#include "cli/http_client.h"
#include "cli/pool_json.h"
#include "identity/ca_bundle.h"

namespace lanyard::cli {
namespace {

using nlohmann::ordered_json;

struct ClientsOptions {
  HttpClient::Options http;
  std::string folder;
  bool new_ca = false;
  bool json = false;
};

// The lines are pasted into shells that stand in other folders.
std::string FromRoot(const std::string& path) {
  std::error_code ec;
  const auto whole = std::filesystem::absolute(path, ec);
  return ec ? path : whole.lexically_normal().string();
}

// Without an administrator's folder: the CA is the one that was given with --ca, once the server
// has proved that it is its.
absl::StatusOr<ClientAccess> FromFile(const ClientsOptions& o, const HttpClient& client) {
  const std::string file = o.http.tls.ca.empty() ? EnvironmentOr("LANYARD_CA", "") : o.http.tls.ca;
  ASSIGN_OR_RETURN(const HttpReply health, client.Get("/health"));
  RETURN_IF_ERROR(StatusOfReply(health));
  ClientAccess out;
  out.url = client.url();
  out.open = out.url.rfind("https://", 0) != 0;
  if (out.open || file.empty()) return out;
  ASSIGN_OR_RETURN(const std::string pem, ReadSmallFile(file));
  const std::string folder = FromRoot(o.folder.empty() ? StateHome() + "/clients" : o.folder);
  RETURN_IF_ERROR(MakePrivateDir(folder));
  RETURN_IF_ERROR(identity::WriteClientFiles(folder, pem));
  const identity::ClientFiles files = identity::ClientFilesIn(folder);
  out.ca = files.ca;
  out.bundle = files.bundle;
  out.system_store = files.system_store;
  out.constrained = identity::HasNameConstraints(pem);
  return out;
}

absl::StatusOr<ClientAccess> Access(const ClientsOptions& o) {
  HttpClient::Options http = o.http;
  RETURN_IF_ERROR(FindPool(&http));
  ASSIGN_OR_RETURN(const HttpClient client, HttpClient::Create(http));
  if (http.admin.empty() && !o.new_ca) return FromFile(o, client);
  if (o.new_ca) {
    ASSIGN_OR_RETURN(const HttpReply made, client.Post("/admin/v1/https/ca", "{}"));
    RETURN_IF_ERROR(StatusOfReply(made));
  }
  http.admin = FromRoot(http.admin);
  const std::string folder = o.folder.empty() ? http.admin : FromRoot(o.folder);
  RETURN_IF_ERROR(MakePrivateDir(folder));
  ASSIGN_OR_RETURN(ClientAccess out, FetchClientAccess(client, folder));
  // That of `lanyard up`, whose administrator's folder is STATE/coordinator/admin.
  const auto key_file = std::filesystem::path(http.admin).parent_path().parent_path() / "api.key";
  if (!out.open && ::access(key_file.c_str(), R_OK) == 0) out.key_file = key_file.string();
  return out;
}

int Clients(const ClientsOptions& o) {
  const auto access = Access(o);
  if (!access.ok()) return Fail(access.status());
  if (o.json) {
    const auto or_null = [](const std::string& text) {
      return text.empty() ? ordered_json(nullptr) : ordered_json(text);
    };
    Print({{"url", access->url},
           {"ca", or_null(access->ca)},
           {"ca_bundle", or_null(access->bundle)},
           {"system_store", or_null(access->system_store)},
           {"constrained", access->constrained},
           {"clients", ClientLinesJson(*access)}});
    return kOk;
  }
  if (o.new_ca) std::printf("The CA is new: every client must be given it, as below.\n");
  std::fputs(ClientLinesText(*access).c_str(), stdout);
  return kOk;
}

}  // namespace

void RegisterClients(CLI::App& app) {
  const auto options = std::make_shared<ClientsOptions>();
  options->http.silence_timeout_ms = 10'000;
  CLI::App* clients = AddCommand(
      app, "clients", "What curl, Python, Node and desktop programs need to reach the pool",
      "  lanyard clients\n"
      "      as administrator: writes https-ca.crt and ca-bundle.crt into the folder and prints a\n"
      "      line for each kind of client\n"
      "  lanyard clients --url https://pool.example:8470 --ca https-ca.crt\n"
      "      on a client's machine\n"
      "  lanyard clients --new-ca\n"
      "      a CA with a new key; of a cluster that began without name constraints, one with them\n"
      "  lanyard clients --json\n"
      "      {\"url\",\"ca\",\"ca_bundle\",\"system_store\",\"constrained\",\"clients\":{\"curl\","
      "\"openai\",\"requests\",\"node\",\"system\"}}",
      [options] { return Clients(*options); });
  AddConnectionFlags(clients, &options->http);
  clients->add_option("--folder", options->folder,
                      "Where the files are written (default: the administrator's folder, else "
                      "~/.local/state/lanyard/clients)");
  clients->add_flag("--new-ca", options->new_ca,
                    "Makes the CA anew: clients refuse the pool until they have it");
  clients->add_flag("--json", options->json, "One line of JSON");
}

}  // namespace lanyard::cli
