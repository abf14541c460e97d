# Compiler settings, third-party packages, and lanyard_room(): one library and one test binary a room.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo)
endif()
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1")
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

set(LANYARD_SANITIZE "" CACHE STRING "address (with undefined) or thread; needs clang")
option(LANYARD_FUZZ "Build libFuzzer targets (clang only)" OFF)

find_program(CCACHE ccache)
if(CCACHE)
  # Paths below the checkout count relative to it, so that a second checkout finds what the first one compiled.
  # With precompiled headers it also needs to be told that it may cache at all (its manual, "Precompiled headers"). It learns what
  # a file includes from the compiler (-MD), which saves it a run of the preprocessor.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR}
      CCACHE_NOHASHDIR=1 CCACHE_DEPEND=1 CCACHE_SLOPPINESS=pch_defines,time_macros ${CCACHE})
endif()

# No fast-math and no contraction that is not written: results are bit-equal across machines.
add_compile_options(-Wall -Wextra -Werror -ffp-contract=off -fno-fast-math)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  add_compile_options(-Wthread-safety)
endif()
find_program(LANYARD_LLD ld.lld)
if(LANYARD_LLD)  # it links a program with all of gRPC in a tenth of the time of GNU's
  add_link_options(-fuse-ld=lld)
endif()
if(LANYARD_SANITIZE STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=undefined
                      -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
elseif(LANYARD_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread)
  add_link_options(-fsanitize=thread)
endif()
if(LANYARD_FUZZ)
  # The rooms themselves, not only the target's file: the fuzzer steers by their branches.
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
                      -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
endif()

find_package(Threads REQUIRED)
find_package(absl REQUIRED)
find_package(spdlog REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(GTest REQUIRED)
find_package(benchmark REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(Protobuf REQUIRED)
find_package(tomlplusplus REQUIRED)
pkg_check_modules(GRPCPP REQUIRED IMPORTED_TARGET grpc++)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(PROMETHEUS REQUIRED IMPORTED_TARGET prometheus-cpp-core)

include(GoogleTest)

# What makes gcc's builds faster. clang's, which the sanitizers use, are small, and clang takes other options for it.
#   LANYARD_LIGHT_OPTIONS  for code that waits for people and files, not for numbers
#   LANYARD_PCH            headers that take longer to parse than most files' own lines are parsed once
#   LANYARD_UNITY          files of one target are compiled together, some at a time, since most of the compiler's work on one is
#                          the headers that its neighbours include too. It halves a full build, and makes the build after an
#                          edit a little longer: -DLANYARD_UNITY=OFF is for those who edit. clang compiles each file alone, so
#                          that a header that is missing is found.
set(LANYARD_LIGHT_OPTIONS)
set(LANYARD_PCH OFF)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # Collecting its garbage takes gcc a twentieth of the time of a large unit.
  add_compile_options(--param=ggc-min-heapsize=524288)
  # gcc 12 warns with -O1 of paths that cannot be taken (its bugs 105329 and the like).
  set(LANYARD_LIGHT_OPTIONS -O1 -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread -Wno-restrict
      -Wno-maybe-uninitialized -Wno-mismatched-new-delete)
  set(LANYARD_PCH ON)
  # Without it ccache keeps nothing that was compiled so.
  set(LANYARD_PCH_OPTIONS -fpch-preprocess)
  # Tests spend their time in the rooms' code, which has -O2.
  set(LANYARD_TEST_OPTIONS -O0 ${LANYARD_PCH_OPTIONS})
  # It is an executable, since gcc takes a precompiled header only with the code model (-fPIE) of the tests.
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/lanyard_test_headers.cc CONTENT "int main() {}")
  add_executable(lanyard_test_headers EXCLUDE_FROM_ALL ${CMAKE_BINARY_DIR}/lanyard_test_headers.cc)
  target_include_directories(lanyard_test_headers PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(lanyard_test_headers PRIVATE GTest::gtest GTest::gmock absl::status absl::statusor absl::strings
                        absl::str_format)
  target_compile_options(lanyard_test_headers PRIVATE ${LANYARD_TEST_OPTIONS})
  target_precompile_headers(lanyard_test_headers PRIVATE <gmock/gmock.h> <gtest/gtest.h> <filesystem> <fstream> <functional>
                            <map> <memory> <nlohmann/json.hpp> <random> <string> <thread> <vector> [["base/status.h"]])
endif()

option(LANYARD_UNITY "Compile several files of a room at once" ${LANYARD_PCH})
set(CMAKE_UNITY_BUILD ${LANYARD_UNITY})
set(CMAKE_UNITY_BUILD_BATCH_SIZE 25)

# lanyard_room(NAME [DEPS target...]): every *.cc of this folder (and below) except *_test.cc, *_fuzz.cc and
# *_bench.cc becomes library lanyard_NAME; the *_test.cc become NAME_test, registered test by test.
function(lanyard_room name)
  cmake_parse_arguments(ROOM "" "" "DEPS;TEST_DEPS;EXCLUDE" ${ARGN})
  file(GLOB_RECURSE all CONFIGURE_DEPENDS RELATIVE ${CMAKE_CURRENT_SOURCE_DIR} *.cc)
  foreach(pattern ${ROOM_EXCLUDE})
    list(FILTER all EXCLUDE REGEX ${pattern})
  endforeach()
  set(tests ${all})
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  set(sources ${all})
  list(FILTER sources EXCLUDE REGEX "_(test|fuzz|bench)\\.cc$")
  if(sources)
    add_library(lanyard_${name} STATIC ${sources})
    target_include_directories(lanyard_${name} PUBLIC ${CMAKE_SOURCE_DIR})
    target_link_libraries(lanyard_${name} PUBLIC ${ROOM_DEPS})
  else()
    add_library(lanyard_${name} INTERFACE)
    target_include_directories(lanyard_${name} INTERFACE ${CMAKE_SOURCE_DIR})
    target_link_libraries(lanyard_${name} INTERFACE ${ROOM_DEPS})
  endif()
  if(tests)
    lanyard_test(${name}_test SOURCES ${tests} DEPS lanyard_${name} ${ROOM_TEST_DEPS})
  endif()
endfunction()

# lanyard_test(NAME SOURCES ... DEPS ... [TIMEOUT seconds]): a GoogleTest binary, each test its own ctest entry. Suites named
# ...Child are processes that other tests start, and no entries. Names have no values of parameters, which may be addresses: a
# name is the same in every run.
function(lanyard_test name)
  cmake_parse_arguments(T "" "TIMEOUT" "SOURCES;DEPS" ${ARGN})
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 300)
  endif()
  add_executable(${name} ${T_SOURCES})
  target_link_libraries(${name} PRIVATE ${T_DEPS} GTest::gtest GTest::gmock GTest::gtest_main)
  if(LANYARD_PCH)
    target_compile_options(${name} PRIVATE ${LANYARD_TEST_OPTIONS})
    target_precompile_headers(${name} REUSE_FROM lanyard_test_headers)
  endif()
  target_compile_definitions(${name} PRIVATE LANYARD_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
                                             LANYARD_BIN_DIR="${CMAKE_BINARY_DIR}/bin")
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST NO_PRETTY_VALUES TEST_FILTER -*Child.* PROPERTIES TIMEOUT ${T_TIMEOUT})
endfunction()

# lanyard_fuzz(NAME SOURCES ... DEPS ...): a libFuzzer binary in build/*/bin; only with LANYARD_FUZZ.
# `./dev fuzz` runs every one of them by its name, fuzz_*.
function(lanyard_fuzz name)
  if(NOT LANYARD_FUZZ)
    return()
  endif()
  cmake_parse_arguments(F "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(fuzz_${name} ${F_SOURCES})
  target_link_libraries(fuzz_${name} PRIVATE ${F_DEPS})
  target_compile_options(fuzz_${name} PRIVATE -fsanitize=fuzzer,address,undefined)
  target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer,address,undefined)
endfunction()
