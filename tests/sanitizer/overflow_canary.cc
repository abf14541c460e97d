// Planted: `heap` reads one byte past an allocation, `signed` overflows an int. ASan and UBSan must
// say so.
#include <climits>
#include <cstdio>
#include <cstring>
#include <vector>

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  if (std::strcmp(argv[1], "heap") == 0) {
    const std::vector<char> bytes(static_cast<size_t>(argc) * 8);
    std::printf("%d\n", *(bytes.data() + bytes.size()));
  } else {
    int x = INT_MAX - 1;
    x += argc;
    std::printf("%d\n", x);
  }
  return 0;
}
