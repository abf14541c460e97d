// engine/cuda/abi.h against the vendor's header, where one is installed: numbers and the shape of
// every signature. Where there is none this file has no test.
#include "engine/cuda/abi.h"

#include "gtest/gtest.h"

#if __has_include(<cuda.h>)
#define __CUDA_API_VERSION_INTERNAL  // declares both the plain and the suffixed names
#include <cuda.h>

namespace lanyard::cuda {
namespace {

#define SAME(ours, theirs) \
  static_assert(static_cast<long long>(ours) == static_cast<long long>(theirs))
SAME(abi::kSuccess, CUDA_SUCCESS);
SAME(abi::kInvalidValue, CUDA_ERROR_INVALID_VALUE);
SAME(abi::kOutOfMemory, CUDA_ERROR_OUT_OF_MEMORY);
SAME(abi::kNotInitialized, CUDA_ERROR_NOT_INITIALIZED);
SAME(abi::kDeinitialized, CUDA_ERROR_DEINITIALIZED);
SAME(abi::kDeviceUnavailable, CUDA_ERROR_DEVICE_UNAVAILABLE);
SAME(abi::kNoDevice, CUDA_ERROR_NO_DEVICE);
SAME(abi::kInvalidDevice, CUDA_ERROR_INVALID_DEVICE);
SAME(abi::kInvalidImage, CUDA_ERROR_INVALID_IMAGE);
SAME(abi::kInvalidContext, CUDA_ERROR_INVALID_CONTEXT);
SAME(abi::kNoBinaryForGpu, CUDA_ERROR_NO_BINARY_FOR_GPU);
SAME(abi::kEccUncorrectable, CUDA_ERROR_ECC_UNCORRECTABLE);
SAME(abi::kInvalidPtx, CUDA_ERROR_INVALID_PTX);
SAME(abi::kNvlinkUncorrectable, CUDA_ERROR_NVLINK_UNCORRECTABLE);
SAME(abi::kJitCompilerNotFound, CUDA_ERROR_JIT_COMPILER_NOT_FOUND);
SAME(abi::kUnsupportedPtxVersion, CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
SAME(abi::kJitCompilationDisabled, CUDA_ERROR_JIT_COMPILATION_DISABLED);
SAME(abi::kInvalidHandle, CUDA_ERROR_INVALID_HANDLE);
SAME(abi::kNotFound, CUDA_ERROR_NOT_FOUND);
SAME(abi::kNotReady, CUDA_ERROR_NOT_READY);
SAME(abi::kIllegalAddress, CUDA_ERROR_ILLEGAL_ADDRESS);
SAME(abi::kLaunchOutOfResources, CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
SAME(abi::kLaunchTimeout, CUDA_ERROR_LAUNCH_TIMEOUT);
SAME(abi::kPeerAccessAlreadyEnabled, CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
SAME(abi::kContextIsDestroyed, CUDA_ERROR_CONTEXT_IS_DESTROYED);
SAME(abi::kAssert, CUDA_ERROR_ASSERT);
SAME(abi::kHardwareStackError, CUDA_ERROR_HARDWARE_STACK_ERROR);
SAME(abi::kIllegalInstruction, CUDA_ERROR_ILLEGAL_INSTRUCTION);
SAME(abi::kMisalignedAddress, CUDA_ERROR_MISALIGNED_ADDRESS);
SAME(abi::kInvalidAddressSpace, CUDA_ERROR_INVALID_ADDRESS_SPACE);
SAME(abi::kInvalidPc, CUDA_ERROR_INVALID_PC);
SAME(abi::kLaunchFailed, CUDA_ERROR_LAUNCH_FAILED);
SAME(abi::kStreamCaptureUnsupported, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
SAME(abi::kStreamCaptureInvalidated, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
SAME(abi::kStreamCaptureUnmatched, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
SAME(abi::kStreamCaptureUnjoined, CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
SAME(abi::kGraphExecUpdateFailure, CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
SAME(abi::kExternalDevice, CUDA_ERROR_EXTERNAL_DEVICE);
SAME(abi::kUnknown, CUDA_ERROR_UNKNOWN);
#if CUDA_VERSION >= 13000
SAME(abi::kContained, CUDA_ERROR_CONTAINED);
SAME(abi::kTensorMemoryLeak, CUDA_ERROR_TENSOR_MEMORY_LEAK);
#endif

SAME(abi::kClockRate, CU_DEVICE_ATTRIBUTE_CLOCK_RATE);
SAME(abi::kMultiprocessorCount, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
SAME(abi::kIntegrated, CU_DEVICE_ATTRIBUTE_INTEGRATED);
SAME(abi::kMemoryClockRate, CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE);
SAME(abi::kMemoryBusWidth, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH);
SAME(abi::kL2CacheSize, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
SAME(abi::kMaxThreadsPerMultiprocessor, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR);
SAME(abi::kAsyncEngineCount, CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT);
SAME(abi::kComputeCapabilityMajor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
SAME(abi::kComputeCapabilityMinor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
SAME(abi::kMaxSharedPerMultiprocessor, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR);
SAME(abi::kMaxRegistersPerMultiprocessor, CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR);
SAME(abi::kMaxSharedPerBlockOptin, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);

SAME(abi::kFunctionMaxThreads, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
SAME(abi::kFunctionSharedBytes, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
SAME(abi::kFunctionLocalBytes, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES);
SAME(abi::kFunctionRegisters, CU_FUNC_ATTRIBUTE_NUM_REGS);
SAME(abi::kFunctionMaxDynamicSharedBytes, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);

SAME(abi::kJitInfoLogBuffer, CU_JIT_INFO_LOG_BUFFER);
SAME(abi::kJitInfoLogBufferBytes, CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES);
SAME(abi::kJitErrorLogBuffer, CU_JIT_ERROR_LOG_BUFFER);
SAME(abi::kJitErrorLogBufferBytes, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES);

SAME(abi::kContextSpin, CU_CTX_SCHED_SPIN);
SAME(abi::kContextBlockingSync, CU_CTX_SCHED_BLOCKING_SYNC);
SAME(abi::kStreamNonBlocking, CU_STREAM_NON_BLOCKING);
SAME(abi::kEventBlockingSync, CU_EVENT_BLOCKING_SYNC);
SAME(abi::kEventDisableTiming, CU_EVENT_DISABLE_TIMING);
SAME(abi::kHostAllocPortable, CU_MEMHOSTALLOC_PORTABLE);
SAME(abi::kCaptureThreadLocal, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
#undef SAME

// What the calling convention sees of a type: pointer, integer of a size, float.
template <typename T>
constexpr int Kind() {
  if constexpr (std::is_pointer_v<T>) return 1000;
  if constexpr (std::is_floating_point_v<T>) return 2000 + static_cast<int>(sizeof(T));
  return static_cast<int>(sizeof(T));
}

template <typename A, typename B>
struct SameCall : std::false_type {};
template <typename R1, typename... A, typename R2, typename... B>
struct SameCall<R1 (*)(A...), R2 (*)(B...)> {
  static constexpr bool value = [] {
    if constexpr (sizeof...(A) != sizeof...(B)) {
      return false;
    } else {
      return sizeof(R1) == sizeof(R2) && ((Kind<A>() == Kind<B>()) && ...);
    }
  }();
};

#define SAME_CALL(member, theirs) \
  static_assert(SameCall<decltype(Api::member), decltype(&theirs)>::value)
SAME_CALL(Init, ::cuInit);
SAME_CALL(DriverGetVersion, ::cuDriverGetVersion);
SAME_CALL(DeviceGetCount, ::cuDeviceGetCount);
SAME_CALL(DeviceGet, ::cuDeviceGet);
SAME_CALL(DeviceGetName, ::cuDeviceGetName);
SAME_CALL(DeviceTotalMem, ::cuDeviceTotalMem_v2);
SAME_CALL(DeviceGetAttribute, ::cuDeviceGetAttribute);
SAME_CALL(DeviceGetPciBusId, ::cuDeviceGetPCIBusId);
SAME_CALL(DeviceGetUuid, ::cuDeviceGetUuid_v2);
SAME_CALL(DeviceCanAccessPeer, ::cuDeviceCanAccessPeer);
SAME_CALL(PrimaryCtxRetain, ::cuDevicePrimaryCtxRetain);
SAME_CALL(PrimaryCtxRelease, ::cuDevicePrimaryCtxRelease_v2);
SAME_CALL(PrimaryCtxSetFlags, ::cuDevicePrimaryCtxSetFlags_v2);
SAME_CALL(CtxSetCurrent, ::cuCtxSetCurrent);
SAME_CALL(CtxSynchronize, ::cuCtxSynchronize);
SAME_CALL(CtxEnablePeerAccess, ::cuCtxEnablePeerAccess);
SAME_CALL(MemGetInfo, ::cuMemGetInfo_v2);
SAME_CALL(MemAlloc, ::cuMemAlloc_v2);
SAME_CALL(MemFree, ::cuMemFree_v2);
SAME_CALL(MemHostAlloc, ::cuMemHostAlloc);
SAME_CALL(MemFreeHost, ::cuMemFreeHost);
SAME_CALL(MemcpyHtoDAsync, ::cuMemcpyHtoDAsync_v2);
SAME_CALL(MemcpyDtoHAsync, ::cuMemcpyDtoHAsync_v2);
SAME_CALL(MemcpyDtoDAsync, ::cuMemcpyDtoDAsync_v2);
SAME_CALL(MemcpyPeerAsync, ::cuMemcpyPeerAsync);
SAME_CALL(MemsetD8Async, ::cuMemsetD8Async);
SAME_CALL(ModuleLoadDataEx, ::cuModuleLoadDataEx);
SAME_CALL(ModuleUnload, ::cuModuleUnload);
SAME_CALL(ModuleGetFunction, ::cuModuleGetFunction);
SAME_CALL(FuncGetAttribute, ::cuFuncGetAttribute);
SAME_CALL(FuncSetAttribute, ::cuFuncSetAttribute);
SAME_CALL(LaunchKernel, ::cuLaunchKernel);
SAME_CALL(StreamCreate, ::cuStreamCreate);
SAME_CALL(StreamDestroy, ::cuStreamDestroy_v2);
SAME_CALL(StreamSynchronize, ::cuStreamSynchronize);
SAME_CALL(StreamQuery, ::cuStreamQuery);
SAME_CALL(StreamWaitEvent, ::cuStreamWaitEvent);
SAME_CALL(StreamBeginCapture, ::cuStreamBeginCapture_v2);
SAME_CALL(StreamEndCapture, ::cuStreamEndCapture);
SAME_CALL(EventCreate, ::cuEventCreate);
SAME_CALL(EventDestroy, ::cuEventDestroy_v2);
SAME_CALL(EventRecord, ::cuEventRecord);
SAME_CALL(EventQuery, ::cuEventQuery);
SAME_CALL(EventSynchronize, ::cuEventSynchronize);
SAME_CALL(EventElapsedTime, ::cuEventElapsedTime);
SAME_CALL(GraphInstantiate, ::cuGraphInstantiateWithFlags);
SAME_CALL(GraphExecUpdate, ::cuGraphExecUpdate);
SAME_CALL(GraphLaunch, ::cuGraphLaunch);
SAME_CALL(GraphDestroy, ::cuGraphDestroy);
SAME_CALL(GraphExecDestroy, ::cuGraphExecDestroy);
#undef SAME_CALL

TEST(Abi, LaunchParameters) {
  EXPECT_EQ(abi::kLaunchParamEnd, CU_LAUNCH_PARAM_END);
  EXPECT_EQ(abi::kLaunchParamBufferPointer, CU_LAUNCH_PARAM_BUFFER_POINTER);
  EXPECT_EQ(abi::kLaunchParamBufferSize, CU_LAUNCH_PARAM_BUFFER_SIZE);
}

}  // namespace
}  // namespace lanyard::cuda
#endif
