// What each kind of HTTP client is told, so that it finds the pool and trusts its certificate:
// `lanyard up`, `key create` and `clients` say it in these words.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/status.h"
#include "cli/http_client.h"

namespace lanyard::cli {

struct ClientAccess {
  std::string url;            // without /v1
  std::string key_file = {};  // that holds the API key; empty: the reader puts it in
  bool open = false;          // no key is asked for
  // Files; empty: the machine's own CAs are enough (the house's certificate, or plain HTTP).
  std::string ca = {};
  std::string bundle = {};        // the system's CAs and that one
  std::string system_store = {};  // that the bundle was made of; empty: none was found
  bool constrained = true;        // the CA is good for this pool only
};

struct ClientLine {
  std::string client;  // "curl" "openai" "requests" "node" "system"
  std::string who;     // in words
  std::string line;    // for a shell, as it stands
  std::string note = {};
};

// Those that most people need are first: curl and openai.
std::vector<ClientLine> ClientLines(const ClientAccess& access);
nlohmann::ordered_json ClientLinesJson(const ClientAccess& access);
// All of them for a terminal, with what is to be known of the CA.
std::string ClientLinesText(const ClientAccess& access);

// A line when the bundle holds the pool's CA alone, else empty.
std::string StoreNote(const ClientAccess& access);

// Asks the pool (as administrator) and writes the CA and the bundle into `folder`; `key_file` stays
// empty. FailedPrecondition: what is in the folder is old and cannot be written.
absl::StatusOr<ClientAccess> FetchClientAccess(const HttpClient& client, const std::string& folder);

// As one word of a shell.
std::string ShellWord(const std::string& text);

}  // namespace lanyard::cli
