// Where layers are computed: the seam between the decoder layer, written once (layers.cc), and a
// device. A backend holds weights in the form its kernels take, the KV pages of its layers and the
// buffers of a step, and runs the operations of engine/ops/*.h on them, whose definitions and bits
// it keeps (docs/numerics.md).
//
// Pointers in Buffers, Vector and KvLayer are addresses of the device: only a backend follows them.
// Adding to them is allowed. Operations run in the order of the calls; when they end is up to the
// backend until a call that gives bytes to the host returns. One caller at a time. Unavailable
// means that the device is lost, and this backend with it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/ops/activation.h"
#include "engine/ops/attention.h"
#include "engine/ops/logits.h"
#include "engine/ops/matmul.h"
#include "engine/ops/residual.h"
#include "engine/ops/rope.h"
#include "engine/step.h"
#include "stage/types.h"

namespace lanyard::engine {

// A weight matrix in the form of one backend, which made it and alone knows what it is.
class Matrix {
 public:
  virtual ~Matrix() = default;
  virtual uint64_t bytes() const = 0;
  // The form of the rows that it multiplies: int8 blocks, or f32.
  virtual bool wants_quantised() const = 0;
};

// One or more matrices with the same input, whose outputs lie side by side: [n_out of all][k].
class Linear {
 public:
  struct Part {
    std::shared_ptr<const Matrix> matrix;
    int64_t offset = 0;  // index of its first output
  };

  void Add(std::shared_ptr<const Matrix> matrix, int64_t n_out);
  void set_k(int64_t k) { k_ = k; }
  int64_t n_out() const { return n_out_; }
  int64_t k() const { return k_; }
  const std::vector<Part>& parts() const { return parts_; }
  uint64_t bytes() const;
  bool needs_quantised() const { return needs_quantised_; }
  bool needs_floats() const { return needs_floats_; }

 private:
  std::vector<Part> parts_;
  int64_t n_out_ = 0;
  int64_t k_ = 0;
  bool needs_quantised_ = false;
  bool needs_floats_ = false;
};

// f32 weights in a device's memory. It is empty where a family does not have them.
struct Vector {
  const float* data = nullptr;
  int64_t n = 0;
  std::shared_ptr<const void> owner;
  uint64_t bytes() const { return static_cast<uint64_t>(n) * sizeof(float); }
};

// The buffers of a step, [rows][...], row-major without gaps. Addresses never change.
struct Buffers {
  float* x = nullptr;        // d_model: the residual stream
  float* h = nullptr;        // d_model: normalised rows, then a block's output
  float* qkv = nullptr;      // d_qkv
  float* attn = nullptr;     // d_attn
  float* gate_up = nullptr;  // 2 * d_ff; shares its memory with qkv and attn
  float* logits = nullptr;   // [kHeadRows][n_vocab]
};

// Writes out[r * out_stride + o] for r in [0, rows).
struct ProductRows {
  const float* x = nullptr;
  int64_t rows = 0;
  int64_t x_stride = 0;  // 0: the matrix's k
  float* out = nullptr;
  int64_t out_stride = 0;
};

// The forms of the rows that enter products (see ops::ActRows).
struct InputForms {
  bool quantised = false;
  bool floats = false;
  void Add(const Linear& linear) {
    quantised = quantised || linear.needs_quantised();
    floats = floats || linear.needs_floats();
  }
  void Add(InputForms other) {
    quantised = quantised || other.quantised;
    floats = floats || other.floats;
  }
};

// A row of logits on the host.
struct LogitRow {
  const ops::LogitStats* stats = nullptr;  // null: a logit of the row is not finite
  const float* logits = nullptr;           // null where it was not asked for
};

struct BackendMemory {
  uint64_t weights = 0;
  uint64_t kv = 0;
  uint64_t buffers = 0;
  uint64_t total() const { return weights + kv + buffers; }
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const std::string& name() const = 0;  // "cpu" "cuda:0"

