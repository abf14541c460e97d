// Rotation and key/value store against the scalar reference: queries and whole pages, bit for bit.
#include <cmath>

#include "engine/ops/cuda/rope.h"
#include "engine/ops/rope.h"
#include "gtest/gtest.h"
#include "tests/ptx/kernel_test_util.h"

namespace lanyard::ptx {
namespace {

using ops::KvElement;
using ops::RopePairs;

struct RopeCase {
  KvElement element;
  RopePairs pairs;
  uint32_t n_heads, n_kv_heads, head_dim, n_rot;
  bool norms;
};

class RopeKernel : public KernelTest {
 protected:
  static constexpr uint32_t kRows = 5;
  static constexpr uint32_t kPages = 4;

  // Everything of a call, for both sides.
  struct Data {
    std::vector<float> qkv, q_norm, k_norm, cos, sin;
    std::vector<ops::KvSlot> slots;
    std::vector<uint8_t> pages;
    ops::KvLayer kv;
    int64_t stride = 0;
  };

  static Data Make(const RopeCase& c) {
    Numbers numbers(c.head_dim + c.n_rot);
    Data d;
    d.kv.element = c.element;
    d.kv.n_kv_heads = static_cast<int>(c.n_kv_heads);
    d.kv.head_dim = static_cast<int>(c.head_dim);
    d.stride = (c.n_heads + 2 * c.n_kv_heads) * c.head_dim + 4;
    d.qkv = numbers.Floats(kRows * static_cast<size_t>(d.stride), 4);
    d.q_norm = numbers.Floats(c.head_dim, 2);
    d.k_norm = numbers.Floats(c.head_dim, 2);
    d.cos.resize(kRows * c.n_rot);
    d.sin.resize(kRows * c.n_rot);
    const ops::RopeFrequencies frequencies(10000.0, 1.0, static_cast<int>(c.n_rot), {});
    const uint32_t positions[kRows] = {0, 1, 4097, 77, 31};
    for (uint32_t r = 0; r < kRows; ++r) {
      frequencies.Row(positions[r], c.pairs, d.cos.data() + r * c.n_rot,
                      d.sin.data() + r * c.n_rot);
    }
    d.slots = {{2, 0}, {2, 1}, {0, 31}, {3, 13}, {1, 31}};
    d.pages = numbers.Bytes(kPages * static_cast<size_t>(d.kv.page_bytes()));
    return d;
  }

  void Check(const RopeCase& c, Data d) {
    ops::cuda::RotateArgs args;
    args.qkv = device_->Upload(d.qkv, "qkv");
    args.q_norm = c.norms ? device_->Upload(d.q_norm, "q_norm") : nullptr;
    args.k_norm = c.norms ? device_->Upload(d.k_norm, "k_norm") : nullptr;
    args.cos = device_->Upload(d.cos, "cos");
    args.sin = device_->Upload(d.sin, "sin");
    std::vector<ops::cuda::DeviceSlot> slots;
    for (const ops::KvSlot& slot : d.slots) slots.push_back({slot.page, slot.slot});
    args.slots = device_->Upload(slots, "slots");
    args.n_rows = Count(kRows);
    args.kv = {device_->Upload(d.pages, "pages"), static_cast<uint32_t>(c.element), c.n_kv_heads,
               c.head_dim, static_cast<uint32_t>(d.kv.part_bytes())};
    args.stride = static_cast<uint64_t>(d.stride);
    args.max_rows = kRows + 2;
    args.n_heads = c.n_heads;
    args.halves = c.pairs == RopePairs::kHalves;
    args.n_rot = c.n_rot;
    args.eps = 1e-6f;
    args.q_scale = 0.125f;
    EXPECT_LAUNCH(ops::cuda::RotateAndStore(*device_, args));

    d.kv.base = d.pages.data();
    ops::QkvRows rows{d.qkv.data(),
                      d.stride,
                      kRows,
                      static_cast<int>(c.n_heads),
                      c.norms ? d.q_norm.data() : nullptr,
                      c.norms ? d.k_norm.data() : nullptr,
                      1e-6f,
                      c.pairs,
                      static_cast<int>(c.n_rot),
                      d.cos.data(),
                      d.sin.data(),
                      0.125f,
                      d.kv,
                      d.slots.data()};
    ops::ThreadPool pool(1);
    ops::RotateAndStore(ops::Isa::kScalar, pool, rows);

    const std::vector<float> got = Down(args.qkv, d.qkv.size());
    for (uint32_t r = 0; r < kRows; ++r) {
      const auto begin = static_cast<ptrdiff_t>(r * static_cast<size_t>(d.stride));
      const ptrdiff_t q = c.n_heads * c.head_dim;
      EXPECT_TRUE(SameBits(std::vector<float>(got.begin() + begin, got.begin() + begin + q),
                           std::vector<float>(d.qkv.begin() + begin, d.qkv.begin() + begin + q)))
          << "row " << r;
    }
    EXPECT_TRUE(SamePages(c.element, Down(args.kv.base, d.pages.size()), d.pages));
  }

  // Bytes; in f16 NaN is NaN.
  static ::testing::AssertionResult SamePages(KvElement element, std::vector<uint8_t> got,
                                              const std::vector<uint8_t>& want) {
    if (element == KvElement::kF16) {
      for (size_t i = 0; i + 1 < got.size(); i += 2) {
        uint16_t a, b;
        std::memcpy(&a, &got[i], 2);
        std::memcpy(&b, &want[i], 2);
        if (SameHalf(a, b)) std::memcpy(&got[i], &b, 2);
      }
    }
    return SameBits(got, want);
  }
};
INSTANTIATE_KERNELS(RopeKernel);

TEST_P(RopeKernel, IsTheReference) {
  const RopeCase cases[] = {
      {KvElement::kF32, RopePairs::kInterleaved, 9, 3, 64, 64, false},
      {KvElement::kF16, RopePairs::kHalves, 4, 1, 256, 256, true},
      {KvElement::kI8, RopePairs::kInterleaved, 2, 2, 80, 40, false},
      {KvElement::kI8, RopePairs::kHalves, 3, 1, 36, 36, true},
      {KvElement::kF16, RopePairs::kInterleaved, 5, 5, 7, 6, true},
      {KvElement::kF32, RopePairs::kHalves, 1, 1, 128, 64, true},
  };
  for (const RopeCase& c : cases) {
    SCOPED_TRACE(testing::Message() << "head_dim " << c.head_dim);
    Check(c, Make(c));
  }
}

TEST_P(RopeKernel, ZeroTinyAndNotFiniteHeads) {
  for (const KvElement element : {KvElement::kI8, KvElement::kF16}) {
    const RopeCase c{element, RopePairs::kInterleaved, 1, 2, 32, 16, false};
    Data d = Make(c);
    float* k0 = d.qkv.data() + 32;
    std::fill(k0, k0 + 32, 0.0f);               // a key of zeros
    d.qkv[d.stride + 32 + 20] = std::nanf("");  // one NaN in a key
    d.qkv[2 * d.stride + 96 + 3] = HUGE_VALF;   // an infinity in a value
    d.qkv[3 * d.stride + 96 + 1] = 70000.0f;    // beyond half's range
    for (int i = 0; i < 32; ++i) d.qkv[4 * d.stride + 128 + i] = 1e-40f * static_cast<float>(i);
    Check(c, d);
  }
}

}  // namespace
}  // namespace lanyard::ptx
