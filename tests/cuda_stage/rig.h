// Cards of the fake library as the engine's devices, and prompts that run through stages on them.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "engine/cuda/cuda_device.h"
#include "engine/device_view.h"
#include "engine/evaluate.h"
#include "engine/placement.h"
#include "engine/testing/random_model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fake_cuda/fake_cuda.h"

namespace lanyard::engine {

using testing::RandomModel;

// A card that gives less memory than it has, so that a test decides what goes where.
class LimitedDevice final : public DeviceView {
 public:
  LimitedDevice(std::shared_ptr<Device> device, uint64_t bytes)
      : DeviceView(std::move(device)), bytes_(bytes) {}
  uint64_t FreeBytes() const override { return bytes_; }
  uint64_t BudgetBytes() const override { return bytes_; }

 private:
  const uint64_t bytes_;
};

// Every allocation has its own bounds, so that the fake card sees an access beyond them.
inline absl::StatusOr<std::vector<std::shared_ptr<CudaDevice>>> OpenCards(
    const std::string& config) {
  fake_cuda::FakeCuda& fake = fake_cuda::FakeCuda::Get();
  setenv("LANYARD_CUDA_EXACT_BLOCKS", "1", 1);
  if (!fake.Reset(config)) return InvalidArgument("fake cards: ", config);
  ASSIGN_OR_RETURN(const auto driver, cuda::Driver::Open());
  std::vector<std::shared_ptr<CudaDevice>> out;
  for (const cuda::DeviceInfo& info : driver->devices()) {
    CudaDeviceOptions options;
    options.ordinal = info.ordinal;
    options.budget_bytes = info.total_bytes;
    options.reserve_bytes = 0;  // since these cards are smaller than the reserve
    ASSIGN_OR_RETURN(auto device, CudaDevice::Open(driver, options));
    out.push_back(std::move(device));
  }
  return out;
}

// Makes `card` have room for the first `layers` layers of a stage that begins at `begin`, and no
// more.
inline std::shared_ptr<Device> RoomFor(const std::shared_ptr<CudaDevice>& card,
                                       const RandomModel& model, stage::StageSpec spec,
                                       stage::LayerRange layers) {
  spec.layers = layers;
  spec.samples = false;
  const auto find = [&](const std::string& name) { return model.Find(name); };
  const std::vector<Place> places = PlaceStage(model.shape(), spec, find, {card}, 1);
  return std::make_shared<LimitedDevice>(card, places[0].memory.total());
}

struct Config {
  std::vector<std::shared_ptr<Device>> devices;
  uint32_t stages = 1;
  uint32_t chunk = 512;
  bool batch = false;
  uint32_t longest = 20;  // above 256 it is more than one span of attention
};

inline ChainOptions OptionsOf(const Config& config, stage::NumericsId numerics) {
  ChainOptions options;
  options.stages = config.stages;
  options.numerics = numerics;
  options.stage.devices = config.devices;
  options.max_context = 300;
  options.max_rows = 64;
  options.sequences = config.batch ? 3 : 1;
  return options;
}

// Lengths beyond the window, one token alone, and `longest`.
inline std::vector<std::vector<int32_t>> Prompts(uint32_t n_vocab, uint32_t longest) {
  std::vector<std::vector<int32_t>> out;
  for (const uint32_t length : {45u, 1u, longest}) {
    std::vector<int32_t> tokens;
    for (uint32_t i = 0; i < length; ++i)
      tokens.push_back(static_cast<int32_t>((i * 37 + length * 11) % n_vocab));
    out.push_back(tokens);
  }
  return out;
}

inline absl::StatusOr<std::vector<EvalResult>> Answers(const model::ModelShape& shape,
                                                       const model::TensorSource& source,
                                                       stage::NumericsId numerics,
                                                       const Config& config) {
  ASSIGN_OR_RETURN(const auto chain, Chain::Create(shape, source, OptionsOf(config, numerics)));
  EvalOptions eval;
  eval.generate = 6;
  eval.chunk = config.chunk;
  eval.batch = config.batch;
  return Evaluate(*chain, Prompts(shape.n_vocab, config.longest), eval);
}

inline void ExpectSame(const std::vector<EvalResult>& a, const std::vector<EvalResult>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].greedy, b[i].greedy) << "prompt " << i;
    ASSERT_EQ(a[i].positions.size(), b[i].positions.size());
    for (size_t p = 0; p < a[i].positions.size(); ++p) {
      const EvalPosition &x = a[i].positions[p], &y = b[i].positions[p];
      ASSERT_EQ(std::memcmp(&x.lse, &y.lse, sizeof(float)), 0)
          << "prompt " << i << " position " << p;
      ASSERT_EQ(x.top, y.top) << "prompt " << i << " position " << p;
    }
  }
}

inline stage::NumericsId Id(stage::KvType kv, stage::WireType wire) {
  return {kNumericsVersion, kv, wire};
}

inline const std::vector<TensorType> kFloats = {TensorType::kF32};
inline const std::vector<TensorType> kQuantised = {
    TensorType::kQ4_1, TensorType::kQ8_0, TensorType::kF16, TensorType::kQ5_0,
    TensorType::kQ4_0, TensorType::kQ4_K, TensorType::kQ6_K};

}  // namespace lanyard::engine
