#include "coordinator/cluster/health.h"

#include <algorithm>

namespace lanyard::coordinator {

std::string MachineHealth::OnLoadFailed(const std::string& machine, const std::string& unreachable,
                                        const absl::Status& why, TimeNs now) {
  std::string blamed = machine;
  if (!unreachable.empty()) {
    std::set<std::string>& targets = unreached_[machine];
    targets.insert(unreachable);
    // One that reaches none of two others is itself behind a wall, and they are not to blame.
    if (targets.size() < 2) {
      blamed = unreachable;
    } else {
      for (const std::string& target : targets) Forgive(target);
    }
  }
  HealthRecord& record = records_[blamed];
  ++record.load_failures;
  record.cause = Str(why.message());
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
  it->second.bench_time = 0;
}

void MachineHealth::Forgive(const std::string& machine) {
  revision_ += benched_.erase(machine);
  const auto it = records_.find(machine);
  if (it == records_.end()) return;
  it->second.load_failures = 0;
  it->second.bench_time = 0;
  it->second.benched_until = 0;
}

bool MachineHealth::Benched(const std::string& machine, TimeNs now) const {
  const auto it = records_.find(machine);
  return it != records_.end() && now < it->second.benched_until;
}

void MachineHealth::OnTick(TimeNs now) {
  revision_ += std::erase_if(benched_, [&](const std::string& m) { return !Benched(m, now); });
}

const HealthRecord* MachineHealth::Find(const std::string& machine) const {
  const auto it = records_.find(machine);
  return it == records_.end() ? nullptr : &it->second;
}

}  // namespace lanyard::coordinator
