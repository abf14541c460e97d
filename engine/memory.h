// Anonymous memory that costs nothing until it is used: KV pages and the buffers of a step.
#pragma once

#include <cstdint>
#include <utility>

#include "base/status.h"

namespace lanyard::engine {

class Memory {
 public:
  Memory() = default;
  // The memory is zeroed and page-aligned. ResourceExhausted (naming `what` and the size) when the
  // system refuses.
  static absl::StatusOr<Memory> Map(uint64_t bytes, std::string_view what);
  ~Memory();
  Memory(Memory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  uint8_t* data() const { return data_; }
  float* floats() const { return reinterpret_cast<float*>(data_); }
  uint64_t bytes() const { return bytes_; }

 private:
  uint8_t* data_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace lanyard::engine
