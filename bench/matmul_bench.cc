// Products on the shapes of the two test models, beside this machine's limits measured in the same
// run: reading memory (what a product with one row is bound by) and 8-bit multiply-adds (what many
// rows are bound by). Counters: GB/s of weights, GOPS (two operations a multiply-add) and their
// ratios to the limits, all of the best window of the run.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/half.h"
#include "engine/ops/matmul.h"
#include "engine/ops/matmul_state.h"
#include "engine/ops/quant.h"

namespace lanyard::ops {
namespace {

constexpr uint64_t kColdBytes = 160 << 20;  // several times the last-level cache

// One thread is timed by its own processor time, several by the wall clock.
double Now(int threads) {
  timespec t;
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// The shortest of many short windows: what the machine can do while nothing else runs on it.
template <typename Fn>
double BestSeconds(int threads, int windows, const Fn& fn) {
  double best = 1e30;
  for (int i = 0; i < windows; ++i) {
    const double start = Now(threads);
    fn(i);
    best = std::min(best, Now(threads) - start);
  }
  return best;
}

// Bytes a second that `threads` threads read together, in windows of 4 MiB that are not in the
// cache.
double MemoryLimit(int threads) {
  constexpr size_t kWindowWords = (4 << 20) / 8;
  constexpr int kWindows = 100;
  static Buffer data = AllocateBuffer(kWindows * kWindowWords * 8);
  if (!data) return 0;
  std::memset(data.get(), 1, kWindows * kWindowWords * 8);
  ThreadPool pool(threads);
  const double best = BestSeconds(threads, 4 * kWindows, [&](int window) {
    const auto* words = reinterpret_cast<const uint64_t*>(data.get()) +
                        kWindowWords * static_cast<size_t>(window % kWindows);
    pool.For(kWindowWords, kWindowWords / 32, [&](int64_t begin, int64_t end) {
      uint64_t sums[4] = {};
      for (int64_t at = begin; at < end; at += 32) {  // one word of each cache line
        for (int64_t j = 0; j < 4; ++j) {
          __builtin_prefetch(words + at + 8 * j + 512);
          sums[j] += words[at + 8 * j];
        }
      }
      uint64_t sum = sums[0] + sums[1] + sums[2] + sums[3];
      benchmark::DoNotOptimize(sum);
    });
  });
  return kWindowWords * 8 / best;
}

// Twelve accumulators: enough to hide the latency. In assembly, because compilers keep an array of
// them in memory.
#define LANYARD_TWELVE(op)                                                                 \
  op("0") op("1") op("2") op("3") op("4") op("5") op("6") op("7") op("8") op("9") op("10") \
      op("1"                                                                               \
         "1")

void VnniLoop(int64_t rounds) {
#define LANYARD_OP(n) "vpdpbusd %%zmm12, %%zmm12, %%zmm" n "\n"
  asm volatile("1:\n" LANYARD_TWELVE(LANYARD_OP) "dec %0\njnz 1b\nvzeroupper\n"
               : "+r"(rounds)
               :
               : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                 "xmm10", "xmm11", "xmm12", "cc");
#undef LANYARD_OP
}

void MaddubsLoop(int64_t rounds) {
#define LANYARD_OP(n) \
  "vpmaddubsw %%ymm12, %%ymm12, %%ymm13\nvpaddw %%ymm13, %%ymm" n ", %%ymm" n "\n"
  asm volatile("1:\n" LANYARD_TWELVE(LANYARD_OP) "dec %0\njnz 1b\nvzeroupper\n"
               : "+r"(rounds)
               :
               : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                 "xmm10", "xmm11", "xmm12", "xmm13", "cc");
#undef LANYARD_OP
}

// 8-bit operations a second (two a multiply-add) of the ISA's byte product, all threads together.
double ComputeLimit(Isa isa, int threads) {
  constexpr int64_t kRounds = 20'000;
  const double macs = isa == Isa::kAvx512 ? 64 : 32;
  ThreadPool pool(threads);
  constexpr int kSlices = 16;
  const double best = BestSeconds(threads, 500 * threads, [&](int) {
    pool.For(kSlices, 1, [&](int64_t begin, int64_t end) {
      const int64_t rounds = kRounds * threads / kSlices * (end - begin);
      if (isa == Isa::kAvx512) {
        VnniLoop(rounds);
      } else {
        MaddubsLoop(rounds);
      }
    });
  });
  return 2.0 * macs * 12 * kRounds * threads / best;
}

struct Shape {
  const char* model;
  TensorType type;
  int64_t n_out, k;
};
constexpr Shape kShapes[] = {
    {"smollm2", TensorType::kQ4_1, 576, 576},   {"smollm2", TensorType::kQ4_1, 192, 576},
    {"smollm2", TensorType::kQ4_1, 1536, 576},  {"smollm2", TensorType::kQ4_1, 576, 1536},
    {"smollm2", TensorType::kQ8_0, 49152, 576}, {"gemma3", TensorType::kQ5_0, 1024, 640},
    {"gemma3", TensorType::kQ5_0, 256, 640},    {"gemma3", TensorType::kQ8_0, 256, 640},
    {"gemma3", TensorType::kQ4_K, 640, 1024},   {"gemma3", TensorType::kQ5_0, 2048, 640},
    {"gemma3", TensorType::kQ4_K, 640, 2048},   {"gemma3", TensorType::kQ6_K, 640, 2048},
    {"gemma3", TensorType::kQ8_0, 262144, 640}, {"large", TensorType::kQ4_0, 4096, 4096},
    {"large", TensorType::kQ4_K, 4096, 14336},  {"large", TensorType::kF16, 2048, 2048},
    {"large", TensorType::kF32, 2048, 2048},
};

std::vector<uint8_t> RandomRows(TensorType type, int64_t k, int64_t rows) {
  std::mt19937 gen(7);
  const TypeTraits traits = *TraitsOf(type);
  std::vector<uint8_t> out(static_cast<size_t>(rows * k / traits.elements * traits.bytes));
  for (uint8_t& b : out) b = static_cast<uint8_t>(gen());
  const uint16_t scale = FloatToHalf(0.01f);
  for (size_t at = 0; at < out.size(); at += traits.bytes) {
    if (type == TensorType::kF32) {
      const float one = 1;
      std::memcpy(&out[at], &one, 4);
    } else if (type == TensorType::kQ6_K) {
      std::memcpy(&out[at + 208], &scale, 2);
    } else {
      std::memcpy(&out[at], &scale, 2);
      if (HasMinimum(type)) std::memcpy(&out[at + 2], &scale, 2);
    }
  }
  return out;
}

double Limit(bool memory, Isa isa, int threads) {
  static double memory_limits[16] = {};
  static double compute_limits[3][16] = {};
  double& limit = memory ? memory_limits[threads] : compute_limits[static_cast<int>(isa)][threads];
  if (limit == 0) limit = memory ? MemoryLimit(threads) : ComputeLimit(isa, threads);
  return limit;
}

void RunShape(benchmark::State& state, const Shape& shape, Isa isa, int64_t rows, int threads) {
  ThreadPool pool(threads);
  const uint64_t bytes = PackedMatrix::PackedBytes(shape.type, shape.n_out, shape.k);
  const uint64_t copies = rows >= 32 ? 1 : std::max<uint64_t>(1, kColdBytes / bytes);
  const std::vector<uint8_t> source = RandomRows(shape.type, shape.k, 16);
  std::vector<PackedMatrix> matrices;
  for (uint64_t i = 0; i < copies; ++i) {
    auto packed = PackedMatrix::Pack(
        isa, shape.type, shape.n_out, shape.k, [&](uint64_t, std::span<uint8_t> out) {
          for (size_t at = 0; at < out.size(); at += source.size()) {
            std::memcpy(&out[at], source.data(), std::min(source.size(), out.size() - at));
          }
          return absl::OkStatus();
        });
    if (!packed.ok()) {
      state.SkipWithError(packed.status().ToString().c_str());
      return;
    }
    matrices.push_back(std::move(*packed));
  }
  std::vector<float> x(static_cast<size_t>(rows * shape.k));
  std::mt19937 gen(1);
  std::normal_distribution<float> normal;
  for (float& v : x) v = normal(gen);
  ActRows act;
  act.Assign(isa, pool, x.data(), rows, shape.k, shape.k, matrices[0].wants_quantised());
  std::vector<float> out(static_cast<size_t>(rows * shape.n_out));
  size_t next = 0;
  const auto run = [&] {
    MatMul(pool, matrices[next], act, out.data(), shape.n_out);
    next = (next + 1) % matrices.size();
  };
  run();
  // Windows of about 100 us: long against the clock, short against a time slice.
  const double once = BestSeconds(threads, 5, [&](int) { run(); });
  const int runs_a_window = std::max(1, static_cast<int>(100e-6 / once));
  double best = 1e30;
  for (auto _ : state) {
    best = std::min(best, BestSeconds(threads, 1, [&](int) {
                      for (int i = 0; i < runs_a_window; ++i) run();
                    }));
  }
  best /= runs_a_window;
  const double ops = 2.0 * static_cast<double>(rows * shape.n_out * shape.k);
  const double total_bytes = static_cast<double>(bytes);
  state.counters["us"] = best * 1e6;
  state.counters["GB/s"] = total_bytes / best / 1e9;
  state.counters["GOPS"] = ops / best / 1e9;
  state.counters["of_memory"] = total_bytes / best / Limit(true, isa, threads);
  state.counters["of_compute"] = ops / best / Limit(false, isa, threads);
}

void QuantiseRows(benchmark::State& state, Isa isa, int64_t k, int64_t rows) {
  ThreadPool pool(1);
  std::vector<float> x(static_cast<size_t>(k * rows), 0.5f);
  ActRows act;
  for (auto _ : state) act.Assign(isa, pool, x.data(), rows, k, k, true);
  state.counters["ns/value"] =
      benchmark::Counter(static_cast<double>(k * rows * state.iterations()) / 1e9,
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void ForkJoin(benchmark::State& state, int threads) {
  ThreadPool pool(threads);
  for (auto _ : state) pool.Run([](int, int) {});
}

void RegisterAll() {
  for (int threads : {1, 2}) {
    benchmark::RegisterBenchmark(("limit/memory/threads:" + std::to_string(threads)).c_str(),
                                 [threads](benchmark::State& state) {
                                   for (auto _ : state)
                                     benchmark::DoNotOptimize(Limit(true, Isa::kAvx2, threads));
                                   state.counters["GB/s"] = Limit(true, Isa::kAvx2, threads) / 1e9;
                                 })
        ->Iterations(1);
    benchmark::RegisterBenchmark(("fork_join/threads:" + std::to_string(threads)).c_str(),
                                 [threads](benchmark::State& state) { ForkJoin(state, threads); })
        ->UseRealTime();
  }
  for (Isa isa : RunnableIsas()) {
    if (isa == Isa::kScalar) continue;
    for (int threads : {1, 2}) {
      benchmark::RegisterBenchmark(
          ("limit/" + IsaName(isa) + "/threads:" + std::to_string(threads)).c_str(),
          [isa, threads](benchmark::State& state) {
            for (auto _ : state) benchmark::DoNotOptimize(Limit(false, isa, threads));
            state.counters["GOPS"] = Limit(false, isa, threads) / 1e9;
          })
          ->Iterations(1);
    }
    for (int64_t rows : {1, 128}) {
      benchmark::RegisterBenchmark(
          ("quantise/" + IsaName(isa) + "/k:576/rows:" + std::to_string(rows)).c_str(),
          [isa, rows](benchmark::State& state) { QuantiseRows(state, isa, 576, rows); });
    }
    for (const Shape& shape : kShapes) {
      for (int64_t rows : {1, 4, 8, 16, 64, 128, 512}) {
        if (rows > 16 && shape.n_out > 20000)
          continue;  // a prompt's head is computed for its last row only
        for (int threads : {1, 2}) {
          const std::string name =
              std::string(shape.model) + "/" + std::string(TraitsOf(shape.type)->name) + "/" +
              std::to_string(shape.n_out) + "x" + std::to_string(shape.k) + "/" + IsaName(isa) +
              "/rows:" + std::to_string(rows) + "/threads:" + std::to_string(threads);
          benchmark::RegisterBenchmark(
              name.c_str(),
              [=](benchmark::State& state) { RunShape(state, shape, isa, rows, threads); })
              ->UseRealTime()
              ->Unit(benchmark::kMicrosecond);
        }
      }
    }
  }
}

}  // namespace
}  // namespace lanyard::ops

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  lanyard::ops::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
