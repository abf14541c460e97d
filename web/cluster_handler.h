// /admin/v1/tokens and /admin/v1/members: who may join, who belongs to the cluster, who does not
// any more. /admin/v1/https: what clients trust.
#pragma once

#include "coordinator/access/cluster_admin.h"
#include "web/http.h"

namespace lanyard::web {

// `cluster` may be null (in a pool without identities); then every answer is a 503. POST {"role"?:
// "worker", "ttl_seconds"?: 3600, "uses"?: 1}: 201 with the token's info, "token", its text, this
// once, "join" (host:port) and "line", the command for the machine that joins.
void CreateToken(coordinator::ClusterAdmin* cluster, const Request& request,
                 ResponseWriter& writer);
// GET answers {"tokens": [{"id", "role", "created_unix_s", "expires_unix_s", "uses", "used"}]}
void ListTokens(coordinator::ClusterAdmin* cluster, ResponseWriter& writer);
// DELETE .../{id}
void RevokeToken(coordinator::ClusterAdmin* cluster, const Request& request,
                 ResponseWriter& writer);
// GET answers {"members": [{"id", "name", "role", "joined_unix_s", "certificate_ends_unix_s",
// "revoked_unix_s", "from", "drained_unix_s", "quarantine"}]} (null means never, empty means no)
void ListMembers(coordinator::ClusterAdmin* cluster, ResponseWriter& writer);
// DELETE .../{name or id} answers with the member's info.
void RevokeMember(coordinator::ClusterAdmin* cluster, const Request& request,
                  ResponseWriter& writer);
// POST (`drained`) or DELETE /admin/v1/drains/{name or id} answers with the member's info, or with
// an error that holds the planner's arithmetic when the worker is needed.
void SetDrained(coordinator::ClusterAdmin* cluster, const Request& request, bool drained,
                ResponseWriter& writer);

// GET: {"url", "ca", "house", "constrained", "names"}; ca is PEM, or null where clients need none.
void ShowHttps(coordinator::ClusterAdmin* cluster, ResponseWriter& writer);
// POST: the same, of the new CA.
void NewHttpsCa(coordinator::ClusterAdmin* cluster, ResponseWriter& writer);

}  // namespace lanyard::web
