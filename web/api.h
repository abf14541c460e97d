// The API as one table of routes over a Generator.
#pragma once

#include <string>

#include "coordinator/serve/generator.h"
#include "web/router.h"

namespace lanyard::web {

// The generator must outlive the router.
Router MakeRouter(coordinator::Generator* generator);

// The body of GET /admin/v1/status. Its keys are stable; they are those of PoolStatus and NodeStatus (generator.h), except:
// "layers" is [first, last], 0-based and inclusive, or null for a node without a stage or with the head only.
std::string StatusJson(const coordinator::PoolStatus& status);

}  // namespace lanyard::web
