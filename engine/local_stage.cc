#include "engine/local_stage.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/family.h"
#include "engine/ops/residual.h"
#include "engine/sampler.h"

namespace lanyard::engine {
namespace {

ops::KvElement ElementOf(stage::KvType type) {
  switch (type) {
    case stage::KvType::kF32: return ops::KvElement::kF32;
    case stage::KvType::kF16: return ops::KvElement::kF16;
    case stage::KvType::kQ8: return ops::KvElement::kI8;
  }
  return ops::KvElement::kF32;
}

absl::Status CheckSpec(const model::ModelShape& shape, const stage::StageSpec& spec, const StageOptions& options) {
  if (spec.layers.begin > spec.layers.end || spec.layers.end > shape.n_layers) {
    return InvalidArgument("stage: layers [", spec.layers.begin, ", ", spec.layers.end, ") of a model with ",
                           shape.n_layers);
  }
  if (spec.group_blocks.size() != shape.groups.size()) {
    return InvalidArgument("stage: group_blocks has ", spec.group_blocks.size(), " groups, the model has ",
                           shape.groups.size());
  }
  if (spec.max_rows == 0 || spec.max_rows > stage::kMaxFrameRows) {
    return InvalidArgument("stage: max_rows ", spec.max_rows, " is not in [1, ", stage::kMaxFrameRows, "]");
  }
  if (options.threads < 1 || options.threads > 1024) {
    return InvalidArgument("stage: threads ", options.threads, " is not in [1, 1024]");
  }
  if (spec.numerics.version != kNumericsVersion) {
    return FailedPrecondition("stage: numerics version ", spec.numerics.version, ", this program has ",
                              kNumericsVersion);
  }
  return absl::OkStatus();
}

// GGUF bytes that Create reads.
uint64_t StageTensorBytes(const model::ModelShape& shape, const stage::StageSpec& spec,
                          const model::TensorSource& source) {
  std::vector<model::TensorSpec> tensors;
  const auto add = [&](const std::vector<model::TensorSpec>& more) {
    tensors.insert(tensors.end(), more.begin(), more.end());
  };
  if (spec.layers.size() > 0) add(model::CommonTensors(shape));
  for (uint32_t i = spec.layers.begin; i < spec.layers.end; ++i) add(model::LayerTensors(shape, i));
  if (spec.samples) {
    add(model::NormTensors(shape));
    add(shape.tied_output ? model::EmbedTensors(shape) : model::OutputTensors(shape));
  }
  uint64_t bytes = 0;
  for (const model::TensorSpec& tensor : tensors) {
    if (const model::TensorInfo* info = source.Find(tensor.name); info != nullptr) bytes += info->bytes;
  }
  return bytes;
}

class CpuStage : public LocalStage {
 public:
  CpuStage(const model::ModelShape& shape, const stage::StageSpec& spec, const model::TensorSource& source,
           const StageOptions& options)
      : shape_(shape),
        spec_(spec),
        source_(source),
        isa_(options.isa),
        round_f16_(spec.numerics.wire == stage::WireType::kF16),
        pool_(options.threads),
        sampler_(options.isa, &pool_) {}

  absl::Status Load(WeightLoader& loader) {
    ASSIGN_OR_RETURN(family_, MakeFamily(shape_, loader, spec_.layers.size() > 0));
    RETURN_IF_ERROR(MapKv());
    for (uint32_t i = spec_.layers.begin; i < spec_.layers.end; ++i) {
      Layer& layer = layers_[i - spec_.layers.begin];
      RETURN_IF_ERROR(family_->LoadLayer(loader, i, &layer));
      memory_.weights += layer.weight_bytes();
    }
    if (spec_.embeds) {
      ASSIGN_OR_RETURN(embedding_, FindMatrix(source_, "token_embd.weight", shape_.n_vocab, shape_.d_model));
      embedding_row_.resize(embedding_->bytes / shape_.n_vocab);
    }
    if (spec_.samples) {
      ASSIGN_OR_RETURN(output_norm_, loader.LoadVector("output_norm.weight", shape_.d_model));
      const char* head = shape_.tied_output ? "token_embd.weight" : "output.weight";
      ASSIGN_OR_RETURN(head_, loader.LoadLinear({{head, int64_t{shape_.n_vocab}}}, shape_.d_model));
      memory_.weights += head_.bytes() + output_norm_.size() * sizeof(float);
    }
    ASSIGN_OR_RETURN(step_, Step::Make(shape_, spec_, isa_, &pool_));
    memory_.buffers = PlanBufferBytes(shape_, spec_, {pool_.size(), HeldForms()});
    return absl::OkStatus();
  }

