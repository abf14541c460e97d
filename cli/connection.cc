#include "cli/connection.h"

namespace lanyard::cli {

void AddConnectionFlags(CLI::App* command, HttpClient::Options* options) {
  command->add_option("--url", options->url,
                      "Address of the pool (default: LANYARD_URL, then http://127.0.0.1:8080)");
  command->add_option(
      "--api-key", options->api_key,
      "Key for the pool (default: LANYARD_API_KEY, which other users of this machine cannot see)");
  command->add_option("--admin", options->admin,
                      "An administrator's folder (default: LANYARD_ADMIN, then where `lanyard "
                      "join` put it, then that of the "
                      "pool of `lanyard up` that runs, then this machine's coordinator's)");
  command->add_option("--ca", options->tls.ca,
                      "The cluster's CA certificate, for https:// (default: LANYARD_CA)");
  command->add_option("--cert", options->tls.cert,
                      "An administrator's certificate (default: LANYARD_CERT)");
  command->add_option("--key", options->tls.key, "The key of --cert (default: LANYARD_CERT_KEY)");
}

}  // namespace lanyard::cli
