// Sums over logits against the scalar reference, bit for bit.
#include <cmath>
#include <limits>

#include "engine/ops/cuda/logits.h"
#include "engine/ops/logits.h"
#include "gtest/gtest.h"
#include "tests/ptx/kernel_test_util.h"

namespace lanyard::ptx {
namespace {

class LogitKernels : public KernelTest {
 protected:
  ops::cuda::LogitsArgs Upload(const std::vector<float>& logits, uint32_t rows, uint32_t n) {
    const size_t chunks = size_t{rows} * ops::cuda::LogitChunks(n);
    ops::cuda::LogitsArgs args;
    args.logits = device_->Upload(logits, "logits");
    args.chunk_max = device_->Alloc<float>(chunks, "chunk_max");
    args.chunk_argmax = device_->Alloc<uint32_t>(chunks, "chunk_argmax");
    args.chunk_sums = device_->Alloc<float>(chunks, "chunk_sums");
    args.stats = device_->Alloc<ops::cuda::RowStats>(rows, "stats");
    args.n_rows = Count(rows);
    args.max_rows = rows + 1;
    args.n = n;
    return args;
  }

  void Check(const std::vector<float>& logits, uint32_t rows, uint32_t n) {
    SCOPED_TRACE(n);
    ops::cuda::LogitsArgs args = Upload(logits, rows, n);
    EXPECT_LAUNCH(ops::cuda::SummariseLogits(*device_, args));
    const auto stats = Down(args.stats, rows);
    const uint32_t chunks = ops::cuda::LogitChunks(n);
    const std::vector<float> chunk_max = Down(args.chunk_max, rows * chunks);
    for (uint32_t r = 0; r < rows; ++r) {
      SCOPED_TRACE(r);
      ops::LogitStats want;
      const bool ok =
          ops::SummariseLogits(ops::Isa::kScalar, pool_, logits.data() + size_t{r} * n, n, &want);
      ASSERT_EQ(stats[r].ok, ok ? 1u : 0u);
      if (!ok) continue;
      EXPECT_EQ(stats[r].argmax, want.argmax);
      EXPECT_TRUE(SameBits(std::vector<float>{stats[r].max}, std::vector<float>{want.max}));
      EXPECT_TRUE(SameBits(std::vector<double>{stats[r].sum, stats[r].lse},
                           std::vector<double>{want.sum, want.lse}));
      EXPECT_TRUE(SameBits(
          std::vector<float>(chunk_max.begin() + r * chunks, chunk_max.begin() + (r + 1) * chunks),
          want.chunk_max));
    }
    CheckSums(logits, args, stats);
  }

  // Sums at each row's own temperature.
  void CheckSums(const std::vector<float>& logits, ops::cuda::LogitsArgs args,
                 const std::vector<ops::cuda::RowStats>& stats) {
    const std::vector<float> temperatures = {1.25f, 0.1f, 3.0f, 1.0f, 7.0f};
    const uint32_t chunks = ops::cuda::LogitChunks(args.n);
    args.scales = device_->Upload(temperatures, "scales");
    EXPECT_LAUNCH(ops::cuda::ChunkSums(*device_, args));
    const std::vector<float> sums = Down(args.chunk_sums, stats.size() * chunks);
    for (size_t r = 0; r < stats.size(); ++r) {
      if (stats[r].ok == 0) continue;
      std::vector<float> want;
      ops::ChunkSums(ops::Isa::kScalar, pool_, std::span(logits.data() + r * args.n, args.n),
                     {stats[r].max, temperatures[r]}, &want);
      EXPECT_TRUE(
          SameBits(std::vector<float>(sums.begin() + static_cast<ptrdiff_t>(r * chunks),
                                      sums.begin() + static_cast<ptrdiff_t>((r + 1) * chunks)),
                   want));
    }
  }

  ops::ThreadPool pool_{1};
};
INSTANTIATE_KERNELS(LogitKernels);

TEST_P(LogitKernels, StatsAreTheReference) {
  for (const auto& [rows, n] :
       {std::pair<uint32_t, uint32_t>{1, 1}, {2, 17}, {1, 4096}, {3, 4097}, {2, 9000}}) {
    Numbers numbers(n);
    std::vector<float> logits = numbers.Floats(size_t{rows} * n, 9);
    logits[n / 2] = logits[n - 1] = 11.5f;  // a tie
    Check(logits, rows, n);
  }
}

TEST_P(LogitKernels, TiesZerosAndWhatIsNotFinite) {
  const float inf = std::numeric_limits<float>::infinity();
  const uint32_t n = 4200;
  std::vector<float> logits(5 * n, -3.0f);
  logits[4150] = logits[4190] = 2.0f;  // a tie in the second chunk
  logits[n + 5] = -inf;                // all are the largest
  std::fill(logits.begin() + 2 * n, logits.begin() + 3 * n, -0.0f);
  logits[2 * n + 7] = 0.0f;
  logits[3 * n + 4199] = inf;           // refused
  logits[4 * n + 100] = std::nanf("");  // refused: the sum is NaN
  Check(logits, 5, n);
  Check(std::vector<float>(4100, -inf), 1, 4100);
  Check(std::vector<float>(100, std::nanf("")), 1, 100);
}

}  // namespace
}  // namespace lanyard::ptx
