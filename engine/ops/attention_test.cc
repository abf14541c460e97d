#include "engine/ops/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "engine/ops/rope.h"

namespace lanyard::ops {
namespace {

struct Case {
  int head_dim;
  int n_heads;
  int n_kv_heads;
  KvElement element;
  uint32_t window;
  RopePairs pairs;
};

// One sequence whose pages lie in reverse order.
class Sequence {
 public:
  Sequence(const Case& c, uint32_t positions, uint32_t seed) : c_(c), positions_(positions) {
    const uint32_t n_pages = (positions + kKvPositions - 1) / kKvPositions;
    for (uint32_t i = 0; i < n_pages; ++i) pages_.push_back(n_pages - 1 - i);
    kv_.element = c.element;
    kv_.n_kv_heads = c.n_kv_heads;
    kv_.head_dim = c.head_dim;
    // What no row may see: NaN in every type's bits.
    memory_.assign(n_pages * kv_.page_bytes() + 64, 0xff);
    kv_.base = memory_.data() + (64 - reinterpret_cast<uintptr_t>(memory_.data()) % 64) % 64;
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    stride_ = int64_t{c.n_heads + 2 * c.n_kv_heads} * c.head_dim;
    qkv_.resize(positions * stride_);
    for (float& x : qkv_) x = normal(rng);
    for (int i = 0; i < c.head_dim; ++i) norm_.push_back(1 + 0.1f * normal(rng));
  }

  // Rows [begin, end): rotates, stores, attends. Appends the outputs.
  void Step(Isa isa, ThreadPool& pool, uint32_t begin, uint32_t end, std::vector<float>* out) {
    const int n_rot = c_.head_dim / 2 * 2;
    const int64_t rows = end - begin;
    std::vector<float> qkv(qkv_.begin() + begin * stride_, qkv_.begin() + end * stride_);
    std::vector<float> cos(rows * n_rot), sin(rows * n_rot);
    std::vector<KvSlot> slots;
    const RopeFrequencies frequencies(10000, 1, n_rot, {});
    for (uint32_t p = begin; p < end; ++p) {
      frequencies.Row(p, c_.pairs, cos.data() + (p - begin) * n_rot,
                      sin.data() + (p - begin) * n_rot);
      slots.push_back({pages_[p / kKvPositions], p % kKvPositions});
    }
    QkvRows rotate;
    rotate.qkv = qkv.data();
    rotate.stride = stride_;
    rotate.rows = rows;
    rotate.n_heads = c_.n_heads;
    rotate.q_norm = rotate.k_norm = norm_.data();
    rotate.eps = 1e-6f;
    rotate.pairs = c_.pairs;
    rotate.n_rot = n_rot;
    rotate.cos = cos.data();
    rotate.sin = sin.data();
    rotate.q_scale = 1.0f / std::sqrt(static_cast<float>(c_.head_dim));
    rotate.kv = kv_;
    rotate.slots = slots.data();
    RotateAndStore(isa, pool, rotate);

    AttentionRun run;
    run.pos = begin;
    run.n_rows = end - begin;
    run.pages = pages_.data();
    const int64_t out_stride = int64_t{c_.n_heads} * c_.head_dim;
    const size_t at = out->size();
    out->resize(at + rows * out_stride);
    AttentionArgs args;
    args.kv = kv_;
    args.n_heads = c_.n_heads;
    args.window = c_.window;
    args.q = qkv.data();
    args.q_stride = stride_;
    args.out = out->data() + at;
    args.out_stride = out_stride;
    args.runs = &run;
    args.n_runs = 1;
    AttentionScratch scratch(pool.size(), c_.n_heads, c_.n_kv_heads, c_.head_dim, 512);
    Attend(isa, pool, args, scratch);
    last_q_ = qkv;
  }

  std::vector<float> All(Isa isa, ThreadPool& pool, uint32_t chunk) {
    std::vector<float> out;
    for (uint32_t p = 0; p < positions_; p += chunk)
      Step(isa, pool, p, std::min(positions_, p + chunk), &out);
    return out;
  }

  const std::vector<float>& last_rotated() const { return last_q_; }
  int64_t stride() const { return stride_; }

