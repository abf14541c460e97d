// `lanyard run` on a terminal: a prompt, and what is typed at it.
#pragma once

#include "cli/chat.h"

namespace lanyard::cli {

// Returns the exit code, after /bye or the end of input; kInterrupted after EndingSignal().
int Converse(Chat& chat);

}  // namespace lanyard::cli
