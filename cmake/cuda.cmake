# The CUDA kernels: engine/ops/cuda/*.cu -> PTX text -> a generated .cc (engine/ops/cuda/ptx_image.h). No SDK is linked and no
# header of it is needed: clang compiles with a shim (engine/ops/cuda/common.cuh), the driver is opened at run time.
#
#   LANYARD_CUDA = AUTO   kernels where clang (14 or later) or nvcc is there, else a binary without them
#                  ON     an error where neither is there
#                  OFF    none
#
# Sets LANYARD_CUDA_PTX (1 or 0). clang's PTX is what ships where clang is there: its ISA 7.4 needs only a driver of R470 (CUDA 11.4);
# nvcc 13's needs R580. lanyard_ptx_both has both compilers' for the tests.

set(LANYARD_CUDA AUTO CACHE STRING "Compile the CUDA kernels: AUTO, ON or OFF")
set_property(CACHE LANYARD_CUDA PROPERTY STRINGS AUTO ON OFF)
find_program(LANYARD_CUDA_CLANG NAMES clang++-14 clang++ clang++-15 clang++-16 clang++-17
             DOC "clang that compiles kernels to PTX")
find_program(LANYARD_CUDA_NVCC nvcc PATHS /usr/local/cuda/bin DOC "nvcc that compiles kernels to PTX")

set(lanyard_cuda_folder ${CMAKE_SOURCE_DIR}/engine/ops/cuda)
set(lanyard_ptx_folder ${CMAKE_BINARY_DIR}/ptx)
file(MAKE_DIRECTORY ${lanyard_ptx_folder})

# Explicit roundings only: -ffp-contract=off / -fmad=false write every operation as .rn, which no later compiler fuses.
set(lanyard_clang_flags -x cuda -nocudainc -nocudalib --cuda-device-only --cuda-path=/nonexistent -S -O3 -std=c++20
    -ffp-contract=off -fno-fast-math
    -Xclang -target-feature -Xclang +ptx74 -gline-directives-only -fdebug-prefix-map=${CMAKE_SOURCE_DIR}=.
    -Wall -Wextra -Werror -Wno-unknown-cuda-version -I${CMAKE_SOURCE_DIR})
set(lanyard_nvcc_flags -ptx -O3 -std=c++20 -fmad=false -prec-div=true -prec-sqrt=true -ftz=false
    -Werror all-warnings -I${CMAKE_SOURCE_DIR})
set(lanyard_clang_levels 61 75 80)
set(lanyard_nvcc_levels 75 80)

# Whether `compiler` makes PTX of a small kernel, with the flags that the kernels get.
function(lanyard_cuda_works compiler arch flags result)
  set(probe ${lanyard_ptx_folder}/probe.cu)
  file(CONFIGURE OUTPUT ${probe} CONTENT
       "extern \"C\" __attribute__((global)) void probe(float* x) { *x = *x * 2.0f + 1.0f; }\n")
  execute_process(COMMAND ${compiler} ${flags} ${arch} ${probe} -o ${probe}.ptx
                  RESULT_VARIABLE status OUTPUT_QUIET ERROR_QUIET)
  if(status EQUAL 0)
    set(${result} TRUE PARENT_SCOPE)
  else()
    set(${result} FALSE PARENT_SCOPE)
  endif()
endfunction()

set(LANYARD_CUDA_HAS_CLANG FALSE)
set(LANYARD_CUDA_HAS_NVCC FALSE)
if(NOT LANYARD_CUDA STREQUAL "OFF")
  if(LANYARD_CUDA_CLANG)
    lanyard_cuda_works(${LANYARD_CUDA_CLANG} --cuda-gpu-arch=sm_61 "${lanyard_clang_flags}" LANYARD_CUDA_HAS_CLANG)
  endif()
  if(LANYARD_CUDA_NVCC)
    lanyard_cuda_works(${LANYARD_CUDA_NVCC} -arch=compute_75 "${lanyard_nvcc_flags}" LANYARD_CUDA_HAS_NVCC)
  endif()
endif()

set(LANYARD_CUDA_PTX 0)
if(LANYARD_CUDA_HAS_CLANG OR LANYARD_CUDA_HAS_NVCC)
  set(LANYARD_CUDA_PTX 1)
endif()
if(LANYARD_CUDA STREQUAL "OFF")
  message(STATUS "CUDA kernels: off (LANYARD_CUDA=OFF)")
