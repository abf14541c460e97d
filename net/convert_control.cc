#include "net/convert_control.h"

#include <cmath>
#include <cstring>

#include "base/sha256.h"
#include "base/version.h"
#include "identity/key_pair.h"
#include "net/convert_stage.h"
#include "net/limits.h"
#include "net/status_codes.h"

namespace lanyard::net {
namespace {

bool IsAlnum(char c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

absl::Status TooMany(std::string_view what, uint64_t n, uint64_t limit) {
  return InvalidArgument(n, " ", AbslView(what), ", at most ", limit, " are allowed");
}

// Accepts printable ASCII, and UTF-8 without control characters.
absl::Status CheckText(std::string_view what, std::string_view text, size_t limit) {
  if (text.size() > limit)
    return TooMany(absl::StrCat("bytes of ", AbslView(what)), text.size(), limit);
  for (const char c : text) {
    const unsigned char u = static_cast<unsigned char>(c);
    if (u < 0x20 || u == 0x7f)
      return InvalidArgument(AbslView(what), " holds control character ", u);
  }
  return absl::OkStatus();
}

absl::StatusOr<model::Family> FamilyFromProto(const std::string& name) {
  for (const model::Family family : {model::Family::kLlama, model::Family::kGemma3}) {
    if (name == model::FamilyName(family)) return family;
  }
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

absl::StatusOr<DeviceHello> DeviceFromProto(const v1::Device& in) {
  RETURN_IF_ERROR(CheckText("device kind", in.kind(), kMaxNameBytes));
  RETURN_IF_ERROR(CheckText("device name", in.name(), kMaxNameBytes));
  RETURN_IF_ERROR(CheckText("device model", in.model(), kMaxNameBytes));
  if (in.name().empty() || in.name() == "cpu")
    return InvalidArgument("a device is called '", in.name(), "'");
  if (!(in.speed() > 0 && in.speed() < 1e9)) {
    return InvalidArgument("device ", in.name(), ": speed ", in.speed(), " is not in (0, 1e9)");
  }
  const DeviceRates rates{in.read_bytes_per_second(), in.int8_ops_per_second(),
                          in.f16_ops_per_second(), in.to_device_bytes_per_second(),
                          in.to_host_bytes_per_second()};
  for (const double rate :
       {rates.read_bytes_per_second, rates.int8_ops_per_second, rates.f16_ops_per_second,
        rates.to_device_bytes_per_second, rates.to_host_bytes_per_second}) {
    if (!(rate >= 0 && rate < 1e18))
      return InvalidArgument("device ", in.name(), ": a rate of ", rate, " a second");
  }
  return DeviceHello{in.kind(),  in.name(),           in.model(), in.memory_bytes(),
                     in.speed(), in.fast_attention(), rates};
}

using DeviceList = google::protobuf::RepeatedPtrField<v1::Device>;

absl::StatusOr<std::vector<DeviceHello>> DevicesFromProto(const DeviceList& in) {
  if (in.size() > kMaxDevices) return TooMany("devices", in.size(), kMaxDevices);
  std::vector<DeviceHello> out;
  for (const v1::Device& device : in) {
    ASSIGN_OR_RETURN(DeviceHello hello, DeviceFromProto(device));
    for (const DeviceHello& other : out) {
      if (other.name == hello.name) return InvalidArgument("two devices are called ", hello.name);
    }
    out.push_back(std::move(hello));
  }
  return out;
}

absl::StatusOr<WorkerHello> HelloFromProto(const v1::WorkerHello& in) {
  RETURN_IF_ERROR(CheckText("version", in.version(), kMaxNameBytes));
  WorkerHello out;
  out.protocol = in.protocol();
  out.version = in.version();
  out.name = in.name();
  out.stage_address = in.stage_address();
  // Another version's hello may look different. It is refused by its version, so no other field is
  // checked.
  if (!CheckVersions(out.protocol, out.version).ok()) return out;
  RETURN_IF_ERROR(CheckWorkerName(in.name()));
  RETURN_IF_ERROR(CheckAddress(in.stage_address()));
  RETURN_IF_ERROR(CheckText("isa", in.isa(), kMaxNameBytes));
  if (!(in.speed() > 0 && in.speed() < 1e9))
    return InvalidArgument("speed ", in.speed(), " is not in (0, 1e9)");
  if (in.threads() == 0 || in.threads() > 4096)
    return InvalidArgument("threads ", in.threads(), " is not in 1..4096");
  out.memory_bytes = in.memory_bytes();
  out.base_bytes = in.base_bytes();
  out.threads = in.threads();
  out.speed = in.speed();
  out.isa = in.isa();
  out.pid = in.pid();
  ASSIGN_OR_RETURN(out.devices, DevicesFromProto(in.devices()));
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

absl::Status CheckWorkerName(std::string_view name) {
  bool good = !name.empty() && name.size() <= kMaxNameBytes && IsAlnum(name[0]);
  for (const char c : name) good = good && (IsAlnum(c) || c == '.' || c == '_' || c == '-');
  if (good) return absl::OkStatus();
  return InvalidArgument("worker name '", CleanText(name.substr(0, kMaxNameBytes)),
                         "' is not 1 to ", kMaxNameBytes,
                         " of A-Z a-z 0-9 . _ - starting with a letter or digit");
}

absl::Status CheckAddress(std::string_view address) {
  bool good = !address.empty() && address.size() <= kMaxAddressBytes;
  for (const char c : address) {
    good = good && (IsAlnum(c) || c == '.' || c == '-' || c == '_' || c == ':' || c == '[' ||
                    c == ']' || c == '%');
  }
  const size_t colon = address.rfind(':');
  good = good && colon != std::string_view::npos && colon > 0 && colon + 1 < address.size();
  uint32_t port = 0;
  for (size_t i = colon + 1; good && i < address.size(); ++i) {
    good = address[i] >= '0' && address[i] <= '9' && port <= 65535;
    port = port * 10 + static_cast<uint32_t>(address[i] - '0');
  }
  if (good && port <= 65535) return absl::OkStatus();
  return InvalidArgument("address '", CleanText(address.substr(0, kMaxAddressBytes)),
                         "' is not host:port");
}

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
      return WorkerEvent(
          StageFailed{PlanId(in.failed().plan()), Epoch(in.failed().epoch()), std::move(status)});
    }
    case v1::WorkerMessage::kDevices: {
      ASSIGN_OR_RETURN(std::vector<DeviceHello> devices, DevicesFromProto(in.devices().devices()));
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
  for (const std::string* node : {&out.next_node, &out.from_node}) {
    if (!node->empty() && !identity::IsNodeId(*node))
      return InvalidArgument("'", CleanText(*node), "' is no node's id");
  }
  out.manifest = std::make_shared<const model::Manifest>(std::move(manifest));
  return out;
}

absl::Status CheckVersions(uint32_t protocol, std::string_view version) {
  const std::string_view own(kVersion);
  const auto major = [](std::string_view v) { return v.substr(0, v.find('.')); };
  if (protocol == kProtocolVersion && major(version) == major(own)) return absl::OkStatus();
  return FailedPrecondition("the other side is version ",
                            CleanText(version.substr(0, kMaxNameBytes)), " (protocol ", protocol,
                            "), this is version ", kVersion, " (protocol ", kProtocolVersion,
                            "); install the same version on both");
}

}  // namespace lanyard::net
