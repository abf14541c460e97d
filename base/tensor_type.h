// Element types of GGUF tensors (numbers as in the format;
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace lanyard {

enum class TensorType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

// The elements and bytes of one block; a tensor's first dimension is a multiple of `elements`.
struct TypeTraits {
  std::string_view name;  // "Q4_K"
  uint32_t elements;
  uint32_t bytes;
  bool computable;  // the engine has kernels for it
};

// nullopt for a number that GGUF has and we do not know, or that GGUF never had.
constexpr std::optional<TypeTraits> TraitsOf(TensorType type) {
  switch (type) {
    case TensorType::kF32:
      return TypeTraits{"F32", 1, 4, true};
    case TensorType::kF16:
      return TypeTraits{"F16", 1, 2, true};
    case TensorType::kQ4_0:
      return TypeTraits{"Q4_0", 32, 18, true};
    case TensorType::kQ4_1:
      return TypeTraits{"Q4_1", 32, 20, true};
    case TensorType::kQ5_0:
      return TypeTraits{"Q5_0", 32, 22, true};
    case TensorType::kQ5_1:
      return TypeTraits{"Q5_1", 32, 24, false};
    case TensorType::kQ8_0:
      return TypeTraits{"Q8_0", 32, 34, true};
    case TensorType::kQ2_K:
      return TypeTraits{"Q2_K", 256, 84, false};
    case TensorType::kQ3_K:
      return TypeTraits{"Q3_K", 256, 110, false};
    case TensorType::kQ4_K:
      return TypeTraits{"Q4_K", 256, 144, true};
    case TensorType::kQ5_K:
      return TypeTraits{"Q5_K", 256, 176, false};
    case TensorType::kQ6_K:
      return TypeTraits{"Q6_K", 256, 210, true};
    case TensorType::kBF16:
      return TypeTraits{"BF16", 1, 2, false};
  }
  return std::nullopt;
}

}  // namespace lanyard
