#include "net/frame_scan.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>

#include <limits>

#include "net/limits.h"

namespace lanyard::net {
namespace {

using google::protobuf::internal::WireFormatLite;

enum class Kind { kFrameMessage, kFrame, kRun, kLeaf, kHidden, kBytes };

// Says what a length-delimited field holds (field numbers of stage.proto).
Kind KindOf(Kind parent, int field) {
  switch (parent) {
    case Kind::kFrameMessage:
      return field == 2 ? Kind::kFrame : Kind::kBytes;
    case Kind::kFrame:
      return field == 8 ? Kind::kRun : field == 12 ? Kind::kHidden : Kind::kBytes;
    case Kind::kRun:
      return field == 5 || field == 6 ? Kind::kLeaf : Kind::kBytes;
    default:
      return Kind::kBytes;
  }
}

class Scanner {
 public:
  explicit Scanner(google::protobuf::io::ZeroCopyInputStream* bytes) : in_(bytes) {
    in_.SetTotalBytesLimit(std::numeric_limits<int>::max());
  }

  absl::Status Scan(Kind kind) {
    while (const uint32_t tag = in_.ReadTag()) {
      if (WireFormatLite::GetTagWireType(tag) != WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
        if (!WireFormatLite::SkipField(&in_, tag)) return Malformed();
        continue;
      }
      int length = 0;
      if (!in_.ReadVarintSizeAsInt(&length)) return Malformed();
      const Kind child = KindOf(kind, WireFormatLite::GetTagFieldNumber(tag));
      RETURN_IF_ERROR(Count(child, length));
      if (child == Kind::kFrame || child == Kind::kRun) {
        const auto limit = in_.PushLimit(length);
        RETURN_IF_ERROR(Scan(child));
        if (in_.BytesUntilLimit() != 0) return Malformed();
        in_.PopLimit(limit);
      } else if (!in_.Skip(length)) {
        return Malformed();
      }
    }
    return in_.ConsumedEntireMessage() || in_.BytesUntilLimit() == 0 ? absl::OkStatus()
                                                                     : Malformed();
  }

 private:
  absl::Status Count(Kind kind, int length) {
    if (kind == Kind::kRun || kind == Kind::kLeaf) {
      if (++messages_ > kMaxFrameSubmessages) {
        return InvalidArgument("frame: more than ", kMaxFrameSubmessages,
                               " runs, tables and outputs");
      }
    }
    // A frame and its runs are counted by their contents.
    if (kind == Kind::kLeaf || kind == Kind::kBytes) beside_bytes_ += static_cast<size_t>(length);
    if (beside_bytes_ > kMaxFrameMessageBytes - kMaxFrameBytes) {
      return InvalidArgument("frame: more than ", kMaxFrameMessageBytes - kMaxFrameBytes,
                             " bytes beside its hidden states");
    }
    return absl::OkStatus();
  }

  static absl::Status Malformed() {
    return InvalidArgument("frame: the message is not well-formed");
  }

  google::protobuf::io::CodedInputStream in_;
  int messages_ = 0;
  size_t beside_bytes_ = 0;
};

}  // namespace

absl::Status ScanFrameMessage(google::protobuf::io::ZeroCopyInputStream* bytes) {
  return Scanner(bytes).Scan(Kind::kFrameMessage);
}

}  // namespace lanyard::net
