#include "coordinator/cluster/diagnoser.h"

#include <utility>

#include "net/limits.h"

namespace lanyard::coordinator {
namespace {

constexpr size_t kNextByName = 4;
constexpr size_t kLastByName = 2;

net::DiagnoseTarget TargetOf(const Member& member) {
  return {member.hello.name, member.hello.stage_address, member.hello.node};
}

// The machines to which `members[at]` measures the way.
std::vector<net::DiagnoseTarget> TargetsOf(const std::vector<const Member*>& members, size_t at,
                                           size_t all_pairs_up_to) {
  std::vector<net::DiagnoseTarget> out;
  const size_t n = members.size();
  for (size_t step = 1; step < n; ++step) {
    if (n <= all_pairs_up_to || step <= kNextByName || step + kLastByName >= n) {
      out.push_back(TargetOf(*members[(at + step) % n]));
    }
  }
  return out;
}

constexpr double kMsOfNs = 1e-6;

}  // namespace

void Diagnoser::Start(const std::map<std::string, Member>& members, const std::string& only,
                      Done done, TimeNs now) {
  if (busy())
    return done(
        ResourceExhausted("another diagnosis of this pool runs; ask again in some seconds"));
  if (!only.empty() && members.count(only) == 0) {
    return done(NotFound("the pool has no machine '", only, "' that is joined now"));
  }
  std::vector<const Member*> in_order;
  for (const auto& [name, member] : members) in_order.push_back(&member);
  done_ = std::move(done);
  result_ = {};
  ends_at_ = now + options_.all_within;
  for (size_t i = 0; i < in_order.size(); ++i) {
    Patient patient{in_order[i]->hello.name, in_order[i]->link, {}};
    if (only.empty()) {
      patient.targets = TargetsOf(in_order, i, options_.all_pairs_up_to);
    } else if (patient.name != only) {
      patient.targets.push_back(TargetOf(members.at(only)));
    } else {
      patient.targets = TargetsOf(in_order, i, net::kMaxDiagnoseTargets);
    }
    waiting_.push_back(std::move(patient));
  }
}

std::optional<Diagnoser::Ask> Diagnoser::Next(TimeNs now, int64_t unix_ms) {
  if (!busy() || current_.has_value() || waiting_.empty()) return std::nullopt;
  current_ = std::move(waiting_.front());
  waiting_.pop_front();
  asked_at_ = now;
  asked_unix_ms_ = unix_ms;
  return Ask{current_->link, {++id_, current_->targets}};
}

void Diagnoser::OnDiagnosis(net::LinkId link, const net::Diagnosis& diagnosis, int64_t unix_ms) {
  if (!current_.has_value() || current_->link != link || diagnosis.id != id_) return;
  NodeDiagnosis& node = result_.nodes.emplace_back();
  node.name = current_->name;
  // RFC 5905, section 8: we assume that both ways take the same time; otherwise the figure is wrong
  // by half of their difference.
  const auto there =
      static_cast<double>(diagnosis.received_unix_ms) - static_cast<double>(asked_unix_ms_);
  const auto back = static_cast<double>(diagnosis.sent_unix_ms) - static_cast<double>(unix_ms);
  node.clock_skew_s = (there + back) / 2 / 1000;
  node.clock_error_s = (there - back) / 2 / 1000;
  node.available_bytes = diagnosis.available_bytes;
  node.disk_free_bytes = diagnosis.disk_free_bytes;
  node.certificate_ends_unix_s = diagnosis.certificate_ends_unix_s;
  node.key_mode = diagnosis.key_mode;
  for (const net::LinkDiagnosis& way : diagnosis.links) {
    LinkReport& out = result_.links.emplace_back();
    out.from = current_->name;
    out.to = way.worker;
    out.status = way.status;
    out.connect_ms = static_cast<double>(way.connect_ns) * kMsOfNs;
    out.rtt_min_ms = static_cast<double>(way.rtt_min_ns) * kMsOfNs;
    out.rtt_median_ms = static_cast<double>(way.rtt_median_ns) * kMsOfNs;
    out.bytes_per_second = way.bytes_per_second;
    out.mtu_bytes = way.mtu_bytes;
    out.large_lost = way.large_lost;
  }
  current_.reset();
}

void Diagnoser::EndCurrent(const std::string& error) {
  NodeDiagnosis& node = result_.nodes.emplace_back();
  node.name = current_->name;
  node.error = error;
  current_.reset();
}

void Diagnoser::OnGone(net::LinkId link) {
  if (current_.has_value() && current_->link == link)
    EndCurrent("it left the pool while it was asked");
}

void Diagnoser::OnTick(TimeNs now, int64_t unix_ms) {
  if (!busy()) return;
  if (current_.has_value() && now - asked_at_ >= options_.answer_within) {
    EndCurrent(absl::StrCat("it did not answer within ", options_.answer_within / kSecond, " s"));
  }
  if (now >= ends_at_) {
    if (current_.has_value()) EndCurrent("the time for all machines was over");
    for (; !waiting_.empty(); waiting_.pop_front()) {
      NodeDiagnosis& node = result_.nodes.emplace_back();
      node.name = waiting_.front().name;
      node.error = "not asked: the time for all machines was over";
    }
  }
  FinishIfDone(unix_ms);
}

void Diagnoser::FinishIfDone(int64_t unix_ms) {
  if (current_.has_value() || !waiting_.empty()) return;
  result_.unix_ms = unix_ms;
  const Done done = std::exchange(done_, nullptr);
  done(std::exchange(result_, {}));
}

void Diagnoser::Abort(const absl::Status& why) {
  waiting_.clear();
  current_.reset();
  if (const Done done = std::exchange(done_, nullptr); done) done(why);
}

}  // namespace lanyard::coordinator
