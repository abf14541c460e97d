// The files that HTTPS clients are given: the CA alone, and a bundle of the system's CAs with it.
// Programs that read SSL_CERT_FILE or REQUESTS_CA_BUNDLE trust what is in that file and nothing
// else, so with the CA alone they could reach the pool and no web site.
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"

namespace lanyard::identity {

struct ClientFiles {
  std::string ca;  // paths
  std::string bundle;
  std::string system_store;  // that the bundle was made of; empty: none was found
};
ClientFiles ClientFilesIn(const std::string& folder);

// Writes what has changed of both files, readable for everybody who may enter the folder. An empty
// `ca_pem` (the server's CA is the house's, or there is no TLS) removes them.
absl::Status WriteClientFiles(const std::string& folder, std::string_view ca_pem);

// Whether the first certificate of the text is a CA's that is good for some names only.
bool HasNameConstraints(std::string_view pem);

// Changes when the system's CAs do.
std::string SystemStoreStamp();

}  // namespace lanyard::identity
