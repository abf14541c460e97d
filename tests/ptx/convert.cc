#include "tests/ptx/convert.h"

#include <cmath>
#include <limits>

#include "tests/ptx/half.h"

namespace lanyard::ptx {

namespace {

struct Type {
  char kind = 0;  // 'u', 's', 'f'
  uint8_t bits = 0;
};
struct Conversion {
  Type to, from;
  Rounding rounding = Rounding::kNearest;
  bool integer_rounding = false, has_rounding = false, saturate = false, dest16 = false;
};

bool ParseType(std::string_view name, Type* type) {
  if (name.size() < 2 || std::string_view("usf").find(name[0]) == std::string_view::npos)
    return false;
  const std::string_view digits = name.substr(1);
  type->kind = name[0];
  type->bits = digits == "8"    ? 8
               : digits == "16" ? 16
               : digits == "32" ? 32
               : digits == "64" ? 64
                                : 0;
  return type->bits != 0 && !(type->kind == 'f' && type->bits == 8);
}

int64_t Pack(const Conversion& c) {
  int64_t v = c.to.kind;
  v = v << 8 | c.to.bits;
  v = v << 8 | c.from.kind;
  v = v << 8 | c.from.bits;
  v = v << 4 | static_cast<int64_t>(c.rounding);
  return v << 4 | (c.integer_rounding ? 1 : 0) | (c.saturate ? 2 : 0) | (c.dest16 ? 4 : 0) |
         (c.has_rounding ? 8 : 0);
}
Conversion Unpack(int64_t v) {
  Conversion c;
  c.integer_rounding = v & 1;
  c.saturate = v & 2;
  c.dest16 = v & 4;
  c.has_rounding = v & 8;
  c.rounding = static_cast<Rounding>(v >> 4 & 15);
  c.from = {static_cast<char>(v >> 16 & 255), static_cast<uint8_t>(v >> 8 & 255)};
  c.to = {static_cast<char>(v >> 32 & 255), static_cast<uint8_t>(v >> 24 & 255)};
  return c;
}

uint64_t Load(const Warp& w, uint32_t offset, uint32_t lane, uint8_t bits) {
  if (bits == 64) return w.R<uint64_t>(offset)[lane];
  const uint32_t v = w.R<uint32_t>(offset)[lane];
  return bits == 32 ? v : v & ((1u << bits) - 1);
}
double LoadFloat(uint64_t bits, uint8_t width) {
  if (width == 64) return std::bit_cast<double>(bits);
  if (width == 32) return double{std::bit_cast<float>(static_cast<uint32_t>(bits))};
  return double{HalfToFloat(static_cast<uint16_t>(bits))};
}
uint64_t SaveFloat(double x, uint8_t width, Rounding rounding) {
  if (width == 64) return std::isnan(x) ? kDoubleNan : std::bit_cast<uint64_t>(x);
  if (width == 32) return std::bit_cast<uint32_t>(DoubleToFloat(x, rounding));
  return DoubleToHalf(x, rounding);
}

double RoundInteger(double x, Rounding rounding) {
  switch (rounding) {
    case Rounding::kNearest:
      return std::nearbyint(x);
    case Rounding::kZero:
      return std::trunc(x);
    case Rounding::kDown:
      return std::floor(x);
    case Rounding::kUp:
      return std::ceil(x);
  }
  return x;
}

uint64_t FloatToInteger(double x, const Conversion& c) {
  const bool is_signed = c.to.kind == 's';
  if (std::isnan(x)) {
    const bool top_bit = c.from.bits == 64 || c.to.bits == 64;
    return top_bit ? uint64_t{1} << (c.to.bits - 1) : 0;
  }
  x = RoundInteger(x, c.rounding);
  // The first value too large.
  const double above = std::ldexp(1.0, is_signed ? c.to.bits - 1 : c.to.bits);
  const uint64_t all = c.to.bits == 64 ? ~uint64_t{0} : (uint64_t{1} << c.to.bits) - 1;
  if (x >= above) return is_signed ? all >> 1 : all;
  if (is_signed) {
    if (x <= -above) return uint64_t{1} << (c.to.bits - 1);
    return static_cast<uint64_t>(static_cast<int64_t>(x)) & all;
  }
  return x <= 0 ? 0 : static_cast<uint64_t>(x);
}

// The nearest value with `precision` bits, exact in a double.
double RoundMagnitude(uint64_t magnitude, bool negative, int precision, Rounding rounding) {
  const int bits = magnitude == 0 ? 0 : 64 - std::countl_zero(magnitude);
  if (bits > precision) {
    const int drop = bits - precision;
    const uint64_t rest = magnitude & ((uint64_t{1} << drop) - 1), half = uint64_t{1} << (drop - 1);
    uint64_t kept = magnitude >> drop;
    const bool nearest = rest > half || (rest == half && (kept & 1) != 0);
    const bool away = rounding == Rounding::kNearest ? nearest
                      : rounding == Rounding::kUp    ? !negative && rest != 0
                      : rounding == Rounding::kDown  ? negative && rest != 0
                                                     : false;
    kept += away ? 1 : 0;
    const double value = std::ldexp(static_cast<double>(kept), drop);
    return negative ? -value : value;
  }
  return negative ? -static_cast<double>(magnitude) : static_cast<double>(magnitude);
}

int64_t SignExtend(uint64_t v, uint8_t bits) {
  return bits == 64 ? static_cast<int64_t>(v)
                    : static_cast<int64_t>(v << (64 - bits)) >> (64 - bits);
}

uint64_t IntegerToInteger(uint64_t v, const Conversion& c) {
  const uint64_t all = c.to.bits == 64 ? ~uint64_t{0} : (uint64_t{1} << c.to.bits) - 1;
  if (!c.saturate)
    return c.from.kind == 's' ? static_cast<uint64_t>(SignExtend(v, c.from.bits)) & all : v & all;
  const bool negative = c.from.kind == 's' && SignExtend(v, c.from.bits) < 0;
  if (c.to.kind == 'u') return negative ? 0 : v > all ? all : v;
  const uint64_t most = all >> 1;
  if (!negative) return v > most ? most : v;
  const int64_t s = SignExtend(v, c.from.bits), least = -static_cast<int64_t>(most) - 1;
  return static_cast<uint64_t>(s < least ? least : s) & all;
}

uint64_t Convert(uint64_t v, const Conversion& c) {
  if (c.from.kind != 'f' && c.to.kind != 'f') return IntegerToInteger(v, c);
  if (c.to.kind != 'f') return FloatToInteger(LoadFloat(v, c.from.bits), c);
  double x;
  if (c.from.kind == 'f') {
    x = LoadFloat(v, c.from.bits);
    if (c.integer_rounding && std::isfinite(x)) x = std::copysign(RoundInteger(x, c.rounding), x);
  } else {
    const int precision = c.to.bits == 64 ? 53 : c.to.bits == 32 ? 24 : 11;
    const int64_t s = SignExtend(v, c.from.bits);
    const bool negative = c.from.kind == 's' && s < 0;
    x = RoundMagnitude(negative ? 0 - static_cast<uint64_t>(s) : v, negative, precision,
                       c.rounding);
  }
  if (c.saturate) x = std::isnan(x) || x <= 0 ? 0.0 : x > 1 ? 1.0 : x;
  return SaveFloat(x, c.to.bits, c.integer_rounding ? Rounding::kNearest : c.rounding);
}

void ConvertLanes(Warp& w, const Op& op, uint32_t mask) {
  const Conversion c = Unpack(op.imm);
  for (uint32_t i = 0; i < 32; ++i) {
    if ((mask >> i & 1u) == 0) continue;
    uint64_t v = Convert(Load(w, op.src[0], i, c.from.bits), c);
    if (c.to.kind == 's' && c.to.bits == 8)
      v = static_cast<uint64_t>(SignExtend(v, 8)) & (c.dest16 ? 0xffffu : 0xffffffffu);
    if (c.to.bits == 64) {
      w.R<uint64_t>(op.dst)[i] = v;
    } else {
      w.R<uint32_t>(op.dst)[i] = static_cast<uint32_t>(v);
    }
  }
}

}  // namespace

absl::StatusOr<std::string_view> DecodeConversion(std::string_view opcode, bool dest_is_16_bits,
                                                  Op* op) {
  Conversion c;
  c.dest16 = dest_is_16_bits;
  std::vector<std::string_view> parts;
  for (size_t at = opcode.find('.'); at != std::string_view::npos;) {
    const size_t next = opcode.find('.', at + 1);
    parts.push_back(opcode.substr(at + 1, next == std::string_view::npos ? next : next - at - 1));
    at = next;
  }
  if (parts.size() < 2 || !ParseType(parts[parts.size() - 2], &c.to) ||
      !ParseType(parts.back(), &c.from)) {
    return Unimplemented("unknown types of a conversion");
  }
  for (size_t i = 0; i + 2 < parts.size(); ++i) {
    const std::string_view p = parts[i];
    if (p == "sat") {
      c.saturate = true;
      continue;
    }
    c.has_rounding = true;
    c.integer_rounding = p.size() == 3 && p[2] == 'i';
    if (p == "rn" || p == "rni")
      c.rounding = Rounding::kNearest;
    else if (p == "rz" || p == "rzi")
      c.rounding = Rounding::kZero;
    else if (p == "rm" || p == "rmi")
      c.rounding = Rounding::kDown;
    else if (p == "rp" || p == "rpi")
      c.rounding = Rounding::kUp;
    else
      return Unimplemented("unknown modifier .", AbslView(p), " of a conversion");
  }
  const bool to_float = c.to.kind == 'f', from_float = c.from.kind == 'f';
  const bool narrows = to_float && (!from_float || c.to.bits < c.from.bits);
  if (narrows && (!c.has_rounding || c.integer_rounding))
    return InvalidArgument("the conversion needs a rounding, .rn or the like");
  if (from_float && !to_float && !c.integer_rounding)
    return InvalidArgument("the conversion needs an integer rounding, .rzi or the like");
  if (!to_float && !from_float && c.has_rounding)
    return InvalidArgument("integers are not rounded");
  op->run = ConvertLanes;
  op->imm = Pack(c);
  if (to_float && from_float && (c.to.bits == 64 || c.from.bits == 64)) op->tally = kFp64;
  if (c.to.bits == 64) return c.from.bits == 64 ? "ll" : "lw";
  return c.from.bits == 64 ? "wl" : "ww";
}

}  // namespace lanyard::ptx