  // --- Loading, before the first step: ResourceExhausted when memory is refused. Reserve asks for
  // all that was planned at once, so that a refusal comes before the first byte is read.
  virtual absl::Status Reserve(const BackendMemory& planned) = 0;
  virtual absl::StatusOr<std::unique_ptr<Matrix>> PackMatrix(
      TensorType type, int64_t n_out, int64_t k, const ops::PackedMatrix::Reader& read) = 0;
  virtual absl::StatusOr<Vector> PutVector(std::vector<float> values) = 0;
  virtual absl::StatusOr<uint8_t*> MapKv(uint64_t bytes, uint32_t layer) = 0;
  // Makes the step's buffers; to be called after the weights are there.
  virtual absl::Status MakeBuffers(const StepSizes& sizes, InputForms forms) = 0;
  virtual BackendMemory memory() const = 0;
  // True when its matrices and vectors serve any later backend of this kind, too (WeightShelf).
  // One that takes them over is told their bytes.
  virtual bool shares_weights() const { return false; }
  virtual void CountShared(uint64_t /*bytes*/) {}
  // Thread-safe. False from the moment on when the device was lost, or gave this backend's memory
  // to others.
  virtual bool usable() const { return true; }

  // --- A step: Begin, operations, End. The frame that `step` holds must outlive it.
  virtual absl::Status Begin(const Step& step) = 0;
  // Waits for what the step still does, and returns its error. It follows every Begin, also in a
  // step that failed.
  virtual absl::Status End() = 0;
  const Buffers& buffers() const { return buffers_; }
  int64_t rows() const { return rows_; }
  // Runs the operations that `body` calls, in order. Equal keys run the same operations with the
  // same arguments in every step of the same rows(), so a backend may have recorded them and may
  // not call `body` at all.
  struct RunKey {
    uint32_t part = 0;
    uint32_t rows = 0;  // rows that `body` works on, if not rows()
  };
  virtual absl::Status Run(RunKey key, const std::function<absl::Status()>& body) = 0;

  // --- Operations
  virtual absl::Status Product(const Linear& w, const ProductRows& rows) = 0;
  virtual absl::Status Residual(const ops::ResidualRows& args) = 0;
  // Uses the step's rotations of this kind, and the slots and runs of the state group.
  virtual absl::Status RotateAndStore(ops::QkvRows args, int rope_kind, uint32_t group) = 0;
  virtual absl::Status Attend(ops::AttentionArgs args, uint32_t group) = 0;
  virtual absl::Status GateMul(const ops::GateRows& args) = 0;
  // The head, for at most kHeadRows rows: SetHeadRows names them, outside of Run. Then the named
  // rows of x are normalised side by side into h, and rows of logits are summarised for ReadLogits.
  virtual absl::Status SetHeadRows(std::span<const int64_t> rows) = 0;
  virtual absl::Status NormHeadRows(const Vector& norm, float eps) = 0;
  virtual absl::Status SummariseLogits() = 0;

  // --- Borders: HostRows is host memory of rows() x d_model floats for rows that come from the
  // host; then TakeRows moves them to x.
  virtual float* HostRows() = 0;
  virtual absl::Status TakeRows() = 0;
  // Converts the wire format to x. Exponents are in range (stage::ValidateFrame); values that are
  // not finite stay in their row.
  virtual absl::Status TakeHidden(stage::WireType type, std::span<const uint8_t> data) = 0;
  // Takes x from another backend's x of the same rows, without going through the host; false where
  // that is impossible.
  virtual absl::StatusOr<bool> TakeFrom(Backend&) { return false; }
  // Converts x to the wire format; the bytes are there when it returns.
  virtual absl::Status GiveHidden(stage::WireType type, std::span<uint8_t> data) = 0;
  // Reads the statistics of every head row (whole.size() of them), and the logits themselves where
  // whole[i] is not 0. The result is valid until the next SetHeadRows.
  virtual absl::Status ReadLogits(std::span<const uint8_t> whole, std::vector<LogitRow>* out) = 0;

 protected:
  Buffers buffers_;
  int64_t rows_ = 0;
};

}  // namespace lanyard::engine
