#include "engine/ops/math.h"

namespace lanyard::ops {
namespace {

uint64_t Bits64(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

double Double(uint64_t bits) {
  double x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// Its low 32 bits are zero, so n * kLn2Hi is exact.
constexpr double kLn2Hi = 6.93147180369123816490e-01;
constexpr double kLn2Lo = 1.90821492927058770002e-10;
// The factors of step k of the Taylor series: -1 / ((2k+2)(2k+3)) and -1 / ((2k+1)(2k+2)).
constexpr double kSinSteps[9] = {-1.0 / 6,   -1.0 / 20,  -1.0 / 42,  -1.0 / 72, -1.0 / 110,
                                 -1.0 / 156, -1.0 / 210, -1.0 / 272, -1.0 / 342};
constexpr double kCosSteps[9] = {-1.0 / 2,   -1.0 / 12,  -1.0 / 30,  -1.0 / 56, -1.0 / 90,
                                 -1.0 / 132, -1.0 / 182, -1.0 / 240, -1.0 / 306};
constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52

}  // namespace

double ExpDouble(double x) {
  if (x != x) return x;
  if (x < -708.0) return 0.0;
  if (x > 709.0) return HUGE_VAL;
  const double t = x * 1.44269504088896338700 + kMagic;
  const double n = t - kMagic;
  const double r = (x - n * kLn2Hi) - n * kLn2Lo;
  // Taylor to r^13: with |r| <= 0.347 the rest is below 1e-17.
  double p = 1.0;
  for (int k = 13; k >= 1; --k) p = 1.0 + p * r / k;
  return Double(Bits64(p) + (Bits64(t) << 52));
}

double LogDouble(double x) {
  const uint64_t bits = Bits64(x);
  int exponent = static_cast<int>((bits >> 52) & 0x7ff) - 1023;
  double m = Double((bits & 0xfffffffffffffull) | 0x3ff0000000000000ull);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  // log m = 2 atanh(s), s = (m - 1) / (m + 1), |s| <= 0.172.
  const double s = (m - 1.0) / (m + 1.0);
  const double z = s * s;
  double p = 0.0;
  for (int k = 12; k >= 0; --k) p = p * z + 1.0 / (2 * k + 1);
  const double log_m = 2.0 * s * p;
  return exponent * kLn2Hi + (exponent * kLn2Lo + log_m);
}

void SinCosDouble(double x, double* sin_out, double* cos_out) {
  // Here x = n * pi/2 + r, with pi/2 in three parts of 33 bits each (fdlibm's).
  constexpr double kPio2A = 1.57079632673412561417e+00;
  constexpr double kPio2B = 6.07710050630396597660e-11;
  constexpr double kPio2C = 2.02226624879595063154e-21;
  const double t = x * 6.36619772367581382433e-01 + kMagic;
  const double n = t - kMagic;
  const uint64_t quadrant = Bits64(t) & 3;
  double r = x - n * kPio2A;
  r = r - n * kPio2B;
  r = r - n * kPio2C;
  const double z = r * r;
  // Taylor with |r| <= pi/4: the first terms left out are below 1e-19.
  double s = 0.0;
  double c = 0.0;
  for (int k = 8; k >= 0; --k) {
    s = (1.0 + s) * (z * kSinSteps[k]);
    c = (1.0 + c) * (z * kCosSteps[k]);
  }
  s = r + r * s;
  c = 1.0 + c;
  switch (quadrant) {
    case 0:
      *sin_out = s, *cos_out = c;
      break;
    case 1:
      *sin_out = c, *cos_out = -s;
      break;
    case 2:
      *sin_out = -s, *cos_out = -c;
      break;
    default:
      *sin_out = -c, *cos_out = s;
      break;
  }
}

}  // namespace lanyard::ops
