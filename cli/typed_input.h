// What a terminal sends, as characters and pastes. UTF-8 is decoded here, so that no locale can
// lose a character.
//
// A paste is what the terminal marks as one (ESC [200~ ... ESC [201~). A terminal that has marked
// none yet may not know how: there, several lines that arrive at once while nothing was typed are
// one too, which no hand can do. Lines that were typed ahead, before the prompt, are lines. Both
// kinds are handed out as the characters of kPasteKey; after the last of them paste() is the text.
#pragma once

#include <string>
#include <string_view>

namespace lanyard::cli {

class TypedInput {
 public:
  static constexpr std::string_view kPasteKey = "\x1b[200~";
  enum class Event { kCharacter, kEnd, kInterrupted, kResized, kContinued };

  // `whole_lines`: the terminal hands out lines (no editing), so that nothing is guessed.
  TypedInput(int fd, bool whole_lines) : fd_(fd), whole_lines_(whole_lines) {}

  // Before the first Next() of a line: what waits already was typed ahead.
  void BeginLine();
  // Waits. The signals that it reports should be blocked by the caller, and are let in here.
  Event Next();

  char32_t character() const { return character_; }    // of kCharacter; U+FFFD for what is no UTF-8
  const std::string& paste() const { return paste_; }  // UTF-8; '\n' stands between its lines

 private:
  enum class Wait { kReady, kSilence, kEnd, kSignal };
  Wait Fill(int timeout_ms);
  Event Character();
  Event MarkedPaste();
  Event Burst();
  bool StartsBurst();

  const int fd_;
  const bool whole_lines_;
  std::string bytes_;   // read, not yet handed out
  size_t live_ = 0;     // how many bytes one read brought while nothing waited; 0: typed ahead
  bool ahead_ = false;  // what the next read brings may have been typed ahead
  bool marks_ = false;  // this terminal marks its pastes
  char32_t character_ = 0;
  size_t key_matched_ = 0;    // how much of kPasteKey was handed out
  std::string_view to_make_;  // of kPasteKey, for a paste without marks
  std::string paste_;
};

}  // namespace lanyard::cli
