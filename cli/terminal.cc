#include "cli/terminal.h"

#include <langinfo.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <clocale>
#include <cstring>
#include <string>

#include "base/environment.h"

namespace lanyard::cli {
namespace {

constexpr char kPasteOn[] = "\x1b[?2004h";
constexpr char kPasteOff[] = "\x1b[?2004l";

// Read and written by signal handlers.
std::atomic<bool> marks_pastes{false};
std::atomic<bool> resized{false};
std::atomic<bool> continued{false};
termios at_start;  // fixed before the handler is there
bool have_at_start = false;

void Write(const char* text) {
  if (!marks_pastes.load()) return;
  // A terminal that is gone cannot be told.
  [[maybe_unused]] const ssize_t n = ::write(STDOUT_FILENO, text, std::strlen(text));
}

void OnResize(int) { resized.store(true); }
void OnContinue(int) { continued.store(true); }

// Everything in here may be called by a signal handler (signal-safety(7)).
void OnStop(int) {
  const int saved = errno;
  termios now;
  const bool have_now = ::tcgetattr(STDIN_FILENO, &now) == 0;
  Write(kPasteOff);
  if (have_now && have_at_start) ::tcsetattr(STDIN_FILENO, TCSADRAIN, &at_start);
  struct sigaction stop = {};
  struct sigaction mine;
  stop.sa_handler = SIG_DFL;
  ::sigaction(SIGTSTP, &stop, &mine);
  sigset_t set;
  sigset_t old;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGTSTP);
  ::raise(SIGTSTP);
  ::pthread_sigmask(SIG_UNBLOCK, &set, &old);  // it stops here, and goes on here
  ::pthread_sigmask(SIG_SETMASK, &old, nullptr);
  ::sigaction(SIGTSTP, &mine, nullptr);
  // In the background an answer goes on; the terminal is another's.
  if (::tcgetpgrp(STDIN_FILENO) == ::getpgrp()) {
    if (have_now) ::tcsetattr(STDIN_FILENO, TCSADRAIN, &now);
    Write(kPasteOn);
  }
  errno = saved;
}

bool IsUtf8() {
  const std::string codeset = ::nl_langinfo(CODESET);
  return codeset == "UTF-8" || codeset == "utf8";
}

}  // namespace

bool UseUtf8() {
  for (const char* locale : {"", "C.UTF-8", "C.utf8", "en_US.UTF-8"}) {
    if (std::setlocale(LC_CTYPE, locale) != nullptr && IsUtf8()) return true;
  }
  std::setlocale(LC_CTYPE, "C");
  return false;
}

Terminal::Terminal() {
  have_at_start = ::tcgetattr(STDIN_FILENO, &at_start) == 0;
  const std::string kind = EnvironmentOr("TERM", "dumb");
  marks_pastes.store(::isatty(STDIN_FILENO) == 1 && ::isatty(STDOUT_FILENO) == 1 &&
                     kind != "dumb" && kind != "emacs");
  struct sigaction action = {};
  action.sa_handler = OnResize;  // without SA_RESTART: a read at the prompt ends and looks
  ::sigaction(SIGWINCH, &action, &old_resize_);
  action.sa_handler = OnContinue;
  ::sigaction(SIGCONT, &action, &old_continue_);
  action.sa_handler = OnStop;
  ::sigaction(SIGTSTP, &action, &old_stop_);
  // A shell without job control has it ignored, and so it stays.
  if (old_stop_.sa_handler == SIG_IGN) ::sigaction(SIGTSTP, &old_stop_, nullptr);
  MarkPastes();
}

Terminal::~Terminal() {
  Write(kPasteOff);
  marks_pastes.store(false);
  ::sigaction(SIGTSTP, &old_stop_, nullptr);
  ::sigaction(SIGCONT, &old_continue_, nullptr);
  ::sigaction(SIGWINCH, &old_resize_, nullptr);
}

bool Terminal::TakeResized() { return resized.exchange(false); }
bool Terminal::TakeContinued() { return continued.exchange(false); }
void Terminal::MarkPastes() { Write(kPasteOn); }

QuietInput::QuietInput() {
  if (::tcgetattr(STDIN_FILENO, &old_) != 0) return;
  termios quiet = old_;
  quiet.c_lflag &= ~static_cast<tcflag_t>(ECHO | ICANON);
  quiet.c_cc[VMIN] = 1;
  quiet.c_cc[VTIME] = 0;
  changed_ = ::tcsetattr(STDIN_FILENO, TCSADRAIN, &quiet) == 0;
}

QuietInput::~QuietInput() {
  if (changed_) ::tcsetattr(STDIN_FILENO, TCSADRAIN, &old_);
}

}  // namespace lanyard::cli
