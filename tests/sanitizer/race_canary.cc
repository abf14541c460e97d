// Two threads, one counter, no lock: TSan must say so. Beside it the same with base::Mutex, which
// must stay silent.
#include <cstdio>
#include <thread>

#include "base/mutex.h"

namespace {

int g_racy = 0;
int g_guarded = 0;
lanyard::Mutex g_mutex;

void Count() {
  for (int i = 0; i < 1000; ++i) {
    ++g_racy;
    lanyard::MutexLock lock(&g_mutex);
    ++g_guarded;
  }
}

}  // namespace

int main() {
  std::thread a(Count), b(Count);
  a.join();
  b.join();
  std::printf("%d %d\n", g_racy, g_guarded);
  return 0;
}
