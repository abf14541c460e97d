// Attention kernels against the scalar reference, bit for bit: decode over spans, prefill in tiles,
// rows of any head size. Positions that no row sees are not there: their memory counts as never
// written, and holds NaN.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "base/half.h"
#include "engine/ops/attention.h"
#include "engine/ops/cuda/attention.h"
#include "gtest/gtest.h"
#include "tests/ptx/kernel_test_util.h"

namespace lanyard::ptx {
namespace {

using ops::KvElement;
using ops::cuda::AttentionShape;

// A run: rows pos .. pos + n_rows - 1 of a sequence that has all positions up to its last row.
struct RunSpec {
  uint32_t pos;
  uint32_t n_rows;
};

struct Case {
  KvElement element;
  AttentionShape shape;
  uint32_t window;
  std::vector<RunSpec> runs;
};

// A frame with its pages, the same for both sides.
class Frame {
 public:
  explicit Frame(const Case& c) : case_(c), numbers_(c.shape.head_dim * 31 + c.window) {
    kv_.element = c.element;
    kv_.n_kv_heads = static_cast<int>(c.shape.n_kv_heads);
    kv_.head_dim = static_cast<int>(c.shape.head_dim);
    uint32_t total = 0;
    for (const RunSpec& run : c.runs) {
      const uint32_t last = run.pos + run.n_rows - 1;
      const uint32_t first = FirstBlock(run.pos);
      firsts_.push_back(first);
      counts_.push_back(last / 32 - first + 1);
      total += counts_.back();
      rows_ += run.n_rows;
    }
    // Pages in a shuffled order, some of which belong to no sequence.
    std::vector<uint32_t> ids(total + 3);
    for (uint32_t i = 0; i < ids.size(); ++i) ids[i] = i;
    for (size_t i = ids.size(); i > 1; --i) std::swap(ids[i - 1], ids[numbers_.Below(i)]);
    pages_.assign(ids.size() * static_cast<size_t>(kv_.page_bytes()), 0xff);  // NaN in every type
    written_.assign(pages_.size(), false);
    size_t next = 0;
    for (size_t i = 0; i < c.runs.size(); ++i) {
      tables_.emplace_back(ids.begin() + static_cast<ptrdiff_t>(next),
                           ids.begin() + static_cast<ptrdiff_t>(next + counts_[i]));
      next += counts_[i];
      for (uint32_t p = FirstPosition(c.runs[i].pos); p < c.runs[i].pos + c.runs[i].n_rows; ++p) {
        Fill(tables_[i][p / 32 - firsts_[i]], static_cast<int>(p % 32));
      }
    }
    kv_.base = pages_.data();
    const size_t width = size_t{c.shape.n_heads} * c.shape.head_dim;
    q_stride_ = width + 8;
    out_stride_ = width + 4;
    q_ =
        numbers_.Floats(rows_ * q_stride_, 24.0f / std::sqrt(static_cast<float>(c.shape.head_dim)));
  }

  std::vector<ops::AttentionRun> Runs() const {
    std::vector<ops::AttentionRun> runs;
    int64_t row = 0;
    for (size_t i = 0; i < case_.runs.size(); ++i) {
      runs.push_back({row, case_.runs[i].pos, case_.runs[i].n_rows, tables_[i].data(), firsts_[i]});
      row += case_.runs[i].n_rows;
    }
    return runs;
  }

  std::vector<float> Reference() {
    std::vector<float> out(rows_ * out_stride_, 5.0f);
    const std::vector<ops::AttentionRun> runs = Runs();
    ops::ThreadPool pool(1);
    ops::AttentionScratch scratch(1, static_cast<int>(case_.shape.n_heads), kv_.n_kv_heads,
                                  kv_.head_dim, static_cast<int64_t>(rows_));
    ops::Attend(ops::Isa::kScalar, pool,
                {kv_, static_cast<int>(case_.shape.n_heads), case_.window, q_.data(),
                 static_cast<int64_t>(q_stride_), out.data(), static_cast<int64_t>(out_stride_),
                 runs.data(), static_cast<int64_t>(runs.size())},
                scratch);
    return out;
  }

