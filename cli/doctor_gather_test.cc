#include "cli/doctor_gather.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "cli/doctor_checks.h"
#include "identity/credential.h"

namespace lanyard::cli {
namespace {

namespace fs = std::filesystem;
using identity::IdentityFolder;

class DoctorGather : public ::testing::Test {
 protected:
  void SetUp() override { ::setenv("XDG_STATE_HOME", root_.c_str(), 1); }
  void TearDown() override {
    ::unsetenv("XDG_STATE_HOME");
    fs::remove_all(root_);
  }
  std::string At(const std::string& name) const { return root_ + "/lanyard/" + name; }
  // As whoever makes an identity begins.
  void MakeKey(const std::string& name) const {
    ASSERT_TRUE(IdentityFolder::Open(At(name))->Key().ok());
  }
  // What is found of keys and certificates, as "check: what" lines.
  static std::string Found(const GatherOptions& options = {}) {
    Report report;
    CheckMachine(GatherMachine(options), &report);
    std::string out;
    for (const Finding& f : report.findings) {
      if (f.check == "certificate" || f.check == "key")
        absl::StrAppend(&out, f.check, ": ", f.what, "\n");
    }
    return out;
  }

  const std::string root_ = ::testing::TempDir() + "gather_" + std::to_string(getpid());
};

// A coordinator makes its certificate at every start, and keeps the key alone.
TEST_F(DoctorGather, ACoordinatorsFolderHoldsAKeyAlone) {
  MakeKey("coordinator/identity");
  EXPECT_EQ(Found(), "");
  std::ofstream(At("coordinator/identity/node.key")) << "no key";
  EXPECT_NE(Found().find("key: "), std::string::npos) << Found();
}

TEST_F(DoctorGather, AJoinThatWasBegunIsNoFinding) {
  MakeKey("admin");
  EXPECT_EQ(Found(), "");
  EXPECT_EQ(Found({.state_dir = "", .admin = At("admin")}), "");
  // One that lost its certificate is.
  std::ofstream(At("admin/ca.crt")) << "ca";
  EXPECT_NE(Found().find("certificate: "), std::string::npos);
}

TEST_F(DoctorGather, AWorkerWithoutACertificateIsAFinding) {
  MakeKey("identity");
  EXPECT_NE(Found().find("a key and no certificate"), std::string::npos) << Found();
}

}  // namespace
}  // namespace lanyard::cli
