#include "net/convert_control.h"

#include <cstring>

#include "base/sha256.h"
#include "identity/key_pair.h"
#include "net/convert_stage.h"
#include "net/limits.h"
#include "net/status_codes.h"
#include "net/versions.h"

namespace lanyard::net {
namespace {

absl::Status TooMany(std::string_view what, uint64_t n, uint64_t limit) {
  return InvalidArgument(n, " ", AbslView(what), ", at most ", limit, " are allowed");
}

absl::StatusOr<model::Family> FamilyFromProto(const std::string& name) {
  if (const auto family = model::FamilyNamed(name)) return *family;
  return InvalidArgument("model family '", CleanText(name.substr(0, 32)),
                         "' is not known to this version");
}

void ShapeToProto(const model::ModelShape& in, v1::ModelShape* out) {
  out->set_family(model::FamilyName(in.family));
  out->set_name(CleanText(in.name));
  out->set_n_layers(in.n_layers);
  out->set_d_model(in.d_model);
  out->set_n_heads(in.n_heads);
  out->set_n_kv_heads(in.n_kv_heads);
  out->set_head_dim(in.head_dim);
  out->set_d_ff(in.d_ff);
  out->set_n_vocab(in.n_vocab);
  out->set_context_length(in.context_length);
  out->set_norm_eps(in.norm_eps);
  out->set_attention_scale(in.attention_scale);
  out->set_n_rot(in.n_rot);
  out->set_rope_base(in.rope_base);
  out->set_rope_base_local(in.rope_base_local);
  out->set_rope_scale(in.rope_scale);
  out->set_rope_factors(in.rope_factors);
  out->set_tied_output(in.tied_output);
  out->set_float_weights(in.float_weights);
  for (const model::StateGroup& group : in.groups) {
    v1::StateGroup* g = out->add_groups();
    g->set_kind(group.kind == model::StateKind::kSliding ? 1 : 0);
    g->set_window(group.window);
    g->mutable_layers()->Add(group.layers.begin(), group.layers.end());
  }
}

absl::StatusOr<model::ModelShape> ShapeFromProto(const v1::ModelShape& in) {
  if (in.groups_size() > kMaxGroups) return TooMany("state groups", in.groups_size(), kMaxGroups);
  RETURN_IF_ERROR(CheckText("model name", in.name(), kMaxTextBytes));
  model::ModelShape out;
  ASSIGN_OR_RETURN(out.family, FamilyFromProto(in.family()));
  out.name = in.name();
  out.n_layers = in.n_layers();
  out.d_model = in.d_model();
  out.n_heads = in.n_heads();
  out.n_kv_heads = in.n_kv_heads();
  out.head_dim = in.head_dim();
  out.d_ff = in.d_ff();
  out.n_vocab = in.n_vocab();
  out.context_length = in.context_length();
  out.norm_eps = in.norm_eps();
  out.attention_scale = in.attention_scale();
  out.n_rot = in.n_rot();
  out.rope_base = in.rope_base();
  out.rope_base_local = in.rope_base_local();
  out.rope_scale = in.rope_scale();
  out.rope_factors = in.rope_factors();
  out.tied_output = in.tied_output();
  out.float_weights = in.float_weights();
  for (const v1::StateGroup& group : in.groups()) {
    if (group.kind() > 1)
      return InvalidArgument("state group kind ", group.kind(), " is unknown; 0 and 1 are known");
    if (group.layers_size() > kMaxLayers)
      return TooMany("layers in a state group", group.layers_size(), kMaxLayers);
    out.groups.push_back({group.kind() == 1 ? model::StateKind::kSliding : model::StateKind::kFull,
                          group.window(),
                          {group.layers().begin(), group.layers().end()}});
  }
  return out;
}

absl::StatusOr<model::TensorInfo> TensorFromProto(const v1::TensorInfo& in) {
  RETURN_IF_ERROR(CheckText("tensor name", in.name(), 256));
  if (in.dims_size() > kMaxDims) return TooMany("dimensions of a tensor", in.dims_size(), kMaxDims);
  const auto type = static_cast<TensorType>(in.type());
  if (!TraitsOf(type).has_value()) {
    return InvalidArgument("tensor '", in.name(), "' has type ", in.type(), ", which is unknown");
  }
  return model::TensorInfo{in.name(), type, {in.dims().begin(), in.dims().end()}, in.bytes()};
}

DeviceHello DeviceFromProto(const v1::Device& in) {
  return DeviceHello{in.kind(),
                     in.name(),
                     in.model(),
                     in.memory_bytes(),
                     in.speed(),
                     in.fast_attention(),
                     {in.read_bytes_per_second(), in.int8_ops_per_second(), in.f16_ops_per_second(),
                      in.to_device_bytes_per_second(), in.to_host_bytes_per_second()}};
}

using DeviceList = google::protobuf::RepeatedPtrField<v1::Device>;

// Bounded, not yet checked (net/hello.h).
absl::StatusOr<std::vector<DeviceHello>> DevicesFromProto(const DeviceList& in) {
  if (in.size() > kMaxDevices) return TooMany("devices", in.size(), kMaxDevices);
  std::vector<DeviceHello> out;
  for (const v1::Device& device : in) out.push_back(DeviceFromProto(device));
  return out;
}

absl::StatusOr<WorkerHello> HelloFromProto(const v1::WorkerHello& in) {
  RETURN_IF_ERROR(CheckText("version", in.version(), kMaxNameBytes));
  WorkerHello out;
  out.protocol = in.protocol();
  out.version = in.version();
  out.name = in.name();
  out.stage_address = in.stage_address();
  // A worker that does not say is of the first version.
  out.numerics = in.numerics() == 0 ? 1 : in.numerics();
  // Another protocol's hello may look different. It is refused by its version, so no other field is
  // checked.
  if (!CheckWorkerProgram({out.protocol, out.version, out.numerics}).ok()) return out;
  out.memory_bytes = in.memory_bytes();
  out.base_bytes = in.base_bytes();
  out.threads = in.threads();
  out.speed = in.speed();
  out.isa = in.isa();
  out.pid = in.pid();
  ASSIGN_OR_RETURN(out.devices, DevicesFromProto(in.devices()));
  RETURN_IF_ERROR(CheckHello(out));
  return out;
}

void DevicesToProto(const std::vector<DeviceHello>& in, DeviceList* out) {
  for (const DeviceHello& device : in) {
    v1::Device* d = out->Add();
    d->set_kind(device.kind);
    d->set_name(device.name);
    d->set_model(device.model);
    d->set_memory_bytes(device.memory_bytes);
    d->set_speed(device.speed);
    d->set_fast_attention(device.fast_attention);
    d->set_read_bytes_per_second(device.rates.read_bytes_per_second);
    d->set_int8_ops_per_second(device.rates.int8_ops_per_second);
    d->set_f16_ops_per_second(device.rates.f16_ops_per_second);
    d->set_to_device_bytes_per_second(device.rates.to_device_bytes_per_second);
    d->set_to_host_bytes_per_second(device.rates.to_host_bytes_per_second);
  }
}

struct EventToProto {
  v1::WorkerMessage* out;

