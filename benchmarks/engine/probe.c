/* What this machine can do at most: bytes read per second, int8 products per second. Built for this CPU alone. */
#include <stddef.h>
#include <stdint.h>

#if defined(__AVX512F__) && defined(__AVX512VNNI__)
#include <immintrin.h>

uint64_t read_all(const void *memory, size_t bytes) {
    const __m512i *at = memory;
    const __m512i *end = at + bytes / sizeof *at / 8 * 8;
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (; at < end; at += 8) {
        a = _mm512_xor_si512(a, _mm512_xor_si512(_mm512_loadu_si512(at), _mm512_loadu_si512(at + 1)));
        b = _mm512_xor_si512(b, _mm512_xor_si512(_mm512_loadu_si512(at + 2), _mm512_loadu_si512(at + 3)));
        c = _mm512_xor_si512(c, _mm512_xor_si512(_mm512_loadu_si512(at + 4), _mm512_loadu_si512(at + 5)));
        d = _mm512_xor_si512(d, _mm512_xor_si512(_mm512_loadu_si512(at + 6), _mm512_loadu_si512(at + 7)));
    }
    a = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
    return (uint64_t)_mm512_reduce_add_epi64(a);
}

/* Sixteen sums of their own, so that neither the latency of the instruction nor a load is what is measured. */
#define SUMS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define DECLARE(i) __m512i s##i = _mm512_set1_epi32(i);
#define DOT(i) __asm__("vpdpbusd %2, %1, %0" : "+v"(s##i) : "v"(x), "v"(y));
#define ADD(i) total = _mm512_add_epi32(total, s##i);

uint64_t int8_dots(uint64_t rounds) {
    const __m512i x = _mm512_set1_epi8(3), y = _mm512_set1_epi8(2);
    SUMS(DECLARE)
    for (uint64_t r = 0; r < rounds; ++r) { SUMS(DOT) }
    __m512i total = _mm512_setzero_si512();
    SUMS(ADD)
    return (uint64_t)(uint32_t)_mm512_reduce_add_epi32(total);
}

/* Multiplications and additions of one round of int8_dots; 0 = this CPU has no such instruction. */
uint64_t int8_operations(void) { return 16 * 64 * 2; }

#else

uint64_t read_all(const void *memory, size_t bytes) {
    const uint64_t *at = memory;
    uint64_t total = 0;
    for (size_t i = 0; i < bytes / sizeof *at; ++i) total ^= at[i];
    return total;
}

uint64_t int8_dots(uint64_t rounds) { return rounds; }
uint64_t int8_operations(void) { return 0; }

#endif
