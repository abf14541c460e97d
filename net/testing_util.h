// Helpers for tests of net/ and worker/: waiting, frames, a model of a few zero weights.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <thread>

#include "model/gguf.h"
#include "model/manifest.h"
#include "stage/types.h"

namespace lanyard::net::testing {

// Polls until `done` is true or the time is over.
inline bool WaitFor(const std::function<bool()>& done, int timeout_ms = 5000) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  while (std::chrono::steady_clock::now() < end) {
    if (done()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return done();
}

// A frame with every field set: two runs, three rows, hidden states of 3 x 4 in f16.
inline stage::StepFrame SampleFrame() {
  stage::StepFrame frame;
  frame.plan = PlanId(7);
  frame.epoch = Epoch(9);
  frame.stage = 1;
  frame.numerics.kv = stage::KvType::kQ8;
  frame.batch.step = StepId(1234567890123);
  frame.batch.frame = 2;
  frame.batch.n_frames = 3;
  stage::SeqRun a{SeqId(11), 96, 2, {}, {{0, {5, 6, 7, 8}}, {2, {1, 2}}}, {}};
  stage::SeqRun b{SeqId(12), 4, 1, {}, {{0, {9}}, {0, {3}}}, {}};
  b.outputs.push_back({0, {0.7f, 40, 0.9f, 0.05f, 0xfeedfacecafef00d}, 5, {1, 2, 99}});
  b.token_of = StepId(1234567890122);
  frame.batch.runs = {a, b};
  frame.hidden = {stage::WireType::kF16, 3, 4, {}};
  frame.hidden.data.resize(stage::Hidden::BytesFor(stage::WireType::kF16, 3, 4));
  for (size_t i = 0; i < frame.hidden.data.size(); ++i)
    frame.hidden.data[i] = static_cast<uint8_t>(i * 37);
  return frame;
}

}  // namespace lanyard::net::testing
