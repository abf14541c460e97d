#include "stage/types.h"

namespace lanyard::stage {

std::string KvTypeName(KvType type) {
  switch (type) {
    case KvType::kF32: return "f32";
    case KvType::kF16: return "f16";
    case KvType::kQ8: return "q8";
  }
  return "?";
}

std::string WireTypeName(WireType type) { return type == WireType::kF32 ? "f32" : "f16"; }

absl::StatusOr<KvType> ParseKvType(std::string_view s) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8}) {
    if (s == KvTypeName(type)) return type;
  }
  return InvalidArgument("KV type '", AbslView(s), "' is not one of f32, f16, q8");
}

absl::StatusOr<WireType> ParseWireType(std::string_view s) {
  for (const WireType type : {WireType::kF32, WireType::kF16}) {
    if (s == WireTypeName(type)) return type;
  }
  return InvalidArgument("wire type '", AbslView(s), "' is not one of f32, f16");
}

std::string NumericsId::ToString() const {
  return absl::StrCat("n", version, "-kv.", KvTypeName(kv), "-wire.", WireTypeName(wire));
}

uint32_t StepBatch::TotalRows() const {
  uint32_t rows = 0;
  for (const SeqRun& run : runs) rows += run.n_rows;
  return rows;
}

uint64_t Hidden::BytesFor(WireType type, uint32_t rows, uint32_t cols) {
  const uint64_t elements = uint64_t{rows} * cols;
  return type == WireType::kF32 ? elements * 4 : elements * 2 + rows;
}

}  // namespace lanyard::stage
