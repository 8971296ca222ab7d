/* SHA-1 (RFC 3174), for Sec-WebSocket-Accept (RFC 6455 section 4.2.2), where nothing is kept secret by it.

   That of hashlib takes three times as long for so little data: it has OpenSSL make an object, which it looks up by name.
*/

#ifndef WSPROTO_FAST_SHA1_H
#define WSPROTO_FAST_SHA1_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define WS_ROTATE(word, bits) ((word) << (bits) | (word) >> (32 - (bits)))

/* Five rounds, after which each variable has its own value again. */
#define WS_ROUND(f, k, a, b, c, d, e, i) \
    e += WS_ROTATE(a, 5) + (f(b, c, d)) + (k) + words[i]; \
    b = WS_ROTATE(b, 30);
#define WS_ROUNDS(f, k) \
    for (int end = i + 20; i < end; i += 5) { \
        WS_ROUND(f, k, a, b, c, d, e, i) \
        WS_ROUND(f, k, e, a, b, c, d, i + 1) \
        WS_ROUND(f, k, d, e, a, b, c, i + 2) \
        WS_ROUND(f, k, c, d, e, a, b, i + 3) \
        WS_ROUND(f, k, b, c, d, e, a, i + 4) \
    }
#define WS_CHOOSE(b, c, d) ((d) ^ ((b) & ((c) ^ (d))))
#define WS_PARITY(b, c, d) ((b) ^ (c) ^ (d))
#define WS_MAJORITY(b, c, d) (((b) & (c)) | ((d) & ((b) | (c))))

static void ws_sha1_block(uint32_t state[5], const unsigned char *data) {
    uint32_t words[80];
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    int i;
    for (i = 0; i < 16; i++, data += 4) {
        words[i] = (uint32_t)data[0] << 24 | (uint32_t)data[1] << 16 | (uint32_t)data[2] << 8 | data[3];
    }
    for (; i < 80; i++) {
        uint32_t mixed = words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16];
        words[i] = WS_ROTATE(mixed, 1);
    }
    i = 0;
    WS_ROUNDS(WS_CHOOSE, 0x5A827999u)
    WS_ROUNDS(WS_PARITY, 0x6ED9EBA1u)
    WS_ROUNDS(WS_MAJORITY, 0x8F1BBCDCu)
    WS_ROUNDS(WS_PARITY, 0xCA62C1D6u)
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
}

static void ws_sha1(const unsigned char *data, size_t size, unsigned char *digest) {
    uint32_t state[5] = {0x67452301u, 0xEFCDAB89u, 0x98BADCFEu, 0x10325476u, 0xC3D2E1F0u};
    uint64_t bits = (uint64_t)size * 8;
    unsigned char last[128] = {0};
    size_t rest = size % 64;
    size_t last_size = rest < 56 ? 64 : 128;
    for (size_t i = 0; i + 64 <= size; i += 64) {
        ws_sha1_block(state, data + i);
    }
    if (rest) {
        memcpy(last, data + size - rest, rest);
    }
    last[rest] = 0x80;
    for (int i = 0; i < 8; i++) {
        last[last_size - 1 - (size_t)i] = (unsigned char)(bits >> (8 * i));
    }
    for (size_t i = 0; i < last_size; i += 64) {
        ws_sha1_block(state, last + i);
    }
    for (int i = 0; i < 20; i++) {
        digest[i] = (unsigned char)(state[i >> 2] >> (24 - 8 * (i & 3)));
    }
}

#endif
