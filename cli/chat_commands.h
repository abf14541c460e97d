// What a line of the conversation means: a question, or a command of one table, which also makes
// the help. Nothing here knows a terminal.
#pragma once

#include <string>
#include <string_view>

#include "cli/chat.h"

namespace lanyard::cli {

// True while a text is open: one whose first line starts or ends with """, without the closing """.
bool NeedsMoreLines(std::string_view text);

// A conversation's state besides its messages.
struct ChatSession {
  Chat* chat;
  std::string file = {};  // where the chat was last saved to or loaded from
  bool leave = false;
};

struct LineResult {
  std::string print;     // what a command says
  std::string question;  // for the model; empty: none
};

// Acts on one whole text that was typed or pasted. A text of several lines is never a command.
LineResult HandleLine(ChatSession& session, const std::string& text);

std::string ChatHelp();

}  // namespace lanyard::cli