  absl::StatusOr<StageOutput> Run(const stage::StepFrame& frame, std::stop_token stop) override {
    step_.Begin(frame, family_->ropes());
    RETURN_IF_ERROR(spec_.embeds ? Embed(frame) : TakeHidden(frame.hidden));
    for (const Layer& layer : layers_) {
      if (stop.stop_requested()) return absl::CancelledError("the step was cancelled");
      family_->RunLayer(step_, layer, round_f16_);
    }
    StageOutput out;
    if (spec_.samples) {
      RETURN_IF_ERROR(Head(frame.batch, stop, &out.tokens));
    } else {
      out.hidden = GiveHidden();
    }
    return out;
  }

  const StageMemory& memory() const override { return memory_; }

  // Forms of the rows that enter products (see ops::ActRows).
  struct InputForms {
    bool quantised = false;
    bool floats = false;
  };
  struct BufferOptions {
    int threads = 1;
    InputForms forms;
  };
  static uint64_t PlanBufferBytes(const model::ModelShape& shape, const stage::StageSpec& spec,
                                  const BufferOptions& options);

 private:
  InputForms HeldForms() const {
    InputForms forms;
    const auto add = [&](const Linear& linear) {
      forms.quantised = forms.quantised || linear.needs_quantised();
      forms.floats = forms.floats || linear.needs_floats();
    };
    for (const Layer& layer : layers_) {
      for (const Linear* linear : {&layer.qkv, &layer.attn_out, &layer.gate_up, &layer.down}) add(*linear);
    }
    add(head_);
    return forms;
  }

  absl::Status MapKv() {
    layers_.resize(spec_.layers.size());
    for (uint32_t i = spec_.layers.begin; i < spec_.layers.end; ++i) {
      Layer& layer = layers_[i - spec_.layers.begin];
      layer.group = model::GroupOfLayer(shape_, i);
      layer.window = shape_.groups[layer.group].window;
      layer.kv.element = ElementOf(spec_.numerics.kv);
      layer.kv.n_kv_heads = static_cast<int>(shape_.n_kv_heads);
      layer.kv.head_dim = static_cast<int>(shape_.head_dim);
      const uint64_t bytes = spec_.group_blocks[layer.group] * layer.kv.page_bytes();
      ASSIGN_OR_RETURN(Memory pages, Memory::Map(bytes, absl::StrCat("the KV pages of layer ", i)));
      layer.kv.base = pages.data();
      memory_.kv += bytes;
      kv_.push_back(std::move(pages));
    }
    return absl::OkStatus();
  }

  absl::Status Embed(const stage::StepFrame& frame) {
    float* x = step_.x();
    for (const stage::SeqRun& run : frame.batch.runs) {
      for (const int32_t id : run.tokens) {
        const uint64_t offset = static_cast<uint64_t>(id) * embedding_row_.size();
        RETURN_IF_ERROR(source_.Read("token_embd.weight", offset, embedding_row_));
        ops::DequantizeRow(embedding_->type, embedding_row_.data(), shape_.d_model, x);
        x += shape_.d_model;
      }
    }
    const float scale = family_->embedding_scale();
    if (scale != 1.0f) ops::Scale(isa_, step_.x(), step_.rows * shape_.d_model, scale);
    ops::ResidualRows round;
    round.x = step_.x();
    round.rows = step_.rows;
    round.n = shape_.d_model;
    round.round_f16 = round_f16_;
    if (round_f16_) ops::Residual(isa_, pool_, round);
    return absl::OkStatus();
  }

