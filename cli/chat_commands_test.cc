#include "cli/chat_commands.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "cli/chat_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lanyard::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kFile[] = R"({"model": "other", "temperature": 0.5, "messages": [
    {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße"},
    {"role": "assistant", "content": "你好 🌍"}]})";

class ChatCommands : public ::testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/lanyard_chat_XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    ::setenv("XDG_STATE_HOME", folder, 1);
  }
  void TearDown() override {
    ::unsetenv("XDG_STATE_HOME");
    std::filesystem::remove_all(folder_);
  }
  std::string Say(const std::string& line) {
    const LineResult result = HandleLine(session_, line);
    EXPECT_EQ(result.question, "") << line << " went to the model";
    return result.print;
  }
  std::string Question(const std::string& line) {
    const LineResult result = HandleLine(session_, line);
    EXPECT_EQ(result.print, "") << line;
    return result.question;
  }
  std::string Chats(const std::string& name) { return folder_ + "/lanyard/chats/" + name; }
  void Write(const std::string& path, const std::string& text) { std::ofstream(path) << text; }
  void HaveAChat() {
    Write(folder_ + "/chat.json", kFile);
    ASSERT_THAT(Say("/load " + folder_ + "/chat.json"), StartsWith("Loaded 1 question from"));
    session_.file.clear();
  }

  std::string folder_;
  const absl::StatusOr<HttpClient> client_ =
      HttpClient::Create({.url = "http://127.0.0.1:1", .api_key = "", .look_around = false});
  Chat chat_{&*client_, "smollm2", {}};
  ChatSession session_{.chat = &chat_};
};

TEST_F(ChatCommands, WhatIsNoCommandIsAQuestionAsItStands) {
  for (const char* text : {"hello", "  hello  ", "/etc/hosts: what is it?", "// why?", "//set",
                           "a /set b", "/set temperature 0\n/bye", "def f():\n  \"\"\"Doc.\"\"\"\n",
                           "What does \"\"\" mean?", "Explain: \"\"\"\nx\n\"\"\" in French"}) {
    EXPECT_EQ(Question(text), text);
  }
  EXPECT_EQ(Question(" /bye is a command?"), "/bye is a command?");
  EXPECT_EQ(Question("\"\"\"/bye\"\"\""), "/bye");
  EXPECT_EQ(Question("\"\"\"two\nlines\"\"\""), "two\nlines");
  EXPECT_EQ(Question("\"\"\"\n  two\nlines\n\"\"\""), "  two\nlines");
  for (const char* text : {"", " \n", "\"\"\"\"\"\"", "\"\"\"\n\"\"\""})
    EXPECT_EQ(Question(text), "");
  EXPECT_FALSE(session_.leave);
}

TEST_F(ChatCommands, ATextIsOpenUntilItsQuotesClose) {
  for (const char* text :
       {"\"\"\"", "\"\"\"two", "Explain: \"\"\"", "\"\"\"two\nlines",
        "\"\"\"def f():\n\"\"\"Doc.\"\"\"\n", "  \"\"\" ", "Explain: \"\"\"\nx"}) {
    EXPECT_TRUE(NeedsMoreLines(text)) << text;
  }
  for (const char* text : {"", "two", "def f():\n  \"\"\"Doc", "\"\"\"two\"\"\"",
                           "What does \"\"\" mean?", "Explain: \"\"\"\nx\n\"\"\" in French"}) {
    EXPECT_FALSE(NeedsMoreLines(text)) << text;
  }
}

TEST_F(ChatCommands, UnknownOnesAreRefusedWithTheNearest) {
  EXPECT_THAT(Say("/shwo"), AllOf(HasSubstr("no command /shwo"), HasSubstr("did you mean /show?")));
  EXPECT_THAT(Say("/sav my chat"), HasSubstr("did you mean /save?"));
  EXPECT_THAT(Say("/BYE"), HasSubstr("did you mean /bye?"));
  EXPECT_THAT(Say("/"), HasSubstr("/help"));
  EXPECT_THAT(Say("/clear all"), HasSubstr("stands alone"));
  EXPECT_THAT(Say("/load/tmp/x"), HasSubstr("Put a space after /load"));
  EXPECT_FALSE(session_.leave);
  EXPECT_EQ(Say("/bye "), "");
  EXPECT_TRUE(session_.leave);
}

