// Reads GGUF v2 and v3 files, memory-mapped and untrusted
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Every length is tested against the
// bytes that remain before anything is allocated; a malformed file gives one line that names the
// field, the offset and the limit. Tensor data is read with pread, never through the mapping.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "model/tensor_source.h"

namespace lanyard::model {

enum class GgufValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// An immutable, thread-safe view of an open file. Strings and arrays point into the mapping and
// live as long as the file.
class GgufFile : public TensorSource {
 public:
  // Maps the file and parses the header. It checks no meaning; ShapeFromGguf does that.
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path);
  // Parses bytes that the caller keeps alive (fuzzing, tests).
  static absl::StatusOr<std::unique_ptr<GgufFile>> Parse(ByteSpan bytes);
  ~GgufFile() override;

  uint32_t version() const;
  uint64_t file_bytes() const;
  uint64_t alignment() const;
  // Where tensor data begins; it may lie past the end of a file without tensors.
  uint64_t data_offset() const;
  const std::string& path() const;  // empty after Parse

  // NotFound when the key is absent; InvalidArgument (naming key, wanted and found type) when it
  // has another type. Integers of every width convert where the value fits.
  bool Has(std::string_view key) const;
  absl::StatusOr<uint64_t> Uint(std::string_view key) const;
  absl::StatusOr<int64_t> Int(std::string_view key) const;
  absl::StatusOr<double> Float(std::string_view key) const;
  absl::StatusOr<bool> Bool(std::string_view key) const;
  absl::StatusOr<std::string_view> String(std::string_view key) const;
  absl::StatusOr<std::vector<std::string_view>> Strings(std::string_view key) const;
  absl::StatusOr<std::vector<float>> Floats(std::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> Ints(std::string_view key) const;
  // The number of elements of an array, without reading it; NotFound and InvalidArgument as above.
  absl::StatusOr<uint64_t> ArrayLength(std::string_view key) const;

  // For `inspect`: every key in the file's order, with a short rendering of its value.
  struct Entry {
    std::string_view key;
    std::string type;     // "u32", "arr[str]"
    std::string preview;  // at most 120 characters, control characters escaped
  };
  std::vector<Entry> Entries() const;

  const std::vector<TensorInfo>& tensors() const;
  // Absolute offset of the tensor's first byte in the file; nullopt when there is no such tensor.
  std::optional<uint64_t> OffsetOf(std::string_view tensor) const;

  const TensorInfo* Find(std::string_view name) const override;
  absl::Status Read(std::string_view name, uint64_t offset, std::span<uint8_t> out) const override;

 private:
  struct Impl;
  explicit GgufFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lanyard::model
