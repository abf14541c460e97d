// Looks over the bytes of a frame before they are parsed. An empty sub-message takes two bytes on
// the wire and a hundred in memory, so a message within the size limit could still take gigabytes
// from a worker that may have 88 MiB.
#pragma once

#include "base/status.h"

namespace google::protobuf::io {
class ZeroCopyInputStream;
}

namespace lanyard::net {

// InvalidArgument when a v1::FrameMessage holds more sub-messages, or more bytes beside its hidden
// states, than any valid frame does, or is not well-formed. It allocates nothing.
absl::Status ScanFrameMessage(google::protobuf::io::ZeroCopyInputStream* bytes);

}  // namespace lanyard::net
