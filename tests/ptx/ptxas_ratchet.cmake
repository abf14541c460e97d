# Registers, shared memory and spills of the shipped kernels by ptxas, against ptxas_ratchet.txt. Skipped without ptxas.
if(LANYARD_CUDA_PTX)
  add_test(NAME ptxas_ratchet COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/ptxas_ratchet.py
                                      --ptx ${CMAKE_BINARY_DIR}/ptx)
  set_tests_properties(ptxas_ratchet PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 600)
endif()
