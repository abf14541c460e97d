// Tensors of a local GGUF file that holds the model being served. It keeps only the places of the
// needed tensors: the mapped header (with the whole vocabulary) would count in the worker's memory.
#pragma once

#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/manifest.h"
#include "model/tensor_source.h"

namespace lanyard::worker {

constexpr size_t kPieceBytes = size_t{256} << 10;  // files are read in such pieces

// NotFound when a tensor of these parts is absent or of another type or shape, DataLoss when a
// part's bytes differ from the manifest's digest, Cancelled when `stop` asks. `progress(bytes)`
// gets the bytes verified since the last call; it may be null.
absl::StatusOr<std::unique_ptr<model::TensorSource>> OpenLocalFile(
    const std::string& path, const model::Manifest& manifest, const std::vector<std::string>& parts,
    std::stop_token stop, const std::function<void(uint64_t)>& progress);

}  // namespace lanyard::worker
