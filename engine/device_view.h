// A device that forwards all calls to another one, except those that a subclass overrides.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "engine/device.h"

namespace lanyard::engine {

class DeviceView : public Device {
 public:
  explicit DeviceView(std::shared_ptr<Device> device) : device_(std::move(device)) {}

  const std::string& name() const override { return device_->name(); }
  bool lost() const override { return device_->lost(); }
  uint64_t FreeBytes() const override { return device_->FreeBytes(); }
  uint64_t BudgetBytes() const override { return device_->BudgetBytes(); }
  uint64_t MatrixBytes(TensorType type, int64_t n_out, int64_t k) const override {
    return device_->MatrixBytes(type, n_out, k);
  }
  uint64_t VectorBytes(int64_t n) const override { return device_->VectorBytes(n); }
  uint64_t BufferBytes(const StepSizes& sizes, InputForms forms) const override {
    return device_->BufferBytes(sizes, forms);
  }
  uint64_t HostBytes(const StepSizes& sizes) const override { return device_->HostBytes(sizes); }
  absl::Status CheckShape(const StepSizes& sizes) const override {
    return device_->CheckShape(sizes);
  }
  absl::StatusOr<std::unique_ptr<Backend>> MakeBackend() override { return device_->MakeBackend(); }

 private:
  const std::shared_ptr<Device> device_;
};

}  // namespace lanyard::engine
