// Compares rotation, the key/value pages and attention on the card with engine/ops, for every
// element type: single rows of long sequences (decode) and runs of rows (prefill), with and without
// a window. The pages are filled by the CPU's RotateAndStore, compared with the card's, and then
// read by both. Attention in the fast form (level 80) is compared with the exact one, within what
// the rounding to halves explains, and its single rows with its tiles, in bits.
#include <cmath>
#include <numeric>

#include "base/half.h"
#include "engine/cuda/op_checks_bench.h"
#include "engine/ops/attention.h"
#include "engine/ops/cuda/attention.h"
#include "engine/ops/cuda/rope.h"
#include "engine/ops/rope.h"

namespace lanyard::cuda::op_checks {
namespace {

using ops::Isa;
using ops::KvElement;

struct Case {
  KvElement element;
  uint32_t n_heads;
  uint32_t n_kv_heads;
  uint32_t head_dim;
  uint32_t window;
  uint32_t pos;     // position of the first row that attends
  uint32_t n_rows;  // rows that attend
};

std::string Describe(const Case& c) {
  constexpr const char* kNames[] = {"f32", "f16", "i8"};
  return absl::StrCat(kNames[static_cast<int>(c.element)], ", heads ", c.n_heads, "/", c.n_kv_heads,
                      " of ", c.head_dim, ", window ", c.window, ", ", c.n_rows, " rows at ",
                      c.pos);
}

// A sequence's keys and values up to its last row, in the CPU's pages.
struct Pages {
  ops::KvLayer kv;
  std::vector<uint8_t> bytes;
  std::vector<uint32_t> table;
};

Pages MakePages(Bench& bench, const Case& c) {
  Pages pages;
  pages.kv.element = c.element;
  pages.kv.n_kv_heads = static_cast<int>(c.n_kv_heads);
  pages.kv.head_dim = static_cast<int>(c.head_dim);
  const uint32_t n = c.pos + c.n_rows;
  pages.table.resize((n + 31) / 32);
  std::iota(pages.table.begin(), pages.table.end(), 0u);
  for (size_t i = pages.table.size(); i > 1; --i)
    std::swap(pages.table[i - 1], pages.table[bench.Below(i)]);
  pages.bytes.assign(pages.table.size() * static_cast<size_t>(pages.kv.page_bytes()), 0);
  pages.kv.base = pages.bytes.data();
  return pages;
}

// Rotates the rows 0 .. n-1 of a sequence on both sides, and compares the pages.
absl::Status CheckRotate(Bench& bench, const Case& c, Pages& pages,
                         ops::cuda::DeviceKv* device_kv) {
  const uint32_t n = c.pos + c.n_rows;
  const int64_t stride = (c.n_heads + 2 * c.n_kv_heads) * c.head_dim;
  const ops::RopeFrequencies frequencies(10000.0, 1.0, static_cast<int>(c.head_dim), {});
  std::vector<float> cos(size_t{n} * c.head_dim);
  std::vector<float> sin(cos.size());
  std::vector<ops::KvSlot> slots(n);
  std::vector<ops::cuda::DeviceSlot> device_slots(n);
  for (uint32_t p = 0; p < n; ++p) {
    frequencies.Row(p, ops::RopePairs::kHalves, cos.data() + size_t{p} * c.head_dim,
                    sin.data() + size_t{p} * c.head_dim);
    slots[p] = {pages.table[p / 32], p % 32};
    device_slots[p] = {slots[p].page, slots[p].slot};
  }
  std::vector<float> qkv = bench.Floats(static_cast<size_t>(n * stride), 2);
  *device_kv = {bench.Upload(pages.bytes), static_cast<uint32_t>(c.element), c.n_kv_heads,
                c.head_dim, static_cast<uint32_t>(pages.kv.part_bytes())};
  ops::cuda::RotateArgs args;
  args.qkv = bench.Upload(qkv);
  args.cos = bench.Upload(cos);
  args.sin = bench.Upload(sin);
  args.slots = bench.Upload(device_slots);
  args.n_rows = bench.Count(n);
  args.kv = *device_kv;
  args.stride = static_cast<uint64_t>(stride);
  args.max_rows = n;
  args.n_heads = c.n_heads;
  args.halves = 1;
  args.n_rot = c.head_dim;
  args.q_scale = 0.125f;
  bench.StartClock();
  bench.Run(ops::cuda::RotateAndStore(bench.stream(), args));
  const ops::QkvRows rows{qkv.data(),
                          stride,
                          n,
                          static_cast<int>(c.n_heads),
                          nullptr,
                          nullptr,
                          0,
                          ops::RopePairs::kHalves,
                          static_cast<int>(c.head_dim),
                          cos.data(),
                          sin.data(),
                          0.125f,
                          pages.kv,
                          slots.data()};
  ops::RotateAndStore(Isa::kScalar, bench.pool(), rows);
  bench.Expect(device_kv->base, pages.bytes);
  return absl::OkStatus();
}

enum class Form { kExact, kFast };

void Launch(Bench& bench, const ops::cuda::AttentionPlan& plan, const Case& c, Form form,
            ops::cuda::AttendArgs args) {
  args.page_table = bench.Upload(plan.page_table);
  if (!plan.decode.empty()) {
    args.tiles = bench.Upload(plan.decode);
    args.n_tiles = bench.Count(static_cast<uint32_t>(plan.decode.size()));
    args.max_tiles = static_cast<uint32_t>(plan.decode.size());
    args.max_spans = ops::cuda::MaxSpans(c.pos + c.n_rows, c.window);
    args.partials = bench.Alloc<float>(ops::cuda::PartialFloats(
        {c.n_heads, c.n_kv_heads, c.head_dim}, args.max_tiles, args.max_spans));
    bench.StartClock();
    const auto attend = form == Form::kFast ? ops::cuda::AttendFastDecode : ops::cuda::AttendDecode;
    bench.Run(attend(bench.stream(), args));
  }
  if (!plan.prefill.empty()) {
    args.tiles = bench.Upload(plan.prefill);
    args.n_tiles = bench.Count(static_cast<uint32_t>(plan.prefill.size()));
    args.max_tiles = static_cast<uint32_t>(plan.prefill.size());
    bench.StartClock();
    const auto attend =
        form == Form::kFast ? ops::cuda::AttendFastPrefill : ops::cuda::AttendPrefill;
    bench.Run(attend(bench.stream(), args));
  }
}

// A case on both sides: the CPU's rows, and all that the card needs to make its own.
struct Problem {
  Pages pages;
  std::vector<ops::AttentionRun> runs;
  ops::cuda::AttentionPlan plan;
  ops::cuda::AttendArgs args;
  std::vector<float> exact;
};

absl::Status Pose(Bench& bench, const Case& c, float q_scale, Problem* out) {
  out->pages = MakePages(bench, c);
  RETURN_IF_ERROR(CheckRotate(bench, c, out->pages, &out->args.kv));
  const size_t width = size_t{c.n_heads} * c.head_dim;
  const std::vector<float> q = bench.Floats(c.n_rows * width, q_scale);
  out->runs = {{0, c.pos, c.n_rows, out->pages.table.data(), 0}};
  const std::vector<uint32_t> counts = {static_cast<uint32_t>(out->pages.table.size())};
  ops::cuda::PlanAttention(out->runs, counts, {c.n_heads, c.n_kv_heads, c.head_dim}, &out->plan);
  out->args.q = bench.Upload(q);
  out->args.q_stride = width;
  out->args.out_stride = width;
  out->args.n_heads = c.n_heads;
  out->args.window = c.window;
  out->exact.resize(q.size());
  ops::AttentionScratch scratch(1, static_cast<int>(c.n_heads), out->pages.kv.n_kv_heads,
                                out->pages.kv.head_dim, c.n_rows);
  ops::Attend(
      Isa::kScalar, bench.pool(),
      {out->pages.kv, static_cast<int>(c.n_heads), c.window, q.data(), static_cast<int64_t>(width),
       out->exact.data(), static_cast<int64_t>(width), out->runs.data(), 1},
      scratch);
  return absl::OkStatus();
}

absl::Status CheckOne(Bench& bench, const Case& c) {
  bench.Begin(c.n_rows == 1 ? "rotate, attend (decode)" : "rotate, attend (prefill)", Describe(c));
  Problem problem;
  RETURN_IF_ERROR(Pose(bench, c, 2, &problem));
  problem.args.out = bench.Alloc<float>(problem.exact.size());
  Launch(bench, problem.plan, c, Form::kExact, problem.args);
  bench.Expect(problem.args.out, problem.exact);
  return bench.End();
}

absl::Status CheckFast(Bench& bench, const Case& c) {
  bench.Begin(c.n_rows == 1 ? "attend, fast form (decode)" : "attend, fast form (prefill)",
              Describe(c));
  if (!ops::cuda::HasFastAttention({c.n_heads, c.n_kv_heads, c.head_dim}, c.element,
                                   bench.level())) {
    bench.Skip(absl::StrCat("the fast form needs kernels of level ", ops::cuda::kFastAttentionLevel,
                            ", this card's are of ", bench.level()));
    return bench.End();
  }
  Problem problem;
  // Scores go up to about 30, as in tests/ptx, which has the same tolerance.
  RETURN_IF_ERROR(Pose(bench, c, 24.0f / std::sqrt(static_cast<float>(c.head_dim)), &problem));
  problem.args.out = bench.Alloc<float>(problem.exact.size());
  Launch(bench, problem.plan, c, Form::kFast, problem.args);
  constexpr float kTolerance = 0.04f;
  bench.ExpectNear(problem.args.out, problem.exact, kTolerance);
  // Computes the same rows one by one.
  const std::vector<float> tiles = bench.Down(problem.args.out, problem.exact.size());
  ops::cuda::AttentionPlan singles = problem.plan;
  singles.decode.clear();
  singles.prefill.clear();
  for (uint32_t i = 0; i < c.n_rows; ++i) singles.decode.push_back({i, 1, c.pos + i, 0, 0});
  problem.args.out = bench.Alloc<float>(problem.exact.size());
  Launch(bench, singles, c, Form::kFast, problem.args);
  bench.Expect(problem.args.out, tiles);
  return bench.End();
}

}  // namespace

absl::Status CheckAttention(Bench& bench) {
  for (const KvElement element : {KvElement::kF32, KvElement::kF16, KvElement::kI8}) {
    RETURN_IF_ERROR(CheckOne(bench, {element, 6, 2, 64, 0, 70, 1}));
    RETURN_IF_ERROR(CheckOne(bench, {element, 3, 1, 64, 20, 33, 9}));
    if (bench.small()) continue;
    RETURN_IF_ERROR(CheckOne(bench, {element, 32, 8, 128, 0, 1000, 1}));
    RETURN_IF_ERROR(CheckOne(bench, {element, 4, 1, 256, 512, 1500, 1}));
    RETURN_IF_ERROR(CheckOne(bench, {element, 32, 8, 128, 0, 200, 57}));
    RETURN_IF_ERROR(CheckOne(bench, {element, 8, 2, 80, 0, 40, 5}));
  }
  for (const KvElement element : {KvElement::kF16, KvElement::kI8}) {
    RETURN_IF_ERROR(CheckFast(bench, {element, 6, 2, 64, 0, 70, 1}));
    RETURN_IF_ERROR(CheckFast(bench, {element, 4, 2, 64, 20, 33, 21}));
    if (bench.small()) continue;
    RETURN_IF_ERROR(CheckFast(bench, {element, 32, 8, 128, 0, 1000, 1}));
    RETURN_IF_ERROR(CheckFast(bench, {element, 32, 8, 128, 0, 200, 57}));
    RETURN_IF_ERROR(CheckFast(bench, {element, 4, 1, 256, 512, 1500, 1}));
    RETURN_IF_ERROR(CheckFast(bench, {element, 4, 1, 256, 512, 600, 40}));
  }
  return absl::OkStatus();
}

}  // namespace lanyard::cuda::op_checks
