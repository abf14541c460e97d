#include "engine/local_stage.h"

#include <algorithm>
#include <atomic>

#include "engine/cpu_backend.h"
#include "engine/family.h"
#include "engine/placement.h"
#include "engine/sampler.h"
#include "stage/speed.h"

namespace lanyard::engine {
namespace {

absl::Status CheckSpec(const model::ModelShape& shape, const stage::StageSpec& spec,
                       const StageOptions& options) {
  if (spec.layers.begin > spec.layers.end || spec.layers.end > shape.n_layers) {
    return InvalidArgument("stage: layers [", spec.layers.begin, ", ", spec.layers.end,
                           ") of a model with ", shape.n_layers);
  }
  if (spec.group_blocks.size() != shape.groups.size()) {
    return InvalidArgument("stage: group_blocks has ", spec.group_blocks.size(),
                           " groups, the model has ", shape.groups.size());
  }
  if (spec.max_rows == 0 || spec.max_rows > stage::kMaxFrameRows) {
    return InvalidArgument("stage: max_rows ", spec.max_rows, " is not in [1, ",
                           stage::kMaxFrameRows, "]");
  }
  if (options.threads < 1 || options.threads > static_cast<int>(stage::kMaxThreads)) {
    return InvalidArgument("stage: threads ", options.threads, " is not in [1, ",
                           stage::kMaxThreads, "]");
  }
  if (spec.numerics.version != kNumericsVersion) {
    return FailedPrecondition("stage: numerics version ", spec.numerics.version,
                              ", this program has ", kNumericsVersion);
  }
  return absl::OkStatus();
}

// The GGUF bytes that Create reads.
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
    if (const model::TensorInfo* info = source.Find(tensor.name); info != nullptr)
      bytes += info->bytes;
  }
  return bytes;
}

// What the host holds beside the places' own buffers: the sampler, a row of the embedding as the
// file has it, and the frame's hidden states, in and out.
uint64_t HostBytes(const model::ModelShape& shape, const stage::StageSpec& spec,
                   const model::TensorInfo* embedding) {
  uint64_t bytes = spec.samples ? Sampler::Bytes(shape.n_vocab) : 0;
  if (spec.embeds && embedding != nullptr) bytes += embedding->bytes / shape.n_vocab;
  const uint64_t frame = stage::Hidden::BytesFor(
      spec.numerics.wire, std::min(spec.max_rows, stage::kMaxFrameRows), shape.d_model);
  if (!spec.embeds) bytes += frame;
  if (!spec.samples) bytes += frame;
  return bytes;
}

constexpr uint32_t kHeadPart = ~uint32_t{0};

// A run of layers on one device, in the order of the stage.
struct Segment {
  Backend* on = nullptr;
  uint32_t part = 0;  // the number by which its backend knows it
  std::vector<Layer> layers;
};

// The backends do the work; this class knows their order, the borders between them, and the two
// ends of the model.
class DeviceStage final : public LocalStage {
 public:
  DeviceStage(const model::ModelShape& shape, const stage::StageSpec& spec,
              const model::TensorSource& source, const StageOptions& options)
      : shape_(shape),
        spec_(spec),
        source_(source),
        isa_(options.isa),
        round_f16_(spec.numerics.wire == stage::WireType::kF16),
        pool_(options.threads),
        sampler_(options.isa, &pool_) {}

  absl::Status Load(WeightLoader& loader, const std::vector<Place>& places) {
    ASSIGN_OR_RETURN(family_, MakeFamily(shape_, loader, spec_.layers.size() > 0));
    if (spec_.layers.size() > 0) {
      for (const model::TensorSpec& common : model::CommonTensors(shape_))
        memory_.weights += common.dims[0] * sizeof(float);
    }
    const StepSizes sizes = Step::SizesOf(shape_, spec_);
    ASSIGN_OR_RETURN(step_, Step::Make(sizes, family_->ropes(), &pool_));
    for (const Place& place : places) RETURN_IF_ERROR(LoadPlace(loader, place));
    if (spec_.embeds) {
      ASSIGN_OR_RETURN(embedding_,
                       FindMatrix(source_, "token_embd.weight", shape_.n_vocab, shape_.d_model));
      embedding_row_.resize(embedding_->bytes / shape_.n_vocab);
    }
    if (spec_.samples) sampler_.Reserve(shape_.n_vocab);
    memory_.buffers += HostBytes(shape_, spec_, embedding_);
    return absl::OkStatus();
  }

