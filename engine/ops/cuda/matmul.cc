// Chooses which kernel a product takes, and launches it.
#include "engine/ops/cuda/matmul.h"

#include <algorithm>
#include <string>

#include "engine/ops/cuda/matmul_layout.h"

namespace lanyard::ops::cuda {
namespace {

constexpr uint32_t kAssignThreads = 128;
constexpr uint32_t kVectorThreads = kTileOutputs * kDealtPartials;
constexpr uint32_t kTileThreads = 256;
// Columns that pass over the weights together, with the weights read once.
constexpr uint32_t kSplitRows = 32;
constexpr int64_t kMaxRows = 1 << 16;
constexpr uint64_t kMaxBlocks = 1 << 27;  // 8 threads each: below 2^31

// The columns of a group of rows: a power of two, so that there are kernels for few numbers only.
uint32_t ColumnsOf(int64_t rows) {
  uint32_t columns = 1;
  while (columns < kMaxColumns && columns < rows) columns *= 2;
  return columns;
}
uint64_t GroupsOf(int64_t rows) {
  const uint32_t columns = ColumnsOf(rows);
  return (static_cast<uint64_t>(rows) + columns - 1) / columns;
}
uint64_t PaddedBlocks(int64_t rows, int64_t k) {
  return GroupsOf(rows) * ColumnsOf(rows) * static_cast<uint64_t>(BlockCount(k));
}

// Where the parts of a buffer of rows lie.
float* ScalesOf(const DeviceRows& rows) {
  return reinterpret_cast<float*>(rows.data + PaddedBlocks(rows.rows, rows.k) * kBlockElements);
}
float* SumsOf(const DeviceRows& rows) { return ScalesOf(rows) + PaddedBlocks(rows.rows, rows.k); }

std::string TypeName(TensorType type) {
  std::string name;
  const TypeTraits traits = *TraitsOf(type);  // it must outlive the loop over its name
  for (const char c : traits.name)
    name += static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return name;
}

absl::Status CheckRows(const DeviceRows& rows) {
  const bool inside = rows.rows >= 0 && rows.rows <= kMaxRows && rows.k > 0 && rows.k <= kMaxK;
  if (!inside || (rows.quantised && rows.k % kBlock != 0) ||
      PaddedBlocks(rows.rows, rows.k) > kMaxBlocks) {
    return InvalidArgument("rows of activations: ", rows.rows, " x ", rows.k,
                           "; the kernels take at most ", kMaxRows, " x ", kMaxK, ", ", kMaxBlocks,
                           " blocks of 32 in all",
                           rows.quantised ? ", and a multiple of 32 elements" : "");
  }
  return absl::OkStatus();
}

ProductArgs ArgsOf(const DeviceMatrix& w, const DeviceRows& rows, const DeviceOut& out) {
  ProductArgs args{};
  args.tiles = w.data;
  args.tile_bytes = TileBytes(w.type, w.k);
  args.header_bytes = static_cast<uint32_t>(HeaderBytes(w.type, w.k));
  args.n_tiles = static_cast<uint32_t>((w.n_out + kTileOutputs - 1) / kTileOutputs);
  args.n_out = static_cast<uint32_t>(w.n_out);
  args.n_blocks = static_cast<uint32_t>(BlockCount(w.k));
  args.supers = static_cast<uint32_t>(std::max<int64_t>(1, w.k / kSuperBlock));
  args.supers_inverse = ((uint32_t{1} << 31) + args.supers - 1) / args.supers;
  args.rows = static_cast<uint32_t>(rows.rows);
  args.groups = static_cast<uint32_t>(GroupsOf(rows.rows));
  args.q = rows.data;
  args.d = ScalesOf(rows);
  args.s = SumsOf(rows);
  args.out = out.data;
  args.out_stride = out.stride;
  return args;
}

uint32_t Blocks(uint32_t count, uint32_t of_block) { return (count + of_block - 1) / of_block; }

// Launches a kernel for few rows: a block of threads takes a tile of 16 outputs and a group of
// columns.
absl::Status LaunchVector(Launcher& launcher, const DeviceMatrix& w, const ProductArgs& args) {
  const std::string name =
      "matvec_" + TypeName(w.type) + "_" + std::to_string(ColumnsOf(args.rows));
  return LaunchWith(launcher, name, {args.n_tiles, args.groups, 1}, {kVectorThreads, 1, 1}, args);
}

// Says how many blocks of threads a kernel of `outputs` x `columns` needs.
struct TileShape {
  const char* kernel;
  uint32_t outputs;
  uint32_t columns;
};
Grid GridOf(const TileShape& shape, const ProductArgs& args) {
  return {Blocks(args.n_out, shape.outputs), Blocks(args.rows, shape.columns), 1};
}
absl::Status LaunchTile(Launcher& launcher, const TileShape& shape, const DeviceMatrix& w,
                        const ProductArgs& args) {
  return LaunchWith(launcher, shape.kernel + TypeName(w.type), GridOf(shape, args),
                    {kTileThreads, 1, 1}, args);
}

// A device is full when every multiprocessor has a block.
bool Fills(const TileShape& shape, const ProductArgs& args, const Target& target) {
  const Grid grid = GridOf(shape, args);
  return static_cast<int64_t>(grid.x) * grid.y >= target.multiprocessors;
}

absl::Status LaunchSplit(Launcher& launcher, const DeviceMatrix& w, const ProductArgs& args) {
  const uint32_t columns = args.rows <= 16 ? 16 : 32;
  const std::string name = "matmul_split_" + TypeName(w.type) + "_" + std::to_string(columns);
  return LaunchWith(launcher, name, {Blocks(args.n_tiles, 2), Blocks(args.rows, columns), 1},
                    {kTileThreads, 1, 1}, args);
}

constexpr TileShape kMmaWide{"matmul_wide_", 128, 128};
constexpr TileShape kMmaTile{"matmul_tile_", 128, 64};
constexpr TileShape kFloatTile{"matmul_tile_", 128, 64};
constexpr TileShape kDp4aTile{"matmul_dp4a_", 64, 64};

}  // namespace

bool DeviceMatrix::wants_quantised() const { return IsQuantised(type); }

uint64_t RowsBytes(bool quantised, int64_t rows, int64_t k) {
  // An element of a quantised block is a byte; in addition the block has d and s.
  return PaddedBlocks(rows, k) *
         (quantised ? kBlockElements + 2 * sizeof(float) : kBlockElements * sizeof(float));
}

absl::Status AssignRows(Launcher& launcher, const float* x, int64_t stride, const DeviceRows& to) {
  RETURN_IF_ERROR(CheckRows(to));
  if (to.rows == 0) return absl::OkStatus();
  AssignRowsArgs args{};
  args.x = x;
  args.stride = stride;
  args.rows = static_cast<uint32_t>(to.rows);
  args.k = static_cast<uint32_t>(to.k);
  args.n_blocks = static_cast<uint32_t>(BlockCount(to.k));
  args.columns = ColumnsOf(to.rows);
  args.groups = static_cast<uint32_t>(GroupsOf(to.rows));
  args.q = to.data;
  args.d = ScalesOf(to);
  args.s = SumsOf(to);
  const uint64_t threads = PaddedBlocks(to.rows, to.k) * 8;
  const auto blocks = static_cast<uint32_t>((threads + kAssignThreads - 1) / kAssignThreads);
  return LaunchWith(launcher, to.quantised ? "assign_rows_q8" : "assign_rows_f32", {blocks, 1, 1},
                    {kAssignThreads, 1, 1}, args);
}

absl::Status MatMul(Launcher& launcher, const Target& target, const DeviceMatrix& w,
                    const DeviceRows& rows, const DeviceOut& out) {
  RETURN_IF_ERROR(CheckRows(rows));
  if (rows.k != w.k || rows.quantised != w.wants_quantised() || UnitBytes(w.type) == 0) {
    return InvalidArgument("product of a matrix with rows of ", w.k, " elements and ",
                           rows.quantised ? "quantised" : "float", " activations of ", rows.k,
                           ": they do not fit");
  }
  if (rows.rows == 0) return absl::OkStatus();
  const ProductArgs args = ArgsOf(w, rows, out);
  if (args.rows <= kMaxColumns) return LaunchVector(launcher, w, args);
  const bool many = args.rows > kSplitRows;
  if (!rows.quantised) {
    return many && Fills(kFloatTile, args, target) ? LaunchTile(launcher, kFloatTile, w, args)
                                                   : LaunchVector(launcher, w, args);
  }
  if (target.level < 75) {
    return many ? LaunchTile(launcher, kDp4aTile, w, args) : LaunchVector(launcher, w, args);
  }
  if (args.rows > kMmaTile.columns && Fills(kMmaWide, args, target))
    return LaunchTile(launcher, kMmaWide, w, args);
  return many && Fills(kMmaTile, args, target) ? LaunchTile(launcher, kMmaTile, w, args)
                                               : LaunchSplit(launcher, w, args);
}

}  // namespace lanyard::ops::cuda
