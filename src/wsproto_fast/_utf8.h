/* Incremental validation of UTF-8 (RFC 3629), failing at the first byte that can't be part of valid text.
 *
 * Serves text that arrives in pieces: fragments, and frames cut by the network. A message that is there
 * as a whole is validated by decoding it.
 */
#ifndef WSPROTO_FAST_UTF8_H
#define WSPROTO_FAST_UTF8_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* `seen` bytes of a character were there and `missing` continuation bytes are due; the next one must lie in
 * [low, high]. All zero: between characters. `wide` becomes 1 when a character isn't ASCII. */
typedef struct {
    unsigned char seen, missing, low, high, wide;
} ws_utf8_state;

/* Returns the index of the first byte, from `i` on, that doesn't belong to a character which is all there, if it comes
 * after one that isn't ASCII; or of one that begins several ASCII characters, or that is one of the last three.
 *
 * Branches tell the processor where the next character begins before it has seen this one; those that it can't foresee,
 * on the second byte, are none. */
static inline size_t ws_utf8_skip(const unsigned char *data, size_t i, size_t n)
{
    while (i + 4 <= n) {
        const unsigned char *const at = data + i;
        const unsigned char first = at[0];
        if (first < 0x80) {
            /* Single spaces stand between words of most alphabets. */
            if (at[1] < 0x80)
                break;
            i++;
        } else if (first < 0xE0) {
            if (first < 0xC2 || (at[1] & 0xC0) != 0x80)
                break;
            i += 2;
        } else if (first < 0xF0) {
            if ((at[1] & 0xC0) != 0x80 || (at[2] & 0xC0) != 0x80)
                break;
            if (((first == 0xE0) & (at[1] < 0xA0)) | ((first == 0xED) & (at[1] > 0x9F)))
                break;
            i += 3;
        } else {
            if (first > 0xF4 || (at[1] & 0xC0) != 0x80 || (at[2] & 0xC0) != 0x80 || (at[3] & 0xC0) != 0x80)
                break;
            if (((first == 0xF0) & (at[1] < 0x90)) | ((first == 0xF4) & (at[1] > 0x8F)))
                break;
            i += 4;
        }
    }
    return i;
}

/* Returns the number of bytes that are acceptable: n, or the index of the first one that isn't. */
static inline size_t ws_utf8_check(ws_utf8_state *state, const unsigned char *data, size_t n)
{
    size_t i = 0, next;
    uint64_t chunk, chunks[8];
    while (i < n) {
        const unsigned char byte = data[i];
        if (state->missing) {
            if (byte < state->low || byte > state->high)
                return i;
            state->missing--;
            state->seen = state->missing ? state->seen + 1 : 0;
            state->low = 0x80;
            state->high = 0xBF;
            i++;
            continue;
        }
        if (byte < 0x80) {
            i++;
            for (; i + sizeof(chunks) <= n; i += sizeof(chunks)) {
                memcpy(chunks, data + i, sizeof(chunks));
                chunk = 0;
                for (int j = 0; j < 8; j++)
                    chunk |= chunks[j];
                if (chunk & UINT64_C(0x8080808080808080))
                    break;
            }
            for (; i + 8 <= n; i += 8) {
                memcpy(&chunk, data + i, 8);
                if (chunk & UINT64_C(0x8080808080808080))
                    break;
            }
            continue;
        }
        /* Most characters aren't cut: these change nothing of the state but this. */
        next = ws_utf8_skip(data, i, n);
        if (next > i) {
            state->wide = 1;
            i = next;
            continue;
        }
        /* Table 3-7 of the Unicode standard: no overlong forms, no surrogates, nothing above U+10FFFF. */
        state->low = 0x80;
        state->high = 0xBF;
        if (byte >= 0xC2 && byte <= 0xDF) {
            state->missing = 1;
        } else if (byte >= 0xE0 && byte <= 0xEF) {
            state->missing = 2;
            if (byte == 0xE0)
                state->low = 0xA0;
            else if (byte == 0xED)
                state->high = 0x9F;
        } else if (byte >= 0xF0 && byte <= 0xF4) {
            state->missing = 3;
            if (byte == 0xF0)
                state->low = 0x90;
            else if (byte == 0xF4)
                state->high = 0x8F;
        } else {
            return i;
        }
        state->seen = 1;
        state->wide = 1;
        i++;
    }
    return n;
}

#endif
