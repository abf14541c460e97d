#include "engine/ops/cuda/embed.h"

#include "base/tensor_type.h"

namespace lanyard::ops::cuda {

absl::Status EmbedRows(Launcher& launcher, const EmbedArgs& args) {
  if (args.table == nullptr || args.x == nullptr || args.n_rows == nullptr) {
    return InvalidArgument("embed: table, x and n_rows must be device addresses");
  }
  const auto traits = TraitsOf(static_cast<TensorType>(args.type));
  if (!traits || !traits->computable)
    return InvalidArgument("embed: no kernel for tensor type ", args.type);
  if (args.max_rows == 0 || args.n == 0 || args.n % traits->elements != 0 ||
      args.row_bytes != uint64_t{args.n} / traits->elements * traits->bytes) {
    return InvalidArgument("embed: ", args.max_rows, " rows of ", args.n, " elements in ",
                           args.row_bytes, " bytes are not rows of ", AbslView(traits->name));
  }
  return LaunchWith(launcher, "lanyard_embed_rows", {(args.n + 255) / 256, args.max_rows}, {256},
                    args);
}

}  // namespace lanyard::ops::cuda
