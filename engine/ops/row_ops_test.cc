// Every instruction set against the scalar reference, bit for bit, over awkward widths.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "base/half.h"
#include "engine/ops/activation.h"
#include "engine/ops/logits.h"
#include "engine/ops/residual.h"
#include "engine/ops/row_kernels.h"

namespace lanyard::ops {
namespace {

constexpr int64_t kWidths[] = {1, 7, 16, 17, 31, 64, 96, 160, 576, 1001};

std::vector<float> Random(int64_t n, uint32_t seed, float size = 1) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0, size);
  std::vector<float> x(n);
  for (float& v : x) v = normal(rng);
  if (n > 3) x[2] = 0, x[3] = -0.0f;
  return x;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(Residual, SameBitsEverywhere) {
  ThreadPool one(1), two(2);
  for (const int64_t n : kWidths) {
    const int64_t rows = 19;
    const std::vector<float> x0 = Random(rows * n, 1, 1000), delta = Random(rows * n, 2),
                             w1 = Random(n, 3), w2 = Random(n, 4);
    for (int steps = 0; steps < 16; ++steps) {
      const auto run = [&](Isa isa, ThreadPool& pool, std::vector<float>* x,
                           std::vector<float>* out) {
        ResidualRows args;
        *x = x0;
        out->assign(rows * n, 0);
        args.x = x->data();
        args.delta = steps & 1 ? delta.data() : nullptr;
        args.delta_norm = steps & 2 ? w1.data() : nullptr;
        args.round_f16 = steps & 4;
        args.norm = steps & 8 ? w2.data() : nullptr;
        args.out = out->data();
        args.rows = rows;
        args.n = n;
        args.eps = 1e-6f;
        Residual(isa, pool, args);
      };
      std::vector<float> x, out, x2, out2;
      run(Isa::kScalar, one, &x, &out);
      for (const Isa isa : RunnableIsas()) {
        run(isa, two, &x2, &out2);
        EXPECT_TRUE(SameBits(x, x2) && SameBits(out, out2))
            << IsaName(isa) << " n " << n << " steps " << steps;
      }
    }
  }
}

TEST(Residual, NormIsRight) {
  ThreadPool pool(1);
  std::vector<float> x = Random(100, 5), w(100, 2.0f), out(100);
  ResidualRows args;
  args.x = x.data();
  args.norm = w.data();
  args.out = out.data();
  args.rows = 1;
  args.n = 100;
  args.eps = 1e-5f;
  Residual(BestIsa(), pool, args);
  double squares = 0;
  for (const float v : x) squares += static_cast<double>(v) * v;
  for (int i = 0; i < 100; ++i)
    EXPECT_NEAR(out[i], 2 * x[i] / std::sqrt(squares / 100 + 1e-5), 1e-5);
}

TEST(HalfRows, SameBytesAndStable) {
  ThreadPool one(1), two(2);
  for (const int64_t n : kWidths) {
    const int64_t rows = 9;
    std::vector<float> x = Random(rows * n, 6);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < n; ++i)
        x[r * n + i] *= std::pow(10.0f, static_cast<float>(r * 4 - 16));
    }
    std::vector<uint8_t> expected(rows + rows * n * 2), bytes(expected.size());
    EncodeHalfRows(Isa::kScalar, one, x.data(), {rows, n}, expected.data());
    std::vector<float> decoded(rows * n), other(rows * n);
    EXPECT_TRUE(DecodeHalfRows(Isa::kScalar, one, expected.data(), {rows, n}, decoded.data()));
    for (const Isa isa : RunnableIsas()) {
      EncodeHalfRows(isa, two, x.data(), {rows, n}, bytes.data());
      EXPECT_EQ(bytes, expected) << IsaName(isa) << " n " << n;
      EXPECT_TRUE(DecodeHalfRows(isa, two, bytes.data(), {rows, n}, other.data()));
      EXPECT_TRUE(SameBits(decoded, other)) << IsaName(isa);
      EncodeHalfRows(isa, two, decoded.data(), {rows, n}, bytes.data());
      EXPECT_EQ(bytes, expected) << "rounding twice, " << IsaName(isa) << " n " << n;
      // The layer's end rounds to exactly what the wire carries.
      ResidualRows round;
      std::vector<float> y = x;
      round.x = y.data();
      round.round_f16 = true;
      round.rows = rows;
      round.n = n;
      Residual(isa, two, round);
      EXPECT_TRUE(SameBits(y, decoded)) << IsaName(isa) << " n " << n;
    }
  }
}

TEST(HalfRows, SeesWhatIsNotFinite) {
  ThreadPool pool(1);
  for (const Isa isa : RunnableIsas()) {
    for (const int64_t at : {0, 20, 36}) {
      std::vector<float> x = Random(37, 7);
      std::vector<uint8_t> bytes(1 + 37 * 2);
      EncodeHalfRows(isa, pool, x.data(), {1, 37}, bytes.data());
      for (const uint16_t bad : {uint16_t{0x7c00}, uint16_t{0xfe00}}) {
        std::vector<uint8_t> damaged = bytes;
        std::memcpy(damaged.data() + 1 + at * 2, &bad, 2);
        EXPECT_FALSE(DecodeHalfRows(isa, pool, damaged.data(), {1, 37}, x.data()));
      }
      EXPECT_TRUE(AllFinite(isa, Random(37, 8).data(), 37));
      for (const float bad : {NAN, INFINITY, -INFINITY}) {
        std::vector<float> y = Random(37, 8);
        y[at] = bad;
        EXPECT_FALSE(AllFinite(isa, y.data(), 37)) << at;
      }
    }
  }
}

TEST(GateMul, SameBitsEverywhere) {
  ThreadPool one(1), two(2);
  for (const Activation act : {Activation::kSilu, Activation::kGeluTanh}) {
    for (const int64_t n : kWidths) {
      std::vector<float> x0 = Random(2 * n * 11, 9, 20);
      x0[0] = -100, x0[1] = 200;
      std::vector<float> x = x0;
      GateMul(Isa::kScalar, one, {act, x.data(), 11, n});
      for (const Isa isa : RunnableIsas()) {
        std::vector<float> y = x0;
        GateMul(isa, two, {act, y.data(), 11, n});
        EXPECT_TRUE(SameBits(x, y)) << IsaName(isa) << " n " << n;
      }
    }
  }
}

TEST(Logits, SameBitsEverywhere) {
  ThreadPool one(1), two(2);
  for (const int64_t n : {1, 5, 288, 4096, 4097, 49152}) {
    const std::vector<float> x = Random(n, 10, 5);
    LogitStats a, b;
    ASSERT_TRUE(SummariseLogits(Isa::kScalar, one, x.data(), n, &a));
    for (const Isa isa : RunnableIsas()) {
      ASSERT_TRUE(SummariseLogits(isa, two, x.data(), n, &b));
      EXPECT_EQ(a.sum, b.sum);
      EXPECT_EQ(a.lse, b.lse);
      EXPECT_EQ(a.argmax, b.argmax);
      std::vector<float> s, t;
      ChunkSums(Isa::kScalar, one, x, {a.max, 0.7f}, &s);
      ChunkSums(isa, two, x, {a.max, 0.7f}, &t);
      EXPECT_EQ(s, t);
    }
  }
}

}  // namespace
}  // namespace lanyard::ops
