#include "cli/connection.h"

#include "base/command_line.h"

namespace lanyard::cli {

void AddConnectionFlags(CLI::App* command, HttpClient::Options* options) {
  CLI::Option* url = command->add_option(
      "--url", options->url,
      "Address of the pool, https:// unless it says http:// (default: LANYARD_URL, else that of "
      "the pool that is found)");
  url->check(ParsesAs(ParsePoolUrl));
  CLI::Option* pool = command->add_option(
      "--pool", options->pool,
      "A pool of `lanyard up` on this machine, by its name or state directory (default: the one "
      "that runs)");
  command->add_option(
      "--api-key", options->api_key,
      "Key for the pool (default: LANYARD_API_KEY, which other users of this machine cannot see)");
  CLI::Option* admin =
      command->add_option("--admin", options->admin,
                          "An administrator's folder (default: LANYARD_ADMIN, then where `lanyard "
                          "join` put it, then that of the pool of `lanyard up` that runs, then "
                          "this machine's coordinator's)");
  pool->excludes(url)->excludes(admin);
  command->add_option("--ca", options->tls.ca,
                      "The cluster's CA certificate, for https:// (default: LANYARD_CA)");
  CLI::Option* certificate = command->add_option(
      "--cert", options->tls.cert, "An administrator's certificate (default: LANYARD_CERT)");
  CLI::Option* key = command->add_option("--key", options->tls.key,
                                         "The key of --cert (default: LANYARD_CERT_KEY)");
  certificate->needs(key);
  key->needs(certificate);
}

}  // namespace lanyard::cli
