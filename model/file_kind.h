// What a file is that somebody named as a model.
#pragma once

#include "base/bytes.h"
#include "base/status.h"

namespace lanyard::model {

// OK when the bytes begin as a GGUF file does. Else "not a GGUF file", what it looks like, and what
// to do about it: InvalidArgument, or Unimplemented for a GGML file from before GGUF.
absl::Status CheckIsGguf(ByteSpan bytes);

}  // namespace lanyard::model
