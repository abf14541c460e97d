#include "stage/hidden.h"

#include <cmath>
#include <cstring>

#include "base/bytes.h"
#include "base/half.h"

namespace lanyard::stage {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "the wire is little-endian and copied as it is");

int EncodeRow(const float* x, uint32_t cols, uint8_t* out) {
  float amax = 0;
  for (uint32_t i = 0; i < cols; ++i) {
    const float a = std::fabs(x[i]);
    amax = a > amax ? a : amax;
  }
  const int exponent = HalfRowExponent(amax);
  const float down = PowerOfTwo(-exponent);
  for (uint32_t i = 0; i < cols; ++i) {
    const uint16_t half = FloatToHalf(x[i] * down);
    std::memcpy(out + uint64_t{i} * 2, &half, 2);
  }
  return exponent;
}

}  // namespace

Hidden EncodeHidden(WireType type, const float* x, uint32_t rows, uint32_t cols) {
  Hidden out;
  out.type = type;
  out.rows = rows;
  out.cols = cols;
  out.data.resize(Hidden::BytesFor(type, rows, cols));
  if (type == WireType::kF32) {
    if (!out.data.empty()) std::memcpy(out.data.data(), x, out.data.size());
    return out;
  }
  for (uint32_t r = 0; r < rows; ++r) {
    const uint64_t at = uint64_t{r} * cols;
    const int exponent = EncodeRow(x + at, cols, out.data.data() + rows + at * 2);
    out.data[r] = static_cast<uint8_t>(static_cast<int8_t>(exponent));
  }
  return out;
}

absl::StatusOr<std::vector<float>> DecodeHidden(const Hidden& hidden) {
  const uint64_t want = Hidden::BytesFor(hidden.type, hidden.rows, hidden.cols);
  if (hidden.data.size() != want) {
    return InvalidArgument("hidden states have ", hidden.data.size(), " bytes; ", hidden.rows,
                           " rows of ", hidden.cols, " in ", WireTypeName(hidden.type), " take ",
                           want);
  }
  const uint64_t elements = uint64_t{hidden.rows} * hidden.cols;
  std::vector<float> out(elements);
  for (uint64_t i = 0; i < elements; ++i) {
    if (hidden.type == WireType::kF32) {
      out[i] = LoadUnaligned<float>(hidden.data.data() + i * 4);
    } else {
      const int exponent = static_cast<int8_t>(hidden.data[i / hidden.cols]);
      const bool known = exponent >= kHalfRowExponentMin && exponent <= kHalfRowExponentMax;
      const uint16_t half = LoadUnaligned<uint16_t>(hidden.data.data() + hidden.rows + i * 2);
      out[i] = known ? HalfToFloat(half) * PowerOfTwo(exponent) : NAN;
    }
    if (!std::isfinite(out[i])) {
      return InvalidArgument(
          "hidden states: row ", i / hidden.cols, " column ", i % hidden.cols,
          " is not a finite number; the stage before has failed or its frame was damaged");
    }
  }
  return out;
}

void RoundHiddenRow(WireType type, float* x, uint32_t cols) {
  if (type == WireType::kF32) return;
  std::vector<uint8_t> halves(uint64_t{cols} * 2);
  const float up = PowerOfTwo(EncodeRow(x, cols, halves.data()));
  for (uint32_t i = 0; i < cols; ++i) {
    x[i] = HalfToFloat(LoadUnaligned<uint16_t>(halves.data() + uint64_t{i} * 2)) * up;
  }
}

}  // namespace lanyard::stage
