#include "base/environment.h"

#include <gtest/gtest.h>

#include <cctype>
#include <cstdlib>

namespace lanyard {
namespace {

// Puts a variable back as it was.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    const char* old = std::getenv(name);
    had_ = old != nullptr;
    if (had_) old_ = old;
    value != nullptr ? ::setenv(name, value, 1) : ::unsetenv(name);
  }
  ~Variable() { had_ ? ::setenv(name_, old_.c_str(), 1) : ::unsetenv(name_); }

 private:
  const char* name_;
  bool had_ = false;
  std::string old_;
};

TEST(Environment, EmptyCountsAsNotSet) {
  const Variable set("LANYARD_TEST_VARIABLE", "x");
  EXPECT_EQ(EnvironmentOr("LANYARD_TEST_VARIABLE", "y"), "x");
  const Variable empty("LANYARD_TEST_VARIABLE", "");
  EXPECT_EQ(EnvironmentOr("LANYARD_TEST_VARIABLE", "y"), "y");
}

TEST(Environment, StateHomeIsXdgThenHomeThenVarLib) {
  const Variable home("HOME", "/ada");
  {
    const Variable xdg("XDG_STATE_HOME", "/data/state");
    EXPECT_EQ(StateHome(), "/data/state/lanyard");
  }
  {
    const Variable xdg("XDG_STATE_HOME", "relative");  // the specification says to ignore it
    EXPECT_EQ(StateHome(), "/ada/.local/state/lanyard");
  }
  const Variable xdg("XDG_STATE_HOME", nullptr);
  EXPECT_EQ(StateHome(), "/ada/.local/state/lanyard");
  const Variable none("HOME", nullptr);
  EXPECT_EQ(StateHome(), "/var/lib/lanyard");
}

TEST(Environment, RuntimeHomesAreAbsolute) {
  const Variable relative("XDG_RUNTIME_DIR", "relative");
  ASSERT_EQ(RuntimeHomes().size(), 1u);
  EXPECT_TRUE(RuntimeHomes().front().starts_with("/run/user/"));
  const Variable xdg("XDG_RUNTIME_DIR", "/run/ada");
  EXPECT_EQ(RuntimeHomes().front(), "/run/ada");
}

TEST(HostName, IsWhatNodesMayBeCalled) {
  const std::string name = HostName();
  EXPECT_LE(name.size(), 64u);
  EXPECT_EQ(
      name.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"),
      std::string::npos);
  EXPECT_TRUE(name.empty() || std::isalnum(static_cast<unsigned char>(name.front())) != 0) << name;
}

}  // namespace
}  // namespace lanyard
