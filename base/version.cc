#include "base/version.h"

#ifndef LANYARD_VERSION
#define LANYARD_VERSION "0.1.0"
#endif

namespace lanyard {

const char* const kVersion = LANYARD_VERSION;

}  // namespace lanyard
