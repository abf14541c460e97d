// Fields of other servers' requests that this one knows and does not have yet. One table says of
// each which types it may have, which values change nothing, and what is accepted instead.
#pragma once

#include <nlohmann/json.hpp>

#include "base/status.h"
#include "web/json_body.h"

namespace lanyard::web {

enum class Endpoint { kChat = 1, kText = 2 };

// A known field at a value that changes nothing is absent. At any other value it would change the
// answer: InvalidArgument (code "unsupported_parameter") that names it. A value of a type that the
// field never has is an InvalidArgument of its own ("invalid_type"). Fields that nobody knows are
// ignored.
absl::Status RefuseUnsupported(const Fields& fields, Endpoint endpoint);

// The same of a message's fields; `message` knows where it stands.
absl::Status RefuseInMessage(const Fields& message);

// The refusal itself, for fields inside of others ("stream_options.continuous_usage_stats").
absl::Status NotYet(std::string_view name, std::string_view allowed);

}  // namespace lanyard::web
