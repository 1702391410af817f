// Sixteen float lanes, the same source for every instruction set (compiler vector extensions), and exp.
// Included only by the kernels_*.cpp files, each compiled with its own flags: everything has internal linkage.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels.h"

namespace flash {
namespace {

#define FLASH_INLINE inline __attribute__((always_inline))

typedef float Vec __attribute__((vector_size(64)));
typedef int32_t IntVec __attribute__((vector_size(64)));
typedef uint32_t BitVec __attribute__((vector_size(64)));
typedef uint16_t HalfVec __attribute__((vector_size(32)));
typedef int8_t ByteVec __attribute__((vector_size(16)));

// As wide as the registers: GCC 12 keeps the sums of wider ones in memory.
#if defined(__AVX512F__)
constexpr int kWide = 16;
#elif defined(__AVX__)
constexpr int kWide = 8;
#else
constexpr int kWide = 4;
#endif
typedef float Wide __attribute__((vector_size(kWide * 4)));
typedef uint32_t WideBits __attribute__((vector_size(kWide * 4)));
constexpr int kSlices = kLanes / kWide; // of a Vec

FLASH_INLINE Wide as_wide(WideBits bits) {
    Wide out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

// Spelled out: adding to a zero vector would cost an addition, because -0 + 0 is not -0.
FLASH_INLINE Vec splat(float v) { return Vec{v, v, v, v, v, v, v, v, v, v, v, v, v, v, v, v}; }

FLASH_INLINE Vec load(const float* from) {
    Vec out;
    std::memcpy(&out, from, sizeof out);
    return out;
}

FLASH_INLINE void store(float* to, Vec value) { std::memcpy(to, &value, sizeof value); }

// The first count lanes from memory, the rest zero.
FLASH_INLINE Vec load_part(const float* from, int count) {
    Vec out{};
    std::memcpy(&out, from, sizeof(float) * static_cast<size_t>(count));
    return out;
}

FLASH_INLINE void store_part(float* to, Vec value, int count) {
    std::memcpy(to, &value, sizeof(float) * static_cast<size_t>(count));
}

FLASH_INLINE Vec load_up_to(const float* from, int count) {
    return count >= kLanes ? load(from) : load_part(from, count);
}

FLASH_INLINE void store_up_to(float* to, Vec value, int count) {
    if (count >= kLanes) {
        store(to, value);
    } else {
        store_part(to, value, count);
    }
}

// A comparison with NaN is false, so a NaN in `a` gives `b`.
FLASH_INLINE Vec larger(Vec a, Vec b) { return a > b ? a : b; }
FLASH_INLINE Vec smaller(Vec a, Vec b) { return a < b ? a : b; }

FLASH_INLINE Vec absolute(Vec a) {
    BitVec bits;
    std::memcpy(&bits, &a, sizeof bits);
    bits &= 0x7fffffffu;
    std::memcpy(&a, &bits, sizeof a);
    return a;
}

// The larger of |a| and `top`, which holds the bits of such values. Compared as integers, magnitudes keep their order and
// a NaN is larger than everything, so none is lost.
FLASH_INLINE IntVec larger_magnitude(Vec a, IntVec top) {
    IntVec bits;
    const Vec magnitude = absolute(a);
    std::memcpy(&bits, &magnitude, sizeof bits);
    return bits > top ? bits : top;
}

// Round to the nearest integer, ties to even, for |a| < 2^22: adding 1.5 * 2^23 leaves no fraction bits.
FLASH_INLINE Vec nearest(Vec a) {
    const Vec magic = splat(12582912.0f);
    return (a + magic) - magic;
}

// Lane i becomes lane i + distance; for folding a vector onto itself.
template <int Distance, class Lanes> FLASH_INLINE Lanes folded(Lanes a) {
#if defined(__clang__)
    Lanes out;
    for (int i = 0; i < kLanes; ++i) out[i] = a[(i + Distance) % kLanes];
    return out;
#else
    IntVec from{};
    for (int i = 0; i < kLanes; ++i) from[i] = (i + Distance) % kLanes;
    return __builtin_shuffle(a, from);
#endif
}

FLASH_INLINE float sum(Vec a) {
    a = a + folded<8>(a);
    a = a + folded<4>(a);
    a = a + folded<2>(a);
    return a[0] + a[1];
}

FLASH_INLINE int32_t sum(IntVec a) {
    a = a + folded<8>(a);
    a = a + folded<4>(a);
    a = a + folded<2>(a);
    return a[0] + a[1];
}

FLASH_INLINE float largest(Vec a) {
    a = larger(a, folded<8>(a));
    a = larger(a, folded<4>(a));
    a = larger(a, folded<2>(a));
    return a[0] > a[1] ? a[0] : a[1];
}

FLASH_INLINE float largest_magnitude(IntVec a) {
    IntVec other = folded<8>(a);
    a = a > other ? a : other;
    other = folded<4>(a);
    a = a > other ? a : other;
    other = folded<2>(a);
    a = a > other ? a : other;
    other = folded<1>(a);
    a = a > other ? a : other;
    float out;
    std::memcpy(&out, &a, sizeof out);
    return out;
}

// GCC 12 splits these two conversions in halves, so AVX-512 spells them out (masked: its unmasked ones warn).
FLASH_INLINE BitVec widen(HalfVec half) {
#if defined(__AVX512F__)
    return reinterpret_cast<BitVec>(_mm512_maskz_cvtepu16_epi32(0xffff, reinterpret_cast<__m256i>(half)));
#else
    return __builtin_convertvector(half, BitVec);
#endif
}

FLASH_INLINE ByteVec narrow(IntVec whole) {
#if defined(__AVX512F__)
    return reinterpret_cast<ByteVec>(_mm512_maskz_cvtepi32_epi8(0xffff, reinterpret_cast<__m512i>(whole)));
#else
    return __builtin_convertvector(whole, ByteVec);
#endif
}

// float16 to float32, exact. Without the instruction: the exponent's bias changes by 112, which makes subnormal numbers
// right, too. Infinity and NaN, which only damaged weights hold, get all bits of the exponent.
FLASH_INLINE Vec from_half(const uint16_t* from) {
#if defined(__AVX512F__)
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return reinterpret_cast<Vec>(_mm512_maskz_cvtph_ps(0xffff, half));
#else
    HalfVec half;
    std::memcpy(&half, from, sizeof half);
    const BitVec bits = widen(half);
    const BitVec magnitude = (bits & 0x7fffu) << 13;
    Vec size;
    std::memcpy(&size, &magnitude, sizeof size);
    size = size * 0x1p112f;
    const BitVec damaged = ((bits & 0x7fffu) + 0x400u) & 0x8000u; // 0x8000 for these two, else 0
    BitVec out;
    std::memcpy(&out, &size, sizeof out);
    out |= (bits & 0x8000u) << 16 | ((damaged << 16) - (damaged << 8));
    std::memcpy(&size, &out, sizeof size);
    return size;
#endif
}

FLASH_INLINE Vec from_bf16(const uint16_t* from) {
    HalfVec half;
    std::memcpy(&half, from, sizeof half);
    const BitVec bits = widen(half) << 16;
    Vec out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

FLASH_INLINE Wide wide_from_cache(const uint16_t* from) {
#if defined(__AVX512F__)
    return from_bf16(from);
#elif defined(__AVX2__)
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return reinterpret_cast<Wide>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
#else
    WideBits bits;
    for (int i = 0; i < kWide; ++i) bits[i] = static_cast<uint32_t>(from[i]) << 16;
    return as_wide(bits);
#endif
}

FLASH_INLINE Vec from_int8(const int8_t* from) {
    ByteVec bytes;
    std::memcpy(&bytes, from, sizeof bytes);
#if defined(__AVX512F__)
    const IntVec whole = reinterpret_cast<IntVec>(_mm512_maskz_cvtepi8_epi32(0xffff, reinterpret_cast<__m128i>(bytes)));
#else
    const IntVec whole = __builtin_convertvector(bytes, IntVec);
#endif
    return __builtin_convertvector(whole, Vec);
}

FLASH_INLINE Wide wide_from_cache(const int8_t* from) {
#if defined(__AVX512F__)
    return from_int8(from);
#elif defined(__AVX2__)
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    return reinterpret_cast<Wide>(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
#else
    Wide out;
    for (int i = 0; i < kWide; ++i) out[i] = static_cast<float>(from[i]);
    return out;
#endif
}

FLASH_INLINE Wide load_wide(const float* from) {
    Wide out;
    std::memcpy(&out, from, sizeof out);
    return out;
}

FLASH_INLINE Wide wide_from_cache(const float* from) { return load_wide(from); } // widened before

FLASH_INLINE void store_wide(float* to, Wide value) { std::memcpy(to, &value, sizeof value); }

// Rounded to nearest even, in the upper half of each lane's bits. A NaN is quieted instead: rounding could carry it over
// into zero.
FLASH_INLINE BitVec bf16_bits(Vec value) {
    BitVec bits;
    std::memcpy(&bits, &value, sizeof bits);
    const BitVec is_nan = 0u - ((0x7f800000u - (bits & 0x7fffffffu)) >> 31); // all bits, or none
    return ((bits + 0x7fffu + ((bits >> 16) & 1u)) & ~is_nan) | ((bits | 0x400000u) & is_nan);
}

FLASH_INLINE HalfVec as_bf16(Vec value) { return __builtin_convertvector(bf16_bits(value) >> 16, HalfVec); }

// exp within 2e-7 relative; below -87 it is 0, above 88 it stays at exp(88), of NaN it is NaN. Range reduction and coefficients are those
// of Cephes' expf (S. Moshier), whose two-part ln 2 needs no fused multiply-add.
FLASH_INLINE Vec exponential(Vec x) {
    const Vec clamped = smaller(splat(88.0f), larger(splat(-87.0f), x)); // in this order a NaN stays one
    const Vec n = nearest(clamped * 1.44269504088896341f);
    Vec r = clamped - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    Vec y = splat(1.9875691500e-4f);
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.0f;
    const IntVec power = (__builtin_convertvector(n, IntVec) + 127) << 23;
    Vec scale;
    std::memcpy(&scale, &power, sizeof scale);
    return x < splat(-87.0f) ? Vec{} : y * scale;
}

} // namespace
} // namespace flash
