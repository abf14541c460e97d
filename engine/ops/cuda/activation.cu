// Gated activations: grid.y is a row, and a thread takes one element or four.
#include "engine/ops/cuda/activation_args.h"
#include "engine/ops/cuda/common.cuh"
#include "engine/ops/cuda/math.cuh"

namespace lanyard::ops::cuda {
namespace {

LANYARD_DEVICE float Gated(uint32_t activation, float gate, float up) {
  return (activation == 0 ? Silu(gate) : Gelu(gate)) * up;
}

}  // namespace

LANYARD_KERNEL __launch_bounds__(256) lanyard_gate_mul(GateArgs a) {
  const uint32_t i = BlockX() * 256 + ThreadX();
  if (BlockY() >= *a.n_rows || i >= a.n) return;
  float* gate = a.gate_up + static_cast<uint64_t>(BlockY()) * 2 * a.n + i;
  *gate = Gated(a.activation, *gate, gate[a.n]);
}

LANYARD_KERNEL __launch_bounds__(256) lanyard_gate_mul4(GateArgs a) {
  const uint32_t i = (BlockX() * 256 + ThreadX()) * 4;
  if (BlockY() >= *a.n_rows || i >= a.n) return;
  float* gate = a.gate_up + static_cast<uint64_t>(BlockY()) * 2 * a.n + i;
  Vec4f g = *reinterpret_cast<const Vec4f*>(gate);
  const Vec4f up = *reinterpret_cast<const Vec4f*>(gate + a.n);
  g.x = Gated(a.activation, g.x, up.x);
  g.y = Gated(a.activation, g.y, up.y);
  g.z = Gated(a.activation, g.z, up.z);
  g.w = Gated(a.activation, g.w, up.w);
  *reinterpret_cast<Vec4f*>(gate) = g;
}

}  // namespace lanyard::ops::cuda
