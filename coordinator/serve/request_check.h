// Checks the numbers of a request before anything is done with it.
#pragma once

#include "base/clock.h"
#include "base/status.h"
#include "coordinator/serve/generator.h"

namespace lanyard::coordinator {

// InvalidArgument naming the field, the value and the limit.
absl::Status CheckRequest(const GenerateRequest& request);

// OutOfRange when a prompt leaves no room in the context for a single token of the answer; the text
// says by how many tokens it is too long, and holds OpenAI's words, by which clients know it.
absl::Status CheckPromptFits(uint64_t prompt_tokens, uint32_t context);
// The same for a prompt of which only a least number of tokens is known.
absl::Status CheckPromptMayFit(uint64_t fewest_tokens, uint32_t context);

// ResourceExhausted when as many requests wait as may; it says that a place is expected `room_in`
// later.
absl::Status CheckQueueHasRoom(uint64_t waiting, uint32_t max_waiting, TimeNs room_in);

}  // namespace lanyard::coordinator
