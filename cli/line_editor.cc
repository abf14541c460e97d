#include "cli/line_editor.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>

#include "base/environment.h"
#include "cli/interrupt.h"
#include "model/unicode.h"

namespace lanyard::cli {
namespace {

constexpr wchar_t kEndOfLine = L'\x05';  // Ctrl-E
constexpr wchar_t kPrevious = L'\x10';   // Ctrl-P: the history
constexpr wchar_t kNext = L'\x0e';       // Ctrl-N

std::string Utf8Of(std::wstring_view text) {
  std::string out;
  for (const wchar_t c : text) model::AppendUtf8(static_cast<char32_t>(c), &out);
  return out;
}

std::wstring WideOf(std::string_view text) {
  std::wstring out;
  while (!text.empty()) {
    const model::Utf8Step step = model::DecodeUtf8(text);
    const bool valid = step.kind == model::Utf8Step::kChar;
    out += valid ? static_cast<wchar_t>(step.code_point) : L'\xFFFD';
    text.remove_prefix(valid ? step.bytes : 1);
  }
  return out;
}

// Signals come in while input is waited for, and at no other time.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t set;
    ::sigemptyset(&set);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGTSTP, SIGCONT})
      ::sigaddset(&set, signal);
    ::pthread_sigmask(SIG_BLOCK, &set, &old_);
  }
  ~BlockedSignals() { ::pthread_sigmask(SIG_SETMASK, &old_, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

 private:
  sigset_t old_;
};

bool TerminalEdits() {
  return ::isatty(STDOUT_FILENO) == 1 && EnvironmentOr("TERM", "dumb") != "emacs";
}

}  // namespace

LineEditor::LineEditor()
    : history_(::history_winit()),
      editor_(::el_init("lanyard", stdin, stdout, stderr)),
      edits_(TerminalEdits()),
      input_(STDIN_FILENO, /*whole_lines=*/!edits_) {
  HistEventW event;
  ::history_w(history_, &event, H_SETSIZE, 500);
  ::history_w(history_, &event, H_SETUNIQUE, 1);
  ::el_wset(editor_, EL_CLIENTDATA, this);
  ::el_wset(editor_, EL_PROMPT, &LineEditor::Prompt);
  ::el_wset(editor_, EL_EDITOR, L"emacs");
  ::el_wset(editor_, EL_HIST, ::history_w, history_);
  ::el_wset(editor_, EL_GETCFN, &LineEditor::GetCharacter);
  BindKeys();
}

LineEditor::~LineEditor() {
  ::el_end(editor_);
  ::history_wend(history_);
}

void LineEditor::BindKeys() {
  ::el_wset(editor_, EL_ADDFN, L"lanyard-paste", L"Insert a paste", &LineEditor::InsertPaste);
  ::el_wset(editor_, EL_ADDFN, L"lanyard-newline", L"Start a line", &LineEditor::InsertNewline);
  ::el_wset(editor_, EL_ADDFN, L"lanyard-up", L"Line above or history", &LineEditor::Up);
  ::el_wset(editor_, EL_ADDFN, L"lanyard-down", L"Line below or history", &LineEditor::Down);
  const auto bind = [this](const wchar_t* keys, const wchar_t* function) {
    ::el_wset(editor_, EL_BIND, keys, function, nullptr);
  };
  bind(WideOf(TypedInput::kPasteKey).c_str(), L"lanyard-paste");
  bind(L"\x1b\r", L"lanyard-newline");
  bind(L"\x1b\n", L"lanyard-newline");
  for (const wchar_t* up : {L"\x1b[A", L"\x1bOA"}) bind(up, L"lanyard-up");
  for (const wchar_t* down : {L"\x1b[B", L"\x1bOB"}) bind(down, L"lanyard-down");
  bind(L"\t", L"ed-insert");
}

LineEditor& LineEditor::Of(EditLine* editor) {
  void* self = nullptr;
  ::el_wget(editor, EL_CLIENTDATA, &self);
  return *static_cast<LineEditor*>(self);
}

wchar_t* LineEditor::Prompt(EditLine* editor) { return const_cast<wchar_t*>(Of(editor).prompt_); }

