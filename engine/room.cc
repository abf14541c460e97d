#include "engine/room.h"

#include "engine/device_view.h"

namespace lanyard::engine {
namespace {

class FixedRoom final : public DeviceView {
 public:
  explicit FixedRoom(const std::shared_ptr<Device>& device)
      : DeviceView(device), free_bytes_(device->FreeBytes()) {}

  uint64_t FreeBytes() const override { return free_bytes_; }

 private:
  const uint64_t free_bytes_;
};

}  // namespace

std::vector<std::shared_ptr<Device>> WithRoomOfNow(
    const std::vector<std::shared_ptr<Device>>& devices) {
  std::vector<std::shared_ptr<Device>> out;
  for (const auto& device : devices) out.push_back(std::make_shared<FixedRoom>(device));
  return out;
}

}  // namespace lanyard::engine
