// The flags of every verb that talks to a pool: --url, --api-key, --admin, --ca, --cert, --key.
#pragma once

#include <CLI/CLI.hpp>

#include "cli/http_client.h"

namespace lanyard::cli {

// `options` must outlive the command.
void AddConnectionFlags(CLI::App* command, HttpClient::Options* options);

}  // namespace lanyard::cli
