// The part of the driver's C ABI that Lanyard calls, with prototypes of our own and without cuda.h.
// Names carry the suffix that the library exports (cuda.h hides it behind macros): it is the oldest
// ABI that every driver from R470 to CUDA 13 has. tests/fake_cuda/abi_test.cc compares numbers and
// signatures with cuda.h where one is installed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lanyard::cuda {

struct AbiHandle;  // CUcontext, CUmodule, CUfunction, CUstream, CUevent, CUgraph, CUgraphExec

namespace abi {

using Result = int;                  // CUresult
using Device = int;                  // CUdevice
using Pointer = unsigned long long;  // CUdeviceptr
using Handle = AbiHandle*;
struct Uuid {  // CUuuid
  unsigned char bytes[16];
};

// The values of CUresult that are told apart. driver.cc has every name.
inline constexpr Result kSuccess = 0;
inline constexpr Result kInvalidValue = 1;
inline constexpr Result kOutOfMemory = 2;
inline constexpr Result kNotInitialized = 3;
inline constexpr Result kDeinitialized = 4;
inline constexpr Result kDeviceUnavailable = 46;
inline constexpr Result kNoDevice = 100;
inline constexpr Result kInvalidDevice = 101;
inline constexpr Result kInvalidImage = 200;
inline constexpr Result kInvalidContext = 201;
inline constexpr Result kNoBinaryForGpu = 209;
inline constexpr Result kEccUncorrectable = 214;
inline constexpr Result kInvalidPtx = 218;
inline constexpr Result kNvlinkUncorrectable = 220;
inline constexpr Result kJitCompilerNotFound = 221;
inline constexpr Result kUnsupportedPtxVersion = 222;
inline constexpr Result kJitCompilationDisabled = 223;
inline constexpr Result kContained = 226;
inline constexpr Result kInvalidHandle = 400;
inline constexpr Result kNotFound = 500;
inline constexpr Result kNotReady = 600;
inline constexpr Result kIllegalAddress = 700;
inline constexpr Result kLaunchOutOfResources = 701;
inline constexpr Result kLaunchTimeout = 702;
inline constexpr Result kPeerAccessAlreadyEnabled = 704;
inline constexpr Result kContextIsDestroyed = 709;
inline constexpr Result kAssert = 710;
inline constexpr Result kHardwareStackError = 714;
inline constexpr Result kIllegalInstruction = 715;
inline constexpr Result kMisalignedAddress = 716;
inline constexpr Result kInvalidAddressSpace = 717;
inline constexpr Result kInvalidPc = 718;
inline constexpr Result kLaunchFailed = 719;
inline constexpr Result kTensorMemoryLeak = 721;
inline constexpr Result kStreamCaptureUnsupported = 900;
inline constexpr Result kStreamCaptureInvalidated = 901;
inline constexpr Result kStreamCaptureUnmatched = 903;
inline constexpr Result kStreamCaptureUnjoined = 904;
inline constexpr Result kGraphExecUpdateFailure = 910;
inline constexpr Result kExternalDevice = 911;
inline constexpr Result kUnknown = 999;

// CUdevice_attribute
inline constexpr int kClockRate = 13;
inline constexpr int kMultiprocessorCount = 16;
inline constexpr int kIntegrated = 18;
inline constexpr int kMemoryClockRate = 36;
inline constexpr int kMemoryBusWidth = 37;
inline constexpr int kL2CacheSize = 38;
inline constexpr int kMaxThreadsPerMultiprocessor = 39;
inline constexpr int kAsyncEngineCount = 40;
inline constexpr int kComputeCapabilityMajor = 75;
inline constexpr int kComputeCapabilityMinor = 76;
inline constexpr int kMaxSharedPerMultiprocessor = 81;
inline constexpr int kMaxRegistersPerMultiprocessor = 82;
inline constexpr int kMaxSharedPerBlockOptin = 97;

// CUfunction_attribute
inline constexpr int kFunctionMaxThreads = 0;
inline constexpr int kFunctionSharedBytes = 1;
inline constexpr int kFunctionLocalBytes = 3;
inline constexpr int kFunctionRegisters = 4;
inline constexpr int kFunctionMaxDynamicSharedBytes = 8;

// CUjit_option
inline constexpr int kJitInfoLogBuffer = 3;
inline constexpr int kJitInfoLogBufferBytes = 4;
inline constexpr int kJitErrorLogBuffer = 5;
inline constexpr int kJitErrorLogBufferBytes = 6;

// Flags
inline constexpr unsigned kContextSpin = 1;
inline constexpr unsigned kContextBlockingSync = 4;
inline constexpr unsigned kStreamNonBlocking = 1;
inline constexpr unsigned kEventBlockingSync = 1;
inline constexpr unsigned kEventDisableTiming = 2;
inline constexpr unsigned kHostAllocPortable = 1;
inline constexpr int kCaptureThreadLocal = 1;

// cuLaunchKernel's `extra`
inline void* const kLaunchParamEnd = nullptr;
inline void* const kLaunchParamBufferPointer = reinterpret_cast<void*>(uintptr_t{1});
inline void* const kLaunchParamBufferSize = reinterpret_cast<void*>(uintptr_t{2});

}  // namespace abi

