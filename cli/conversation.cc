#include "cli/conversation.h"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string>

#include "cli/chat_commands.h"
#include "cli/cli.h"
#include "cli/interrupt.h"
#include "cli/line_editor.h"

namespace lanyard::cli {
namespace {

// The rest of an open text. nullopt when it was dropped.
std::optional<std::string> ReadRest(LineEditor& editor, std::string text) {
  while (NeedsMoreLines(text)) {
    bool interrupted = false;
    const auto line = editor.Read(L"... ", &interrupted);
    if (!line.has_value()) {
      editor.AddToHistory(text);
      std::printf("\nThis text was dropped (%zu lines); the Up key brings it back.\n",
                  static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) + 1);
      return std::nullopt;
    }
    text += "\n" + *line;
  }
  return text;
}

void Ask(Chat& chat, const std::string& question) {
  const QuietInput quiet;
  if (const absl::Status status = chat.Ask(question); !status.ok()) {
    if (!absl::IsCancelled(status)) Fail(status);
    Interrupted().store(false);
  }
}

}  // namespace

int Converse(Chat& chat) {
  if (!UseUtf8()) {
    std::fprintf(stderr,
                 "This machine has no UTF-8 locale (such as C.UTF-8): characters that are "
                 "not ASCII reach the model, but are not shown while you type.\n");
  }
  std::printf("Chatting with %s at %s. /? for help, /bye to leave.\n", chat.model().c_str(),
              chat.url().c_str());
  std::fflush(stdout);
  LineEditor editor;
  ChatSession session{.chat = &chat};
  while (!session.leave) {
    bool interrupted = false;
    std::optional<std::string> text = editor.Read(L">>> ", &interrupted);
    if (!text.has_value()) {
      std::printf("\n");
      if (EndingSignal() != 0) return kInterrupted;
      if (!interrupted) return kOk;
      std::printf("/bye leaves.\n");
      continue;
    }
    text = ReadRest(editor, *text);
    if (EndingSignal() != 0) return kInterrupted;
    if (!text.has_value()) continue;
    if (text->find_first_not_of(" \t\n") != text->npos) editor.AddToHistory(*text);
    const LineResult result = HandleLine(session, *text);
    std::fputs(result.print.c_str(), stdout);
    std::fflush(stdout);
    if (!result.question.empty()) Ask(chat, result.question);
    if (EndingSignal() != 0) return kInterrupted;
  }
  return kOk;
}

}  // namespace lanyard::cli
