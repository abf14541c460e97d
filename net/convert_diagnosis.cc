// Converts Diagnose and Diagnosis of control.proto.
#include <cmath>

#include "identity/key_pair.h"
#include "net/convert_control.h"
#include "net/limits.h"
#include "net/status_codes.h"

namespace lanyard::net {
namespace {

absl::StatusOr<LinkDiagnosis> LinkFromProto(const v1::LinkDiagnosis& in) {
  RETURN_IF_ERROR(CheckWorkerName(in.worker()));
  LinkDiagnosis out;
  out.worker = in.worker();
  out.status = FromWireCode(in.code(), in.message());
  out.connect_ns = in.connect_ns();
  out.rtt_min_ns = in.rtt_min_ns();
  out.rtt_median_ns = in.rtt_median_ns();
  const double rate = in.bytes_per_second();
  out.bytes_per_second = std::isfinite(rate) && rate > 0 ? rate : 0;
  out.mtu_bytes = in.mtu_bytes();
  out.large_lost = in.large_lost();
  return out;
}

}  // namespace

void ToProto(const DiagnoseRequest& in, v1::Diagnose* out) {
  out->set_id(in.id);
  for (const DiagnoseTarget& target : in.targets) {
    v1::DiagnoseTarget* to = out->add_targets();
    to->set_worker(target.worker);
    to->set_address(target.address);
    to->set_node(target.node);
  }
}

absl::StatusOr<DiagnoseRequest> FromProto(const v1::Diagnose& in) {
  if (in.targets_size() > kMaxDiagnoseTargets) {
    return InvalidArgument(in.targets_size(), " targets to measure; at most ", kMaxDiagnoseTargets);
  }
  DiagnoseRequest out;
  out.id = in.id();
  for (const v1::DiagnoseTarget& target : in.targets()) {
    RETURN_IF_ERROR(CheckWorkerName(target.worker()));
    RETURN_IF_ERROR(CheckAddress(target.address()));
    if (!target.node().empty() && !identity::IsNodeId(target.node())) {
      return InvalidArgument("'", CleanText(target.node()), "' is no node's id");
    }
    out.targets.push_back({target.worker(), target.address(), target.node()});
  }
  return out;
}

void ToProto(const Diagnosis& in, v1::Diagnosis* out) {
  out->set_id(in.id);
  out->set_received_unix_ms(in.received_unix_ms);
  out->set_sent_unix_ms(in.sent_unix_ms);
  out->set_available_bytes(in.available_bytes);
  out->set_disk_free_bytes(in.disk_free_bytes);
  out->set_certificate_ends_unix_s(in.certificate_ends_unix_s);
  out->set_key_mode(in.key_mode);
  for (const LinkDiagnosis& link : in.links) {
    v1::LinkDiagnosis* to = out->add_links();
    to->set_worker(link.worker);
    to->set_code(ToWireCode(link.status));
    to->set_message(CleanText(StdView(link.status.message())));
    to->set_connect_ns(link.connect_ns);
    to->set_rtt_min_ns(link.rtt_min_ns);
    to->set_rtt_median_ns(link.rtt_median_ns);
    to->set_bytes_per_second(link.bytes_per_second);
    to->set_mtu_bytes(link.mtu_bytes);
    to->set_large_lost(link.large_lost);
  }
}

absl::StatusOr<Diagnosis> FromProto(const v1::Diagnosis& in) {
  if (in.links_size() > kMaxDiagnoseTargets) {
    return InvalidArgument(in.links_size(), " measured links; at most ", kMaxDiagnoseTargets);
  }
  Diagnosis out;
  out.id = in.id();
  out.received_unix_ms = in.received_unix_ms();
  out.sent_unix_ms = in.sent_unix_ms();
  out.available_bytes = in.available_bytes();
  out.disk_free_bytes = in.disk_free_bytes();
  out.certificate_ends_unix_s = in.certificate_ends_unix_s();
  out.key_mode = in.key_mode();
  for (const v1::LinkDiagnosis& link : in.links()) {
    ASSIGN_OR_RETURN(LinkDiagnosis converted, LinkFromProto(link));
    out.links.push_back(std::move(converted));
  }
  return out;
}

}  // namespace lanyard::net