  // The pages on a device; what was not written counts as such.
  uint8_t* UploadPages(InterpreterLauncher& device) const {
    uint8_t* base = device.Upload(pages_, "pages");
    for (size_t i = 0; i < written_.size();) {
      size_t end = i;
      while (end < written_.size() && !written_[end]) ++end;
      if (end > i) {
        EXPECT_TRUE(
            device.memory().MarkUninitialised(reinterpret_cast<uint64_t>(base) + i, end - i).ok());
      }
      i = end + 1;
    }
    return base;
  }

  uint32_t LongestContext() const {
    uint32_t context = 0;
    for (const RunSpec& run : case_.runs) context = std::max(context, run.pos + run.n_rows);
    return context;
  }

  std::vector<float>& q() { return q_; }
  std::vector<uint8_t>& pages() { return pages_; }
  const std::vector<uint32_t>& counts() const { return counts_; }
  const ops::KvLayer& kv() const { return kv_; }
  size_t rows() const { return rows_; }
  uint64_t q_stride() const { return q_stride_; }
  uint64_t out_stride() const { return out_stride_; }

 private:
  // A window's old pages are freed: the table begins with the first page that the first row sees.
  uint32_t FirstPosition(uint32_t pos) const {
    return case_.window != 0 && pos >= case_.window ? pos - case_.window + 1 : 0;
  }
  uint32_t FirstBlock(uint32_t pos) const { return FirstPosition(pos) / 32; }

  template <typename T>
  void Put(uint8_t* at, T value) {
    std::memcpy(at, &value, sizeof(value));
    std::fill_n(written_.begin() + (at - pages_.data()), sizeof(value), true);
  }

  void Fill(uint32_t page, int slot) {
    kv_.base = pages_.data();
    const int hd = kv_.head_dim;
    for (int head = 0; head < kv_.n_kv_heads; ++head) {
      for (int part = 0; part < 2; ++part) {
        uint8_t* base = part == 0 ? kv_.Keys(page, head) : kv_.Values(page, head);
        for (int d = 0; d < hd; ++d) {
          const int64_t at = part == 0 ? int64_t{d} * 32 + slot : int64_t{slot} * hd + d;
          const float v = numbers_.Uniform(2);
          if (kv_.element == KvElement::kF32) Put(base + at * 4, v);
          if (kv_.element == KvElement::kF16) Put(base + at * 2, FloatToHalf(v));
          if (kv_.element == KvElement::kI8) Put(base + at, static_cast<int8_t>(v * 63));
        }
        if (kv_.element == KvElement::kI8)
          Put(base + int64_t{hd} * 32 + slot * 4, 0.01f + std::fabs(numbers_.Uniform(0.02f)));
      }
    }
  }

