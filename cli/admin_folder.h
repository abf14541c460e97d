// Which pool a verb talks to, and with which administrator's certificate: what was named, else the
// folder that `lanyard join` made, a pool of `lanyard up` that runs, or the coordinator of this
// machine.
#pragma once

#include "base/status.h"
#include "cli/http_client.h"

namespace lanyard::cli {

// The folder that `lanyard join` makes.
std::string OwnAdminFolder();

// Fills url, admin, CA, certificate and key from what options->pool, admin or url name, else from
// LANYARD_ADMIN or LANYARD_URL, else from the first default that there is; url stays empty when
// there is none. What was given by flags stays. A certificate that is due is renewed. NotFound or
// PermissionDenied when what was named cannot be used; InvalidArgument when nothing was named and
// several pools of `lanyard up` run.
absl::Status FindPool(HttpClient::Options* options);

}  // namespace lanyard::cli
