// Where a stage's weights come from: a GGUF file, or a worker's cache of verified parts.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/tensor_type.h"

namespace lanyard::model {

struct TensorInfo {
  std::string name;  // GGUF name: "blk.0.attn_q.weight"
  TensorType type = TensorType::kF32;
  std::vector<uint64_t> dims;  // in GGUF's order: dims[0] is contiguous (a matrix is [n_in, n_out])
  uint64_t bytes = 0;
};

// Thread-safe. Reads never map the file into the process, since a mapped page would count in RSS
// beside its re-laid copy.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  // nullptr when there is no such tensor. The pointer lives as long as the source.
  virtual const TensorInfo* Find(std::string_view name) const = 0;
  // Fills `out` from byte `offset` of the tensor. OutOfRange past its end, DataLoss when the file
  // is shorter.
  virtual absl::Status Read(std::string_view name, uint64_t offset,
                            std::span<uint8_t> out) const = 0;
};

}  // namespace lanyard::model
