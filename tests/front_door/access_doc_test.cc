// The table of routes in docs/access.md is the server's own. LANYARD_UPDATE_DOCS=1 writes it anew.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "base/status.h"
#include "web/api.h"

namespace lanyard::front_door {
namespace {

constexpr char kBegin[] =
    "<!-- routes: made by tests/front_door (LANYARD_UPDATE_DOCS=1 makes it anew) -->\n";
constexpr char kEnd[] = "<!-- /routes -->\n";

std::string Table() {
  std::string out = "| | no credentials | API key | administrator | |\n|-|-|-|-|-|\n";
  const web::Router router = web::MakeRouter(nullptr, nullptr, nullptr);
  for (const web::Route& route : router.routes()) {
    const bool open = route.access == web::Access::kPublic;
    absl::StrAppend(&out, "| `", route.method, " ", route.path, "` | ", open ? "yes" : "401", " | ",
                    route.access == web::Access::kAdmin ? "403" : "yes", " | yes | ", route.about,
                    " |\n");
  }
  return out + "| anything else | 401 | 404, 405 | 404, 405 | |\n";
}

TEST(AccessDocTest, TheTableIsTheServers) {
  const std::string path = std::string(LANYARD_SOURCE_DIR) + "/docs/access.md";
  std::ifstream in(path);
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  const size_t begin = text.find(kBegin);
  const size_t end = text.find(kEnd);
  ASSERT_TRUE(begin != text.npos && end != text.npos && begin < end)
      << path << " has no place for the table";
  const size_t first = begin + sizeof(kBegin) - 1;
  if (std::getenv("LANYARD_UPDATE_DOCS") != nullptr) {
    text.replace(first, end - first, Table());
    std::ofstream(path) << text;
    return;
  }
  EXPECT_EQ(text.substr(first, end - first), Table()) << "run this test with LANYARD_UPDATE_DOCS=1";
}

}  // namespace
}  // namespace lanyard::front_door
