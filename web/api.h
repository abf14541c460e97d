// The API as one table of routes over a Generator.
#pragma once

#include <string>

#include "coordinator/access/api_keys.h"
#include "coordinator/access/cluster_admin.h"
#include "coordinator/serve/generator.h"
#include "web/router.h"

namespace lanyard::web {

// Every route that there is, with who may call it. The server checks this table, tests try it cell
// by cell, and docs/access.md shows it. All arguments must outlive the router. Without keys or
// cluster, their routes answer 503.
Router MakeRouter(coordinator::Generator* generator, coordinator::ApiKeys* keys,
                  coordinator::ClusterAdmin* cluster = nullptr);

// The body of GET /admin/v1/status. Its keys are stable; they are those of PoolStatus and
// NodeStatus (generator.h), except: "layers" is [first, last], 0-based and inclusive, or null for a
// node without a stage or with the head only.
std::string StatusJson(const coordinator::PoolStatus& status);

}  // namespace lanyard::web
