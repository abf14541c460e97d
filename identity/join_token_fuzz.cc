// Join tokens are pasted by people: any text gives a token that encodes to itself, or an error.
#include <cstdint>
#include <cstdlib>

#include "identity/join_token.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto token = lanyard::identity::JoinToken::Decode(text);
  if (token.ok() && text.find(token->Encode()) == text.npos) std::abort();
  return 0;
}
