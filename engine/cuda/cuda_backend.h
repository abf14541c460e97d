// The backend of an NVIDIA card: it runs the kernels of engine/ops/cuda on one stream, with
// weights, pages and buffers in the card's memory. Its bits are the processor's, so a pool may mix
// them (docs/numerics.md); with fast attention they are bits of cards alone.
//
// Steps in which every run is one row (decode) are recorded as graphs, one for each number of rows
// and doubling of the context, from their second time on: all that depends on the frame lies in
// device memory. Weights are re-laid by the processor into one page-locked buffer while the other
// is on its way to the card, on a stream of its own.
//
// Its pages and weights may be taken from it (MemoryPool::Shrink: the desk wants the card): at once
// between two steps, at the end of one that runs. It then answers every Begin with Unavailable, for
// the stage that it is part of must be loaded again (local_stage.h, lost).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "base/mutex.h"
#include "engine/backend.h"
#include "engine/cuda/cuda_buffers.h"
#include "engine/cuda/driver.h"
#include "engine/cuda/memory_pool.h"
#include "engine/ops/cuda/matmul.h"

namespace lanyard::engine {

class CudaBackend final : public Backend {
 public:
  static absl::StatusOr<std::unique_ptr<Backend>> Make(std::string name,
                                                       std::shared_ptr<cuda::Module> module,
                                                       std::shared_ptr<cuda::MemoryPool> pool);
  ~CudaBackend() override;

  const std::string& name() const override { return name_; }
  absl::Status Reserve(const BackendMemory& planned) override;
  absl::StatusOr<std::unique_ptr<Matrix>> PackMatrix(
      TensorType type, int64_t n_out, int64_t k, const ops::PackedMatrix::Reader& read) override;
  absl::StatusOr<Vector> PutVector(std::vector<float> values) override;
  absl::StatusOr<uint8_t*> MapKv(uint64_t bytes, uint32_t layer) override;
  absl::Status MakeBuffers(const StepSizes& sizes, InputForms forms) override;
  BackendMemory memory() const override { return memory_; }
  bool usable() const override;

  absl::Status Begin(const Step& step) override;
  absl::Status End() override;
  absl::Status Run(RunKey key, const std::function<absl::Status()>& body) override;

  absl::Status Product(const Linear& w, const ProductRows& rows) override;
  absl::Status Residual(const ops::ResidualRows& args) override;
  absl::Status RotateAndStore(ops::QkvRows args, int rope_kind, uint32_t group) override;
  absl::Status Attend(ops::AttentionArgs args, uint32_t group) override;
  absl::Status GateMul(const ops::GateRows& args) override;
  absl::Status SetHeadRows(std::span<const int64_t> rows) override;
  absl::Status NormHeadRows(const Vector& norm, float eps) override;
  absl::Status SummariseLogits() override;

  float* HostRows() override { return reinterpret_cast<float*>(in_.data()); }
  absl::Status TakeRows() override;
  absl::Status TakeHidden(stage::WireType type, std::span<const uint8_t> data) override;
  absl::StatusOr<bool> TakeFrom(Backend& from) override;
  absl::Status GiveHidden(stage::WireType type, std::span<uint8_t> data) override;
  absl::Status ReadLogits(std::span<const uint8_t> whole, std::vector<LogitRow>* out) override;

  uint64_t graph_launches() const { return graph_launches_; }

 private:
  // The part, the rows, and the context rounded up to a power of two.
  using GraphKey = std::tuple<uint32_t, uint32_t, uint32_t>;
  struct Recorded {
    int seen = 0;
    cuda::Graph graph;
  };
  // One of the two page-locked buffers in which weights travel.
  struct Staging {
    cuda::PinnedMemory memory;
    cuda::Event free;
  };

  CudaBackend(std::string name, std::shared_ptr<cuda::Module> module,
              std::shared_ptr<cuda::MemoryPool> pool)
      : name_(std::move(name)), module_(std::move(module)), pool_(std::move(pool)) {}
  absl::Status Init();
  absl::Status Upload(cuda::DeviceAddress to, std::span<const uint8_t> bytes);
  absl::StatusOr<cuda::DeviceAddress> Keep(uint64_t bytes, cuda::MemoryUse use);
  absl::Status StartStep();
  absl::Status FillFrame(const Step& step);
  absl::Status FillGroup(const Step& step, size_t group);
  absl::Status Wait();  // waits for the stream, then judges what came in
  absl::Status Record(Recorded* recorded, const std::function<absl::Status()>& body);

  template <typename T>
  T* At(uint64_t offset) const {
    return buffer_memory_.as<T>(offset);
  }
  template <typename T>
  T* FrameAt(uint64_t offset) const {
    return buffer_memory_.as<T>(layout_.frame + offset);
  }
  uint32_t* Word(uint32_t index) const { return FrameAt<uint32_t>(index * sizeof(uint32_t)); }
  uint32_t* HostWords() { return reinterpret_cast<uint32_t*>(host_frame_.data()); }

  // The pool asks for memory back: says what is freed at once and what will be at the step's end.
  uint64_t Release(cuda::MemoryUse use);
  void Rest();  // goes idle: frees what was asked for meanwhile
  std::vector<cuda::DeviceMemory> Taken(cuda::MemoryUse use) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<bool> Reaches(const CudaBackend& other);

  const std::string name_;
  const std::shared_ptr<cuda::Module> module_;
  const std::shared_ptr<cuda::MemoryPool> pool_;
  ops::cuda::Target target_;
  std::unique_ptr<cuda::Stream> stream_;
  std::unique_ptr<cuda::Stream> copies_;  // carries weights while the stage loads
  cuda::Event rows_sent_;                 // recorded when x has left for the next card
  StepSizes sizes_;
  CudaLayout layout_;
  FrameLayout frame_;
  cuda::DeviceMemory buffer_memory_;
  mutable Mutex mu_;
  std::vector<cuda::DeviceMemory> weights_ ABSL_GUARDED_BY(mu_);
  std::vector<cuda::DeviceMemory> kv_ ABSL_GUARDED_BY(mu_);
  BackendMemory memory_;
  Staging staging_[2];
  int next_staging_ = 0;

  cuda::PinnedMemory in_, out_, host_frame_, head_rows_, host_logits_, host_stats_, host_chunks_;
  std::vector<ops::cuda::AttentionPlan> plans_;  // one for each state group
  uint32_t context_ = 0;                         // the context of this step's rows, rounded up
  uint32_t n_head_rows_ = 0;
  bool recordable_ = false;  // in this step every run is one row
  std::vector<ops::LogitStats> stats_;
  std::map<GraphKey, Recorded> graphs_;
  uint64_t graph_launches_ = 0;
  std::map<const cuda::Context*, bool> reaches_;  // whether this card can reach another one

  // true while it loads and in a step: what is asked for is freed afterwards.
  bool busy_ ABSL_GUARDED_BY(mu_) = true;
  // The pages were asked for: they are to be freed, or are freed already.
  bool take_kv_ ABSL_GUARDED_BY(mu_) = false;
  bool take_weights_ ABSL_GUARDED_BY(mu_) = false;
  int kv_owner_ = -1, weights_owner_ = -1;
};

}  // namespace lanyard::engine
