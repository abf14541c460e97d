#include "engine/memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

namespace lanyard::engine {

absl::StatusOr<Memory> Memory::Map(uint64_t bytes, std::string_view what) {
  Memory out;
  if (bytes == 0) return out;
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return ResourceExhausted("no memory for ", AbslView(what), ": ", bytes,
                             " bytes refused by the system (", std::strerror(errno),
                             "); give this stage fewer layers or a smaller context");
  }
  out.data_ = static_cast<uint8_t*>(data);
  out.bytes_ = bytes;
  return out;
}

Memory::~Memory() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

}  // namespace lanyard::engine