TEST_F(ChatCommands, HelpNamesEveryCommandAndTheWayAroundThem) {
  for (const char* word : {"/set", "/show", "/save", "/load", "/clear", "/bye", "\"\"\"", "Ctrl-C",
                           "a second /", "pasted"}) {
    EXPECT_THAT(Say("/?"), HasSubstr(word));
  }
}

TEST_F(ChatCommands, SetIsCheckedAtOnce) {
  EXPECT_THAT(Say("/set temperature 7"), HasSubstr("a number from 0 to 2"));
  EXPECT_THAT(Say("/set"), AllOf(HasSubstr("temperature  default"), HasSubstr("verbose      off")));
  EXPECT_THAT(Say("/set colour red"), HasSubstr("There are: temperature, top_p"));
  EXPECT_EQ(Say("/set   temperature   0.25 "), "temperature  0.25\n");
  EXPECT_THAT(Say("/set temperature"), HasSubstr("0.25  (a number"));
  EXPECT_EQ(Say("/set system Sei kurz,  bitte"), "system       Sei kurz,  bitte\n");
  EXPECT_EQ(chat_.settings().system, "Sei kurz,  bitte");
  EXPECT_THAT(Say("/show"), AllOf(HasSubstr("model        smollm2"), HasSubstr("verbose      off"),
                                  HasSubstr("url          http://127.0.0.1:1"),
                                  HasSubstr("file         not saved")));
}

TEST_F(ChatCommands, ASavedChatComesBack) {
  EXPECT_THAT(Say("/save my chat"), HasSubstr("nothing to save"));
  HaveAChat();
  EXPECT_THAT(Say("/save"), HasSubstr("Say under which name"));
  EXPECT_EQ(Say("/save my chat"), "Saved 1 question in " + Chats("my chat.json") + "\n");
  struct stat info {};
  ASSERT_EQ(::stat(Chats("my chat.json").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  const std::string saved = chat_.ToFile();
  EXPECT_THAT(Say("/load"), HasSubstr("  my chat\n"));
  Chat other(&*client_, "smollm2", {});
  ChatSession session{.chat = &other};
  EXPECT_THAT(HandleLine(session, "/load \"my chat\"").print, StartsWith("Loaded 1 question"));
  EXPECT_EQ(other.ToFile(), saved);
  EXPECT_EQ(other.settings().temperature, 0.5);
  EXPECT_EQ(other.settings().system, "Be brief.");
  EXPECT_THAT(saved, AllOf(HasSubstr("Grüße"), HasSubstr("你好 🌍")));
}

TEST_F(ChatCommands, NothingIsOverwrittenUnasked) {
  HaveAChat();
  const std::string path = folder_ + "/notes.txt";
  Write(path, "precious");
  EXPECT_THAT(Say("/save " + path), AllOf(HasSubstr("exists already"), HasSubstr("--replace")));
  EXPECT_EQ((std::ostringstream() << std::ifstream(path).rdbuf()).str(), "precious");
  EXPECT_THAT(Say("/save --replace " + path), StartsWith("Saved 1 question"));
  // Its own file again, with and without its name.
  EXPECT_THAT(Say("/save " + path), StartsWith("Saved"));
  EXPECT_THAT(Say("/save"), StartsWith("Saved"));
  Say("/clear");
  EXPECT_THAT(Say("/save"), HasSubstr("nothing to save"));
  EXPECT_THAT(Say("/load " + path), StartsWith("Loaded 1 question"));
}

TEST_F(ChatCommands, WhatCannotBeSavedOrLoadedSaysWhy) {
  HaveAChat();
  EXPECT_THAT(Say("/save " + folder_), HasSubstr("is a folder"));
  EXPECT_THAT(Say("/save " + folder_ + "/none/x.json"), HasSubstr("No such file or directory"));
  Say("/save plan");
  EXPECT_THAT(Say("/load plam"), HasSubstr("did you mean plan?"));
  EXPECT_THAT(Say("/load " + folder_), HasSubstr("is not a file"));
  const std::string before = chat_.ToFile();
  const std::string path = folder_ + "/bad.json";
  for (const char* text :
       {"", "[]", "{}", R"({"messages": 1})", R"({"messages": ["hi"]})",
        R"({"messages": [{"role": "tool", "content": "x"}]})",
        R"({"messages": [{"role": "user", "content": 1}]})",
        R"({"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "x"}]})",
        R"({"temperature": 9, "messages": []})"}) {
    Write(path, text);
    EXPECT_THAT(Say("/load " + path), StartsWith("Cannot load")) << text;
    EXPECT_EQ(chat_.ToFile(), before) << text;
  }
}

