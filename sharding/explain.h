// Says why a plan is as it is, or why there is none, in sentences with their arithmetic.
#pragma once

#include <string>
#include <vector>

#include "sharding/planner.h"
#include "sharding/problem.h"
#include "sharding/search.h"

namespace lanyard::sharding {

// For a plan that fits: fills `limit` and appends to `why`. `rows_beside` are those that the
// plan was searched with.
void ExplainFit(const Problem& problem, const Cut& cut, int64_t rows_beside, Plan* plan);

// For a request that does not fit at `context` tokens for one user: says what is needed, what there
// is, and what would make it fit.
void ExplainMisfit(const PlanRequest& request, uint32_t context, Plan* plan);

}  // namespace lanyard::sharding
