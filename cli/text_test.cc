#include "cli/text.h"

#include "cli/table.h"
#include "gtest/gtest.h"

namespace lanyard::cli {
namespace {

TEST(Text, WidthCountsColumns) {
  EXPECT_EQ(DisplayWidth(""), 0u);
  EXPECT_EQ(DisplayWidth("pc1"), 3u);
  EXPECT_EQ(DisplayWidth("Büro"), 4u);
  EXPECT_EQ(DisplayWidth("你好"), 4u);
  EXPECT_EQ(DisplayWidth("e\xCC\x81"), 1u);  // a combining accent
  EXPECT_EQ(DisplayWidth("\xff\xff"), 2u);
}

TEST(Text, PrintableLeavesNothingToObey) {
  EXPECT_EQ(Printable("a\x1b]0;title\x07z", Keep::kLines), "a?]0;title?z");
  EXPECT_EQ(Printable("a\n\tb\r", Keep::kLines), "a\n\tb?");
  EXPECT_EQ(Printable("a\n\tb", Keep::kNothing), "a??b");
  EXPECT_EQ(Printable("\xC2\x9B\x31m", Keep::kLines), "?1m");  // CSI of one character
  EXPECT_EQ(Printable("Grüße 你好 🌍 \xC2\xA0", Keep::kLines), "Grüße 你好 🌍 \xC2\xA0");
}

TEST(Text, TrimTakesBothEnds) {
  EXPECT_EQ(Trim(" \t a b\n"), "a b");
  EXPECT_EQ(Trim(" \n"), "");
}

TEST(Table, ColumnsStandBelowEachOtherInAnyScript) {
  Table table({"NAME", ">N"});
  table.AddRow({"你好", "1"});
  table.AddRow({"Büro", "22"});
  EXPECT_EQ(table.ToString(), "NAME   N\n你好   1\nBüro  22\n");
}

}  // namespace
}  // namespace lanyard::cli
