#include "cli/cli.h"

int main(int argc, char** argv) { return lanyard::cli::Main(argc, argv); }