  absl::StatusOr<StageOutput> Run(const stage::StepFrame& frame, std::stop_token stop) override {
    absl::StatusOr<StageOutput> out = RunStep(frame, stop);
    if (absl::IsUnavailable(out.status())) lost_.store(true);
    return out;
  }

  const StageMemory& memory() const override { return memory_; }
  bool lost() const override {
    const auto usable = [](const std::unique_ptr<Backend>& backend) { return backend->usable(); };
    return lost_.load() || !std::all_of(backends_.begin(), backends_.end(), usable);
  }

 private:
  absl::Status LoadPlace(WeightLoader& loader, const Place& place) {
    std::unique_ptr<Backend> made;
    if (place.device == nullptr) {
      made = std::make_unique<CpuBackend>(isa_, &pool_);
    } else {
      ASSIGN_OR_RETURN(made, place.device->MakeBackend());
    }
    Backend& on = *made;
    backends_.push_back(std::move(made));
    loader.set_backend(&on);
    RETURN_IF_ERROR(on.Reserve(place.memory));
    InputForms forms;
    Segment segment;
    segment.on = &on;
    segment.part = static_cast<uint32_t>(segments_.size());
    segment.layers.resize(place.layers.size());
    for (uint32_t i = place.layers.begin; i < place.layers.end; ++i) {
      Layer& layer = segment.layers[i - place.layers.begin];
      RETURN_IF_ERROR(MapKv(on, i, &layer));
      RETURN_IF_ERROR(family_->LoadLayer(loader, i, &layer));
      if (static_cast<size_t>(layer.rope_kind) >= family_->ropes().size()) {
        return Internal("layer ", i, " asks for rotation ", layer.rope_kind, " of ",
                        family_->ropes().size());
      }
      forms.Add(layer.forms());
    }
    if (place.head) {
      ASSIGN_OR_RETURN(output_norm_, loader.LoadVector("output_norm.weight", shape_.d_model));
      const char* head = shape_.tied_output ? "token_embd.weight" : "output.weight";
      ASSIGN_OR_RETURN(head_, loader.LoadLinear({{head, int64_t{shape_.n_vocab}}}, shape_.d_model));
      forms.Add(head_);
    }
    RETURN_IF_ERROR(on.MakeBuffers(place.sizes, forms));
    segments_.push_back(std::move(segment));
    Count(place, on.memory());
    return absl::OkStatus();
  }

  void Count(const Place& place, const BackendMemory& held) {
    if (place.device != nullptr) {
      memory_.devices.push_back({place.device->name(), held, place.layers, place.head});
      memory_.buffers += place.device->HostBytes(place.sizes);
      return;
    }
    memory_.weights += held.weights;
    memory_.kv += held.kv;
    memory_.buffers += held.buffers;
  }

  absl::Status MapKv(Backend& on, uint32_t index, Layer* layer) {
    layer->group = model::GroupOfLayer(shape_, index);
    layer->window = shape_.groups[layer->group].window;
    layer->kv = KvOf(shape_, spec_.numerics.kv);
    ASSIGN_OR_RETURN(layer->kv.base,
                     on.MapKv(spec_.group_blocks[layer->group] * layer->kv.page_bytes(), index));
    return absl::OkStatus();
  }

  // Whatever happens in a step, every backend that began it also ends it.
  absl::StatusOr<StageOutput> RunStep(const stage::StepFrame& frame, const std::stop_token& stop) {
    if (stop.stop_requested()) return absl::CancelledError("the step was cancelled");
    step_.Begin(frame);
    absl::StatusOr<StageOutput> out;
    absl::Status status;
    size_t begun = 0;
    while (begun < backends_.size() && status.ok()) status = backends_[begun++]->Begin(step_);
    if (status.ok()) {
      out = RunFrame(frame, stop);
      status = out.status();
    }
    for (size_t i = 0; i < begun; ++i) {
      const absl::Status end = backends_[i]->End();
      if (status.ok() || absl::IsUnavailable(end)) status = end;
    }
    if (!status.ok()) return status;
    return out;
  }

