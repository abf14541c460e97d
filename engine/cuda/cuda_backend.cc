#include "engine/cuda/cuda_backend.h"

#include <algorithm>
#include <cstring>

#include "engine/ops/cuda/activation.h"
#include "engine/ops/cuda/attention.h"
#include "engine/ops/cuda/logits.h"
#include "engine/ops/cuda/rope.h"
#include "engine/ops/cuda/rows.h"

namespace lanyard::engine {
namespace {

namespace kernels = ops::cuda;
using cuda::MemoryUse;

constexpr size_t kStagingBytes = size_t{1} << 20;
constexpr size_t kMaxGraphs = 64;
constexpr uint32_t kMinContext = 256;  // graphs are made for contexts from this one on, doubling

class CudaMatrix final : public Matrix {
 public:
  CudaMatrix(const kernels::DeviceMatrix& matrix, uint64_t bytes) : matrix(matrix), bytes_(bytes) {}
  uint64_t bytes() const override { return bytes_; }
  bool wants_quantised() const override { return matrix.wants_quantised(); }

  const kernels::DeviceMatrix matrix;

 private:
  const uint64_t bytes_;
};

kernels::DeviceKv KvOnDevice(const ops::KvLayer& kv) {
  kernels::DeviceKv out;
  out.base = kv.base;
  out.element = static_cast<uint32_t>(kv.element);
  out.n_kv_heads = static_cast<uint32_t>(kv.n_kv_heads);
  out.head_dim = static_cast<uint32_t>(kv.head_dim);
  out.part_bytes = static_cast<uint32_t>(kv.part_bytes());
  return out;
}

uint64_t RoundUp(uint64_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

// --- Loading

absl::StatusOr<std::unique_ptr<Backend>> CudaBackend::Make(std::string name,
                                                           std::shared_ptr<cuda::Module> module,
                                                           std::shared_ptr<cuda::MemoryPool> pool) {
  std::unique_ptr<CudaBackend> out(
      new CudaBackend(std::move(name), std::move(module), std::move(pool)));
  RETURN_IF_ERROR(out->Init());
  return std::unique_ptr<Backend>(std::move(out));
}

absl::Status CudaBackend::Init() {
  const auto& context = module_->context();
  target_ = {module_->level(), context->device().sm_count};
  ASSIGN_OR_RETURN(stream_, cuda::Stream::Create(module_));
  ASSIGN_OR_RETURN(copies_, cuda::Stream::Create(module_));
  ASSIGN_OR_RETURN(rows_sent_, cuda::Event::Create(context));
  for (Staging& staging : staging_) {
    ASSIGN_OR_RETURN(staging.memory, cuda::PinnedMemory::Allocate(context, kStagingBytes));
    ASSIGN_OR_RETURN(staging.free, cuda::Event::Create(context));
  }
  kv_owner_ = pool_->AddOwner("KV pages of " + name_, cuda::ReleasePriority::kKv,
                              [this](uint64_t) { return Release(MemoryUse::kKv); });
  weights_owner_ = pool_->AddOwner("layers of " + name_, cuda::ReleasePriority::kLayers,
                                   [this](uint64_t) { return Release(MemoryUse::kWeights); });
  return absl::OkStatus();
}

CudaBackend::~CudaBackend() {
  if (kv_owner_ >= 0) pool_->RemoveOwner(kv_owner_);
  if (weights_owner_ >= 0) pool_->RemoveOwner(weights_owner_);
  // Running work must not find that its memory belongs to others. A lost device runs nothing.
  if (copies_ != nullptr) copies_->Synchronize().IgnoreError();
  if (stream_ != nullptr) stream_->Synchronize().IgnoreError();
}

absl::Status CudaBackend::Reserve(const BackendMemory& planned) {
  RETURN_IF_ERROR(pool_->Reserve(planned.weights, MemoryUse::kWeights));
  RETURN_IF_ERROR(pool_->Reserve(planned.kv, MemoryUse::kKv));
  return pool_->Reserve(planned.buffers, MemoryUse::kBuffers);
}

absl::StatusOr<cuda::DeviceAddress> CudaBackend::Keep(uint64_t bytes, MemoryUse use) {
  auto memory = pool_->Allocate(bytes, use);
  if (!memory.ok()) return Annotate(memory.status(), name_);
  const cuda::DeviceAddress address = memory->address();
  MutexLock lock(&mu_);
  (use == MemoryUse::kKv ? kv_ : weights_).push_back(*std::move(memory));
  return address;
}

absl::Status CudaBackend::Upload(cuda::DeviceAddress to, std::span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    Staging& staging = staging_[next_staging_];
    next_staging_ ^= 1;
    const size_t n = std::min(bytes.size(), staging.memory.size());
    RETURN_IF_ERROR(staging.free.Synchronize());
    std::memcpy(staging.memory.data(), bytes.data(), n);
    RETURN_IF_ERROR(copies_->CopyToDevice(to, staging.memory.data(), n));
    RETURN_IF_ERROR(copies_->Record(staging.free));
    to += n;
    bytes = bytes.subspan(n);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Matrix>> CudaBackend::PackMatrix(
    TensorType type, int64_t n_out, int64_t k, const ops::PackedMatrix::Reader& read) {
  const uint64_t bytes = kernels::MatrixBytes(type, n_out, k);
  if (bytes == 0) return Unimplemented(name_, " has no kernels for a matrix of this type");
  ASSIGN_OR_RETURN(const cuda::DeviceAddress at, Keep(bytes, MemoryUse::kWeights));
  RETURN_IF_ERROR(kernels::PackMatrix(
      type, n_out, k, read,
      [&](uint64_t offset, std::span<const uint8_t> piece) { return Upload(at + offset, piece); }));
  memory_.weights += RoundUp(bytes);
  const kernels::DeviceMatrix matrix{type, n_out, k, reinterpret_cast<const uint8_t*>(at)};
  return std::unique_ptr<Matrix>(std::make_unique<CudaMatrix>(matrix, RoundUp(bytes)));
}

absl::StatusOr<Vector> CudaBackend::PutVector(std::vector<float> values) {
  const uint64_t bytes = values.size() * sizeof(float);
  ASSIGN_OR_RETURN(const cuda::DeviceAddress at, Keep(bytes, MemoryUse::kWeights));
  RETURN_IF_ERROR(Upload(at, {reinterpret_cast<const uint8_t*>(values.data()), bytes}));
  memory_.weights += RoundUp(bytes);
  return Vector{reinterpret_cast<const float*>(at), static_cast<int64_t>(values.size()), nullptr};
}

absl::StatusOr<uint8_t*> CudaBackend::MapKv(uint64_t bytes, uint32_t layer) {
  if (bytes == 0) return nullptr;
  auto at = Keep(bytes, MemoryUse::kKv);
  if (!at.ok()) return Annotate(at.status(), absl::StrCat("the KV pages of layer ", layer));
  RETURN_IF_ERROR(stream_->Fill(*at, 0, bytes));
  memory_.kv += RoundUp(bytes);
  return reinterpret_cast<uint8_t*>(*at);
}

absl::Status CudaBackend::MakeBuffers(const StepSizes& sizes, InputForms forms) {
  sizes_ = sizes;
  layout_ = CudaLayout(sizes, forms);
  auto memory = pool_->Allocate(layout_.bytes, MemoryUse::kBuffers);
  if (!memory.ok()) return Annotate(memory.status(), name_ + ": a step's buffers");
  buffer_memory_ = *std::move(memory);
  memory_.buffers = layout_.bytes;
  const auto& context = module_->context();
  struct Wanted {
    cuda::PinnedMemory* memory;
    uint64_t bytes;
  };
  const uint64_t rows_bytes = layout_.rows_bytes + static_cast<uint64_t>(sizes.max_rows);
  const uint64_t head_bytes = (1 + kHeadRows) * sizeof(uint32_t);
  for (const Wanted& w :
       {Wanted{&in_, rows_bytes}, Wanted{&out_, rows_bytes},
        Wanted{&host_frame_, layout_.frame_bytes}, Wanted{&head_rows_, head_bytes},
        Wanted{&host_logits_, layout_.logit_bytes}, Wanted{&host_stats_, layout_.stats_bytes},
        Wanted{&host_chunks_, layout_.chunks_bytes}}) {
    if (w.bytes == 0) continue;
    ASSIGN_OR_RETURN(*w.memory, cuda::PinnedMemory::Allocate(context, w.bytes));
  }
  plans_.resize(sizes.has_layers ? sizes.group_windows.size() : 0);
  buffers_.x = At<float>(layout_.x);
  buffers_.h = At<float>(layout_.h);
  buffers_.qkv = At<float>(layout_.work);
  buffers_.attn = buffers_.qkv + sizes.max_rows * sizes.d_qkv;
  buffers_.gate_up = At<float>(layout_.work);
  buffers_.logits = At<float>(layout_.logits);
  ASSIGN_OR_RETURN(cuda::Event loaded, cuda::Event::Create(context));
  RETURN_IF_ERROR(copies_->Record(loaded));
  RETURN_IF_ERROR(stream_->Wait(loaded));
  RETURN_IF_ERROR(stream_->Synchronize());
  for (Staging& staging : staging_) staging = {};
  copies_.reset();
  Rest();
  return absl::OkStatus();
}

// --- A step

bool CudaBackend::usable() const {
  MutexLock lock(&mu_);
  return !take_kv_ && !take_weights_ && !module_->context()->lost();
}

absl::Status CudaBackend::StartStep() {
  MutexLock lock(&mu_);
  if (take_kv_ || take_weights_) {
    return Unavailable(name_, ": its memory was taken back, the budget is ",
                       pool_->usage().budget_bytes, " bytes now; the stage must be loaded again");
  }
  busy_ = true;
  return absl::OkStatus();
}

absl::Status CudaBackend::Begin(const Step& step) {
  RETURN_IF_ERROR(StartStep());
  rows_ = step.rows;
  return FillFrame(step);
}

absl::Status CudaBackend::End() {
  const absl::Status status = Wait();
  Rest();
  return status;
}

absl::Status CudaBackend::Wait() {
  // Running work still reads and writes buffers that the next step fills.
  return stream_->Synchronize();
}

absl::Status CudaBackend::FillFrame(const Step& step) {
  frame_ = FrameLayout(sizes_, rows_, layout_.decode_tiles);
  std::memset(host_frame_.data(), 0, frame_.words_bytes);
  HostWords()[kWordRows] = static_cast<uint32_t>(rows_);
  recordable_ = true;
  context_ = kMinContext;
  for (size_t g = 0; g < frame_.groups.size(); ++g) RETURN_IF_ERROR(FillGroup(step, g));
  if (sizes_.has_layers) {
    const uint64_t bytes = static_cast<uint64_t>(rows_ * sizes_.n_rot) * sizeof(float);
    uint8_t* to = host_frame_.data() + frame_.rotations;
    for (int kind = 0; kind < sizes_.n_rope_kinds; ++kind) {
      std::memcpy(to, step.cos(kind), bytes);
      std::memcpy(to + bytes, step.sin(kind), bytes);
      to += 2 * bytes;
    }
  }
  const auto at = reinterpret_cast<cuda::DeviceAddress>(FrameAt<uint8_t>(0));
  RETURN_IF_ERROR(stream_->CopyToDevice(at, host_frame_.data(), frame_.tables));
  for (size_t g = 0; g < frame_.groups.size(); ++g) {
    const uint64_t offset = frame_.groups[g].page_table;
    const uint64_t bytes = plans_[g].page_table.size() * sizeof(uint32_t);
    RETURN_IF_ERROR(stream_->CopyToDevice(at + offset, host_frame_.data() + offset, bytes));
  }
  return absl::OkStatus();
}

absl::Status CudaBackend::FillGroup(const Step& step, size_t group) {
  const auto g = static_cast<uint32_t>(group);
  const FrameLayout::Group& at = frame_.groups[group];
  kernels::AttentionPlan& plan = plans_[group];
  const kernels::AttentionShape shape{static_cast<uint32_t>(sizes_.n_heads),
                                      static_cast<uint32_t>(sizes_.n_kv_heads),
                                      static_cast<uint32_t>(sizes_.head_dim)};
  kernels::PlanAttention(step.runs(g), step.run_blocks(g), shape, &plan);
  if (plan.page_table.size() > sizes_.group_blocks[group]) {
    return Internal(name_, ": a frame's runs name ", plan.page_table.size(), " blocks of group ",
                    group, ", there are ", sizes_.group_blocks[group]);
  }
  for (const ops::AttentionRun& run : step.runs(g)) {
    while (context_ < run.pos + run.n_rows) context_ *= 2;
  }
  context_ = std::min(context_, std::max(kMinContext, sizes_.max_context));
  recordable_ = recordable_ && plan.prefill.empty();
  uint8_t* const frame = host_frame_.data();
  const auto put = [frame](uint64_t offset, const auto& list) {
    if (!list.empty()) std::memcpy(frame + offset, list.data(), list.size() * sizeof(list[0]));
  };
  static_assert(sizeof(kernels::DeviceSlot) == sizeof(ops::KvSlot));
  put(at.slots, step.slots(g));
  put(at.decode_tiles, plan.decode);
  put(at.prefill_tiles, plan.prefill);
  put(at.page_table, plan.page_table);
  HostWords()[at.count_word] = static_cast<uint32_t>(plan.prefill.size());
  const auto n = static_cast<uint32_t>(plan.decode.size());
  for (uint32_t begin = 0, chunk = 1; begin < n; begin += layout_.decode_tiles, ++chunk) {
    HostWords()[at.count_word + chunk] = std::min(layout_.decode_tiles, n - begin);
  }
  return absl::OkStatus();
}

absl::Status CudaBackend::Run(RunKey key, const std::function<absl::Status()>& body) {
  if (!recordable_) return body();
  const uint32_t rows = key.rows != 0 ? key.rows : static_cast<uint32_t>(rows_);
  if (graphs_.size() >= kMaxGraphs && graphs_.count({key.part, rows, context_}) == 0)
    graphs_.clear();
  Recorded& recorded = graphs_[{key.part, rows, context_}];
  // The first time is not recorded: the driver may still load kernels.
  if (recorded.seen == 0) {
    RETURN_IF_ERROR(body());
    recorded.seen = 1;
    return absl::OkStatus();
  }
  if (!recorded.graph.valid()) {
    const absl::Status status = Record(&recorded, body);
    // There was no memory for a graph; it is tried again.
    if (absl::IsResourceExhausted(status)) return body();
    RETURN_IF_ERROR(status);
  }
  ++graph_launches_;
  const absl::Status launched = stream_->Launch(recorded.graph);
  if (!absl::IsResourceExhausted(launched)) return launched;
  recorded.graph = {};  // the driver had no memory to take it to the card
  return body();
}

absl::Status CudaBackend::Record(Recorded* recorded, const std::function<absl::Status()>& body) {
  RETURN_IF_ERROR(stream_->BeginCapture());
  const absl::Status ran = body();
  // This happens in any case, so that the stream leaves the capture.
  auto graph = stream_->EndCapture();
  RETURN_IF_ERROR(ran);
  RETURN_IF_ERROR(graph.status());
  recorded->graph = *std::move(graph);
  return absl::OkStatus();
}

// --- Operations

absl::Status CudaBackend::Product(const Linear& w, const ProductRows& rows) {
  const int64_t stride = rows.x_stride == 0 ? w.k() : rows.x_stride;
  const kernels::DeviceRows quantised{true, rows.rows, w.k(), At<uint8_t>(layout_.quantised)};
  const kernels::DeviceRows floats{false, rows.rows, w.k(), At<uint8_t>(layout_.floats)};
  if (w.needs_quantised())
    RETURN_IF_ERROR(kernels::AssignRows(*stream_, rows.x, stride, quantised));
  if (w.needs_floats()) RETURN_IF_ERROR(kernels::AssignRows(*stream_, rows.x, stride, floats));
  for (const Linear::Part& part : w.parts()) {
    const kernels::DeviceMatrix& matrix = static_cast<const CudaMatrix&>(*part.matrix).matrix;
    const kernels::DeviceRows& in = matrix.wants_quantised() ? quantised : floats;
    RETURN_IF_ERROR(
        kernels::MatMul(*stream_, target_, matrix, in, {rows.out + part.offset, rows.out_stride}));
  }
  return absl::OkStatus();
}

absl::Status CudaBackend::Residual(const ops::ResidualRows& args) {
  kernels::ResidualArgs out;
  out.x = args.x;
  out.delta = args.delta;
  out.delta_norm = args.delta_norm;
  out.norm = args.norm;
  out.out = args.norm != nullptr ? args.out : nullptr;
  out.n_rows = Word(kWordRows);
  out.max_rows = static_cast<uint32_t>(args.rows);
  out.n = static_cast<uint32_t>(args.n);
  out.round_f16 = args.round_f16 ? 1 : 0;
  out.eps = args.eps;
  return kernels::Residual(*stream_, out);
}

absl::Status CudaBackend::RotateAndStore(ops::QkvRows args, int rope_kind, uint32_t group) {
  const uint64_t bytes = static_cast<uint64_t>(rows_ * sizes_.n_rot) * sizeof(float);
  kernels::RotateArgs out;
  out.qkv = args.qkv;
  out.q_norm = args.q_norm;
  out.k_norm = args.k_norm;
  out.cos = FrameAt<float>(frame_.rotations + (2 * rope_kind) * bytes);
  out.sin = FrameAt<float>(frame_.rotations + (2 * rope_kind + 1) * bytes);
  out.slots = FrameAt<kernels::DeviceSlot>(frame_.groups[group].slots);
  out.n_rows = Word(kWordRows);
  out.kv = KvOnDevice(args.kv);
  out.stride = static_cast<uint64_t>(args.stride);
  out.max_rows = static_cast<uint32_t>(args.rows);
  out.n_heads = static_cast<uint32_t>(args.n_heads);
  out.halves = args.pairs == ops::RopePairs::kHalves ? 1 : 0;
  out.n_rot = static_cast<uint32_t>(args.n_rot);
  out.eps = args.eps;
  out.q_scale = args.q_scale;
  return kernels::RotateAndStore(*stream_, out);
}

absl::Status CudaBackend::Attend(ops::AttentionArgs args, uint32_t group) {
  const FrameLayout::Group& at = frame_.groups[group];
  const kernels::AttentionPlan& plan = plans_[group];
  kernels::AttendArgs out;
  out.kv = KvOnDevice(args.kv);
  out.q = args.q;
  out.out = args.out;
  out.page_table = FrameAt<uint32_t>(at.page_table);
  out.partials = At<float>(layout_.partials);
  out.q_stride = static_cast<uint64_t>(args.q_stride);
  out.out_stride = static_cast<uint64_t>(args.out_stride);
  out.n_heads = static_cast<uint32_t>(args.n_heads);
  out.window = args.window;
  const bool fast = sizes_.numerics.attention == stage::AttentionForm::kFast;
  const auto n = static_cast<uint32_t>(plan.decode.size());
  for (uint32_t begin = 0, chunk = 1; begin < n; begin += layout_.decode_tiles, ++chunk) {
    out.tiles = FrameAt<kernels::AttentionTile>(at.decode_tiles) + begin;
    out.n_tiles = Word(at.count_word + chunk);
    out.max_tiles = std::min(layout_.decode_tiles, n - begin);
    out.max_spans = kernels::MaxSpans(context_, args.window);
    RETURN_IF_ERROR(fast ? kernels::AttendFastDecode(*stream_, out)
                         : kernels::AttendDecode(*stream_, out));
  }
  if (plan.prefill.empty()) return absl::OkStatus();
  out.tiles = FrameAt<kernels::AttentionTile>(at.prefill_tiles);
  out.n_tiles = Word(at.count_word);
  out.max_tiles = static_cast<uint32_t>(plan.prefill.size());
  return fast ? kernels::AttendFastPrefill(*stream_, out) : kernels::AttendPrefill(*stream_, out);
}

absl::Status CudaBackend::GateMul(const ops::GateRows& args) {
  kernels::GateArgs out;
  out.gate_up = args.gate_up;
  out.n_rows = Word(kWordRows);
  out.max_rows = static_cast<uint32_t>(args.rows);
  out.n = static_cast<uint32_t>(args.n);
  out.activation = static_cast<uint32_t>(args.activation);
  return kernels::GateMul(*stream_, out);
}

// --- The head

absl::Status CudaBackend::SetHeadRows(std::span<const int64_t> rows) {
  n_head_rows_ = static_cast<uint32_t>(rows.size());
  auto* const words = reinterpret_cast<uint32_t*>(head_rows_.data());
  words[0] = n_head_rows_;
  for (size_t i = 0; i < rows.size(); ++i) words[1 + i] = static_cast<uint32_t>(rows[i]);
  return stream_->CopyToDevice(reinterpret_cast<cuda::DeviceAddress>(At<uint32_t>(layout_.head)),
                               words, (1 + rows.size()) * sizeof(uint32_t));
}

absl::Status CudaBackend::NormHeadRows(const Vector& norm, float eps) {
  kernels::ResidualArgs out;
  out.x = buffers_.x;
  out.norm = norm.data;
  out.out = buffers_.h;
  out.row_of = At<uint32_t>(layout_.head) + 1;
  out.n_rows = At<uint32_t>(layout_.head);
  out.max_rows = n_head_rows_;
  out.n = static_cast<uint32_t>(sizes_.d_model);
  out.eps = eps;
  return kernels::Residual(*stream_, out);
}

absl::Status CudaBackend::SummariseLogits() {
  kernels::LogitsArgs args;
  args.logits = buffers_.logits;
  args.chunk_max = At<float>(layout_.chunk_max);
  args.chunk_argmax = At<uint32_t>(layout_.chunk_argmax);
  args.chunk_sums = At<float>(layout_.chunk_sums);
  args.stats = At<kernels::RowStats>(layout_.stats);
  args.n_rows = At<uint32_t>(layout_.head);
  args.max_rows = n_head_rows_;
  args.n = static_cast<uint32_t>(sizes_.n_vocab);
  return kernels::SummariseLogits(*stream_, args);
}

absl::Status CudaBackend::ReadLogits(std::span<const uint8_t> whole, std::vector<LogitRow>* out) {
  const size_t rows = whole.size();
  const size_t chunks = kernels::LogitChunks(static_cast<uint32_t>(sizes_.n_vocab));
  const auto at = [this](uint64_t offset) { return buffer_memory_.address() + offset; };
  RETURN_IF_ERROR(
      stream_->CopyToHost(host_stats_.data(), at(layout_.stats), rows * sizeof(kernels::RowStats)));
  RETURN_IF_ERROR(stream_->CopyToHost(host_chunks_.data(), at(layout_.chunk_max),
                                      rows * chunks * sizeof(float)));
  const uint64_t row_bytes = static_cast<uint64_t>(sizes_.n_vocab) * sizeof(float);
  for (size_t i = 0; i < rows; ++i) {
    if (whole[i] == 0) continue;
    RETURN_IF_ERROR(stream_->CopyToHost(host_logits_.data() + i * row_bytes,
                                        at(layout_.logits) + i * row_bytes, row_bytes));
  }
  RETURN_IF_ERROR(Wait());
  stats_.resize(std::max(stats_.size(), rows));
  out->resize(rows);
  const auto* const maxima = reinterpret_cast<const float*>(host_chunks_.data());
  for (size_t i = 0; i < rows; ++i) {
    kernels::RowStats stats;
    std::memcpy(&stats, host_stats_.data() + i * sizeof(stats), sizeof(stats));
    if (stats.ok == 0) {
      (*out)[i] = {};
      continue;
    }
    stats_[i].max = stats.max;
    stats_[i].argmax = stats.argmax;
    stats_[i].sum = stats.sum;
    stats_[i].lse = stats.lse;
    stats_[i].chunk_max.assign(maxima + i * chunks, maxima + (i + 1) * chunks);
    const auto* const row = reinterpret_cast<const float*>(host_logits_.data() + i * row_bytes);
    (*out)[i] = {&stats_[i], whole[i] != 0 ? row : nullptr};
  }
  return absl::OkStatus();
}

// --- Borders

absl::Status CudaBackend::TakeRows() {
  return stream_->CopyToDevice(reinterpret_cast<cuda::DeviceAddress>(buffers_.x), in_.data(),
                               static_cast<uint64_t>(rows_ * sizes_.d_model) * sizeof(float));
}

absl::Status CudaBackend::TakeHidden(stage::WireType type, std::span<const uint8_t> data) {
  std::memcpy(in_.data(), data.data(), data.size());
  if (type == stage::WireType::kF32) return TakeRows();
  uint8_t* const wire = At<uint8_t>(layout_.wire);
  RETURN_IF_ERROR(
      stream_->CopyToDevice(reinterpret_cast<cuda::DeviceAddress>(wire), in_.data(), data.size()));
  kernels::HalfRowsArgs args;
  args.x = buffers_.x;
  args.data = wire;
  args.not_finite = Word(kWordNotFinite);  // nobody reads it: a bad row ends at its own output
  args.n_rows = Word(kWordRows);
  args.max_rows = static_cast<uint32_t>(rows_);
  args.n = static_cast<uint32_t>(sizes_.d_model);
  return kernels::DecodeHalfRows(*stream_, args);
}

// Says whether this card may write into the other's memory. It is asked, and enabled, once for each
// card.
absl::StatusOr<bool> CudaBackend::Reaches(const CudaBackend& other) {
  cuda::Context& to = *other.module_->context();
  const auto known = reaches_.find(&to);
  if (known != reaches_.end()) return known->second;
  auto reached = module_->context()->EnablePeer(to);
  if (!reached.ok() && absl::IsUnavailable(reached.status())) return reached.status();
  // A driver that says yes and then no counts as one that cannot.
  return reaches_[&to] = reached.ok() && *reached;
}

absl::StatusOr<bool> CudaBackend::TakeFrom(Backend& from) {
  auto* const card = dynamic_cast<CudaBackend*>(&from);
  if (card == nullptr || card->module_->context() == module_->context()) return false;
  ASSIGN_OR_RETURN(const bool reached, card->Reaches(*this));
  if (!reached) return false;
  // The copy runs on the sender's stream, behind its layers, and this card's stream waits for it.
  // What this stream did to x before is over: the last step ended with a wait.
  RETURN_IF_ERROR(card->stream_->CopyPeer(
      *module_->context(), reinterpret_cast<cuda::DeviceAddress>(buffers_.x),
      reinterpret_cast<cuda::DeviceAddress>(card->buffers_.x),
      static_cast<uint64_t>(rows_ * sizes_.d_model) * sizeof(float)));
  RETURN_IF_ERROR(card->stream_->Record(card->rows_sent_));
  RETURN_IF_ERROR(stream_->Wait(card->rows_sent_));
  return true;
}

absl::Status CudaBackend::GiveHidden(stage::WireType type, std::span<uint8_t> data) {
  auto from = reinterpret_cast<cuda::DeviceAddress>(buffers_.x);
  if (type == stage::WireType::kF16) {
    kernels::HalfRowsArgs args;
    args.x = buffers_.x;
    args.data = At<uint8_t>(layout_.wire);
    args.n_rows = Word(kWordRows);
    args.max_rows = static_cast<uint32_t>(rows_);
    args.n = static_cast<uint32_t>(sizes_.d_model);
    RETURN_IF_ERROR(kernels::EncodeHalfRows(*stream_, args));
    from = reinterpret_cast<cuda::DeviceAddress>(args.data);
  }
  RETURN_IF_ERROR(stream_->CopyToHost(out_.data(), from, data.size()));
  RETURN_IF_ERROR(Wait());
  std::memcpy(data.data(), out_.data(), data.size());
  return absl::OkStatus();
}

// --- Memory taken back

uint64_t CudaBackend::Release(MemoryUse use) {
  // Freed after the lock, since the driver may take its time.
  std::vector<cuda::DeviceMemory> freed;
  MutexLock lock(&mu_);
  bool& take = use == MemoryUse::kKv ? take_kv_ : take_weights_;
  if (take) return 0;  // it was promised before
  uint64_t bytes = 0;
  for (const cuda::DeviceMemory& memory : use == MemoryUse::kKv ? kv_ : weights_)
    bytes += memory.size();
  if (bytes == 0) return 0;
  take = true;
  if (busy_) return bytes;
  freed = Taken(use);
  return 0;  // no more will come
}

void CudaBackend::Rest() {
  std::vector<cuda::DeviceMemory> kv, weights;
  MutexLock lock(&mu_);
  busy_ = false;
  if (take_kv_) kv = Taken(MemoryUse::kKv);
  if (take_weights_) weights = Taken(MemoryUse::kWeights);
}

std::vector<cuda::DeviceMemory> CudaBackend::Taken(MemoryUse use) {
  return std::exchange(use == MemoryUse::kKv ? kv_ : weights_, {});
}

}  // namespace lanyard::engine