  absl::Status TakeHidden(const stage::Hidden& hidden) {
    bool finite;
    if (hidden.type == stage::WireType::kF32) {
      std::memcpy(step_.x(), hidden.data.data(), hidden.data.size());
      finite = ops::AllFinite(isa_, step_.x(), step_.rows * shape_.d_model);
    } else {
      finite = ops::DecodeHalfRows(isa_, pool_, hidden.data.data(), {step_.rows, shape_.d_model}, step_.x());
    }
    if (finite) return absl::OkStatus();
    return InvalidArgument("hidden states hold a value that is not a finite number; the stage before has failed or "
                           "its frame was damaged");
  }

  stage::Hidden GiveHidden() {
    stage::Hidden out;
    out.type = spec_.numerics.wire;
    out.rows = static_cast<uint32_t>(step_.rows);
    out.cols = shape_.d_model;
    out.data.resize(stage::Hidden::BytesFor(out.type, out.rows, out.cols));
    if (out.type == stage::WireType::kF32) {
      std::memcpy(out.data.data(), step_.x(), out.data.size());
    } else {
      ops::EncodeHalfRows(isa_, pool_, step_.x(), {step_.rows, shape_.d_model}, out.data.data());
    }
    return out;
  }

  // An output and the row of the step that it is of.
  struct Wanted {
    const stage::SeqRun* run;
    const stage::OutputRequest* request;
    int64_t row;
  };

  absl::Status Head(const stage::StepBatch& batch, const std::stop_token& stop, std::vector<stage::TokenOut>* out) {
    wanted_.clear();
    int64_t first_row = 0;
    for (const stage::SeqRun& run : batch.runs) {
      for (const stage::OutputRequest& request : run.outputs) {
        wanted_.push_back({&run, &request, first_row + request.row});
      }
      first_row += run.n_rows;
    }
    const size_t group = std::min<size_t>(kHeadRows, spec_.max_rows);
    for (size_t begin = 0; begin < wanted_.size(); begin += group) {
      if (stop.stop_requested()) return absl::CancelledError("the step was cancelled");
      const size_t n = std::min(group, wanted_.size() - begin);
      RETURN_IF_ERROR(HeadRows(std::span(wanted_).subspan(begin, n), out));
    }
    return absl::OkStatus();
  }

  absl::Status HeadRows(std::span<const Wanted> wanted, std::vector<stage::TokenOut>* out) {
    const int64_t d = shape_.d_model;
    // Distinct rows, normalised side by side; several outputs of one row share its logits.
    int64_t rows = 0;
    for (size_t i = 0; i < wanted.size(); ++i) {
      if (i > 0 && wanted[i].row == wanted[i - 1].row) continue;
      ops::ResidualRows norm;
      norm.x = step_.x() + wanted[i].row * d;
      norm.norm = output_norm_.data();
      norm.out = step_.h() + rows * d;
      norm.rows = 1;
      norm.n = d;
      norm.eps = shape_.norm_eps;
      ops::Residual(isa_, pool_, norm);
      ++rows;
    }
    head_.Apply(isa_, pool_, step_.inputs, {step_.h(), rows, 0, step_.logits(), int64_t{shape_.n_vocab}});
    int64_t row = -1;
    for (size_t i = 0; i < wanted.size(); ++i) {
      if (i == 0 || wanted[i].row != wanted[i - 1].row) {
        ++row;
        RETURN_IF_ERROR(sampler_.SetRow(step_.logits() + row * shape_.n_vocab, shape_.n_vocab));
      }
      stage::TokenOut token;
      token.seq = wanted[i].run->seq;
      token.pos = wanted[i].run->pos + wanted[i].request->row;
      sampler_.Answer(*wanted[i].request, &token);
      out->push_back(std::move(token));
    }
    return absl::OkStatus();
  }

