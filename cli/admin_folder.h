// Finds an administrator's certificate: in the coordinator's own folder on its machine, in that of
// a pool of `lanyard up`, or in the one that `lanyard join` made.
#pragma once

#include "base/status.h"
#include "cli/http_client.h"

namespace lanyard::cli {

// The folder that `lanyard join` makes.
std::string OwnAdminFolder();

// Fills url, CA, certificate and key from the folder named by options->admin or LANYARD_ADMIN, or,
// when no URL was given either, from the first default folder that exists. Values given by flags
// stay. A certificate that is due is renewed. NotFound or PermissionDenied when a named folder
// cannot be used; InvalidArgument when none was named and several pools of `lanyard up` run.
absl::Status UseAdminFolder(HttpClient::Options* options);

}  // namespace lanyard::cli
