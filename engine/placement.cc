#include "engine/placement.h"

#include "base/size.h"
#include "engine/cpu_backend.h"
#include "model/memory.h"

namespace lanyard::engine {
namespace {

class Placer {
 public:
  Placer(const model::ModelShape& shape, const stage::StageSpec& spec, const FindTensorFn& find,
         int threads)
      : shape_(shape), spec_(spec), find_(find), threads_(threads) {}

  // The units that a place holds when it ends at `end` (in layers; the head follows the last one).
  Place PlaceOf(Device* device, uint32_t begin, uint32_t end, bool head) const {
    Place place;
    place.device = device;
    place.layers = {begin, end};
    place.head = head;
    place.sizes = Step::SizesOf(shape_, spec_);
    place.sizes.has_layers = begin < end;
    place.sizes.samples = head;
    InputForms forms;
    for (uint32_t i = begin; i < end; ++i) {
      Add(model::LayerTensors(shape_, i), &place, &forms);
      const uint32_t group = model::GroupOfLayer(shape_, i);
      if (group < spec_.group_blocks.size()) {
        const uint64_t bytes =
            spec_.group_blocks[group] * KvOf(shape_, spec_.numerics.kv).page_bytes();
        // As the pools of cards align.
        place.memory.kv += device != nullptr ? (bytes + 255) / 256 * 256 : bytes;
      }
    }
    if (head) {
      Add(model::NormTensors(shape_), &place, &forms);
      Add(shape_.tied_output ? model::EmbedTensors(shape_) : model::OutputTensors(shape_), &place,
          &forms);
    }
    place.memory.buffers = device != nullptr
                               ? device->BufferBytes(place.sizes, forms)
                               : CpuBackend::BufferBytes(place.sizes, forms, threads_);
    return place;
  }

  // Takes as many units from `begin` on as fit into the card.
  Place Fill(Device* device, uint32_t begin) const {
    const uint64_t limit = device->FreeBytes();
    Place best = PlaceOf(device, begin, begin, false);
    if (begin < spec_.layers.end && !device->CheckShape(Step::SizesOf(shape_, spec_)).ok())
      return best;
    for (uint32_t end = begin + 1; end <= spec_.layers.end; ++end) {
      const Place next = PlaceOf(device, begin, end, false);
      if (next.memory.total() > limit) return best;
      best = next;
    }
    if (spec_.samples) {
      const Place all = PlaceOf(device, begin, spec_.layers.end, true);
      if (all.memory.total() <= limit) return all;
    }
    return best;
  }

 private:
  void Add(const std::vector<model::TensorSpec>& specs, Place* place, InputForms* forms) const {
    std::vector<model::TensorInfo> infos;
    for (const model::TensorSpec& spec : specs) {
      const model::TensorInfo* info = find_(spec.name);
      if (info != nullptr && !info->dims.empty()) infos.push_back(*info);
    }
    for (const model::TensorInfo& info : model::AsHeld(infos)) AddHeld(info, place, forms);
  }

  void AddHeld(const model::TensorInfo& info, Place* place, InputForms* forms) const {
    const auto k = static_cast<int64_t>(info.dims[0]);
    if (info.dims.size() == 1) {
      place->memory.weights +=
          place->device != nullptr ? place->device->VectorBytes(k) : k * sizeof(float);
      return;
    }
    const auto traits = TraitsOf(info.type);
    if (!traits) return;
    (traits->elements > 1 ? forms->quantised : forms->floats) = true;
    const auto n_out = static_cast<int64_t>(info.dims[1]);
    place->memory.weights += place->device != nullptr
                                 ? place->device->MatrixBytes(info.type, n_out, k)
                                 : ops::PackedMatrix::PackedBytes(info.type, n_out, k);
  }

  const model::ModelShape& shape_;
  const stage::StageSpec& spec_;
  const FindTensorFn& find_;
  const int threads_;
};

}  // namespace

ops::KvElement KvElementOf(stage::KvType type) {
  switch (type) {
    case stage::KvType::kF32:
      return ops::KvElement::kF32;
    case stage::KvType::kF16:
      return ops::KvElement::kF16;
    case stage::KvType::kQ8:
      return ops::KvElement::kI8;
  }
  return ops::KvElement::kF32;
}

ops::KvLayer KvOf(const model::ModelShape& shape, stage::KvType type) {
  ops::KvLayer kv;
  kv.element = KvElementOf(type);
  kv.n_kv_heads = static_cast<int>(shape.n_kv_heads);
  kv.head_dim = static_cast<int>(shape.head_dim);
  return kv;
}

std::vector<Place> PlaceStage(const model::ModelShape& shape, const stage::StageSpec& spec,
                              const FindTensorFn& find,
                              const std::vector<std::shared_ptr<Device>>& devices, int threads) {
  const Placer placer(shape, spec, find, threads);
  std::vector<Place> out;
  uint32_t at = spec.layers.begin;
  bool head = spec.samples;
  for (const auto& device : devices) {
    if (at == spec.layers.end && !head) break;
    const Place place = placer.Fill(device.get(), at);
    if (place.layers.size() == 0 && !place.head) continue;
    at = place.layers.end;
    head = head && !place.head;
    out.push_back(place);
  }
  if (at < spec.layers.end || head || out.empty())
    out.push_back(placer.PlaceOf(nullptr, at, spec.layers.end, head));
  return out;
}

absl::Status CheckPlaces(const std::vector<Place>& places, const StepSizes& sizes,
                         const std::vector<std::shared_ptr<Device>>& devices) {
  for (const Place& place : places) {
    if (place.device != nullptr) {
      RETURN_IF_ERROR(place.device->CheckShape(place.sizes));
      continue;
    }
    const absl::Status status = CpuBackend::CheckShape(place.sizes);
    if (status.ok()) continue;
    std::string cards = devices.empty() ? "; no card is used here (--devices)" : "";
    for (const auto& device : devices) {
      const absl::Status can = device->CheckShape(sizes);
      absl::StrAppend(&cards, "; ",
                      can.ok() ? absl::StrCat(device->name(), " has no more room: ",
                                              FormatSize(device->FreeBytes()), " for stages")
                               : Str(can.message()));
    }
    return FailedPrecondition("layers [", place.layers.begin, ", ", place.layers.end,
                              ") are left for the processor. ", status.message(), cards);
  }
  return absl::OkStatus();
}

}  // namespace lanyard::engine