  const model::ModelShape shape_;
  const stage::StageSpec spec_;
  const model::TensorSource& source_;
  const ops::Isa isa_;
  const bool round_f16_;
  ops::ThreadPool pool_;
  std::unique_ptr<Family> family_;
  std::vector<Layer> layers_;
  std::vector<Memory> kv_;
  const model::TensorInfo* embedding_ = nullptr;
  std::vector<uint8_t> embedding_row_;
  std::vector<float> output_norm_;
  Linear head_;
  Step step_;
  Sampler sampler_;
  std::vector<Wanted> wanted_;
  StageMemory memory_;
};

uint64_t CpuStage::PlanBufferBytes(const model::ModelShape& shape, const stage::StageSpec& spec,
                                   const BufferOptions& options) {
  const StepSizes sizes = Step::SizesOf(shape, spec);
  uint64_t bytes = sizes.BufferBytes();
  // Rows that enter products: int8 with a scale and sums a block of 32, or the f32 values.
  const uint64_t widest = sizes.has_layers ? std::max({sizes.d_model, sizes.d_attn, sizes.d_ff}) : sizes.d_model;
  bytes += sizes.max_rows * widest * ((options.forms.quantised ? 2 : 0) + (options.forms.floats ? 4 : 0));
  if (sizes.has_layers) {
    bytes += ops::AttentionScratch::Bytes(options.threads, static_cast<int>(shape.n_heads),
                                          static_cast<int>(shape.n_kv_heads), static_cast<int>(shape.head_dim),
                                          sizes.max_rows);
  }
  // The sampler's candidates: an id and a logit each.
  if (spec.samples) bytes += uint64_t{shape.n_vocab} * 8;
  // The frame's hidden states, in and out.
  const uint64_t frame = stage::Hidden::BytesFor(spec.numerics.wire, sizes.max_rows, shape.d_model);
  if (!spec.embeds) bytes += frame;
  if (!spec.samples) bytes += frame;
  return bytes;
}

}  // namespace

StageMemory PlanMemory(const model::ModelShape& shape, const stage::StageSpec& spec,
                       const std::vector<model::TensorInfo>& tensors, int threads) {
  StageMemory out;
  CpuStage::InputForms forms;
  for (const model::TensorInfo& tensor : tensors) {
    if (tensor.dims.empty()) continue;
    if (tensor.dims.size() == 1) {
      out.weights += tensor.dims[0] * sizeof(float);
      continue;
    }
    const bool on_demand = tensor.name == "token_embd.weight" && !(spec.samples && shape.tied_output);
    if (on_demand) continue;
    const auto traits = TraitsOf(tensor.type);
    if (!traits) continue;
    (traits->elements > 1 ? forms.quantised : forms.floats) = true;
    out.weights += ops::PackedMatrix::PackedBytes(tensor.type, static_cast<int64_t>(tensor.dims[1]),
                                                  static_cast<int64_t>(tensor.dims[0]));
  }
  ops::KvLayer kv;
  kv.element = ElementOf(spec.numerics.kv);
  kv.n_kv_heads = static_cast<int>(shape.n_kv_heads);
  kv.head_dim = static_cast<int>(shape.head_dim);
  for (uint32_t i = spec.layers.begin; i < spec.layers.end; ++i) {
    const uint32_t group = model::GroupOfLayer(shape, i);
    if (group < spec.group_blocks.size()) out.kv += spec.group_blocks[group] * kv.page_bytes();
  }
  out.buffers = CpuStage::PlanBufferBytes(shape, spec, {threads, forms});
  return out;
}

stage::NumericsId DefaultNumerics(const model::ModelShape& shape) {
  stage::NumericsId id;
  if (shape.float_weights) {
    id.kv = stage::KvType::kF32;
    id.wire = stage::WireType::kF32;
  }
  return id;
}

stage::FrameModel FrameModelOf(const model::ModelShape& shape) {
  stage::FrameModel out;
  out.n_vocab = shape.n_vocab;
  out.d_model = shape.d_model;
  for (const model::StateGroup& group : shape.groups) out.group_windows.push_back(group.window);
  return out;
}

absl::StatusOr<std::unique_ptr<LocalStage>> LocalStage::Create(
    const model::ModelShape& shape, const stage::StageSpec& spec, const model::TensorSource& source,
    const StageOptions& options, const std::function<void(uint64_t, uint64_t)>& progress) {
  RETURN_IF_ERROR(CheckSpec(shape, spec, options));
  auto out = std::make_unique<CpuStage>(shape, spec, source, options);
  uint64_t done = 0;
  const uint64_t total = StageTensorBytes(shape, spec, source);
  WeightLoader loader(source, options.isa, [&](uint64_t bytes) {
    done += bytes;
    if (progress) progress(std::min(done, total), total);
  });
  RETURN_IF_ERROR(out->Load(loader));
  return std::unique_ptr<LocalStage>(std::move(out));
}

}  // namespace lanyard::engine
