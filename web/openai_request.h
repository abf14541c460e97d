// OpenAI's request bodies (https://platform.openai.com/docs/api-reference) and the extensions
// top_k, min_p, ignore_eos. Unknown fields are ignored. A known field that would change the answer
// but is not supported yet gives an InvalidArgument that says so; harmless ones (user, metadata,
// store, ...) are accepted.
#pragma once

#include <string_view>

#include "base/status.h"
#include "coordinator/serve/generator.h"

namespace lanyard::web {

inline constexpr size_t kMaxMessages = 2048;
inline constexpr size_t kMaxStopStrings = 16;
inline constexpr size_t kMaxStopBytes = 4096;
// The default of /v1/completions, as at OpenAI.
inline constexpr uint32_t kDefaultCompletionTokens = 16;

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
