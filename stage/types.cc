#include "stage/types.h"

namespace lanyard::stage {

std::string KvTypeName(KvType type) {
  switch (type) {
    case KvType::kF32:
      return "f32";
    case KvType::kF16:
      return "f16";
    case KvType::kQ8:
      return "q8";
  }
  return "?";
}

std::string AttentionFormName(AttentionForm form) {
  return form == AttentionForm::kExact ? "exact" : "fast";
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

absl::StatusOr<AttentionForm> ParseAttentionForm(std::string_view s) {
  for (const AttentionForm form : {AttentionForm::kExact, AttentionForm::kFast}) {
    if (s == AttentionFormName(form)) return form;
  }
  return InvalidArgument("attention '", AbslView(s), "' is not one of exact, fast");
}

std::string NumericsId::ToString() const {
  std::string text =
      absl::StrCat("n", version, "-kv.", KvTypeName(kv), "-wire.", WireTypeName(wire));
  if (attention != AttentionForm::kExact)
    absl::StrAppend(&text, "-attn.", AttentionFormName(attention));
  return text;
}

NumericsId NumericsChoice::For(bool float_weights) const {
  NumericsId id;
  id.kv = kv.value_or(float_weights ? KvType::kF32 : KvType::kF16);
  id.wire = wire.value_or(float_weights ? WireType::kF32 : WireType::kF16);
  id.attention = attention;
  return id;
}

absl::Status CheckFastAttention(const AttentionHeads& heads, KvType kv) {
  if (kv == KvType::kF32) {
    return FailedPrecondition(
        "fast attention takes KV in f16 or q8, this is f32; use --kv f16 or --attention exact");
  }
  if (heads.head_dim != 64 && heads.head_dim != 128 && heads.head_dim != 256) {
    return FailedPrecondition(
        "fast attention is for heads of 64, 128 or 256 elements, this model's have ",
        heads.head_dim, "; use --attention exact");
  }
  constexpr uint32_t kMaxQueryHeads = 32;  // for one key/value head
  if (heads.n_kv_heads == 0 || heads.n_heads == 0 || heads.n_heads % heads.n_kv_heads != 0 ||
      heads.n_heads / heads.n_kv_heads > kMaxQueryHeads) {
    return FailedPrecondition("fast attention is for up to ", kMaxQueryHeads,
                              " query heads a key/value head, this model has ", heads.n_heads,
                              " over ", heads.n_kv_heads, "; use --attention exact");
  }
  return absl::OkStatus();
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
