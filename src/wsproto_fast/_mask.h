/* Masking of payloads, RFC 6455 section 5.3: out[i] = in[i] XOR key[(offset + i) % 4].
 *
 * Word-wise loops that compilers vectorise at -O3. The copying form must not be given overlapping
 * buffers; the in-place form exists because a compiler can't vectorise the other one when they coincide.
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

/* Returns nonzero if any byte written has its high bit set, i.e. if the result isn't ASCII. */
static inline int ws_mask_copy(unsigned char *WS_RESTRICT dst, const unsigned char *WS_RESTRICT src,
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

static inline void ws_mask_in_place(unsigned char *data, size_t n, const unsigned char key[4], size_t offset)
{
    const uint64_t word = ws_mask_word(key, offset);
    uint64_t chunk;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        memcpy(&chunk, data + i, 8);
        chunk ^= word;
        memcpy(data + i, &chunk, 8);
    }
    for (; i < n; i++)
        data[i] ^= key[(offset + i) & 3];
}

/* The same as ws_mask_copy for payloads that aren't masked. */
static inline int ws_plain_copy(unsigned char *WS_RESTRICT dst, const unsigned char *WS_RESTRICT src, size_t n)
{
    static const unsigned char no_key[4] = {0, 0, 0, 0};
    return ws_mask_copy(dst, src, n, no_key, 0);
}

#endif