elseif(NOT LANYARD_CUDA_PTX)
  set(text "CUDA kernels: none: neither clang++ 14 nor nvcc makes PTX here; install clang-14, or set LANYARD_CUDA_CLANG")
  if(LANYARD_CUDA STREQUAL "ON")
    message(FATAL_ERROR "${text}")
  endif()
  message(STATUS "${text}")
elseif(LANYARD_CUDA_HAS_CLANG AND LANYARD_CUDA_HAS_NVCC)
  message(STATUS "CUDA kernels: PTX by clang (${LANYARD_CUDA_CLANG}), in tests also by nvcc (${LANYARD_CUDA_NVCC})")
elseif(LANYARD_CUDA_HAS_CLANG)
  message(STATUS "CUDA kernels: PTX by clang (${LANYARD_CUDA_CLANG})")
else()
  message(STATUS "CUDA kernels: PTX by nvcc (${LANYARD_CUDA_NVCC}): needs a driver of R580, no GTX 10")
endif()

# One .ptx of every .cu for a compiler ("clang" or "nvcc") and a level; the paths go to `result`.
function(lanyard_ptx_of compiler level result)
  set(outputs "")
  file(GLOB sources CONFIGURE_DEPENDS ${lanyard_cuda_folder}/*.cu)
  foreach(source ${sources})
    get_filename_component(name ${source} NAME_WE)
    set(out ${lanyard_ptx_folder}/${name}.${compiler}.${level}.ptx)
    if(compiler STREQUAL "clang")
      set(command ${LANYARD_CUDA_CLANG} ${lanyard_clang_flags} --cuda-gpu-arch=sm_${level} -DLANYARD_PTX_LEVEL=${level})
    else()
      set(command ${LANYARD_CUDA_NVCC} ${lanyard_nvcc_flags} -arch=compute_${level} -DLANYARD_PTX_LEVEL=${level})
    endif()
    add_custom_command(OUTPUT ${out}
      COMMAND ${command} -MD -MF ${out}.d -MT ${out} ${source} -o ${out}
      DEPENDS ${source} DEPFILE ${out}.d WORKING_DIRECTORY ${CMAKE_SOURCE_DIR} COMMENT "PTX ${name} ${level} (${compiler})" VERBATIM)
    list(APPEND outputs ${out})
  endforeach()
  set(${result} ${outputs} PARENT_SCOPE)
endfunction()

# A .cc with modules (cmake/embed_ptx.cmake); `kind` is shipped or both.
function(lanyard_ptx_source kind files out)
  add_custom_command(OUTPUT ${out}
    COMMAND ${CMAKE_COMMAND} "-DFILES=${files}" -DKIND=${kind} -DOUT=${out} -P ${CMAKE_SOURCE_DIR}/cmake/embed_ptx.cmake
    DEPENDS ${files} ${CMAKE_SOURCE_DIR}/cmake/embed_ptx.cmake COMMENT "PTX images (${kind})" VERBATIM)
endfunction()

# Embeds the kernels in a room's library, and makes lanyard_ptx_both.
function(lanyard_embed_ptx target)
  set(clang_files "")
  set(nvcc_files "")
  if(LANYARD_CUDA_HAS_CLANG)
    foreach(level ${lanyard_clang_levels})
      lanyard_ptx_of(clang ${level} files)
      list(APPEND clang_files ${files})
    endforeach()
  endif()
  if(LANYARD_CUDA_HAS_NVCC)
    foreach(level ${lanyard_nvcc_levels})
      lanyard_ptx_of(nvcc ${level} files)
      list(APPEND nvcc_files ${files})
    endforeach()
  endif()
  set(shipped ${clang_files})
  if(NOT shipped)
    set(shipped ${nvcc_files})
  endif()
  lanyard_ptx_source(shipped "${shipped}" ${lanyard_ptx_folder}/ptx_shipped.cc)
  target_sources(${target} PRIVATE ${lanyard_ptx_folder}/ptx_shipped.cc)
  lanyard_ptx_source(both "${clang_files};${nvcc_files}" ${lanyard_ptx_folder}/ptx_both.cc)
  add_library(lanyard_ptx_both STATIC EXCLUDE_FROM_ALL ${lanyard_ptx_folder}/ptx_both.cc)
  target_include_directories(lanyard_ptx_both PUBLIC ${CMAKE_SOURCE_DIR})
endfunction()
