// POST /v1/chat/completions and /v1/completions: the handler parses, starts the answer, passes its
// text on, and cancels it when the client leaves.
#pragma once

#include <memory>

#include "coordinator/serve/generator.h"
#include "web/http.h"

namespace lanyard::web {

// The generator must outlive every answer. Errors before the first token are HTTP errors; later
// ones end the stream with an error event. The request's body is freed as soon as it was read.
void HandleChatCompletion(coordinator::Generator* generator, Request& request,
                          std::shared_ptr<ResponseWriter> writer);
void HandleTextCompletion(coordinator::Generator* generator, Request& request,
                          std::shared_ptr<ResponseWriter> writer);

}  // namespace lanyard::web
