#include "cli/typed_input.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

#include "cli/interrupt.h"
#include "cli/terminal.h"
#include "model/unicode.h"

namespace lanyard::cli {
namespace {

constexpr std::string_view kPasteEnds = "\x1b[201~";
constexpr int kKeyMs = 50;     // between the bytes of one key, and of one burst
constexpr int kRestMs = 2000;  // for the rest of a character: a busy link may split it
constexpr int kForever = -1;

bool IsNewline(char c) { return c == '\n' || c == '\r'; }

// Newlines as '\n', none at the end (Enter sends the text), and no control character but the tab.
std::string Cleaned(std::string_view bytes) {
  std::string out;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const auto c = static_cast<unsigned char>(bytes[i]);
    if (c == '\r') {
      if (i + 1 < bytes.size() && bytes[i + 1] == '\n') continue;
      out += '\n';
    } else if (c == '\n' || c == '\t' || (c >= 0x20 && c != 0x7f)) {
      out += bytes[i];
    }
  }
  out.erase(out.find_last_not_of('\n') + 1);
  return model::ReplaceInvalidBytes(out);
}

}  // namespace

void TypedInput::BeginLine() { ahead_ = true; }

// Appends what one read brings.
TypedInput::Wait TypedInput::Fill(int timeout_ms) {
  pollfd p{.fd = fd_, .events = POLLIN, .revents = 0};
  const bool waiting = ::poll(&p, 1, 0) > 0;
  if (!waiting) {
    ahead_ = false;
    sigset_t none;
    ::sigemptyset(&none);
    const timespec limit{.tv_sec = timeout_ms / 1000, .tv_nsec = timeout_ms % 1000 * 1'000'000L};
    const int ready = ::ppoll(&p, 1, timeout_ms == kForever ? nullptr : &limit, &none);
    if (ready < 0) return errno == EINTR ? Wait::kSignal : Wait::kEnd;
    if (ready == 0) return Wait::kSilence;
  }
  char buffer[4096];
  ssize_t n = 0;
  do {
    n = ::read(fd_, buffer, sizeof(buffer));
  } while (n < 0 && errno == EINTR && !Interrupted().load());
  if (n < 0 && errno == EINTR) return Wait::kSignal;
  if (n <= 0) return Wait::kEnd;
  live_ = ahead_ ? 0 : static_cast<size_t>(n);
  bytes_.append(buffer, static_cast<size_t>(n));
  return Wait::kReady;
}

TypedInput::Event TypedInput::Next() {
  while (true) {
    if (Interrupted().load()) return Event::kInterrupted;
    if (Terminal::TakeContinued()) return Event::kContinued;
    if (Terminal::TakeResized()) return Event::kResized;
    if (!to_make_.empty() || !bytes_.empty()) break;
    if (Fill(kForever) == Wait::kEnd) return Event::kEnd;
  }
  if (to_make_.empty() && StartsBurst()) return Burst();
  return Character();
}

// What stands between the marks; the first one was handed out but for its last character.
TypedInput::Event TypedInput::MarkedPaste() {
  marks_ = true;
  size_t end = 0;
  size_t from = 0;
  while ((end = bytes_.find(kPasteEnds, from)) == bytes_.npos) {
    from = bytes_.size() - std::min(bytes_.size(), kPasteEnds.size());
    const Wait wait = Fill(kForever);
    if (wait == Wait::kReady || (wait == Wait::kSignal && !Interrupted().load())) continue;
    bytes_.clear();
    return wait == Wait::kEnd ? Event::kEnd : Event::kInterrupted;
  }
  paste_ = Cleaned(std::string_view(bytes_).substr(0, end));
  bytes_.erase(0, end + kPasteEnds.size());
  live_ = 0;
  return Event::kCharacter;
}

// A newline that came with other bytes in one read, with more behind it. A key alone is one byte.
bool TypedInput::StartsBurst() {
  if (whole_lines_ || marks_ || live_ < 2 || !IsNewline(bytes_.front())) return false;
  const bool pair = bytes_.size() >= 2 && bytes_[0] == '\r' && bytes_[1] == '\n';
  const size_t length = pair ? 2 : 1;
  if (bytes_.size() == length && Fill(kKeyMs) != Wait::kReady) return false;
  // Other keys than text are no paste.
  return std::all_of(bytes_.begin(), bytes_.end(), [](char c) {
    const auto u = static_cast<unsigned char>(c);
    return IsNewline(c) || c == '\t' || (u >= 0x20 && u != 0x7f);
  });
}

TypedInput::Event TypedInput::Burst() {
  while (Fill(kKeyMs) == Wait::kReady) {
  }
  paste_ = Cleaned(bytes_);
  bytes_.clear();
  if (Interrupted().load()) return Event::kInterrupted;
  if (!paste_.empty()) {
    to_make_ = kPasteKey;
    return Character();
  }
  character_ = U'\n';  // nothing but Enter, several times
  return Event::kCharacter;
}

TypedInput::Event TypedInput::Character() {
  if (!to_make_.empty()) {
    character_ = static_cast<unsigned char>(to_make_.front());
    to_make_.remove_prefix(1);
    return Event::kCharacter;
  }
  model::Utf8Step step = model::DecodeUtf8(bytes_);
  while (step.kind == model::Utf8Step::kIncomplete) {
    const Wait wait = Fill(kRestMs);
    if (wait == Wait::kSilence || wait == Wait::kEnd || Interrupted().load()) break;
    step = model::DecodeUtf8(bytes_);
  }
  character_ = step.kind == model::Utf8Step::kChar ? step.code_point : char32_t{0xFFFD};
  const size_t used =
      step.kind == model::Utf8Step::kIncomplete ? bytes_.size() : std::max<size_t>(step.bytes, 1);
  bytes_.erase(0, used);
  if (bytes_.empty()) live_ = 0;
  const auto is = [this](char key) { return character_ == static_cast<unsigned char>(key); };
  if (!is(kPasteKey[key_matched_])) key_matched_ = 0;
  if (is(kPasteKey[key_matched_])) ++key_matched_;
  if (key_matched_ < kPasteKey.size()) return Event::kCharacter;
  key_matched_ = 0;
  const auto last = character_;
  const Event event = MarkedPaste();
  character_ = last;
  return event;
}

}  // namespace lanyard::cli
