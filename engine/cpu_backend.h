// The backend of this machine's processor: it runs engine/ops/cpu kernels on a pool of threads,
// with pages and buffers in RAM.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/backend.h"
#include "engine/memory.h"
#include "engine/ops/isa.h"
#include "engine/ops/thread_pool.h"

namespace lanyard::engine {

class CpuBackend final : public Backend {
 public:
  // `pool` must outlive it.
  CpuBackend(ops::Isa isa, ops::ThreadPool* pool) : isa_(isa), pool_(*pool) {}

  // The bytes that MakeBuffers will hold, with the products' inputs.
  static uint64_t BufferBytes(const StepSizes& sizes, InputForms forms, int threads);
  // FailedPrecondition: the processor computes layers with exact attention only.
  static absl::Status CheckShape(const StepSizes& sizes);

  const std::string& name() const override { return name_; }
  absl::Status Reserve(const BackendMemory&) override { return absl::OkStatus(); }
  absl::StatusOr<std::unique_ptr<Matrix>> PackMatrix(
      TensorType type, int64_t n_out, int64_t k, const ops::PackedMatrix::Reader& read) override;
  absl::StatusOr<Vector> PutVector(std::vector<float> values) override;
  absl::StatusOr<uint8_t*> MapKv(uint64_t bytes, uint32_t layer) override;
  absl::Status MakeBuffers(const StepSizes& sizes, InputForms forms) override;
  BackendMemory memory() const override { return memory_; }
  bool shares_weights() const override { return true; }
  void CountShared(uint64_t bytes) override { memory_.weights += bytes; }

  absl::Status Begin(const Step& step) override;
  absl::Status End() override { return absl::OkStatus(); }
  absl::Status Run(RunKey, const std::function<absl::Status()>& body) override { return body(); }

  absl::Status Product(const Linear& w, const ProductRows& rows) override;
  absl::Status Residual(const ops::ResidualRows& args) override;
  absl::Status RotateAndStore(ops::QkvRows args, int rope_kind, uint32_t group) override;
  absl::Status Attend(ops::AttentionArgs args, uint32_t group) override;
  absl::Status GateMul(const ops::GateRows& args) override;
  absl::Status SetHeadRows(std::span<const int64_t> rows) override;
  absl::Status NormHeadRows(const Vector& norm, float eps) override;
  absl::Status SummariseLogits() override;

  float* HostRows() override { return buffers_.x; }
  absl::Status TakeRows() override { return absl::OkStatus(); }
  absl::Status TakeHidden(stage::WireType type, std::span<const uint8_t> data) override;
  absl::Status GiveHidden(stage::WireType type, std::span<uint8_t> data) override;
  absl::Status ReadLogits(std::span<const uint8_t> whole, std::vector<LogitRow>* out) override;

 private:
  const std::string name_ = "cpu";
  const ops::Isa isa_;
  ops::ThreadPool& pool_;
  StepSizes sizes_;
  const Step* step_ = nullptr;
  Memory x_, h_, work_, logits_;
  std::vector<Memory> kv_;
  // The rows that enter products, in the forms that weights take. Their memory is kept between
  // steps.
  ops::ActRows quantised_, floats_;
  ops::AttentionScratch attention_;
  std::vector<int64_t> head_rows_;
  std::vector<ops::LogitStats> stats_;
  std::vector<uint8_t> finite_;  // 0: the row's stats mean nothing
  BackendMemory memory_;
};

}  // namespace lanyard::engine
