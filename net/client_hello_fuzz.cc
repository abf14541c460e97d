// What strangers send first.
#include <cstdint>
#include <cstdlib>

#include "net/client_hello.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto hello = lanyard::net::ParseClientHello({data, size});
  if (hello.state != lanyard::net::ClientHello::State::kDone &&
      size >= lanyard::net::kMaxClientHelloBytes &&
      hello.state == lanyard::net::ClientHello::State::kNeedMore) {
    std::abort();  // it would be waited for without end
  }
  return 0;
}
