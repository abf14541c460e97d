// Writes the tiny models as files, for tools/make_golden.py: tiny_models FOLDER
#include <cstdio>
#include <fstream>

#include "model/testing/tiny_models.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: tiny_models FOLDER\n");
    return 2;
  }
  for (const auto& model : lanyard::model::testing::TinyModels()) {
    const std::string path = std::string(argv[1]) + "/" + model.name + ".gguf";
    const std::vector<uint8_t> bytes = lanyard::model::testing::TinyModelFile(model.name);
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()),
              static_cast<std::streamsize>(bytes.size()));
    if (!out.flush()) {
      std::fprintf(stderr, "error: cannot write %s\n", path.c_str());
      return 1;
    }
  }
  return 0;
}
