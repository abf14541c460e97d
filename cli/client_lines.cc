#include "cli/client_lines.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <nlohmann/json.hpp>

#include "cli/pool_json.h"
#include "identity/ca_bundle.h"

namespace lanyard::cli {
namespace {

using nlohmann::ordered_json;

constexpr char kQuestion[] =
    R"(/v1/chat/completions -d '{"messages":[{"role":"user","content":"Hello!"}]}')";

std::string CurlLine(const ClientAccess& a) {
  if (a.open) return absl::StrCat("curl ", a.url, kQuestion);
  // By file: a key among curl's arguments would stand in the process list.
  const std::string header = a.key_file.empty()
                                 ? "echo \"Authorization: Bearer $LANYARD_API_KEY\""
                                 : "sed 's/^/Authorization: Bearer /' " + ShellWord(a.key_file);
  return absl::StrCat(header, " | curl ", a.ca.empty() ? "" : "--cacert " + ShellWord(a.ca) + " ",
                      "-H @- ", a.url, kQuestion);
}

// The environment of a program that reads OpenAI's variables, with `trust` for its CAs.
std::string Environment(const ClientAccess& a, const std::string& trust) {
  const std::string key = a.open               ? "none"
                          : a.key_file.empty() ? "\"$LANYARD_API_KEY\""
                                               : "\"$(cat " + ShellWord(a.key_file) + ")\"";
  return absl::StrCat("OPENAI_BASE_URL=", a.url, "/v1 OPENAI_API_KEY=", key, " ", trust);
}

std::string Variable(const char* name, const std::string& file) {
  return file.empty() ? "" : absl::StrCat(name, "=", ShellWord(file), " ");
}

}  // namespace

std::string ShellWord(const std::string& text) {
  const auto plain = [](unsigned char c) {
    return std::isalnum(c) != 0 || std::strchr("/._-+:,@%=", c) != nullptr;
  };
  if (!text.empty() && std::all_of(text.begin(), text.end(), plain)) return text;
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::vector<ClientLine> ClientLines(const ClientAccess& a) {
  std::vector<ClientLine> out;
  out.push_back({"curl", "curl", CurlLine(a)});
  out.push_back({"openai", "Python: OpenAI's SDK and all that uses httpx or aiohttp",
                 Environment(a, Variable("SSL_CERT_FILE", a.bundle)) + "python3 YOUR_PROGRAM.py"});
  out.push_back(
      {"requests", "Python: requests",
       Environment(a, Variable("REQUESTS_CA_BUNDLE", a.bundle)) + "python3 YOUR_PROGRAM.py"});
  out.push_back({"node", "Node.js",
                 Environment(a, Variable("NODE_EXTRA_CA_CERTS", a.ca)) + "node YOUR_PROGRAM.js"});
  if (a.ca.empty()) return out;
  out.push_back(
      {"system", "Desktop programs, and all that reads the system's store (Debian, Ubuntu)",
       absl::StrCat("sudo cp ", ShellWord(a.ca),
                    " /usr/local/share/ca-certificates/lanyard.crt && sudo "
                    "update-ca-certificates"),
       a.constrained
           ? "From then on every user and program of that machine trusts what this CA signs. It "
             "can sign for this pool's names, names such as .local and .lan, and addresses that "
             "the internet does not route; for no web site. Firefox, and Chrome on Linux, have "
             "stores of their own: import the file there."
           : "From then on every user and program of that machine trusts what this CA signs, and "
             "it can sign for every web site: whoever gets at the coordinator's disk can then "
             "play any of them to that machine. Make one that cannot first: lanyard clients "
             "--new-ca"});
  return out;
}

ordered_json ClientLinesJson(const ClientAccess& access) {
  ordered_json out = ordered_json::object();
  for (const ClientLine& line : ClientLines(access)) out[line.client] = line.line;
  return out;
}

std::string StoreNote(const ClientAccess& a) {
  if (a.ca.empty() || !a.system_store.empty()) return "";
  return absl::StrCat("No store of this system's CAs was found, so ", a.bundle,
                      " holds the pool's alone: a program that is given it reaches the pool and "
                      "no web site.\n");
}

std::string ClientLinesText(const ClientAccess& a) {
  std::string out = absl::StrCat("The pool is at ", a.url, "\n");
  if (!a.ca.empty()) {
    absl::StrAppend(&out, "Its CA is ", a.ca, "\nWith the system's CAs: ", a.bundle, "\n");
    out += StoreNote(a);
  } else if (a.url.rfind("https://", 0) == 0) {
    out += "It shows the house's own certificate: clients need no CA but those of the system.\n";
  }
  for (const ClientLine& line : ClientLines(a)) {
    absl::StrAppend(&out, "\n", line.who, ":\n  ", line.line, "\n");
    if (!line.note.empty()) absl::StrAppend(&out, "  ", line.note, "\n");
  }
  return out;
}

absl::StatusOr<ClientAccess> FetchClientAccess(const HttpClient& client,
                                               const std::string& folder) {
  ASSIGN_OR_RETURN(const ordered_json info, GetJson(client, "/admin/v1/https"));
  const std::string ca = Text(info, "ca");
  ClientAccess out;
  out.url = Text(info, "url");
  if (out.url.empty()) out.url = client.url();
  out.open = out.url.rfind("https://", 0) != 0;
  out.constrained = info.value("constrained", ordered_json(false)) == true;
  RETURN_IF_ERROR(identity::WriteClientFiles(folder, ca));
  if (ca.empty()) return out;
  const identity::ClientFiles files = identity::ClientFilesIn(folder);
  out.ca = files.ca;
  out.bundle = files.bundle;
  out.system_store = files.system_store;
  return out;
}

}  // namespace lanyard::cli
