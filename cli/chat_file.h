// Chats as files: `/save` and `/load`. A name stands for a file in this user's folder of chats, so
// that it is found from anywhere; what looks like a path or a file name is that file.
#pragma once

#include <string>

#include "cli/chat.h"

namespace lanyard::cli {

// "my chat" is StateHome()/chats/my chat.json; "notes.json", "./a" and "~/a" are files. Quotes
// around the whole are taken off.
std::string ChatPath(const std::string& name);

// Both give what the user is told. *file is the file that this chat was last saved to or loaded
// from: it alone is overwritten without "--replace" before the name, and stands for no name.
std::string SaveChat(const Chat& chat, const std::string& argument, std::string* file);
// Without a name: which chats there are.
std::string LoadChat(Chat& chat, const std::string& argument, std::string* file);

}  // namespace lanyard::cli
