// Where an administrator's certificate is: the coordinator's own folder for its machine, that of a
// pool of `lanyard up`, or the one that `lanyard join` made.
#pragma once

#include "base/status.h"
#include "cli/http_client.h"

namespace lanyard::cli {

// The folder of `lanyard join`.
std::string OwnAdminFolder();

// Fills url, CA, certificate and key from the folder named by options->admin or LANYARD_ADMIN, or,
// when no URL was given either, from the first default folder that there is. What was given by
// flags stays. A certificate that is due is renewed. NotFound or PermissionDenied when a folder
// that was named cannot be used; InvalidArgument when none was named and several pools of `lanyard
// up` run.
absl::Status UseAdminFolder(HttpClient::Options* options);

}  // namespace lanyard::cli