  void operator()(const WorkerHello& in) const {
    v1::WorkerHello* hello = out->mutable_hello();
    hello->set_protocol(in.protocol);
    hello->set_version(in.version);
    hello->set_name(in.name);
    hello->set_stage_address(in.stage_address);
    hello->set_memory_bytes(in.memory_bytes);
    hello->set_base_bytes(in.base_bytes);
    hello->set_threads(in.threads);
    hello->set_speed(in.speed);
    hello->set_isa(in.isa);
    hello->set_pid(in.pid);
    hello->set_numerics(in.numerics);
    DevicesToProto(in.devices, hello->mutable_devices());
  }
  void operator()(const Heartbeat& in) const {
    v1::Heartbeat* beat = out->mutable_heartbeat();
    beat->set_resident_bytes(in.resident_bytes);
    beat->set_busy(in.busy);
    beat->set_frames(in.frames);
  }
  void operator()(const LoadProgress& in) const {
    v1::LoadProgress* progress = out->mutable_progress();
    progress->set_plan(in.plan.value);
    progress->set_done_bytes(in.done_bytes);
    progress->set_total_bytes(in.total_bytes);
  }
  void operator()(const StageReady& in) const {
    v1::StageReady* ready = out->mutable_ready();
    ready->set_plan(in.plan.value);
    ready->set_epoch(in.epoch.value);
    ready->set_weights_bytes(in.weights_bytes);
    ready->set_kv_bytes(in.kv_bytes);
    ready->set_buffer_bytes(in.buffer_bytes);
    ready->set_fetched_bytes(in.fetched_bytes);
  }
  void operator()(const StageFailed& in) const {
    v1::StageFailed* failed = out->mutable_failed();
    failed->set_plan(in.plan.value);
    failed->set_epoch(in.epoch.value);
    failed->set_code(ToWireCode(in.status));
    failed->set_message(CleanText(StdView(in.status.message())));
    failed->set_unreachable(in.unreachable);
    failed->set_cause(static_cast<v1::LoadCause>(in.cause));
  }
  void operator()(const DevicesChanged& in) const {
    DevicesToProto(in.devices, out->mutable_devices()->mutable_devices());
  }
  void operator()(const Diagnosis& in) const { ToProto(in, out->mutable_diagnosis()); }
  void operator()(const Leaving& in) const {
    out->mutable_leaving()->set_reason(CleanText(in.reason));
  }
};

}  // namespace

void ToProto(const stage::StageSpec& in, v1::StageSpec* out) {
  out->set_plan(in.plan.value);
  out->set_epoch(in.epoch.value);
  out->set_index(in.index);
  out->set_n_stages(in.n_stages);
  ToProto(in.numerics, out->mutable_numerics());
  out->set_layer_begin(in.layers.begin);
  out->set_layer_end(in.layers.end);
  out->set_embeds(in.embeds);
  out->set_samples(in.samples);
  out->mutable_group_blocks()->Add(in.group_blocks.begin(), in.group_blocks.end());
  out->set_max_context(in.max_context);
  out->set_max_rows(in.max_rows);
}

absl::StatusOr<stage::StageSpec> FromProto(const v1::StageSpec& in) {
  if (in.group_blocks_size() > kMaxGroups)
    return TooMany("state groups of a stage", in.group_blocks_size(), kMaxGroups);
  if (in.n_stages() == 0 || in.n_stages() > kMaxLayers + 2 || in.index() >= in.n_stages()) {
    return InvalidArgument("stage ", in.index(), " of ", in.n_stages(), " stages");
  }
  if (in.layer_begin() > in.layer_end() || in.layer_end() > kMaxLayers) {
    return InvalidArgument("layers [", in.layer_begin(), ", ", in.layer_end(),
                           ") of a stage; at most ", kMaxLayers);
  }
  if (in.max_rows() == 0 || in.max_rows() > stage::kMaxFrameRows) {
    return InvalidArgument("max_rows ", in.max_rows(), " is not in 1..", stage::kMaxFrameRows);
  }
  if (in.embeds() != (in.index() == 0) || in.samples() != (in.index() + 1 == in.n_stages())) {
    return InvalidArgument("stage ", in.index(), " of ", in.n_stages(),
                           ": only the first embeds and only the last samples");
  }
  stage::StageSpec out;
  out.plan = PlanId(in.plan());
  out.epoch = Epoch(in.epoch());
  out.index = in.index();
  out.n_stages = in.n_stages();
  ASSIGN_OR_RETURN(out.numerics, FromProto(in.numerics()));
  out.layers = {in.layer_begin(), in.layer_end()};
  out.embeds = in.embeds();
  out.samples = in.samples();
  out.group_blocks.assign(in.group_blocks().begin(), in.group_blocks().end());
  out.max_context = in.max_context();
  out.max_rows = in.max_rows();
  return out;
}

void ToProto(const model::Manifest& in, v1::Manifest* out) {
  ShapeToProto(in.shape, out->mutable_shape());
  for (const model::Part& part : in.parts) {
    v1::Part* p = out->add_parts();
    p->set_name(part.name);
    p->set_bytes(part.bytes);
    p->set_sha256(part.sha256);
    for (const model::TensorInfo& tensor : part.tensors) {
      v1::TensorInfo* t = p->add_tensors();
      t->set_name(tensor.name);
      t->set_type(static_cast<uint32_t>(tensor.type));
      t->mutable_dims()->Add(tensor.dims.begin(), tensor.dims.end());
      t->set_bytes(tensor.bytes);
    }
  }
  out->set_digest(in.digest);
}

absl::StatusOr<model::Manifest> FromProto(const v1::Manifest& in) {
  if (in.parts_size() > kMaxParts)
    return TooMany("parts of a manifest", in.parts_size(), kMaxParts);
  if (!IsSha256Hex(in.digest()))
    return InvalidArgument("manifest: the digest is not 64 hex digits");
  model::Manifest out;
  ASSIGN_OR_RETURN(out.shape, ShapeFromProto(in.shape()));
  out.digest = in.digest();
  for (const v1::Part& part : in.parts()) {
    RETURN_IF_ERROR(CheckText("part name", part.name(), kMaxNameBytes));
    if (!IsSha256Hex(part.sha256())) {
      return InvalidArgument("manifest: the digest of part '", part.name(),
                             "' is not 64 hex digits");
    }
    if (part.tensors_size() > kMaxTensorsOfPart) {
      return TooMany("tensors of a part", part.tensors_size(), kMaxTensorsOfPart);
    }
    model::Part converted{part.name(), {}, part.bytes(), part.sha256()};
    for (const v1::TensorInfo& tensor : part.tensors()) {
      ASSIGN_OR_RETURN(model::TensorInfo info, TensorFromProto(tensor));
      converted.tensors.push_back(std::move(info));
    }
    out.parts.push_back(std::move(converted));
  }
  RETURN_IF_ERROR(model::ValidateManifest(out));
  return out;
}

void ToProto(const WorkerEvent& in, v1::WorkerMessage* out) { std::visit(EventToProto{out}, in); }

absl::StatusOr<WorkerEvent> FromProto(const v1::WorkerMessage& in) {
  switch (in.body_case()) {
    case v1::WorkerMessage::kHello: {
      ASSIGN_OR_RETURN(WorkerHello hello, HelloFromProto(in.hello()));
      return WorkerEvent(std::move(hello));
    }
    case v1::WorkerMessage::kHeartbeat: {
      const v1::Heartbeat& beat = in.heartbeat();
      const double busy = beat.busy() >= 0 && beat.busy() <= 1 ? beat.busy() : 0;
      return WorkerEvent(Heartbeat{beat.resident_bytes(), busy, beat.frames()});
    }
    case v1::WorkerMessage::kProgress:
      return WorkerEvent(LoadProgress{PlanId(in.progress().plan()), in.progress().done_bytes(),
                                      in.progress().total_bytes()});
    case v1::WorkerMessage::kReady: {
      const v1::StageReady& ready = in.ready();
      return WorkerEvent(StageReady{PlanId(ready.plan()), Epoch(ready.epoch()),
                                    ready.weights_bytes(), ready.kv_bytes(), ready.buffer_bytes(),
                                    ready.fetched_bytes()});
    }
    case v1::WorkerMessage::kFailed: {
      absl::Status status = FromWireCode(in.failed().code(), in.failed().message());
      if (status.ok())
        status = absl::UnknownError("the worker reported a failed stage without a code");
      return WorkerEvent(StageFailed{PlanId(in.failed().plan()), Epoch(in.failed().epoch()),
                                     std::move(status), CleanText(in.failed().unreachable()),
                                     LoadCauseFromNumber(in.failed().cause())});
    }
    case v1::WorkerMessage::kDevices: {
      ASSIGN_OR_RETURN(std::vector<DeviceHello> devices, DevicesFromProto(in.devices().devices()));
      RETURN_IF_ERROR(CheckDevices(devices));
      return WorkerEvent(DevicesChanged{std::move(devices)});
    }
    case v1::WorkerMessage::kDiagnosis: {
      ASSIGN_OR_RETURN(Diagnosis diagnosis, FromProto(in.diagnosis()));
      return WorkerEvent(std::move(diagnosis));
    }
    case v1::WorkerMessage::kLeaving:
      return WorkerEvent(Leaving{CleanText(in.leaving().reason())});
    case v1::WorkerMessage::BODY_NOT_SET:
      break;
  }
  return InvalidArgument("a worker's message without a body that this version knows");
}

void ToProto(const Assignment& in, v1::Assign* out) {
  ToProto(in.spec, out->mutable_spec());
  if (in.manifest != nullptr) ToProto(*in.manifest, out->mutable_manifest());
  out->set_next_worker(in.next_worker);
  out->set_next_address(in.next_address);
  out->set_next_node(in.next_node);
  out->set_from_node(in.from_node);
  out->set_mode(static_cast<v1::AssignMode>(in.mode));
}

absl::StatusOr<Assignment> FromProto(const v1::Assign& in) {
  Assignment out;
  ASSIGN_OR_RETURN(out.spec, FromProto(in.spec()));
  ASSIGN_OR_RETURN(model::Manifest manifest, FromProto(in.manifest()));
  if (out.spec.layers.end > manifest.shape.n_layers) {
    return InvalidArgument("layers up to ", out.spec.layers.end, " of a model with ",
                           manifest.shape.n_layers);
  }
  if (out.spec.group_blocks.size() != manifest.shape.groups.size()) {
    return InvalidArgument(out.spec.group_blocks.size(), " block counts for ",
                           manifest.shape.groups.size(), " state groups");
  }
  if (!out.spec.samples) {
    RETURN_IF_ERROR(CheckWorkerName(in.next_worker()));
    RETURN_IF_ERROR(CheckAddress(in.next_address()));
    out.next_worker = in.next_worker();
    out.next_address = in.next_address();
    out.next_node = in.next_node();
  }
  out.from_node = in.from_node();
  if (!v1::AssignMode_IsValid(in.mode()))
    return InvalidArgument("assignment mode ", static_cast<int>(in.mode()), " is not known");
  out.mode = static_cast<AssignMode>(in.mode());
  for (const std::string* node : {&out.next_node, &out.from_node}) {
    if (!node->empty() && !identity::IsNodeId(*node))
      return InvalidArgument("'", CleanText(*node), "' is no node's id");
  }
  out.manifest = std::make_shared<const model::Manifest>(std::move(manifest));
  return out;
}

}  // namespace lanyard::net