std::optional<std::string> LineEditor::Read(const wchar_t* prompt, bool* interrupted) {
  const BlockedSignals blocked;
  prompt_ = prompt;
  keys_.clear();
  interrupt_told_ = false;
  Terminal::TakeContinued();
  Terminal::MarkPastes();
  input_.BeginLine();
  int count = 0;
  const wchar_t* line = ::el_wgets(editor_, &count);
  *interrupted = Interrupted().exchange(false);
  if (line == nullptr || count <= 0 || *interrupted) return std::nullopt;
  std::wstring_view text(line, static_cast<size_t>(count));
  if (text.back() == L'\n') text.remove_suffix(1);
  return Utf8Of(text);
}

void LineEditor::AddToHistory(const std::string& text) {
  HistEventW event;
  ::history_w(history_, &event, H_ENTER, WideOf(text).c_str());
}

int LineEditor::GetCharacter(EditLine* editor, wchar_t* out) {
  return Of(editor).NextCharacter(out);
}

// 1: a character; 0: the end of input; -1: Ctrl-C.
int LineEditor::NextCharacter(wchar_t* out) {
  using Event = TypedInput::Event;
  *out = L'\0';
  while (keys_.empty()) {
    switch (input_.Next()) {
      case Event::kCharacter:
        keys_.push_back(static_cast<wchar_t>(input_.character()));
        break;
      case Event::kEnd:
        return 0;
      case Event::kInterrupted:
        // The cursor goes to the end of the text first: what is printed next stands below it.
        if (interrupt_told_ || !edits_) return -1;
        interrupt_told_ = true;
        keys_.push_back(kEndOfLine);
        break;
      case Event::kResized:
        ::el_resize(editor_);
        break;
      case Event::kContinued:
        ::el_wset(editor_, EL_PREP_TERM, 1);
        Terminal::MarkPastes();
        ::el_wset(editor_, EL_REFRESH);
        break;
    }
  }
  *out = keys_.front();
  keys_.pop_front();
  return 1;
}

unsigned char LineEditor::InsertPaste(EditLine* editor, wint_t) {
  const std::wstring text = WideOf(Of(editor).input_.paste());
  return ::el_winsertstr(editor, text.c_str()) == 0 ? CC_REFRESH : CC_ERROR;
}

unsigned char LineEditor::InsertNewline(EditLine* editor, wint_t) {
  return ::el_winsertstr(editor, L"\n") == 0 ? CC_REFRESH : CC_ERROR;
}

// Within a text of several lines the arrows go from line to line, at its ends into the history.
unsigned char LineEditor::Up(EditLine* editor, wint_t) {
  const LineInfoW* info = ::el_wline(editor);
  const std::wstring_view before(info->buffer, static_cast<size_t>(info->cursor - info->buffer));
  const size_t newline = before.rfind(L'\n');
  if (newline == before.npos) {
    Of(editor).keys_.push_front(kPrevious);
    return CC_NORM;
  }
  const size_t above = newline == 0 ? before.npos : before.rfind(L'\n', newline - 1);
  const size_t start = above == before.npos ? 0 : above + 1;
  const size_t column = before.size() - newline - 1;
  const size_t target = std::min(start + column, newline);
  ::el_cursor(editor, -static_cast<int>(before.size() - target));
  return CC_CURSOR;
}

unsigned char LineEditor::Down(EditLine* editor, wint_t) {
  const LineInfoW* info = ::el_wline(editor);
  const std::wstring_view text(info->buffer, static_cast<size_t>(info->lastchar - info->buffer));
  const auto at = static_cast<size_t>(info->cursor - info->buffer);
  const size_t newline = text.find(L'\n', at);
  if (newline == text.npos) {
    Of(editor).keys_.push_front(kNext);
    return CC_NORM;
  }
  const size_t before = at == 0 ? text.npos : text.rfind(L'\n', at - 1);
  const size_t column = at - (before == text.npos ? 0 : before + 1);
  const size_t end = std::min(text.find(L'\n', newline + 1), text.size());
  const size_t target = std::min(newline + 1 + column, end);
  ::el_cursor(editor, static_cast<int>(target - at));
  return CC_CURSOR;
}

}  // namespace lanyard::cli
