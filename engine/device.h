// A card of this machine that stages may use beside the processor. There is one for each card and
// process; stages share it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "base/tensor_type.h"
#include "engine/backend.h"

namespace lanyard::engine {

// Thread-safe.
class Device {
 public:
  virtual ~Device() = default;
  virtual const std::string& name() const = 0;  // "cuda:0"

  virtual bool lost() const = 0;  // it stays true for this process

  // Memory that a new stage may take now; 0 when the device is lost.
  virtual uint64_t FreeBytes() const = 0;
  // Memory that stages may take at all. It shrinks when the person at the desk needs some.
  virtual uint64_t BudgetBytes() const = 0;
  // What a backend on this device would hold, for planning. It never holds more.
  virtual uint64_t MatrixBytes(TensorType type, int64_t n_out, int64_t k) const = 0;
  virtual uint64_t VectorBytes(int64_t n) const = 0;
  virtual uint64_t BufferBytes(const StepSizes& sizes, InputForms forms) const = 0;
  // Bytes of the host's memory for copies to and from the device.
  virtual uint64_t HostBytes(const StepSizes& sizes) const = 0;

  // Unimplemented where the device has no kernels for a model's widths, FailedPrecondition where it
  // has none for the numerics id. The text says what is missing, on which device, and what to do.
  virtual absl::Status CheckShape(const StepSizes& sizes) const = 0;
  // Unavailable when the device is lost.
  virtual absl::StatusOr<std::unique_ptr<Backend>> MakeBackend() = 0;
};

}  // namespace lanyard::engine
