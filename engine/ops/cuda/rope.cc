#include "engine/ops/cuda/rope.h"

namespace lanyard::ops::cuda {

absl::Status RotateAndStore(Launcher& launcher, const RotateArgs& args) {
  if (args.qkv == nullptr || args.slots == nullptr || args.n_rows == nullptr ||
      args.kv.base == nullptr) {
    return InvalidArgument("rotate: qkv, slots, n_rows and the pages must be device addresses");
  }
  if (args.n_rot > args.kv.head_dim || args.n_rot % 2 != 0) {
    return InvalidArgument("rotate: ", args.n_rot, " rotated elements of a head of ",
                           args.kv.head_dim);
  }
  if (args.n_rot != 0 && (args.cos == nullptr || args.sin == nullptr)) {
    return InvalidArgument("rotate: cos and sin must be device addresses");
  }
  constexpr uint32_t kHeads = 4;  // for one block
  const uint32_t heads = args.n_heads + 2 * args.kv.n_kv_heads;
  const uint32_t shared_bytes = kHeads * args.kv.head_dim * sizeof(float);
  if (args.max_rows == 0 || heads == 0 || shared_bytes > 48 * 1024) {
    return InvalidArgument("rotate: ", args.max_rows, " rows of ", heads, " heads of ",
                           args.kv.head_dim, " elements; a head has at most 3072");
  }
  return LaunchWith(launcher, "lanyard_rotate_and_store",
                    {(heads + kHeads - 1) / kHeads, args.max_rows}, {kHeads * 32}, args,
                    shared_bytes);
}

}  // namespace lanyard::ops::cuda
