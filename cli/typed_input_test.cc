// A pipe stands for the terminal; what depends on a real one is tested in tests/api/repl_test.py.
#include "cli/typed_input.h"

#include <unistd.h>

#include <chrono>
#include <string_view>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "model/unicode.h"

namespace lanyard::cli {
namespace {

class TypedInputTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(::pipe(ends_), 0); }
  void TearDown() override {
    if (writer_.joinable()) writer_.join();
    ::close(ends_[0]);
    if (ends_[1] >= 0) ::close(ends_[1]);
  }
  void Write(std::string_view text) {
    ASSERT_EQ(::write(ends_[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  void Close() {
    ::close(ends_[1]);
    ends_[1] = -1;
  }
  // Sends the pieces one after another while the reader waits, then the end.
  void Later(std::vector<std::string> pieces, int pause_ms = 20) {
    writer_ = std::thread([this, pieces = std::move(pieces), pause_ms] {
      for (const std::string& piece : pieces) {
        std::this_thread::sleep_for(std::chrono::milliseconds(pause_ms));
        Write(piece);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      Close();
    });
  }
  // Characters as they are, pastes in <>, the end as $.
  std::string All(bool whole_lines = false) {
    TypedInput input(ends_[0], whole_lines);
    input.BeginLine();
    std::string out;
    while (true) {
      switch (input.Next()) {
        case TypedInput::Event::kCharacter:
          model::AppendUtf8(input.character(), &out);
          if (const size_t at = out.find(TypedInput::kPasteKey); at != out.npos)
            out.replace(at, out.npos, "<" + input.paste() + ">");
          break;
        default:
          return out + "$";
      }
    }
  }

  int ends_[2] = {-1, -1};
  std::thread writer_;
};

TEST_F(TypedInputTest, CharactersOfAnyScript) {
  Write("Grüße aus Zürich: 你好 🌍\r");
  Close();
  EXPECT_EQ(All(), "Grüße aus Zürich: 你好 🌍\r$");
}

TEST_F(TypedInputTest, CharactersThatComeInPieces) {
  Later({"\xF0\x9F", "\x8C\x8D", "\xE4"}, 120);
  EXPECT_EQ(All(), "🌍\xEF\xBF\xBD$");
}

TEST_F(TypedInputTest, WhatIsNoUtf8IsReplacedAndNothingBehindItLost) {
  Write("a\xFF\xC0z\xE4\xBDq");
  Close();
  EXPECT_EQ(All(), "a\xEF\xBF\xBD\xEF\xBF\xBDz\xEF\xBF\xBDq$");
}

TEST_F(TypedInputTest, AMarkedPasteIsOne) {
  Write("x\x1b[200~Grüße\r\n/bye\r\tzwei\x07\n\n\x1b[201~y\r");
  Close();
  EXPECT_EQ(All(), "x<Grüße\n/bye\n\tzwei>y\r$");
}

TEST_F(TypedInputTest, AMarkedPasteMayComeInPieces) {
  Later({"\x1b", "[20", "0~a\r", "b\x1b[2", "01~", "c"}, 10);
  EXPECT_EQ(All(), "<a\nb>c$");
}

TEST_F(TypedInputTest, ASlowLineBreaksNoMark) {
  Later({"\x1b", "[2", "00~a\r/bye\r\x1b[20", "1~"}, 150);
  EXPECT_EQ(All(), "<a\n/bye>$");
}

TEST_F(TypedInputTest, AMarkedPasteThatDoesNotEndIsDropped) {
  Write("\x1b[200~a\nb");
  Close();
  EXPECT_EQ(All(), "\x1b[200$");
}

TEST_F(TypedInputTest, OtherKeysAreThemselves) {
  Write("\x1b[A\x1b[2~\x1b");
  Close();
  EXPECT_EQ(All(), "\x1b[A\x1b[2~\x1b$");
}

TEST_F(TypedInputTest, LinesAtOnceAreAPasteWhereNoneIsMarked) {
  Later({"one\rtwo\nthree\n", "four"});
  EXPECT_EQ(All(), "one<\ntwo\nthree\nfour>$");
}

TEST_F(TypedInputTest, APasteWithoutMarksMayComeInPieces) {
  Later({"o", "ne\r", "two"}, 5);
  EXPECT_EQ(All(), "one<\ntwo>$");
}

TEST_F(TypedInputTest, OneLineAndItsEnterAreNoPaste) {
  Later({"one\r", "two\r"}, 120);
  EXPECT_EQ(All(), "one\rtwo\r$");
}

TEST_F(TypedInputTest, KeysAreNoPaste) {
  Later({"o", "\r", "t", "\r", "\x1b[A"});
  EXPECT_EQ(All(), "o\rt\r\x1b[A$");
}

TEST_F(TypedInputTest, EnterSeveralTimesIsEnter) {
  Later({"one\r\r\r"});
  EXPECT_EQ(All(), "one\n$");
}

TEST_F(TypedInputTest, WhatWasTypedAheadIsLines) {
  Write("one\ntwo\n");
  Close();
  EXPECT_EQ(All(), "one\ntwo\n$");
}

TEST_F(TypedInputTest, ATerminalThatMarksPastesIsBelieved) {
  Write("\x1b[200~a\x1b[201~");
  Later({"one\rtwo\r"});
  EXPECT_EQ(All(), "<a>one\rtwo\r$");
}

TEST_F(TypedInputTest, LinesOfATerminalThatEditsAreLines) {
  Later({"one\ntwo\n"});
  EXPECT_EQ(All(/*whole_lines=*/true), "one\ntwo\n$");
}

}  // namespace
}  // namespace lanyard::cli
