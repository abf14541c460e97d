// What a conversation changes at its terminal, and gives back: the encoding, bracketed paste,
// echo. Ctrl-Z gives all of it back while the program is stopped.
#pragma once

#include <signal.h>
#include <termios.h>

namespace lanyard::cli {

// Characters are UTF-8, whatever the locale says: the user's own where it is UTF-8, else C.UTF-8.
// Only LC_CTYPE changes: numbers and messages stay those of C. False: this machine has no such
// locale, so that the editor cannot show other characters than ASCII.
bool UseUtf8();

// While one of it lives, SIGWINCH and SIGCONT are told of, and the terminal marks what is pasted
// ("bracketed paste") where it is one that knows escape sequences. At most one at a time.
class Terminal {
 public:
  Terminal();
  ~Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  // Asks for marks, again: whoever had the terminal meanwhile may have switched them off.
  static void MarkPastes();
  // Whether that happened since the last call.
  static bool TakeResized();
  static bool TakeContinued();

 private:
  struct sigaction old_stop_ = {};
  struct sigaction old_resize_ = {};
  struct sigaction old_continue_ = {};
};

// While one of it lives, what is typed is not shown and waits for the next prompt; Ctrl-C works.
class QuietInput {
 public:
  QuietInput();
  ~QuietInput();
  QuietInput(const QuietInput&) = delete;
  QuietInput& operator=(const QuietInput&) = delete;

 private:
  bool changed_ = false;
  termios old_ = {};
};

}  // namespace lanyard::cli
