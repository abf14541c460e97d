#include "tests/ptx/machine.h"

#include <gtest/gtest.h>

namespace lanyard::ptx {
namespace {

TEST(Machine, Starts) {
  Memory memory;
  Machine machine(&memory);
  EXPECT_EQ(memory.live_bytes(), 0u);
}

}  // namespace
}  // namespace lanyard::ptx