  absl::StatusOr<StageOutput> RunFrame(const stage::StepFrame& frame, const std::stop_token& stop) {
    RETURN_IF_ERROR(spec_.embeds
                        ? Embed(frame)
                        : segments_[0].on->TakeHidden(frame.hidden.type, frame.hidden.data));
    for (size_t i = 0; i < segments_.size(); ++i) {
      if (i > 0) RETURN_IF_ERROR(Cross(*segments_[i - 1].on, *segments_[i].on));
      RETURN_IF_ERROR(RunSegment(segments_[i], stop));
    }
    StageOutput out;
    if (spec_.samples) {
      RETURN_IF_ERROR(Head(frame.batch, stop, &out.tokens));
    } else {
      ASSIGN_OR_RETURN(out.hidden, GiveHidden(*segments_.back().on));
    }
    return out;
  }

  absl::Status RunSegment(const Segment& segment, const std::stop_token& stop) {
    if (segment.layers.empty()) return absl::OkStatus();
    return segment.on->Run({segment.part, 0}, [&]() -> absl::Status {
      for (const Layer& layer : segment.layers) {
        if (stop.stop_requested()) return absl::CancelledError("the step was cancelled");
        RETURN_IF_ERROR(family_->RunLayer(*segment.on, layer, round_f16_));
      }
      return absl::OkStatus();
    });
  }

  // Moves rows from one device to the next, as between machines: every layer's end is already
  // rounded to the wire's type.
  absl::Status Cross(Backend& from, Backend& to) {
    ASSIGN_OR_RETURN(const bool taken, to.TakeFrom(from));
    if (taken) return absl::OkStatus();
    ASSIGN_OR_RETURN(const stage::Hidden hidden, GiveHidden(from));
    return to.TakeHidden(hidden.type, hidden.data);
  }

  absl::Status Embed(const stage::StepFrame& frame) {
    Backend& on = *segments_[0].on;
    float* const rows = on.HostRows();
    float* x = rows;
    for (const stage::SeqRun& run : frame.batch.runs) {
      for (const int32_t id : run.tokens) {
        const uint64_t offset = static_cast<uint64_t>(id) * embedding_row_.size();
        RETURN_IF_ERROR(source_.Read("token_embd.weight", offset, embedding_row_));
        ops::DequantizeRow(embedding_->type, embedding_row_.data(), shape_.d_model, x);
        x += shape_.d_model;
      }
    }
    const float scale = family_->embedding_scale();
    if (scale != 1.0f) ops::Scale(isa_, rows, step_.rows * shape_.d_model, scale);
    ops::ResidualRows round;
    round.x = rows;
    round.rows = step_.rows;
    round.n = shape_.d_model;
    round.round_f16 = round_f16_;
    if (round_f16_) ops::Residual(isa_, pool_, round);
    return on.TakeRows();
  }

  absl::StatusOr<stage::Hidden> GiveHidden(Backend& on) {
    stage::Hidden out;
    out.type = spec_.numerics.wire;
    out.rows = static_cast<uint32_t>(step_.rows);
    out.cols = shape_.d_model;
    out.data.resize(stage::Hidden::BytesFor(out.type, out.rows, out.cols));
    RETURN_IF_ERROR(on.GiveHidden(out.type, out.data));
    return out;
  }

  // An output, and the row of the step that it belongs to.
  struct Wanted {
    const stage::SeqRun* run;
    const stage::OutputRequest* request;
    int64_t row;
  };