 private:
  const Case c_;
  const uint32_t positions_;
  std::vector<uint32_t> pages_;
  std::vector<uint8_t> memory_;
  KvLayer kv_;
  int64_t stride_;
  std::vector<float> qkv_, norm_, last_q_;
};

const Case kCases[] = {
    {16, 4, 2, KvElement::kF32, 0, RopePairs::kInterleaved},
    {8, 8, 2, KvElement::kF16, 0, RopePairs::kInterleaved},
    {64, 9, 3, KvElement::kF16, 0, RopePairs::kInterleaved},
    {64, 3, 1, KvElement::kI8, 0, RopePairs::kHalves},
    {24, 4, 1, KvElement::kF16, 40, RopePairs::kHalves},
    {40, 2, 2, KvElement::kI8, 300, RopePairs::kHalves},
    {128, 2, 1, KvElement::kF32, 33, RopePairs::kHalves},
    {20, 2, 1, KvElement::kI8, 1, RopePairs::kInterleaved},
};

TEST(Attention, SameBitsForEveryIsaChunkAndThreadCount) {
  ThreadPool one(1), two(2);
  for (const Case& c : kCases) {
    const uint32_t positions = 333;  // more than a span of 256
    const std::vector<float> expected = Sequence(c, positions, 1).All(Isa::kScalar, one, positions);
    for (const float x : expected) ASSERT_TRUE(std::isfinite(x)) << "a row saw what it must not";
    for (const Isa isa : RunnableIsas()) {
      for (const uint32_t chunk : {333u, 100u, 7u, 1u}) {
        if (isa == Isa::kScalar && chunk == 7) continue;
        const std::vector<float> got =
            Sequence(c, positions, 1).All(isa, chunk % 2 == 0 ? one : two, chunk);
        ASSERT_EQ(std::memcmp(got.data(), expected.data(), expected.size() * sizeof(float)), 0)
            << IsaName(isa) << " head_dim " << c.head_dim << " chunk " << chunk << " window "
            << c.window;
      }
    }
  }
}

// Against softmax(q k) v in double over the f32 values.
TEST(Attention, IsRight) {
  ThreadPool pool(1);
  const Case c = {16, 2, 1, KvElement::kF32, 0, RopePairs::kInterleaved};
  const uint32_t n = 290;
  Sequence s(c, n, 2);
  std::vector<float> out;
  s.Step(BestIsa(), pool, 0, n, &out);
  const std::vector<float>& qkv = s.last_rotated();
  for (const uint32_t p : {0u, 31u, 32u, 255u, 256u, 289u}) {
    for (int h = 0; h < 2; ++h) {
      std::vector<double> weights;
      double total = 0;
      for (uint32_t j = 0; j <= p; ++j) {
        double score = 0;
        for (int d = 0; d < 16; ++d) {
          score += double(qkv[p * s.stride() + h * 16 + d]) * qkv[j * s.stride() + 32 + d];
        }
        weights.push_back(std::exp(score));
        total += weights.back();
      }
      for (int d = 0; d < 16; ++d) {
        double expected = 0;
        for (uint32_t j = 0; j <= p; ++j)
          expected += weights[j] / total * qkv[j * s.stride() + 48 + d];
        EXPECT_NEAR(out[p * 32 + h * 16 + d], expected, 1e-5) << p;
      }
    }
  }
}

TEST(Rope, RotatesByPositionTimesFrequency) {
  const RopeFrequencies plain(10000, 1, 8, {}), scaled(10000, 0.25, 8, {1, 2, 4, 8});
  std::vector<float> cos(8), sin(8);
  for (const uint32_t pos : {0u, 1u, 1000u, 32767u}) {
    plain.Row(pos, RopePairs::kInterleaved, cos.data(), sin.data());
    for (int i = 0; i < 4; ++i) {
      const double angle = pos * std::pow(10000.0, -2.0 * i / 8);
      EXPECT_NEAR(cos[2 * i], std::cos(angle), 1e-7);
      EXPECT_NEAR(sin[2 * i], -std::sin(angle), 1e-7);
      EXPECT_NEAR(sin[2 * i + 1], std::sin(angle), 1e-7);
    }
    scaled.Row(pos, RopePairs::kHalves, cos.data(), sin.data());
    for (int i = 0; i < 4; ++i) {
      const double angle = pos * std::pow(10000.0, -2.0 * i / 8) * 0.25 / (1 << i);
      EXPECT_NEAR(cos[i], std::cos(angle), 1e-7);
      EXPECT_EQ(cos[i], cos[i + 4]);
      EXPECT_NEAR(sin[i + 4], std::sin(angle), 1e-7);
      EXPECT_EQ(sin[i], -sin[i + 4]);
    }
  }
}

}  // namespace
}  // namespace lanyard::ops
