// The header of a GGUF file, parsed and checked; GgufFile is made of it. Views point into the bytes
// that were parsed. Limits of this reader beyond the format's own keep its memory under the file's
// size + 64 MiB, whatever the file says.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/bytes.h"
#include "base/status.h"
#include "model/gguf.h"
#include "model/tensor_source.h"

namespace lanyard::model {

inline constexpr uint64_t kGgufMaxKeys = 65536;
inline constexpr uint64_t kGgufMaxTensors = 65536;
inline constexpr uint64_t kGgufMaxArrayElements = uint64_t{1} << 22;
inline constexpr uint64_t kGgufMaxKeyBytes = 65535;      // the format's own limit
inline constexpr uint64_t kGgufMaxTensorNameBytes = 63;  // ggml's GGML_MAX_NAME, without its NUL
inline constexpr uint32_t kGgufMaxDims = 4;
inline constexpr uint64_t kGgufDefaultAlignment = 32;

struct GgufValue {
  std::string_view key;
  GgufValueType type = GgufValueType::kUint8;
  GgufValueType element = GgufValueType::kUint8;  // for arrays; never kArray
  uint64_t count = 1;                             // elements of an array; 1 for scalars
  ByteSpan bytes;  // a scalar, a string's characters, or an array's elements
};

struct GgufHeader {
  GgufHeader() = default;
  GgufHeader(GgufHeader&&) = default;  // a copy's index would point into the original
  GgufHeader& operator=(GgufHeader&&) = default;

  uint32_t version = 0;
  uint64_t alignment = kGgufDefaultAlignment;
  uint64_t data_offset = 0;  // absolute; it lies past the end of a file without tensors
  std::vector<GgufValue> values;
  std::vector<TensorInfo> tensors;
  std::vector<uint64_t> offsets;                                 // absolute, of tensors[i]
  absl::flat_hash_map<absl::string_view, uint32_t> value_index;  // keys point into the parsed bytes
  absl::flat_hash_map<absl::string_view, uint32_t> tensor_index;  // keys point into `tensors`
};

absl::StatusOr<GgufHeader> ParseGgufHeader(ByteSpan bytes);

// Bytes of a scalar of this type; 0 for strings and arrays.
uint32_t GgufScalarBytes(GgufValueType type);
// "u32", "str"; arrays are "arr".
std::string GgufTypeName(GgufValueType type);

// Splits an array of strings. It tests lengths again, since the file may have changed after it was
// parsed.
absl::StatusOr<std::vector<std::string_view>> SplitGgufStrings(const GgufValue& value);

// Makes a name fit for error texts: quoted, escaped, at most about 80 characters, on one line.
std::string QuoteName(std::string_view name);

}  // namespace lanyard::model
