#include "coordinator/cluster/health.h"

#include <algorithm>
#include <cmath>

namespace lanyard::coordinator {

namespace {

constexpr TimeNs kLossHalves = 3600 * kSecond;

double LossesAt(const HealthRecord& record, TimeNs now) {
  return record.losses_lately * std::exp2(-static_cast<double>(now - record.lost_at) / kLossHalves);
}

}  // namespace

LoadCauseText TextOf(net::LoadCause cause) {
  switch (cause) {
    case net::LoadCause::kDiskFull:
      return {"disk_full", "its disk is full",
              "make room there, lower its --cache-limit, or give it a folder on a larger disk with "
              "--state"};
    case net::LoadCause::kCacheUnwritable:
      return {"cache_unwritable", "its folder of weights cannot be written",
              "give the folder to the user of lanyard-worker, or another one with --state; dmesg "
              "there tells of a disk that went read-only"};
    case net::LoadCause::kBadWeights:
      return {"bad_weights", "weights arrived or were kept damaged, twice",
              "if other machines say the same, the model's file beside the coordinator was changed "
              "or is damaged: put it there anew and restart the coordinator; if this one alone, "
              "its memory or disk fails (memtest86+, smartctl -a)"};
    case net::LoadCause::kAgain:
      return {"again", "the coordinator gave it no weights for a while",
              "nothing: it asks again by itself, and this is not counted against it"};
    case net::LoadCause::kMemory:
      return {"memory", "its memory does not suffice for its stage",
              "give it more with --memory, or close other programs there"};
    case net::LoadCause::kUnreachable:
      return {"unreachable", "workers do not reach each other",
              "lanyard doctor shows the ways between the machines"};
    case net::LoadCause::kUnknown:
      break;
  }
  return {"unknown", "it could not make its stage ready",
          "there: journalctl -u lanyard-worker -n 50"};
}

std::string MachineHealth::OnLoadFailed(const std::string& machine, const LoadFailure& failure,
                                        TimeNs now) {
  std::string blamed = machine;
  if (!failure.unreachable.empty()) {
    std::set<std::string>& targets = unreached_[machine];
    targets.insert(failure.unreachable);
    // One that reaches none of two others is itself behind a wall, and they are not to blame.
    if (targets.size() < 2) {
      blamed = failure.unreachable;
    } else {
      for (const std::string& target : targets) Forgive(target);
    }
  }
  HealthRecord& record = records_[blamed];
  record.cause = failure.unreachable.empty() ? failure.cause : net::LoadCause::kUnreachable;
  record.why = Str(failure.why.message());
  if (record.cause == net::LoadCause::kAgain) {
    ++record.waits;
    return "";
  }
  ++record.load_failures;
  if (record.load_failures < options_.bench_after) return "";
  record.bench_time = record.bench_time == 0 ? options_.bench_first
                                             : std::min(2 * record.bench_time, options_.bench_most);
  record.benched_until = now + record.bench_time;
  benched_.insert(blamed);
  ++revision_;
  return blamed;
}

void MachineHealth::OnServed(const std::string& machine) {
  unreached_.erase(machine);
  const auto it = records_.find(machine);
  if (it == records_.end()) return;
  it->second.load_failures = 0;
  it->second.waits = 0;
  it->second.bench_time = 0;
}

void MachineHealth::OnLost(const std::string& machine, TimeNs now) {
  HealthRecord& record = records_[machine];
  record.losses_lately = LossesAt(record, now) + 1;
  record.lost_at = now;
  ++record.losses;
}

double MachineHealth::LossesLately(const std::string& machine, TimeNs now) const {
  const HealthRecord* record = Find(machine);
  return record == nullptr ? 0 : LossesAt(*record, now);
}

void MachineHealth::Forgive(const std::string& machine) {
  revision_ += benched_.erase(machine);
  const auto it = records_.find(machine);
  if (it == records_.end()) return;
  it->second.load_failures = 0;
  it->second.waits = 0;
  it->second.bench_time = 0;
  it->second.benched_until = 0;
  it->second.losses_lately = 0;
}

bool MachineHealth::Benched(const std::string& machine, TimeNs now) const {
  const auto it = records_.find(machine);
  return it != records_.end() && now < it->second.benched_until;
}

void MachineHealth::OnTick(TimeNs now) {
  revision_ += std::erase_if(benched_, [&](const std::string& m) { return !Benched(m, now); });
}

const HealthRecord* MachineHealth::Failing(const std::string& machine) const {
  const HealthRecord* record = Find(machine);
  return record != nullptr && record->load_failures + record->waits > 0 ? record : nullptr;
}

const HealthRecord* MachineHealth::Find(const std::string& machine) const {
  const auto it = records_.find(machine);
  return it == records_.end() ? nullptr : &it->second;
}

}  // namespace lanyard::coordinator