TEST_F(ChatCommands, ALoadedChatSaysWhatItChanged) {
  HaveAChat();
  Write(folder_ + "/chat.json", kFile);
  EXPECT_THAT(Say("/load " + folder_ + "/chat.json"),
              AllOf(HasSubstr("held with other; smollm2 answers now"),
                    HasSubstr("The chat before it (1 question) was not saved")));
  EXPECT_EQ(chat_.model(), "smollm2");
}

TEST_F(ChatCommands, NamesAreFoundFromAnywhereAndFilesAreFiles) {
  EXPECT_EQ(ChatPath("my chat"), Chats("my chat.json"));
  EXPECT_EQ(ChatPath("v1.2"), Chats("v1.2.json"));
  EXPECT_EQ(ChatPath("gpt vs. llama"), Chats("gpt vs. llama.json"));
  EXPECT_EQ(ChatPath("Grüße"), Chats("Grüße.json"));
  EXPECT_EQ(ChatPath(".."), Chats("...json"));
  EXPECT_EQ(ChatPath("notes.json"), "notes.json");
  EXPECT_EQ(ChatPath("notes.txt"), "notes.txt");
  EXPECT_EQ(ChatPath("./a"), "./a");
  EXPECT_EQ(ChatPath("'/tmp/a b'"), "/tmp/a b");
}

// A file in its place would take the pipe, or the device, away.
TEST_F(ChatCommands, SaveReplacesNothingButFiles) {
  HaveAChat();
  const std::string pipe = folder_ + "/pipe.json";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  std::filesystem::create_symlink(pipe, folder_ + "/topipe.json");
  for (const char* name : {"/pipe.json", "/topipe.json"}) {
    EXPECT_THAT(Say("/save --replace " + folder_ + name),
                AllOf(HasSubstr("pipe.json is a pipe and no file"), HasSubstr("not saved")));
  }
  EXPECT_TRUE(std::filesystem::is_fifo(pipe));
  EXPECT_TRUE(std::filesystem::is_symlink(folder_ + "/topipe.json"));
}

TEST_F(ChatCommands, SaveWritesTheFileThatALinkLeadsTo) {
  HaveAChat();
  const std::string file = folder_ + "/file.json", link = folder_ + "/link.json";
  Write(file, "old");
  std::filesystem::create_symlink(file, link);
  std::filesystem::create_symlink(folder_ + "/nothing", folder_ + "/dangling.json");
  EXPECT_THAT(Say("/save " + link), HasSubstr("exists already"));
  EXPECT_THAT(Say("/save --replace " + link), StartsWith("Saved 1 question in " + link));
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  std::stringstream text;
  text << std::ifstream(file).rdbuf();
  EXPECT_THAT(text.str(), HasSubstr("messages"));
  EXPECT_THAT(Say("/save --replace " + folder_ + "/dangling.json"), HasSubstr("leads to no file"));
}

}  // namespace
}  // namespace lanyard::cli
