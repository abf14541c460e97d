#include "engine/room.h"

#include <utility>

namespace lanyard::engine {
namespace {

class FixedRoom final : public Device {
 public:
  explicit FixedRoom(std::shared_ptr<Device> device) : device_(std::move(device)), free_bytes_(device_->FreeBytes()) {}

  const std::string& name() const override { return device_->name(); }
  bool lost() const override { return device_->lost(); }
  uint64_t FreeBytes() const override { return free_bytes_; }
  uint64_t BudgetBytes() const override { return device_->BudgetBytes(); }
  uint64_t MatrixBytes(TensorType type, int64_t n_out, int64_t k) const override {
    return device_->MatrixBytes(type, n_out, k);
  }
  uint64_t VectorBytes(int64_t n) const override { return device_->VectorBytes(n); }
  uint64_t BufferBytes(const StepSizes& sizes, InputForms forms) const override {
    return device_->BufferBytes(sizes, forms);
  }
  uint64_t HostBytes(const StepSizes& sizes) const override { return device_->HostBytes(sizes); }
  absl::Status CheckShape(const StepSizes& sizes) const override { return device_->CheckShape(sizes); }
  absl::StatusOr<std::unique_ptr<Backend>> MakeBackend() override { return device_->MakeBackend(); }

 private:
  const std::shared_ptr<Device> device_;
  const uint64_t free_bytes_;
};

}  // namespace

std::vector<std::shared_ptr<Device>> WithRoomOfNow(const std::vector<std::shared_ptr<Device>>& devices) {
  std::vector<std::shared_ptr<Device>> out;
  for (const auto& device : devices) out.push_back(std::make_shared<FixedRoom>(device));
  return out;
}

}  // namespace lanyard::engine