// X(member, "exported symbol", (parameters)): every function returns a CUresult.
#define LANYARD_CUDA_FUNCTIONS(X)                                                                  \
  X(Init, "cuInit", (unsigned flags))                                                              \
  X(DriverGetVersion, "cuDriverGetVersion", (int* version))                                        \
  X(DeviceGetCount, "cuDeviceGetCount", (int* count))                                              \
  X(DeviceGet, "cuDeviceGet", (abi::Device * device, int ordinal))                                 \
  X(DeviceGetName, "cuDeviceGetName", (char* name, int length, abi::Device device))                \
  X(DeviceTotalMem, "cuDeviceTotalMem_v2", (size_t * bytes, abi::Device device))                   \
  X(DeviceGetAttribute, "cuDeviceGetAttribute", (int* value, int attribute, abi::Device device))   \
  X(DeviceGetPciBusId, "cuDeviceGetPCIBusId", (char* id, int length, abi::Device device))          \
  X(DeviceGetUuid, "cuDeviceGetUuid_v2", (abi::Uuid * uuid, abi::Device device))                   \
  X(DeviceCanAccessPeer, "cuDeviceCanAccessPeer",                                                  \
    (int* can, abi::Device device, abi::Device peer))                                              \
  X(PrimaryCtxRetain, "cuDevicePrimaryCtxRetain", (abi::Handle * context, abi::Device device))     \
  X(PrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", (abi::Device device))                       \
  X(PrimaryCtxSetFlags, "cuDevicePrimaryCtxSetFlags_v2", (abi::Device device, unsigned flags))     \
  X(CtxSetCurrent, "cuCtxSetCurrent", (abi::Handle context))                                       \
  X(CtxSynchronize, "cuCtxSynchronize", ())                                                        \
  X(CtxEnablePeerAccess, "cuCtxEnablePeerAccess", (abi::Handle peer, unsigned flags))              \
  X(MemGetInfo, "cuMemGetInfo_v2", (size_t * free, size_t * total))                                \
  X(MemAlloc, "cuMemAlloc_v2", (abi::Pointer * address, size_t bytes))                             \
  X(MemFree, "cuMemFree_v2", (abi::Pointer address))                                               \
  X(MemHostAlloc, "cuMemHostAlloc", (void** pointer, size_t bytes, unsigned flags))                \
  X(MemFreeHost, "cuMemFreeHost", (void* pointer))                                                 \
  X(MemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2",                                                       \
    (abi::Pointer to, const void* from, size_t bytes, abi::Handle stream))                         \
  X(MemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2",                                                       \
    (void* to, abi::Pointer from, size_t bytes, abi::Handle stream))                               \
  X(MemcpyDtoDAsync, "cuMemcpyDtoDAsync_v2",                                                       \
    (abi::Pointer to, abi::Pointer from, size_t bytes, abi::Handle stream))                        \
  X(MemcpyPeerAsync, "cuMemcpyPeerAsync",                                                          \
    (abi::Pointer to, abi::Handle to_context, abi::Pointer from, abi::Handle from_context,         \
     size_t bytes, abi::Handle stream))                                                            \
  X(MemsetD8Async, "cuMemsetD8Async",                                                              \
    (abi::Pointer to, unsigned char value, size_t bytes, abi::Handle stream))                      \
  X(ModuleLoadDataEx, "cuModuleLoadDataEx",                                                        \
    (abi::Handle * module, const void* image, unsigned count, int* options, void** values))        \
  X(ModuleUnload, "cuModuleUnload", (abi::Handle module))                                          \
  X(ModuleGetFunction, "cuModuleGetFunction",                                                      \
    (abi::Handle * function, abi::Handle module, const char* name))                                \
  X(FuncGetAttribute, "cuFuncGetAttribute", (int* value, int attribute, abi::Handle function))     \
  X(FuncSetAttribute, "cuFuncSetAttribute", (abi::Handle function, int attribute, int value))      \
  X(LaunchKernel, "cuLaunchKernel",                                                                \
    (abi::Handle function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,    \
     unsigned block_y, unsigned block_z, unsigned shared_bytes, abi::Handle stream, void** params, \
     void** extra))                                                                                \
  X(StreamCreate, "cuStreamCreate", (abi::Handle * stream, unsigned flags))                        \
  X(StreamDestroy, "cuStreamDestroy_v2", (abi::Handle stream))                                     \
  X(StreamSynchronize, "cuStreamSynchronize", (abi::Handle stream))                                \
  X(StreamQuery, "cuStreamQuery", (abi::Handle stream))                                            \
  X(StreamWaitEvent, "cuStreamWaitEvent", (abi::Handle stream, abi::Handle event, unsigned flags)) \
  X(StreamBeginCapture, "cuStreamBeginCapture_v2", (abi::Handle stream, int mode))                 \
  X(StreamEndCapture, "cuStreamEndCapture", (abi::Handle stream, abi::Handle * graph))             \
  X(EventCreate, "cuEventCreate", (abi::Handle * event, unsigned flags))                           \
  X(EventDestroy, "cuEventDestroy_v2", (abi::Handle event))                                        \
  X(EventRecord, "cuEventRecord", (abi::Handle event, abi::Handle stream))                         \
  X(EventQuery, "cuEventQuery", (abi::Handle event))                                               \
  X(EventSynchronize, "cuEventSynchronize", (abi::Handle event))                                   \
  X(EventElapsedTime, "cuEventElapsedTime",                                                        \
    (float* milliseconds, abi::Handle begin, abi::Handle end))                                     \
  X(GraphInstantiate, "cuGraphInstantiateWithFlags",                                               \
    (abi::Handle * exec, abi::Handle graph, unsigned long long flags))                             \
  X(GraphExecUpdate, "cuGraphExecUpdate",                                                          \
    (abi::Handle exec, abi::Handle graph, abi::Handle * error_node, int* update_result))           \
  X(GraphLaunch, "cuGraphLaunch", (abi::Handle exec, abi::Handle stream))                          \
  X(GraphDestroy, "cuGraphDestroy", (abi::Handle graph))                                           \
  X(GraphExecDestroy, "cuGraphExecDestroy", (abi::Handle exec))

struct Api {
#define LANYARD_CUDA_MEMBER(member, symbol, parameters) abi::Result(*member) parameters = nullptr;
  LANYARD_CUDA_FUNCTIONS(LANYARD_CUDA_MEMBER)
#undef LANYARD_CUDA_MEMBER
};

}  // namespace lanyard::cuda
