/* Masking of payloads, RFC 6455 section 5.3: out[i] = in[i] XOR key[(offset + i) % 4].
 *
 * Word-wise loops that compilers vectorise at -O3; of x86-64 processors there is a second set, for vectors that not all
 * of them have. The copying form must not be given overlapping buffers; the in-place form exists because a compiler
 * can't vectorise the other one when they coincide.
 *
 * Results are nonzero if any byte written has its high bit set, i.e. if the result isn't ASCII.
 */
#ifndef WSPROTO_FAST_MASK_H
#define WSPROTO_FAST_MASK_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(_MSC_VER)
#define WS_RESTRICT __restrict
#else
#define WS_RESTRICT restrict
#endif

/* The key repeated over eight bytes, starting at its byte `offset % 4`. */
static inline uint64_t ws_mask_word(const unsigned char key[4], size_t offset)
{
    unsigned char bytes[8];
    uint64_t word;
    for (size_t i = 0; i < 8; i++)
        bytes[i] = key[(offset + i) & 3];
    memcpy(&word, bytes, 8);
    return word;
}

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__) && !defined(__AVX2__)
#define WS_WIDE_VECTORS 1
#define WS_ALWAYS_INLINE static inline __attribute__((always_inline))
#else
#define WS_WIDE_VECTORS 0
#define WS_ALWAYS_INLINE static inline
#endif

WS_ALWAYS_INLINE int ws_mask_copy_loop(unsigned char *WS_RESTRICT dst, const unsigned char *WS_RESTRICT src,
                                       size_t n, const unsigned char key[4], size_t offset)
{
    const uint64_t word = ws_mask_word(key, offset);
    uint64_t seen = 0, chunk;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        memcpy(&chunk, src + i, 8);
        chunk ^= word;
        seen |= chunk;
        memcpy(dst + i, &chunk, 8);
    }
    if (i < n) {
        chunk = 0;
        memcpy(&chunk, src + i, n - i);
        chunk ^= word;
        memcpy(dst + i, &chunk, n - i);
        for (; i < n; i++)
            seen |= dst[i];
    }
    return (seen & UINT64_C(0x8080808080808080)) != 0;
}

WS_ALWAYS_INLINE int ws_mask_in_place_loop(unsigned char *data, size_t n, const unsigned char key[4], size_t offset)
{
    const uint64_t word = ws_mask_word(key, offset);
    uint64_t seen = 0, chunk;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        memcpy(&chunk, data + i, 8);
        chunk ^= word;
        seen |= chunk;
        memcpy(data + i, &chunk, 8);
    }
    for (; i < n; i++)
        seen |= data[i] ^= key[(offset + i) & 3];
    return (seen & UINT64_C(0x8080808080808080)) != 0;
}

#if WS_WIDE_VECTORS
/* Where it pays to ask the processor what it has. */
#define WS_WIDE_SIZE 1024

__attribute__((target("avx2"), noinline)) static int ws_mask_copy_wide(
    unsigned char *WS_RESTRICT dst, const unsigned char *WS_RESTRICT src, size_t n, const unsigned char key[4],
    size_t offset)
{
    return ws_mask_copy_loop(dst, src, n, key, offset);
}

__attribute__((target("avx2"), noinline)) static int ws_mask_in_place_wide(
    unsigned char *data, size_t n, const unsigned char key[4], size_t offset)
{
    return ws_mask_in_place_loop(data, n, key, offset);
}
#endif

static inline int ws_mask_copy(unsigned char *WS_RESTRICT dst, const unsigned char *WS_RESTRICT src,
                               size_t n, const unsigned char key[4], size_t offset)
{
#if WS_WIDE_VECTORS
    if (n >= WS_WIDE_SIZE && __builtin_cpu_supports("avx2"))
        return ws_mask_copy_wide(dst, src, n, key, offset);
#endif
    return ws_mask_copy_loop(dst, src, n, key, offset);
}

static inline int ws_mask_in_place(unsigned char *data, size_t n, const unsigned char key[4], size_t offset)
{
#if WS_WIDE_VECTORS
    if (n >= WS_WIDE_SIZE && __builtin_cpu_supports("avx2"))
        return ws_mask_in_place_wide(data, n, key, offset);
#endif
    return ws_mask_in_place_loop(data, n, key, offset);
}

/* The same as ws_mask_copy for payloads that aren't masked. */
static inline int ws_plain_copy(unsigned char *WS_RESTRICT dst, const unsigned char *WS_RESTRICT src, size_t n)
{
    static const unsigned char no_key[4] = {0, 0, 0, 0};
    return ws_mask_copy(dst, src, n, no_key, 0);
}

#endif