  absl::Status Head(const stage::StepBatch& batch, const std::stop_token& stop,
                    std::vector<stage::TokenOut>* out) {
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
    Backend& on = *segments_.back().on;
    // The rows are distinct; several outputs of one row share its logits.
    head_rows_.clear();
    whole_.clear();
    for (size_t i = 0; i < wanted.size(); ++i) {
      if (i == 0 || wanted[i].row != wanted[i - 1].row) {
        head_rows_.push_back(wanted[i].row);
        whole_.push_back(0);
      }
      if (Sampler::NeedsLogits(*wanted[i].request)) whole_.back() = 1;
    }
    RETURN_IF_ERROR(on.SetHeadRows(head_rows_));
    const auto rows = static_cast<int64_t>(head_rows_.size());
    RETURN_IF_ERROR(on.Run({kHeadPart, static_cast<uint32_t>(rows)}, [&]() -> absl::Status {
      RETURN_IF_ERROR(on.NormHeadRows(output_norm_, shape_.norm_eps));
      RETURN_IF_ERROR(on.Product(
          head_, {on.buffers().h, rows, 0, on.buffers().logits, int64_t{shape_.n_vocab}}));
      return on.SummariseLogits();
    }));
    RETURN_IF_ERROR(on.ReadLogits(whole_, &logits_));
    size_t row = 0;
    for (size_t i = 0; i < wanted.size(); ++i) {
      if (i > 0 && wanted[i].row != wanted[i - 1].row) ++row;
      if (i == 0 || wanted[i].row != wanted[i - 1].row) {
        if (logits_[row].stats != nullptr)
          sampler_.SetRow(*logits_[row].stats, logits_[row].logits, shape_.n_vocab);
      }
      stage::TokenOut token;
      token.seq = wanted[i].run->seq;
      token.pos = wanted[i].run->pos + wanted[i].request->row;
      if (logits_[row].stats != nullptr) {
        sampler_.Answer(*wanted[i].request, &token);
      } else {
        token.status = Sampler::NotFinite();
      }
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
  std::vector<std::unique_ptr<Backend>> backends_;
  std::vector<Segment>
      segments_;  // never empty; declared after the backends, whose memory their weights use
  const model::TensorInfo* embedding_ = nullptr;
  std::vector<uint8_t> embedding_row_;
  Vector output_norm_;  // lies with the last segment's backend
  Linear head_;
  Step step_;
  Sampler sampler_;
  std::vector<Wanted> wanted_;
  std::vector<int64_t> head_rows_;
  std::vector<uint8_t> whole_;
  std::vector<LogitRow> logits_;
  StageMemory memory_;
  std::atomic<bool> lost_{false};
};

}  // namespace

StageMemory PlanMemory(const model::ModelShape& shape, const stage::StageSpec& spec,
                       const std::vector<model::TensorInfo>& tensors, const StageOptions& options) {
  const auto find = [&](const std::string& name) -> const model::TensorInfo* {
    for (const model::TensorInfo& tensor : tensors) {
      if (tensor.name == name) return &tensor;
    }
    return nullptr;
  };
  StageMemory out;
  for (const Place& place : PlaceStage(shape, spec, find, options.devices, options.threads)) {
    if (place.device == nullptr) {
      out.weights += place.memory.weights;
      out.kv += place.memory.kv;
      out.buffers += place.memory.buffers;
    } else {
      out.devices.push_back({place.device->name(), place.memory, place.layers, place.head});
      out.buffers += place.device->HostBytes(place.sizes);
    }
  }
  for (const model::TensorSpec& common :
       spec.layers.size() > 0 ? model::CommonTensors(shape) : std::vector<model::TensorSpec>()) {
    if (const model::TensorInfo* info = find(common.name); info != nullptr)
      out.weights += info->dims[0] * sizeof(float);
  }
  out.buffers += HostBytes(shape, spec, find("token_embd.weight"));
  return out;
}

stage::NumericsId DefaultNumerics(const model::ModelShape& shape) {
  return stage::NumericsChoice().For(shape.float_weights);
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
  auto out = std::make_unique<DeviceStage>(shape, spec, source, options);
  uint64_t done = 0;
  const uint64_t total = StageTensorBytes(shape, spec, source);
  WeightLoader loader(source, options.shelf, [&](uint64_t bytes) {
    done += bytes;
    if (progress) progress(std::min(done, total), total);
  });
  const auto find = [&](const std::string& name) { return source.Find(name); };
  const std::vector<Place> places = PlaceStage(shape, spec, find, options.devices, options.threads);
  RETURN_IF_ERROR(CheckPlaces(places, Step::SizesOf(shape, spec), options.devices));
  RETURN_IF_ERROR(out->Load(loader, places));
  return std::unique_ptr<LocalStage>(std::move(out));
}

}  // namespace lanyard::engine
