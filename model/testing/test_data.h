// Where tests find what is not in the sources: the two real models, and data of llama.cpp's that
// may not be copied into them. One place, and one wording, which tests/expected_skips.txt knows.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <string>

namespace lanyard::model::testing {

// LANYARD_MODELS or build/models, where ./dev test puts them; NAME without ".gguf".
inline std::string RealModelPath(const std::string& name) {
  const char* folder = std::getenv("LANYARD_MODELS");
  return (folder != nullptr ? std::string(folder) : LANYARD_SOURCE_DIR "/build/models") + "/" +
         name + ".gguf";
}

// LANYARD_SHARED or ../shared.
inline std::string ConformancePath(const std::string& name) {
  const char* folder = std::getenv("LANYARD_SHARED");
  return (folder != nullptr ? std::string(folder) : LANYARD_SOURCE_DIR "/../shared") +
         "/conformance/" + name;
}

inline bool Readable(const std::string& path) { return access(path.c_str(), R_OK) == 0; }

inline std::string NoRealModel(const std::string& path) {
  return "no real model " + path + "; ./dev test fetches it, or LANYARD_MODELS names its folder";
}
inline std::string NoConformanceData(const std::string& path) {
  return "no conformance data at " + path + "; LANYARD_SHARED names the folder that has it";
}

}  // namespace lanyard::model::testing
