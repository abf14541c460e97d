#include "engine/cuda/nvml.h"

#include "engine/cuda/driver.h"
#include "tests/fake_cuda/fixture.h"

namespace lanyard::fake_cuda {
namespace {

using cuda::Nvml;

TEST(Nvml, NumbersOfTheCardThatTheDriverMeans) {
  setenv("LANYARD_FAKE_CUDA", "devices=2,memory=300MiB/200MiB,others=50MiB", 1);
  FakeCuda::Get().Reset("devices=2,memory=300MiB/200MiB,others=50MiB");
  auto rig = OpenRig();
  ASSERT_OK(rig);
  ASSERT_OK(rig->contexts[1]->Allocate(7 << 20).status());
  const auto nvml = Nvml::Open();
  ASSERT_TRUE(nvml->present());
  EXPECT_EQ(nvml->driver_version(), "580.0.fake");
  EXPECT_EQ(nvml->Cards().size(), 2u);
  const auto card = nvml->Card(rig->contexts[1]->device().pci_id);
  ASSERT_TRUE(card.has_value());
  EXPECT_EQ(card->total_bytes, 200u << 20);
  EXPECT_EQ(card->used_bytes, 57u << 20);
  EXPECT_EQ(card->free_bytes, 143u << 20);
  EXPECT_EQ(card->gpu_percent, 37);
  EXPECT_EQ(card->celsius, 51);
  EXPECT_DOUBLE_EQ(card->watts.value(), 64.5);
  EXPECT_EQ(card->sm_mhz, 1777);
  EXPECT_EQ(card->pcie_lanes, 16);
  ASSERT_EQ(card->processes.size(), 2u);
  EXPECT_EQ(card->processes[0].bytes, 7u << 20);
  EXPECT_FALSE(card->processes[0].graphics);
  EXPECT_TRUE(card->processes[1].graphics);
  EXPECT_FALSE(card->processes[1].bytes.has_value());
  EXPECT_FALSE(nvml->Card("0000:ff:00.0").has_value());
  EXPECT_FALSE(nvml->Card("").has_value());
  unsetenv("LANYARD_FAKE_CUDA");
}

TEST(Nvml, CardThatDoesNotTellHasNoNumbers) {
  FakeCuda::Get().Reset("");
  setenv("LANYARD_FAKE_NVML", "silent", 1);
  const auto nvml = Nvml::Open();
  unsetenv("LANYARD_FAKE_NVML");
  ASSERT_TRUE(nvml->present());
  setenv("LANYARD_FAKE_NVML", "silent", 1);
  const auto cards = nvml->Cards();
  unsetenv("LANYARD_FAKE_NVML");
  ASSERT_EQ(cards.size(), 1u);
  EXPECT_FALSE(cards[0].total_bytes.has_value());
  EXPECT_FALSE(cards[0].celsius.has_value());
  EXPECT_TRUE(cards[0].processes.empty());
  EXPECT_EQ(cards[0].pci_id, "0000:0a:00.0");
}

TEST(Nvml, NoLibraryIsNoNumbers) {
  for (const std::string& path : {std::string("/nowhere/libnvidia-ml.so.1"), LibraryPath()}) {
    const auto nvml = Nvml::Open(path);  // libfakecuda.so is a library, but no NVML
    EXPECT_FALSE(nvml->present());
    EXPECT_TRUE(nvml->Cards().empty());
    EXPECT_FALSE(nvml->Card("0000:0a:00.0").has_value());
    EXPECT_EQ(nvml->driver_version(), "");
  }
}

}  // namespace
}  // namespace lanyard::fake_cuda
