// Loops over a warp's 32 lanes, for the files that are compiled once for each instruction set
// (LANYARD_PTX_ISA: a namespace). Such files define no inline function outside of it: the linker
// could pick the copy that another processor cannot run.
#pragma once

#include <cstdint>

#include "tests/ptx/program.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

#if defined(__clang__)
#define LANYARD_LANES _Pragma("clang loop vectorize(assume_safety)")
#else
#define LANYARD_LANES _Pragma("GCC ivdep")
#endif

namespace lanyard::ptx::LANYARD_PTX_ISA {

// How a value of type T lies in a register: as itself, or zero-extended to 32 bits.
template <typename T>
struct Lane {
  using Storage = T;
  static T Load(Storage v) { return v; }
  static Storage Save(T v) { return v; }
};
template <>
struct Lane<uint16_t> {
  using Storage = uint32_t;
  static uint16_t Load(Storage v) { return static_cast<uint16_t>(v); }
  static Storage Save(uint16_t v) { return v; }
};
template <>
struct Lane<int16_t> {
  using Storage = uint32_t;
  static int16_t Load(Storage v) { return static_cast<int16_t>(v); }
  static Storage Save(int16_t v) { return static_cast<uint16_t>(v); }
};
template <>
struct Lane<uint8_t> {
  using Storage = uint32_t;
  static uint8_t Load(Storage v) { return static_cast<uint8_t>(v); }
  static Storage Save(uint8_t v) { return v; }
};
template <>
struct Lane<int8_t> {
  using Storage = uint32_t;
  static int8_t Load(Storage v) { return static_cast<int8_t>(v); }
  static Storage Save(int8_t v) { return static_cast<uint32_t>(static_cast<int32_t>(v)); }
};

// Makes d[i] = f(i) for the lanes of mask. f may be called for others too and must not trap there.
template <typename D, typename F>
inline __attribute__((always_inline)) void SetLanes(D* d, uint32_t mask, F f) {
  if (mask == kAllLanes) {
    LANYARD_LANES
    for (uint32_t i = 0; i < 32; ++i) d[i] = f(i);
    return;
  }
  alignas(64) D values[32];
  LANYARD_LANES
  for (uint32_t i = 0; i < 32; ++i) values[i] = f(i);
  LANYARD_LANES
  for (uint32_t i = 0; i < 32; ++i) d[i] = (mask >> i & 1u) != 0 ? values[i] : d[i];
}

// Handlers for dst = F(src0), F(src0, src1), F(src0, src1, src2).
template <typename F, typename D, typename A>
void Map1(Warp& w, const Op& op, uint32_t mask) {
  const auto* a = w.R<typename Lane<A>::Storage>(op.src[0]);
  SetLanes(w.R<typename Lane<D>::Storage>(op.dst), mask,
           [&](uint32_t i) { return Lane<D>::Save(F()(Lane<A>::Load(a[i]))); });
}
template <typename F, typename D, typename A, typename B>
void Map2(Warp& w, const Op& op, uint32_t mask) {
  const auto* a = w.R<typename Lane<A>::Storage>(op.src[0]);
  const auto* b = w.R<typename Lane<B>::Storage>(op.src[1]);
  SetLanes(w.R<typename Lane<D>::Storage>(op.dst), mask, [&](uint32_t i) {
    return Lane<D>::Save(F()(Lane<A>::Load(a[i]), Lane<B>::Load(b[i])));
  });
}
template <typename F, typename D, typename A, typename B, typename C>
void Map3(Warp& w, const Op& op, uint32_t mask) {
  const auto* a = w.R<typename Lane<A>::Storage>(op.src[0]);
  const auto* b = w.R<typename Lane<B>::Storage>(op.src[1]);
  const auto* c = w.R<typename Lane<C>::Storage>(op.src[2]);
  SetLanes(w.R<typename Lane<D>::Storage>(op.dst), mask, [&](uint32_t i) {
    return Lane<D>::Save(F()(Lane<A>::Load(a[i]), Lane<B>::Load(b[i]), Lane<C>::Load(c[i])));
  });
}

// Sets bit i where words[i] != 0; every word must be 0 or ~0.
inline uint32_t PackMask(const uint32_t* words) {
#ifdef __AVX2__
  uint32_t mask = 0;
  for (int i = 0; i < 4; ++i) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words + 8 * i));
    mask |= static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(v))) << (8 * i);
  }
  return mask;
#else
  uint32_t mask = 0;
  for (uint32_t i = 0; i < 32; ++i) mask |= (words[i] & 1u) << i;
  return mask;
#endif
}

// setp: dst = compare(a, b) [and/or/xor c], dst2 = !compare(a, b) [...]. op.mode is 0 for nothing,
// 1 for and, 2 for or, 3 for xor.
inline void SetPredicates(Warp& w, const Op& op, uint32_t mask, uint32_t result) {
  uint32_t c = 0;
  if (op.mode != 0) c = w.P(op.src[2]) ^ ((op.flags & kNegateSource) != 0 ? kAllLanes : 0);
  const auto combine = [&](uint32_t value) {
    return op.mode == 0 ? value : op.mode == 1 ? value & c : op.mode == 2 ? value | c : value ^ c;
  };
  const uint32_t first = combine(result), second = combine(~result);
  if ((op.flags & kHasDst) != 0) w.P(op.dst) = (w.P(op.dst) & ~mask) | (first & mask);
  if ((op.flags & kHasDst2) != 0) w.P(op.dst2) = (w.P(op.dst2) & ~mask) | (second & mask);
}
template <typename F, typename T>
void Compare(Warp& w, const Op& op, uint32_t mask) {
  const auto* a = w.R<typename Lane<T>::Storage>(op.src[0]);
  const auto* b = w.R<typename Lane<T>::Storage>(op.src[1]);
  alignas(64) uint32_t words[32];
  LANYARD_LANES
  for (uint32_t i = 0; i < 32; ++i)
    words[i] = F()(Lane<T>::Load(a[i]), Lane<T>::Load(b[i])) ? kAllLanes : 0u;
  SetPredicates(w, op, mask, PackMask(words));
}

void AddIntegerRows(OpTable* table);
void AddBitRows(OpTable* table);
void AddFloatRows(OpTable* table);
void AddConvertRows(OpTable* table);
void AddMemoryHandlers(OpTable* table);
void AddMmaHandlers(OpTable* table);

}  // namespace lanyard::ptx::LANYARD_PTX_ISA