  Case case_;
  Numbers numbers_;
  ops::KvLayer kv_;
  size_t rows_ = 0;
  uint64_t q_stride_ = 0, out_stride_ = 0;
  std::vector<uint8_t> pages_;
  std::vector<bool> written_;
  std::vector<uint32_t> firsts_, counts_;
  std::vector<std::vector<uint32_t>> tables_;
  std::vector<float> q_;
};

enum class Force { kNone, kDecode, kPrefill };
enum class Form { kExact, kFast };

class AttentionKernels : public KernelTest {
 protected:
  // The frame's rows by the kernels that PlanAttention picks, or all by one kind.
  std::vector<float> Run(const Case& c, Frame& frame, Force force, Form form = Form::kExact) {
    const std::vector<ops::AttentionRun> runs = frame.Runs();
    ops::cuda::AttentionPlan plan;
    ops::cuda::PlanAttention(runs, frame.counts(), c.shape, &plan);
    if (force != Force::kNone) Redeal(force, &plan);

    ops::cuda::AttendArgs args;
    args.kv = {frame.UploadPages(*device_), static_cast<uint32_t>(c.element), c.shape.n_kv_heads,
               c.shape.head_dim, static_cast<uint32_t>(frame.kv().part_bytes())};
    args.q = device_->Upload(frame.q(), "q");
    args.q_stride = frame.q_stride();
    args.out_stride = frame.out_stride();
    const std::vector<float> before(frame.rows() * frame.out_stride(), 5.0f);
    args.out = device_->Upload(before, "out");
    args.page_table = device_->Upload(plan.page_table, "page_table");
    args.n_heads = c.shape.n_heads;
    args.window = c.window;
    if (!plan.decode.empty()) {
      args.tiles = device_->Upload(plan.decode, "decode tiles");
      args.n_tiles = Count(static_cast<uint32_t>(plan.decode.size()));
      args.max_tiles = static_cast<uint32_t>(plan.decode.size()) + 1;
      args.max_spans = ops::cuda::MaxSpans(frame.LongestContext(), c.window) + extra_spans_;
      args.partials = device_->Alloc<float>(
          ops::cuda::PartialFloats(c.shape, args.max_tiles, args.max_spans), "partials");
      const auto attend =
          form == Form::kFast ? ops::cuda::AttendFastDecode : ops::cuda::AttendDecode;
      EXPECT_LAUNCH(attend(*device_, args));
    }
    if (!plan.prefill.empty()) {
      args.tiles = device_->Upload(plan.prefill, "prefill tiles");
      args.n_tiles = Count(static_cast<uint32_t>(plan.prefill.size()));
      args.max_tiles = static_cast<uint32_t>(plan.prefill.size()) + 1;
      const auto attend =
          form == Form::kFast ? ops::cuda::AttendFastPrefill : ops::cuda::AttendPrefill;
      EXPECT_LAUNCH(attend(*device_, args));
    }
    return Down(args.out, before.size());
  }

  static void Redeal(Force force, ops::cuda::AttentionPlan* plan) {
    std::vector<ops::cuda::AttentionTile> all = plan->decode;
    all.insert(all.end(), plan->prefill.begin(), plan->prefill.end());
    plan->decode.clear();
    plan->prefill.clear();
    const bool decode = force == Force::kDecode;
    for (const auto& tile : all) {
      if (!decode) {
        plan->prefill.push_back(tile);
        continue;
      }
      for (uint32_t i = 0; i < tile.n_rows; ++i) {
        plan->decode.push_back({tile.row + i, 1, tile.pos + i, tile.pages, tile.first});
      }
    }
  }

  void Check(const Case& c, Force force = Force::kNone) {
    SCOPED_TRACE(testing::Message() << "element " << static_cast<int>(c.element) << ", heads "
                                    << c.shape.n_heads << "/" << c.shape.n_kv_heads << " of "
                                    << c.shape.head_dim << ", window " << c.window);
    Frame frame(c);
    EXPECT_TRUE(SameBits(Run(c, frame, force), frame.Reference()));
  }

  // The fast form: near the exact one, and the same bits by single rows and by tiles.
  void CheckFast(const Case& c) {
    SCOPED_TRACE(testing::Message() << "fast, element " << static_cast<int>(c.element) << ", heads "
                                    << c.shape.n_heads << "/" << c.shape.n_kv_heads << " of "
                                    << c.shape.head_dim << ", window " << c.window);
    Frame frame(c);
    const std::vector<float> exact = frame.Reference();
    const std::vector<float> tiles = Run(c, frame, Force::kPrefill, Form::kFast);
    float worst = 0;
    double squares = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
      worst = std::max(worst, std::fabs(exact[i] - tiles[i]));
      squares +=
          static_cast<double>(exact[i] - tiles[i]) * static_cast<double>(exact[i] - tiles[i]);
    }
    // Values are up to 2, scores up to 30: a score's half is off by up to 0.01, its probability by
    // 1 %.
    EXPECT_LT(worst, 0.04f);
    EXPECT_LT(std::sqrt(squares / static_cast<double>(exact.size())), 0.004);
    EXPECT_TRUE(SameBits(Run(c, frame, Force::kDecode, Form::kFast), tiles));
  }

