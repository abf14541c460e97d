#include "engine/backend.h"

namespace lanyard::engine {

void Linear::Add(std::shared_ptr<const Matrix> matrix, int64_t n_out) {
  (matrix->wants_quantised() ? needs_quantised_ : needs_floats_) = true;
  parts_.push_back({std::move(matrix), n_out_});
  n_out_ += n_out;
}

uint64_t Linear::bytes() const {
  uint64_t bytes = 0;
  for (const Part& part : parts_) bytes += part.matrix->bytes();
  return bytes;
}

}  // namespace lanyard::engine
