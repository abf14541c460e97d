#include "coordinator/cluster/pace.h"

#include <algorithm>

namespace lanyard::coordinator {

void Pace::OnPlan(const std::vector<sharding::PlannedStage>& stages) {
  stages_.clear();
  for (const sharding::PlannedStage& stage : stages)
    stages_[stage.machine].predicted_ms += stage.ms_per_token / stage.slowness;
}

double Pace::Slowness(const std::string& machine) const {
  const auto it = slow_.find(machine);
  return it == slow_.end() ? 1 : it->second;
}

void Pace::OnHeartbeat(const std::string& machine, const net::Heartbeat& beat, TimeNs now) {
  const auto it = stages_.find(machine);
  if (it == stages_.end()) return;
  Stage& stage = it->second;
  if (stage.beat_at != 0 && beat.frames >= stage.frames_seen) {
    stage.frames += beat.frames - stage.frames_seen;
    stage.busy_ms += beat.busy * static_cast<double>(now - stage.beat_at) / kMillisecond;
  }
  stage.beat_at = now;
  stage.frames_seen = beat.frames;
  const bool all = std::all_of(stages_.begin(), stages_.end(), [this](const auto& s) {
    return s.second.frames >= options_.frames && s.second.predicted_ms > 0;
  });
  if (all) Judge();
}

double Pace::BesideOthers(const std::string& machine) const {
  std::vector<double> others;
  for (const auto& [name, stage] : stages_) {
    if (name != machine) others.push_back(stage.frame_ms() / stage.predicted_ms);
  }
  if (others.empty()) return 1;
  const auto median = others.begin() + static_cast<std::ptrdiff_t>(others.size() / 2);
  std::nth_element(others.begin(), median, others.end());
  const Stage& own = stages_.at(machine);
  return *median > 0 ? own.frame_ms() / own.predicted_ms / *median : 1;
}

bool Pace::Slowest(const Stage& stage) const {
  return std::none_of(stages_.begin(), stages_.end(),
                      [&](const auto& s) { return s.second.frame_ms() > stage.frame_ms(); });
}

void Pace::Judge() {
  for (const auto& [name, stage] : stages_) {
    const double before = Slowness(name);
    const double now = BesideOthers(name);
    // A short stage consists of what every frame costs, so it may miss its prediction by far: only
    // the slowest one holds the others up.
    const bool worse = now >= before * options_.straggles_at && Slowest(stage);
    const bool even = before > 1 && now < options_.even_below;
    if (!worse && !even) continue;
    ++revision_;
    slow_.erase(name);
    if (worse) slow_[name] = now;
    verdicts_.push_back({name, Slowness(name)});
  }
  for (auto& [name, stage] : stages_) {
    stage.frames = 0;
    stage.busy_ms = 0;
  }
}

}  // namespace lanyard::coordinator
