// Request bodies from strangers: any bytes give a request or an error, never more.
#include <cstddef>
#include <cstdint>

#include "web/openai_request.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  (void)lanyard::web::ParseChatRequest(body).ok();
  (void)lanyard::web::ParseTextRequest(body).ok();
  return 0;
}