  uint32_t extra_spans_ = 0;
};
INSTANTIATE_KERNELS(AttentionKernels);

// Tensor cores' form, which kernels of level 80 and more have.
class FastAttentionKernels : public AttentionKernels {};

INSTANTIATE_KERNELS_FROM(80, FastAttentionKernels);

TEST_P(AttentionKernels, DecodeOfEveryTypeAndLength) {
  for (const KvElement element : {KvElement::kF32, KvElement::kF16, KvElement::kI8}) {
    // One position; a page's end and a position more; a span's end and more; three spans.
    Check({element, {6, 2, 64}, 0, {{0, 1}, {31, 1}, {32, 1}, {255, 1}, {256, 1}, {600, 1}}},
          Force::kDecode);
  }
}

TEST_P(AttentionKernels, DecodeOfEveryHeadSize) {
  // Groups of 1, 3, 5 and 8; sizes with one, two and four queries a thread.
  Check({KvElement::kF16, {1, 1, 128}, 0, {{300, 1}}}, Force::kDecode);
  Check({KvElement::kF16, {5, 1, 256}, 0, {{270, 1}}}, Force::kDecode);
  Check({KvElement::kI8, {8, 1, 80}, 0, {{70, 1}}}, Force::kDecode);
  Check({KvElement::kF32, {3, 1, 20}, 0, {{33, 2}}}, Force::kDecode);
  Check({KvElement::kF16, {4, 1, 576}, 0, {{40, 1}}}, Force::kDecode);
  Check({KvElement::kI8, {2, 1, 1024}, 0, {{3, 1}}}, Force::kDecode);
}

TEST_P(AttentionKernels, DecodeWithAWindow) {
  // Windows inside a page, over pages, over spans, and one that begins on a span's last position.
  Check({KvElement::kF16, {2, 1, 32}, 5, {{3, 1}, {40, 1}, {258, 1}}}, Force::kDecode);
  Check({KvElement::kF32, {2, 2, 32}, 70, {{69, 1}, {70, 1}, {300, 1}, {512, 1}}}, Force::kDecode);
  Check({KvElement::kI8, {2, 1, 32}, 258, {{512, 1}, {700, 1}}}, Force::kDecode);
}

TEST_P(AttentionKernels, MoreSpansThanThereAre) {
  extra_spans_ = 3;  // a graph made for longer sequences
  Check({KvElement::kF16, {3, 1, 64}, 0, {{10, 1}, {300, 1}}}, Force::kDecode);
}

TEST_P(AttentionKernels, PrefillOfEveryType) {
  for (const KvElement element : {KvElement::kF32, KvElement::kF16, KvElement::kI8}) {
    Check({element, {3, 1, 64}, 0, {{0, 13}, {250, 12}}});
    Check({element, {2, 1, 128}, 0, {{0, 40}}});
  }
  Check({KvElement::kF16, {4, 1, 256}, 0, {{17, 9}}});
}

TEST_P(AttentionKernels, PrefillWithAWindow) {
  Check({KvElement::kF16, {2, 2, 64}, 20, {{0, 45}}});
  Check({KvElement::kF32, {1, 1, 64}, 40, {{240, 50}}});  // the span's end within the tile
  Check({KvElement::kI8, {4, 1, 128}, 270, {{505, 9}}});  // some rows see two spans, some three
  Check({KvElement::kF16, {4, 1, 64}, 270, {{520, 8}}});  // the first span differs from row to row
}

TEST_P(AttentionKernels, PrefillOfAnyHeadSize) {
  Check({KvElement::kF16, {3, 1, 80}, 0, {{0, 5}, {255, 3}}});
  Check({KvElement::kI8, {2, 1, 20}, 50, {{200, 4}, {515, 3}}});
}

TEST_P(AttentionKernels, DecodeAndPrefillInOneFrame) {
  Check({KvElement::kF16, {4, 2, 64}, 0, {{33, 1}, {5, 20}, {290, 2}, {60, 3}}});
}

TEST_P(AttentionKernels, ARowsWayDoesNotShow) {
  const Case c{KvElement::kF16, {4, 2, 64}, 0, {{250, 10}}};
  Frame frame(c);
  const std::vector<float> tiles = Run(c, frame, Force::kPrefill);
  EXPECT_TRUE(SameBits(Run(c, frame, Force::kDecode), tiles));
}

TEST_P(AttentionKernels, NotFiniteStaysInItsRow) {
  // A NaN in the key of position 20 and an infinity in the value of 21: rows before do not notice.
  const Case c{KvElement::kF32, {1, 1, 64}, 0, {{12, 15}}};
  Frame frame(c);
  const std::vector<ops::AttentionRun> runs = frame.Runs();
  reinterpret_cast<float*>(frame.kv().Keys(runs[0].pages[0], 0))[7 * 32 + 20] = std::nanf("");
  reinterpret_cast<float*>(frame.kv().Values(runs[0].pages[0], 0))[21 * 64 + 9] = HUGE_VALF;
  const std::vector<float> want = frame.Reference();
  EXPECT_TRUE(SameBits(Run(c, frame, Force::kPrefill), want));
  EXPECT_TRUE(SameBits(Run(c, frame, Force::kDecode), want));
  EXPECT_TRUE(std::isfinite(want[7 * frame.out_stride() + 9]));
  EXPECT_FALSE(std::isfinite(want[9 * frame.out_stride() + 9]));
}

TEST_P(FastAttentionKernels, IsNearAndTheSameOnEveryWay) {
  CheckFast({KvElement::kF16, {3, 1, 64}, 0, {{0, 13}, {250, 12}}});
  CheckFast({KvElement::kF16, {8, 2, 128}, 0, {{500, 9}}});
  CheckFast({KvElement::kI8, {4, 1, 256}, 0, {{17, 9}}});
  CheckFast({KvElement::kI8, {2, 2, 64}, 40, {{240, 50}}});
  CheckFast({KvElement::kF16, {4, 1, 64}, 270, {{520, 8}}});
}

TEST_P(FastAttentionKernels, KeepsNotFiniteInItsRows) {
  const Case c{KvElement::kF16, {1, 1, 64}, 0, {{12, 15}}};
  Frame frame(c);
  const uint32_t page = frame.Runs()[0].pages[0];
  const uint16_t nan = 0x7e00, infinity = 0x7c00;
  std::memcpy(frame.kv().Keys(page, 0) + (7 * 32 + 20) * 2, &nan, 2);
  std::memcpy(frame.kv().Values(page, 0) + (21 * 64 + 9) * 2, &infinity, 2);
  const std::vector<float> exact = frame.Reference();
  for (const Force force : {Force::kPrefill, Force::kDecode}) {
    const std::vector<float> got = Run(c, frame, force, Form::kFast);
    for (uint32_t r = 0; r < 15; ++r) {
      for (uint32_t d = 0; d < 64; ++d) {
        const float value = got[r * frame.out_stride() + d];
        if (r < 8) {
          EXPECT_NEAR(value, exact[r * frame.out_stride() + d], 0.02f);
        } else {
          EXPECT_FALSE(std::isfinite(value)) << r;
        }
      }
    }
  }
}

// Requests to the first-level cache: keys once for all four query heads of a key/value head; values
// once a group of threads.
TEST_P(AttentionKernels, TrafficIsAsDesigned) {
  const Case c{KvElement::kF16, {8, 2, 128}, 0, {{1023, 1}}};
  Frame frame(c);
  const uint64_t part = 1024 * 128 * 2 * 2;  // bytes of the keys (or values) of both heads
  Run(c, frame, Force::kDecode);
  const Counters& decode = device_->counters();
  if (std::getenv("LANYARD_SHOW_COUNTERS") != nullptr) std::puts(decode.ToString().c_str());
  EXPECT_LT(decode.global_read_sectors * 32, part + 4 * part + part / 4);
  EXPECT_GT(decode.global_read_sectors * 32, part + 4 * part);
  EXPECT_LT(decode.shared_conflicts, decode.shared_requests / 100);
  EXPECT_EQ(decode.local_requests, 0u);
}

TEST_P(AttentionKernels, PrefillTrafficIsAsDesigned) {
  const Case c{KvElement::kF16, {8, 2, 128}, 0, {{992, 8}}};
  Frame frame(c);
  const uint64_t part = 1000 * 128 * 2 * 2;
  Run(c, frame, Force::kPrefill);
  const Counters& prefill = device_->counters();
  if (std::getenv("LANYARD_SHOW_COUNTERS") != nullptr) std::puts(prefill.ToString().c_str());
  EXPECT_LT(prefill.global_read_sectors * 32, 2 * part + part / 6);
  EXPECT_LT(prefill.shared_conflicts, prefill.shared_requests / 4);
  EXPECT_EQ(prefill.local_requests, 0u);
  // Half of the products' multiply-adds are scores, half are values; what else there is must stay
  // small beside them.
  const uint64_t multiply_adds = uint64_t{2} * 1000 * 128 * 64;
  EXPECT_LT(prefill.fp32, multiply_adds * 6 / 5);
}

TEST(AttentionPlan, DealsRows) {
  const std::vector<uint32_t> pages = {4, 9, 2};
  const std::vector<ops::AttentionRun> runs = {{0, 70, 1, pages.data(), 0},
                                               {1, 0, 33, pages.data(), 0}};
  const std::vector<uint32_t> counts = {3, 2};
  ops::cuda::AttentionPlan plan;
  ops::cuda::PlanAttention(runs, counts, {4, 2, 128}, &plan);
  ASSERT_EQ(plan.decode.size(), 1u);
  ASSERT_EQ(plan.prefill.size(), 3u);  // 16 rows of two heads
  EXPECT_EQ(plan.prefill[2].row, 33u);
  EXPECT_EQ(plan.prefill[2].n_rows, 1u);
  EXPECT_EQ(plan.prefill[2].pages, 3u);
  EXPECT_EQ(plan.page_table, (std::vector<uint32_t>{4, 9, 2, 4, 9}));
  EXPECT_EQ(ops::cuda::MaxSpans(256, 0), 1u);
  EXPECT_EQ(ops::cuda::MaxSpans(257, 0), 2u);
  EXPECT_EQ(ops::cuda::MaxSpans(100000, 1), 1u);
  EXPECT_EQ(ops::cuda::MaxSpans(100000, 2), 2u);
  EXPECT_EQ(ops::cuda::MaxSpans(100000, 257), 2u);
  EXPECT_EQ(ops::cuda::MaxSpans(100000, 258), 3u);
  EXPECT_FALSE(ops::cuda::CheckAttentionShape({4, 2, 30}).ok());
  EXPECT_TRUE(ops::cuda::HasFastAttention({32, 8, 128}, KvElement::kF16, 80));
  EXPECT_FALSE(ops::cuda::HasFastAttention({32, 8, 128}, KvElement::kF16, 75));
  EXPECT_FALSE(ops::cuda::HasFastAttention({32, 8, 128}, KvElement::kF32, 80));
  EXPECT_FALSE(ops::cuda::HasFastAttention({32, 8, 80}, KvElement::kF16, 80));
}

}  // namespace
}  // namespace lanyard::ptx
