// A message from a joined, hostile worker: whatever the bytes, conversion gives a struct within the
// limits or a Status.
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <cstdint>
#include <cstdlib>

#include "net/convert_control.h"
#include "net/convert_stage.h"
#include "net/frame_scan.h"
#include "net/limits.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const int bytes = static_cast<int>(size - 1);
  switch (data[0] % 5) {
    case 0: {
      lanyard::v1::StepFrame proto;
      if (!proto.ParseFromArray(data + 1, bytes)) return 0;
      const auto frame = lanyard::net::FromProto(proto);
      if (frame.ok() && frame->batch.TotalRows() > lanyard::stage::kMaxFrameRows) abort();
      if (frame.ok() && frame->hidden.data.size() > lanyard::net::kMaxFrameBytes) abort();
      break;
    }
    case 1: {
      lanyard::v1::StepResult proto;
      if (proto.ParseFromArray(data + 1, bytes))
        lanyard::net::FromProto(proto, "w").status().IgnoreError();
      break;
    }
    case 2: {
      google::protobuf::io::ArrayInputStream stream(data + 1, bytes, 16);
      lanyard::net::ScanFrameMessage(&stream).IgnoreError();
      break;
    }
    case 3: {
      lanyard::v1::WorkerMessage proto;
      if (proto.ParseFromArray(data + 1, bytes))
        lanyard::net::FromProto(proto).status().IgnoreError();
      break;
    }
    default: {
      lanyard::v1::Assign proto;
      if (proto.ParseFromArray(data + 1, bytes))
        lanyard::net::FromProto(proto).status().IgnoreError();
      break;
    }
  }
  return 0;
}
