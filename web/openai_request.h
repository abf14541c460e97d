// OpenAI's request bodies (https://platform.openai.com/docs/api-reference) and the extensions
// top_k, min_p, ignore_eos, parse_special, timeout. Unknown fields are ignored, harmless ones
// (user, metadata, store, ...) accepted; what would change the answer and is not there yet is
// refused by name (web/known_fields.h).
#pragma once

#include <string_view>

#include "base/status.h"
#include "coordinator/serve/generator.h"

namespace lanyard::web {

inline constexpr size_t kMaxMessages = 2048;
inline constexpr uint32_t kDefaultCompletionTokens = 16;  // of /v1/completions, as OpenAI's

struct CompletionRequest {
  coordinator::GenerateRequest generate;  // its request_id is left to the caller
  bool chat = false;
  bool stream = false;
  bool include_usage = false;
};

// InvalidArgument with the field's name (web/errors.h). A request without a seed gets a random one.
absl::StatusOr<CompletionRequest> ParseChatRequest(std::string_view body);
absl::StatusOr<CompletionRequest> ParseTextRequest(std::string_view body);

}  // namespace lanyard::web
