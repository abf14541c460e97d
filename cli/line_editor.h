// A prompt on a terminal: libedit's keys and history, texts of several lines, pastes.
#pragma once

#include <histedit.h>

#include <deque>
#include <optional>
#include <string>

#include "cli/terminal.h"
#include "cli/typed_input.h"

namespace lanyard::cli {

class LineEditor {
 public:
  // UseUtf8() was called before it. At most one at a time.
  LineEditor();
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  // A text as UTF-8, without the newline of Enter; newlines inside are of a paste, of Alt-Enter or
  // of the history. nullopt at the end of input; with *interrupted set, after Ctrl-C.
  std::optional<std::string> Read(const wchar_t* prompt, bool* interrupted);

  // What the Up key brings back, whole.
  void AddToHistory(const std::string& text);

 private:
  static LineEditor& Of(EditLine* editor);
  static wchar_t* Prompt(EditLine* editor);
  static int GetCharacter(EditLine* editor, wchar_t* out);
  static unsigned char InsertPaste(EditLine* editor, wint_t key);
  static unsigned char InsertNewline(EditLine* editor, wint_t key);
  static unsigned char Up(EditLine* editor, wint_t key);
  static unsigned char Down(EditLine* editor, wint_t key);
  void BindKeys();
  int NextCharacter(wchar_t* out);

  Terminal terminal_;
  HistoryW* history_;
  EditLine* editor_;
  const bool edits_;  // false: lines come as the terminal makes them
  TypedInput input_;
  std::deque<wchar_t> keys_;  // made by this class, before what is typed
  bool interrupt_told_ = false;
  const wchar_t* prompt_ = L"";
};

}  // namespace lanyard::cli
