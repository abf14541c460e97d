// Builds GGUF files in memory, correct ones and wrong ones, for tests. It is no part of the
// library.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/tensor_type.h"
#include "model/gguf.h"

namespace lanyard::model::testing {

// Little-endian bytes, one after another.
class Bytes {
 public:
  Bytes& U8(uint8_t v) { return Raw(&v, 1); }
  Bytes& U32(uint32_t v) { return Raw(&v, 4); }
  Bytes& U64(uint64_t v) { return Raw(&v, 8); }
  Bytes& F32(float v) { return Raw(&v, 4); }
  Bytes& Text(std::string_view s) { return Raw(s.data(), s.size()); }
  Bytes& Str(std::string_view s) { return U64(s.size()).Text(s); }
  Bytes& Zeros(size_t n) { return data_.resize(data_.size() + n), *this; }
  Bytes& Append(const std::vector<uint8_t>& more) { return Raw(more.data(), more.size()); }
  Bytes& Raw(const void* p, size_t n) {
    const auto* b = static_cast<const uint8_t*>(p);
    data_.insert(data_.end(), b, b + n);
    return *this;
  }
  const std::vector<uint8_t>& data() const { return data_; }

 private:
  std::vector<uint8_t> data_;
};

struct WriterTensor {
  std::string name;
  uint32_t type = 0;
  std::vector<uint64_t> dims;
  uint64_t bytes = 0;              // of the data that Build lays down for it
  std::optional<uint64_t> offset;  // written instead of the right one
  std::vector<uint8_t> data = {};  // of `bytes` bytes; empty: zeros
};

// Keys and tensors are written in the order of their first mention; a key that is set again gets
// the new value.
class GgufWriter {
 public:
  GgufWriter& U32(std::string_view key, uint32_t v);
  GgufWriter& I32(std::string_view key, int32_t v);
  GgufWriter& U64(std::string_view key, uint64_t v);
  GgufWriter& F32(std::string_view key, float v);
  GgufWriter& Bool(std::string_view key, bool v);
  GgufWriter& Str(std::string_view key, std::string_view v);
  GgufWriter& Strings(std::string_view key, const std::vector<std::string>& v);
  GgufWriter& Floats(std::string_view key, const std::vector<float>& v);
  GgufWriter& Ints(std::string_view key, const std::vector<int32_t>& v);
  // Adds a value of any type number with any bytes after it.
  GgufWriter& Value(std::string_view key, uint32_t type, const Bytes& bytes);
  // Adds a second entry of the same key.
  GgufWriter& Duplicate(std::string_view key);
  GgufWriter& Remove(std::string_view key);

  // Its data is zeros, of the size that type and dims ask for.
  GgufWriter& Tensor(std::string_view name, TensorType type, const std::vector<uint64_t>& dims);
  GgufWriter& RemoveTensor(std::string_view name);
  // Returns a tensor, so that a test can spoil it. The tensor must exist.
  WriterTensor& Edit(std::string_view name);
  std::vector<WriterTensor>& tensors() { return tensors_; }

  uint32_t version = 3;
  uint64_t alignment = 32;               // for the layout; the key general.alignment is set by hand
  std::optional<uint64_t> tensor_count;  // written instead of the correct one
  std::optional<uint64_t> kv_count;

  std::vector<uint8_t> Build() const;
  std::vector<uint8_t> BuildHeader() const;  // up to the padding before the data

 private:
  struct Entry {
    std::string key;
    uint32_t type;
    std::vector<uint8_t> bytes;
  };
  std::vector<Entry> entries_;
  std::vector<WriterTensor> tensors_;
};

// A correct model of two layers (gemma3: seven) with every weight zero: d_model 64, 4 heads of 16,
// 2 KV heads, d_ff 96, 40 tokens.
GgufWriter TinyLlama();
GgufWriter TinyGemma3();

}  // namespace lanyard::model::testing
