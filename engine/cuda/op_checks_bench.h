// What the op checks share: input numbers, memory of the card, comparison by bits. Only
// op_checks*.cc use it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/tensor_type.h"
#include "engine/cuda/driver.h"
#include "engine/cuda/op_checks.h"
#include "engine/ops/thread_pool.h"

namespace lanyard::cuda::op_checks {

class Bench {
 public:
  static absl::StatusOr<std::unique_ptr<Bench>> Make(std::shared_ptr<Module> module,
                                                     const OpCheckOptions& options);
  ~Bench();

  bool small() const { return options_.small; }
  int level() const { return module_->level(); }
  int multiprocessors() const { return context_->device().sm_count; }
  Stream& stream() { return *stream_; }
  ops::ThreadPool& pool() { return pool_; }

  // A check runs between Begin and End: the first error of the calls between them is the check's.
  // End frees what was taken.
  void Begin(std::string op, std::string variant);
  absl::Status End();
  // Called instead of the check's work.
  void Skip(std::string why) { check_.skipped = std::move(why); }
  // Takes the result of a launch and its time.
  void Run(const absl::Status& launched);
  void StartClock();
  void Note(const absl::Status& status);

  // Memory of the card with these values, or without any. Null after an error.
  template <typename T>
  T* Upload(const std::vector<T>& values) {
    return static_cast<T*>(UploadBytes(values.data(), values.size() * sizeof(T)));
  }
  template <typename T>
  T* Alloc(size_t count) {
    return static_cast<T*>(AllocBytes(count * sizeof(T)));
  }
  uint32_t* Count(uint32_t n) { return Upload(std::vector<uint32_t>{n}); }
  absl::Status Write(void* to, const void* from, size_t bytes);

  // Compares the values on the card with `want`: they must have equal bits, or both be NaN.
  template <typename T>
  void Expect(const T* address, const std::vector<T>& want) {
    std::vector<T> got(want.size());
    Download(address, got.data(), got.size() * sizeof(T));
    for (size_t i = 0; i < want.size(); ++i) Compare(i, got[i], want[i]);
  }
  template <typename T>
  void Compare(size_t at, T got, T want) {
    check_.values += 1;
    if (Same(got, want)) return;
    if (check_.different++ == 0)
      check_.first = Difference(at, static_cast<double>(got), static_cast<double>(want));
  }
  template <typename T>
  std::vector<T> Down(const T* address, size_t count) {
    std::vector<T> got(count);
    Download(address, got.data(), count * sizeof(T));
    return got;
  }

  // Compares the values on the card with `want`: none may be further off than `tolerance`. For
  // results of another form of the operation.
  void ExpectNear(const float* address, const std::vector<float>& want, float tolerance);

  uint64_t Below(uint64_t n) { return random_() % n; }
  float Uniform(float scale) {
    return (static_cast<float>(random_() % 2000001) - 1e6f) * 1e-6f * scale;
  }
  std::vector<float> Floats(size_t n, float scale);
  std::vector<uint8_t> Bytes(size_t n);
  // GGUF bytes of n elements, with scales of ordinary size.
  std::vector<uint8_t> Weights(TensorType type, size_t n);

  std::vector<OpCheck> TakeChecks() { return std::move(checks_); }

 private:
  Bench(std::shared_ptr<Module> module, const OpCheckOptions& options);

  template <typename T>
  static bool Same(T got, T want) {
    if constexpr (std::is_floating_point_v<T>) {
      if (std::isnan(got) && std::isnan(want)) return true;
    }
    return std::memcmp(&got, &want, sizeof(T)) == 0;
  }
  static std::string Difference(size_t at, double got, double want);
  void* AllocBytes(size_t bytes);
  void* UploadBytes(const void* from, size_t bytes);
  void Download(const void* from, void* to, size_t bytes);

  std::shared_ptr<Module> module_;
  std::shared_ptr<Context> context_;
  OpCheckOptions options_;
  std::unique_ptr<Stream> stream_;
  Event begin_;
  Event end_;
  bool clock_runs_ = false;
  ops::ThreadPool pool_{1};
  std::mt19937_64 random_;
  std::vector<DeviceAddress> taken_;
  OpCheck check_;
  std::vector<OpCheck> checks_;
};

absl::Status CheckRows(
    Bench& bench);  // op_checks_rows.cc: residual, wire, scale, activation, embedding, logits
absl::Status CheckProducts(Bench& bench);   // op_checks_products.cc
absl::Status CheckAttention(Bench& bench);  // op_checks_attention.cc: rotation, decode, prefill

}  // namespace lanyard::cuda::op_checks
