#include "worker/probe.h"

namespace lanyard::worker {

double RelativeSpeed(int threads, ops::Isa isa) {
  double factor = 0.05;
  switch (isa) {
    case ops::Isa::kScalar: factor = 0.05; break;
    case ops::Isa::kAvx2: factor = 1; break;
    case ops::Isa::kAvx512: factor = 1.5; break;
  }
  return threads * factor;
}

}  // namespace lanyard::worker
