# The kernels' tests run both compilers' PTX; and planted bugs must be seen by them (planted/planted.py).
if(TARGET cuda_kernels_test)
  target_link_libraries(cuda_kernels_test PRIVATE lanyard_ptx_both)
  if(LANYARD_CUDA_HAS_CLANG)
    find_package(Python3 REQUIRED COMPONENTS Interpreter)
    set(planted ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/planted/planted.py --tests
        ${CMAKE_BINARY_DIR}/bin/cuda_kernels_test --clang ${LANYARD_CUDA_CLANG} --source ${CMAKE_SOURCE_DIR}
        --work ${CMAKE_CURRENT_BINARY_DIR}/planted)
    # Three of them with every run of the tests; all of them by `ctest -L planted -C full`.
    add_test(NAME planted_kernel_bugs COMMAND ${planted} --only 1,11,20)
    add_test(NAME planted_kernel_bugs_all CONFIGURATIONS full COMMAND ${planted} --least 28)
    set_tests_properties(planted_kernel_bugs planted_kernel_bugs_all PROPERTIES LABELS planted TIMEOUT 1800)
  endif()
endif()
