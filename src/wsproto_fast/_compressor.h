/* A compressor for DEFLATE (RFC 1951), made for messages that are short and resemble those before them.
 *
 * It keeps a window and an index of it between messages. For each block it takes what is smallest of stored
 * bytes, fixed codes and codes of its own; these are only computed if they promise to pay, since that
 * takes longer than all the rest for a short message. Decompressing is left to libraries.
 */
#ifndef WSPROTO_FAST_COMPRESSOR_H
#define WSPROTO_FAST_COMPRESSOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__) || defined(_M_X64)
#define WS_SSE2
#include <emmintrin.h>
#elif defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define WS_WORDS
#endif

#if defined(_MSC_VER)
#include <intrin.h>
#define WS_INLINE static __forceinline
#else
#define WS_INLINE static inline __attribute__((always_inline))
#endif

enum {
    WS_SHORTEST = 4,     /* bytes of a match; shorter ones hardly pay */
    WS_LONGEST = 258,
    WS_GOOD_LENGTH = 32, /* bytes of a match that is taken without looking for a better one */
    WS_TRIES = 4,        /* candidates that are compared, at most as many as a bucket has */
    WS_PATIENCE = 5,     /* after each 2^5 positions without a match, one more position is skipped */
    WS_BLOCK = 16384,    /* bytes of a block */
    WS_SHORT = 2048,     /* bytes of a block that is written with fixed codes before it is known what pays */
    WS_CHUNK = 4096,     /* bytes that are added to the window at once */
    WS_SLACK = 32,       /* bytes behind the window that are read and don't count */
    WS_PAYS = 8,         /* codes of a block's own must promise to save this fraction of it */
    WS_LITERALS = 286,   /* codes for literals, the end of a block, and lengths */
    WS_END = 256,
    WS_DISTANCES = 30,
    WS_NO_DISTANCE = 30, /* what a literal has instead of a distance: a code of no bits */
    WS_LENGTH_CODES = 19, /* codes for the sizes of codes */
    WS_DEEPEST = 32      /* more than the depth of a tree: a depth of 24 takes counts of 2^16 in all */
};

typedef struct {
    uint32_t window;    /* bytes, a power of two: the greatest distance */
    uint32_t size;      /* bytes of `data` in use: what can be referred to, and the block */
    uint32_t indexed;   /* the positions before this one are in the index */
    uint32_t shift;     /* from a product to a hash */
    uint16_t first;     /* number of the position data[0]; numbers of positions are modulo 2^16 */
    uint16_t used;      /* whether anything may be in the index */
    uint64_t *buckets;  /* by hash: numbers of the last four positions with it, the last one lowest */
    unsigned char *data;
} ws_deflate;

/* How many bits each code has; 0 for those that don't occur. */
typedef struct {
    uint8_t literals[WS_LITERALS];
    uint8_t distances[WS_DISTANCES];
} ws_sizes;

/* Codes as they are written: their bits, their sizes << 16, and sizes with what follows << 24. */
typedef struct {
    uint32_t literals[WS_LITERALS];
    uint32_t distances[WS_DISTANCES + 1];
} ws_codes;

typedef struct {
    unsigned char *next;
    uint64_t bits;
    unsigned count; /* of bits, below 8 between calls */
} ws_bit_writer;

typedef struct {
    uint32_t *tokens; /* code, 9 bits; what is added to its length, 5; distance code, 5; added to it, 13 */
    uint32_t count;
    uint32_t extra; /* bits that follow their codes */
    uint32_t literals[WS_LITERALS]; /* how often each occurs */
    uint32_t distances[WS_DISTANCES];
} ws_block;

/* RFC 1951 section 3.2.5, filled by ws_deflate_prepare(). */
static uint16_t ws_length_code[WS_LONGEST + 1];
static uint16_t ws_length_base[WS_LITERALS];
static uint8_t ws_length_extra[WS_LITERALS]; /* literals have none */
static uint8_t ws_distance_codes[512];       /* by distance - 1, and above 256 by a 128th of that */
static uint16_t ws_distance_base[WS_DISTANCES];
static uint8_t ws_distance_extra[WS_DISTANCES];
static const uint8_t ws_repeat_extra[WS_LENGTH_CODES] = {[16] = 2, [17] = 3, [18] = 7};
static ws_sizes ws_fixed_sizes;
static ws_codes ws_fixed_codes;
static uint32_t ws_fixed_lengths[WS_LONGEST + 1]; /* by length: bits of its fixed code and what follows, how many << 16 */
static uint16_t ws_logarithms[256]; /* 256 * log2(1 + i / 256) */
static uint32_t ws_entropies[256];  /* 256 * n * log2(n) */

/* ------------------------------------------------------------------ memory and bits */

static inline uint32_t ws_load32(const unsigned char *data)
{
    uint32_t word;
    memcpy(&word, data, 4);
    return word;
}

#if defined(WS_SSE2) || defined(WS_WORDS)
static inline unsigned ws_low_bit(uint64_t word)
{
#if defined(_MSC_VER)
    unsigned long index;
    _BitScanForward64(&index, word);
    return index;
#else
    return (unsigned)__builtin_ctzll(word);
#endif
}
#endif

static inline unsigned ws_top_bit(uint32_t word)
{
#if defined(_MSC_VER)
    unsigned long index;
    _BitScanReverse(&index, word);
    return index;
#else
    return 31 - __builtin_clz(word);
#endif
}

/* Returns how many bytes of a and b are equal before the first that differ, at most 32. */
WS_INLINE uint32_t ws_equal_bytes(const unsigned char *a, const unsigned char *b)
{
#if defined(WS_SSE2)
    /* Without a branch: how long matches are can't be predicted. */
    const __m128i first = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)a), _mm_loadu_si128((const __m128i *)b));
    const __m128i second =
        _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(a + 16)), _mm_loadu_si128((const __m128i *)(b + 16)));
    return ws_low_bit(~((uint64_t)_mm_movemask_epi8(first) | (uint64_t)_mm_movemask_epi8(second) << 16));
#elif defined(WS_WORDS)
    for (uint32_t n = 0; n < 32; n += 8) {
        uint64_t left, right;
        memcpy(&left, a + n, 8);
        memcpy(&right, b + n, 8);
        if (left != right)
            return n + (ws_low_bit(left ^ right) >> 3);
    }
    return 32;
#else
    uint32_t n = 0;
    while (n < 32 && a[n] == b[n])
        n++;
    return n;
#endif
}

static inline void ws_put(ws_bit_writer *out, uint32_t bits, unsigned count)
{
    out->bits |= (uint64_t)bits << out->count;
    out->count += count;
}

/* Writes whole bytes, and up to seven bytes of no meaning behind them. */
static inline void ws_put_out(ws_bit_writer *out)
{
#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    const uint64_t word = __builtin_bswap64(out->bits);
#else
    const uint64_t word = out->bits;
#endif
    memcpy(out->next, &word, 8);
    out->next += out->count >> 3;
    out->bits >>= out->count & ~7u;
    out->count &= 7;
}

static inline void ws_align(ws_bit_writer *out)
{
    out->count = (out->count + 7) & ~7u;
    ws_put_out(out);
}

/* ------------------------------------------------------------------ codes */

static inline unsigned ws_distance_code(uint32_t distance)
{
    const uint32_t before = distance - 1;
    return ws_distance_codes[before < 256 ? before : 256 + (before >> 7)];
}

/* Makes the codes of the given sizes (RFC 1951 section 3.2.2), of which the writer wants the first bit lowest.
 * `extra` is how many bits follow each. */
static void ws_make_codes(const uint8_t *sizes, const uint8_t *extra, uint32_t *codes, unsigned n)
{
    uint16_t next[16] = {0}, counts[16] = {0};
    unsigned code = 0;
    for (unsigned i = 0; i < n; i++)
        counts[sizes[i]]++;
    counts[0] = 0;
    for (unsigned size = 1; size < 16; size++)
        next[size] = (uint16_t)(code = (code + counts[size - 1]) << 1);
    for (unsigned i = 0; i < n; i++) {
        code = next[sizes[i]]++;
        code = (code & 0x5555) << 1 | (code >> 1 & 0x5555);
        code = (code & 0x3333) << 2 | (code >> 2 & 0x3333);
        code = (code & 0x0F0F) << 4 | (code >> 4 & 0x0F0F);
        code = (code & 0x00FF) << 8 | (code >> 8 & 0x00FF);
        code >>= 16 - sizes[i];
        codes[i] = code | (uint32_t)sizes[i] << 16 | (uint32_t)(sizes[i] + extra[i]) << 24;
    }
}

/* 256 * log2(n) */
static inline uint32_t ws_logarithm(uint32_t n)
{
    const unsigned top = ws_top_bit(n);
    const uint32_t rest = top > 8 ? n >> (top - 8) : n << (8 - top);
    return top << 8 | ws_logarithms[rest & 255];
}

/* 256 * n * log2(n), of n that is mostly 0. */
static inline uint64_t ws_entropy(uint32_t n)
{
    return n < 256 ? ws_entropies[n] : (uint64_t)n * ws_logarithm(n);
}

static inline void ws_deflate_prepare(void)
{
    uint8_t sizes[288], extra[288];
    uint32_t codes[288];
    unsigned length = 3, distance = 1;
    for (unsigned code = 257; code < WS_LITERALS - 1; code++) {
        ws_length_extra[code] = (uint8_t)(code < 265 ? 0 : (code - 261) / 4);
        ws_length_base[code] = (uint16_t)length;
        for (unsigned k = 0; k < 1u << ws_length_extra[code] && length < WS_LONGEST; k++)
            ws_length_code[length++] = (uint16_t)code;
    }
    ws_length_base[WS_LITERALS - 1] = WS_LONGEST;
    ws_length_code[WS_LONGEST] = WS_LITERALS - 1;
    for (unsigned code = 0; code < WS_DISTANCES; code++) {
        ws_distance_extra[code] = (uint8_t)(code < 4 ? 0 : code / 2 - 1);
        ws_distance_base[code] = (uint16_t)distance;
        for (unsigned k = 0; k < 1u << ws_distance_extra[code]; k++, distance++) {
            if (distance <= 256)
                ws_distance_codes[distance - 1] = (uint8_t)code;
            else
                ws_distance_codes[256 + ((distance - 1) >> 7)] = (uint8_t)code;
        }
    }
    /* The two that never occur have their place among the codes. */
    for (unsigned i = 0; i < 288; i++) {
        sizes[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
        extra[i] = i < WS_LITERALS ? ws_length_extra[i] : 0;
    }
    ws_make_codes(sizes, extra, codes, 288);
    memcpy(ws_fixed_sizes.literals, sizes, sizeof ws_fixed_sizes.literals);
    memcpy(ws_fixed_codes.literals, codes, sizeof ws_fixed_codes.literals);
    memset(ws_fixed_sizes.distances, 5, WS_DISTANCES);
    ws_make_codes(ws_fixed_sizes.distances, ws_distance_extra, ws_fixed_codes.distances, WS_DISTANCES);
    for (length = 3; length <= WS_LONGEST; length++) {
        const unsigned code = ws_length_code[length];
        const uint32_t fixed = ws_fixed_codes.literals[code], extra = length - ws_length_base[code];
        ws_fixed_lengths[length] = (fixed & 0xFFFF) | extra << (fixed >> 16 & 31) | fixed >> 24 << 16;
    }
    for (unsigned i = 0; i < 256; i++) {
        /* Digits of the logarithm by squaring. */
        uint64_t x = (256 + i) << 22, result = 0;
        for (int k = 0; k < 8; k++) {
            x = x * x >> 30;
            result <<= 1;
            if (x >> 31) {
                x >>= 1;
                result |= 1;
            }
        }
        ws_logarithms[i] = (uint16_t)result;
    }
    for (unsigned i = 1; i < 256; i++)
        ws_entropies[i] = i * ws_logarithm(i);
}

/* Sorts n numbers by what is above their lowest nine bits, of which 16 bits count. */
static void ws_sort_by_count(uint32_t *numbers, unsigned n)
{
    uint32_t other[WS_LITERALS];
    for (unsigned shift = 9; shift < 25; shift += 8) {
        uint32_t starts[257] = {0};
        for (unsigned i = 0; i < n; i++)
            starts[(numbers[i] >> shift & 255) + 1]++;
        for (unsigned i = 1; i < 256; i++)
            starts[i] += starts[i - 1];
        for (unsigned i = 0; i < n; i++)
            other[starts[numbers[i] >> shift & 255]++] = numbers[i];
        memcpy(numbers, other, n * sizeof *numbers);
    }
}

/* Builds Huffman's tree of n > 1 leaves in place, after Moffat and Katajainen, from their weights in ascending
 * order, and counts the leaves of each depth. */
static void ws_count_depths(uint32_t *weights, unsigned n, uint32_t *with_size)
{
    unsigned leaf = 0, root = 0, available = 1;
    int node = (int)n - 2;
    /* Weights of inner nodes replace those of leaves, and the index of its parent that of a node. */
    for (unsigned next = 0; next < n - 1; next++) {
        uint32_t sum = 0;
        for (int k = 0; k < 2; k++) {
            if (leaf >= n || (root < next && weights[root] < weights[leaf])) {
                sum += weights[root];
                weights[root++] = next;
            } else {
                sum += weights[leaf++];
            }
        }
        weights[next] = sum;
    }
    /* Then depths of inner nodes do, and what isn't one of those at a depth is a leaf. */
    weights[n - 2] = 0;
    for (unsigned i = n - 2; i-- > 0;)
        weights[i] = weights[weights[i]] + 1;
    for (unsigned depth = 0; available; depth++) {
        unsigned inner = 0;
        for (; node >= 0 && weights[node] == depth; node--)
            inner++;
        with_size[depth] += available - inner;
        available = 2 * inner;
    }
}

/* Makes codes shorter that are too long, at the cost of the next shorter ones. */
static void ws_limit_sizes(uint32_t *with_size, unsigned most, unsigned longest)
{
    uint32_t taken = 0;
    for (unsigned size = longest + 1; size <= most; size++)
        with_size[longest] += with_size[size];
    for (unsigned size = 1; size <= longest; size++)
        taken += with_size[size] << (longest - size);
    for (; taken > 1u << longest; taken--) {
        unsigned size = longest - 1;
        while (!with_size[size])
            size--;
        with_size[longest]--;
        with_size[size]--;
        with_size[size + 1] += 2;
    }
}

/* Computes sizes of codes that are optimal for these counts, as long as none has to exceed `longest` bits.
 * A count is below 2^16, all together as well. */
static void ws_fit_codes(const uint32_t *counts, uint8_t *sizes, unsigned n, unsigned longest)
{
    uint32_t sorted[WS_LITERALS], weights[WS_LITERALS];
    uint32_t with_size[WS_DEEPEST + 1] = {0};
    unsigned used = 0;
    memset(sizes, 0, n);
    for (unsigned i = 0; i < n; i++) {
        sorted[used] = counts[i] << 9 | i;
        used += counts[i] != 0;
    }
    /* Some decompressors want at least two codes. */
    for (unsigned i = 0; used < 2; i++)
        if (!counts[i])
            sorted[used++] = 1 << 9 | i;
    ws_sort_by_count(sorted, used);
    for (unsigned i = 0; i < used; i++)
        weights[i] = sorted[i] >> 9;
    ws_count_depths(weights, used, with_size);
    ws_limit_sizes(with_size, WS_DEEPEST, longest);
    for (unsigned size = longest, i = 0; size > 0; size--)
        for (uint32_t k = with_size[size]; k > 0; k--)
            sizes[sorted[i++] & 511] = (uint8_t)size;
}

/* ------------------------------------------------------------------ codes of a block's own */

typedef struct {
    ws_sizes sizes;
    uint8_t lengths[WS_LITERALS + WS_DISTANCES]; /* the sizes, run-length encoded */
    uint8_t repeats[WS_LITERALS + WS_DISTANCES]; /* what is added to each */
    uint8_t length_sizes[WS_LENGTH_CODES];
    unsigned count, literals, distances, length_codes; /* how many are sent */
} ws_header;

static const uint8_t ws_length_order[WS_LENGTH_CODES] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5,
                                                         11, 4, 12, 3, 13, 2, 14, 1, 15};

/* Returns how many bits the tokens of a block take, and its end. */
static uint32_t ws_block_bits(const ws_block *block, const ws_sizes *sizes)
{
    uint32_t bits = block->extra;
    for (unsigned i = 0; i < WS_LITERALS; i++)
        bits += block->literals[i] * sizes->literals[i];
    for (unsigned i = 0; i < WS_DISTANCES; i++)
        bits += block->distances[i] * sizes->distances[i];
    return bits;
}

/* Returns about how many bits a block takes with codes of its own: its entropy, and a header. */
static uint32_t ws_estimate(const ws_block *block)
{
    uint32_t distances = 0, used = 0;
    uint64_t sum = 0;
    for (unsigned i = 0; i < WS_LITERALS; i++)
        used += block->literals[i] != 0;
    for (unsigned i = 0; i < WS_LITERALS; i++)
        sum -= ws_entropy(block->literals[i]);
    for (unsigned i = 0; i < WS_DISTANCES; i++) {
        distances += block->distances[i];
        used += block->distances[i] != 0;
        sum -= ws_entropy(block->distances[i]);
    }
    /* The end of the block is a token, too. */
    sum += ws_entropy(block->count + 1) + ws_entropy(distances);
    return (uint32_t)(sum >> 8) + block->extra + 60 + 4 * used;
}

/* Computes sizes of codes for a block; returns how many bits the header takes that says so. */
static uint32_t ws_make_header(ws_header *header, const ws_block *block)
{
    uint8_t all[WS_LITERALS + WS_DISTANCES];
    uint32_t counts[WS_LENGTH_CODES] = {0}, bits;
    unsigned total, i = 0;
    ws_fit_codes(block->literals, header->sizes.literals, WS_LITERALS, 15);
    ws_fit_codes(block->distances, header->sizes.distances, WS_DISTANCES, 15);
    for (header->literals = WS_LITERALS; !header->sizes.literals[header->literals - 1];)
        header->literals--;
    for (header->distances = WS_DISTANCES; !header->sizes.distances[header->distances - 1];)
        header->distances--;
    memcpy(all, header->sizes.literals, header->literals);
    memcpy(all + header->literals, header->sizes.distances, header->distances);
    total = header->literals + header->distances;
    for (header->count = 0; i < total; header->count++) {
        const uint8_t size = all[i];
        unsigned run = 1, code = size, repeat = 0;
        while (i + run < total && all[i + run] == size)
            run++;
        if (size == 0 && run >= 3) {
            run = run < 138 ? run : 138;
            code = run < 11 ? 17 : 18;
            repeat = run - (run < 11 ? 3 : 11);
        } else if (size && i && all[i - 1] == size && run >= 3) {
            run = run < 6 ? run : 6;
            code = 16;
            repeat = run - 3;
        } else {
            run = 1;
        }
        header->lengths[header->count] = (uint8_t)code;
        header->repeats[header->count] = (uint8_t)repeat;
        counts[code]++;
        i += run;
    }
    ws_fit_codes(counts, header->length_sizes, WS_LENGTH_CODES, 7);
    for (header->length_codes = WS_LENGTH_CODES; !header->length_sizes[ws_length_order[header->length_codes - 1]];)
        header->length_codes--;
    bits = 14 + 3 * header->length_codes;
    for (i = 0; i < WS_LENGTH_CODES; i++)
        bits += counts[i] * (header->length_sizes[i] + ws_repeat_extra[i]);
    return bits;
}

static inline void ws_put_code(ws_bit_writer *out, uint32_t code, uint32_t extra)
{
    ws_put(out, (code & 0xFFFF) | extra << (code >> 16 & 31), code >> 24);
}

static void ws_put_header(ws_bit_writer *out, const ws_header *header)
{
    uint32_t codes[WS_LENGTH_CODES];
    ws_make_codes(header->length_sizes, ws_repeat_extra, codes, WS_LENGTH_CODES);
    ws_put(out, header->literals - 257, 5);
    ws_put(out, header->distances - 1, 5);
    ws_put(out, header->length_codes - 4, 4);
    for (unsigned i = 0; i < header->length_codes; i++) {
        ws_put_out(out);
        ws_put(out, header->length_sizes[ws_length_order[i]], 3);
    }
    for (unsigned i = 0; i < header->count; i++) {
        ws_put_out(out);
        ws_put_code(out, codes[header->lengths[i]], header->repeats[i]);
    }
    ws_put_out(out);
}

/* ------------------------------------------------------------------ finding what repeats */

#define WS_GOLDEN 2654435761u /* what hashes are products of */

/* Adds every `step`th position of a range to the index; returns the one behind the last of them. */
WS_INLINE uint32_t ws_index(const ws_deflate *state, uint32_t i, uint32_t end, uint32_t step)
{
    const unsigned char *data = state->data;
    uint64_t *buckets = state->buckets;
    const uint32_t shift = state->shift, first = state->first;
    for (; i < end; i += step) {
        uint64_t *bucket = buckets + ((ws_load32(data + i) * WS_GOLDEN) >> shift);
        *bucket = *bucket << 16 | (uint16_t)(first + i);
    }
    return i;
}

/* Finds a match for what is at a position, and indexes that. Returns its length, which may be too short for one. */
WS_INLINE uint32_t ws_find(const ws_deflate *state, uint32_t i, uint32_t end, uint32_t *distance)
{
    const unsigned char *here = state->data + i;
    const uint32_t farthest = i < state->window ? i : state->window;
    const uint32_t most = end - i < WS_LONGEST ? end - i : WS_LONGEST;
    const uint16_t number = (uint16_t)(state->first + i);
    uint64_t *bucket = state->buckets + ((ws_load32(here) * WS_GOLDEN) >> state->shift);
    uint64_t candidates = *bucket;
    uint32_t best = 0, at = 0;
    *bucket = candidates << 16 | number;
    for (int k = 0; k < WS_TRIES; k++, candidates >>= 16) {
        /* The index may hold anything: numbers that are outdated look like others. Bytes are compared. */
        const uint32_t back = (uint16_t)(number - candidates);
        const int valid = back - 1 < farthest;
        const uint32_t equal = ws_equal_bytes(here, here - (valid ? back : 0));
        const uint32_t length = valid ? equal : 0;
        at = length > best ? back : at;
        best = length > best ? length : best;
    }
    *distance = at;
    if (best == 32) {
        uint32_t more = 32;
        while (more == 32 && best < most) {
            more = ws_equal_bytes(here + best, here + best - at);
            best += more;
        }
    }
    return best < most ? best : most;
}

/* Adds a literal to a block, and writes it with its fixed code if there is a writer. */
WS_INLINE void ws_add_literal(ws_block *block, unsigned char byte, ws_bit_writer *out)
{
    block->tokens[block->count++] = byte | WS_NO_DISTANCE << 14;
    block->literals[byte]++;
    if (out) {
        const uint32_t code = ws_fixed_codes.literals[byte];
        ws_put(out, code & 0xFFFF, code >> 24);
        ws_put_out(out);
    }
}

/* The same for a match. */
WS_INLINE void ws_add_match(ws_block *block, uint32_t length, uint32_t distance, ws_bit_writer *out)
{
    const unsigned code = ws_length_code[length], distance_code = ws_distance_code(distance);
    const uint32_t behind = distance - ws_distance_base[distance_code];
    block->tokens[block->count++] =
        code | (length - ws_length_base[code]) << 9 | distance_code << 14 | behind << 19;
    block->literals[code]++;
    block->distances[distance_code]++;
    block->extra += (uint32_t)ws_length_extra[code] + ws_distance_extra[distance_code];
    if (out) {
        const uint32_t bits = ws_fixed_lengths[length], codes = ws_fixed_codes.distances[distance_code];
        ws_put(out, bits & 0xFFFF, bits >> 16);
        ws_put(out, (codes & 0xFFFF) | behind << 5, codes >> 24);
        ws_put_out(out);
    }
}

/* Takes apart what is between two positions, and adds it to a block. */
WS_INLINE void ws_take_apart(ws_deflate *owner, uint32_t i, uint32_t end, ws_block *block, ws_bit_writer *out)
{
    const uint32_t last = end < WS_SHORTEST ? 0 : end - WS_SHORTEST + 1; /* where no match fits any more */
    const ws_deflate local = *owner, *state = &local; /* in registers */
    uint32_t indexed = owner->indexed, length = 0, distance = 0, misses = 0;
    /* The last bytes of the block before couldn't be indexed without these. */
    indexed = ws_index(state, indexed, i < last ? i : last, 1);
    while (i < last) {
        uint32_t next = i + 1;
        if (!length)
            length = ws_find(state, i, end, &distance);
        if (length < WS_SHORTEST) {
            /* What hasn't repeated itself for long won't soon: look for matches less and less often. */
            next += misses++ >> WS_PATIENCE;
            if (next > last)
                next = last;
            while (i < next)
                ws_add_literal(block, state->data[i++], out);
            length = 0;
            continue;
        }
        if (length < WS_GOOD_LENGTH && next < last) {
            uint32_t other_distance;
            const uint32_t other = ws_find(state, next++, end, &other_distance);
            if (other > length) {
                ws_add_literal(block, state->data[i++], out);
                length = other;
                distance = other_distance;
                continue;
            }
        }
        ws_add_match(block, length, distance, out);
        misses = 0;
        i += length;
        /* Every other position will do. */
        ws_index(state, next, i < last ? i : last, 2);
        length = 0;
    }
    while (i < end)
        ws_add_literal(block, state->data[i++], out);
    owner->indexed = indexed < last ? last : indexed;
}

/* Takes apart what is put behind the window, and adds it to a block. */
WS_INLINE void ws_add(ws_deflate *state, const unsigned char *data, uint32_t size, ws_block *block, ws_bit_writer *out)
{
    if (state->size + size > state->window + WS_CHUNK) {
        const uint32_t gone = state->size - state->window;
        memmove(state->data, state->data + gone, state->window);
        state->size -= gone;
        state->indexed -= gone;
        state->first += (uint16_t)gone;
    }
    memcpy(state->data + state->size, data, size);
    ws_take_apart(state, state->size, state->size + size, block, out);
    state->size += size;
}

/* ------------------------------------------------------------------ blocks */

static void ws_put_tokens(ws_bit_writer *out, const ws_block *block, const ws_codes *codes)
{
    ws_bit_writer local = *out; /* in registers */
    /* Literals as if they were matches, since which is which can't be predicted. */
    for (uint32_t i = 0; i < block->count; i++) {
        const uint32_t token = block->tokens[i];
        ws_put_code(&local, codes->literals[token & 511], token >> 9 & 31);
        ws_put_code(&local, codes->distances[token >> 14 & 31], token >> 19);
        ws_put_out(&local);
    }
    ws_put_code(&local, codes->literals[WS_END], 0);
    ws_put_out(&local);
    *out = local;
}

static void ws_put_stored(ws_bit_writer *out, const unsigned char *data, uint32_t size)
{
    ws_put(out, 0, 3);
    ws_align(out);
    ws_put(out, size, 16);
    ws_put(out, size ^ 0xFFFF, 16);
    ws_put_out(out);
    memcpy(out->next, data, size);
    out->next += size;
}

/* Writes a block with codes of its own and returns 1, if that takes fewer bits than any other way. */
static int ws_put_own(ws_bit_writer *out, const ws_block *block, uint32_t fixed_bits, uint32_t stored_bits)
{
    ws_header header;
    const uint32_t header_bits = ws_make_header(&header, block);
    const uint32_t own_bits = 3 + header_bits + ws_block_bits(block, &header.sizes);
    ws_codes codes;
    if (own_bits >= fixed_bits || own_bits >= stored_bits)
        return 0;
    ws_make_codes(header.sizes.literals, ws_length_extra, codes.literals, WS_LITERALS);
    ws_make_codes(header.sizes.distances, ws_distance_extra, codes.distances, WS_DISTANCES);
    codes.distances[WS_NO_DISTANCE] = 0;
    ws_put(out, 2 << 1, 3);
    ws_put_header(out, &header);
    ws_put_tokens(out, block, &codes);
    return 1;
}

/* Compresses a block. */
static void ws_put_block(ws_bit_writer *out, ws_deflate *state, const unsigned char *data, uint32_t size, ws_block *block)
{
    const uint32_t stored_bits = 3 + 7 + 32 + 8 * size;
    uint32_t fixed_bits;
    ws_bit_writer fixed = *out;
    block->count = block->extra = 0;
    memset(block->literals, 0, sizeof block->literals);
    memset(block->distances, 0, sizeof block->distances);
    block->literals[WS_END] = 1;
    if (size <= WS_SHORT) {
        /* Mostly with fixed codes then: what they are is known at once. */
        ws_put(&fixed, 1 << 1, 3);
        ws_add(state, data, size, block, &fixed);
        ws_put_code(&fixed, ws_fixed_codes.literals[WS_END], 0);
        ws_put_out(&fixed);
        fixed_bits = (uint32_t)(fixed.next - out->next) * 8 + fixed.count - out->count;
    } else {
        for (uint32_t done = 0, more; done < size; done += more) {
            more = size - done < WS_CHUNK ? size - done : WS_CHUNK;
            ws_add(state, data + done, more, block, NULL);
        }
        fixed_bits = 3 + ws_block_bits(block, &ws_fixed_sizes);
    }
    /* To compute codes takes longer than to find matches in 1 KiB of JSON. */
    if (ws_estimate(block) < fixed_bits - fixed_bits / WS_PAYS && ws_put_own(out, block, fixed_bits, stored_bits))
        return;
    if (stored_bits < fixed_bits) {
        ws_put_stored(out, data, size);
    } else if (size <= WS_SHORT) {
        *out = fixed;
    } else {
        ws_put(out, 1 << 1, 3);
        ws_put_tokens(out, block, &ws_fixed_codes);
    }
}

/* ------------------------------------------------------------------ what it is used by */

/* Returns how many bytes of memory a compressor needs. */
static inline size_t ws_deflate_memory(unsigned window_bits)
{
    const size_t window = (size_t)1 << window_bits;
    return window / 4 * sizeof(uint64_t) + window + WS_CHUNK + WS_SLACK;
}

/* Makes it refer to nothing before. */
static inline void ws_deflate_reset(ws_deflate *state)
{
    if (state->used)
        memset(state->buckets, 0, state->window / 4 * sizeof *state->buckets);
    state->size = state->indexed = 0;
    state->first = state->used = 0;
}

/* Makes it refer to data that was compressed by other means: all that it may refer to from now on. */
static inline void ws_deflate_replace(ws_deflate *state, const unsigned char *data, size_t n)
{
    const uint32_t size = n < state->window ? (uint32_t)n : state->window;
    ws_deflate_reset(state);
    memcpy(state->data, data + n - size, size);
    state->size = size; /* and nothing indexed: that may never be needed */
}

/* Puts a compressor into memory, all zeros, that is aligned for numbers of 64 bits. */
static inline void ws_deflate_init(ws_deflate *state, unsigned window_bits, void *memory)
{
    state->window = 1u << window_bits;
    state->shift = 32 - (window_bits - 2);
    state->buckets = (uint64_t *)memory;
    state->data = (unsigned char *)(state->buckets + state->window / 4);
    state->size = state->indexed = 0;
    state->first = state->used = 0;
}

/* Returns how many bytes compressing n bytes writes at most. */
static inline size_t ws_deflate_bound(size_t n)
{
    /* Stored blocks, each with padding and its header; how much larger fixed codes may make a short one, until that
     * is seen; the end; what ws_put_out() writes beyond it. */
    return n + 6 * (n / WS_BLOCK + 1) + WS_SHORT / 8 + 2 + 8;
}

/* Returns how many tokens compressing n bytes takes at most, at a time. */
static inline size_t ws_deflate_tokens(size_t n)
{
    return n < WS_BLOCK ? n : WS_BLOCK;
}

/* Compresses a message, or a fragment of it, with room for these tokens. The last byte written belongs to the
 * empty stored block that RFC 7692 section 7.2.1 asks for, of which 00 00 FF FF isn't written. Returns how many
 * bytes were. */
static inline size_t ws_deflate_run(ws_deflate *state, const unsigned char *data, size_t n, unsigned char *to,
                                    uint32_t *tokens)
{
    ws_bit_writer out = {to, 0, 0};
    ws_block block;
    block.tokens = tokens;
    state->used |= n > 0;
    while (n) {
        const uint32_t size = n < WS_BLOCK ? (uint32_t)n : WS_BLOCK;
        ws_put_block(&out, state, data, size, &block);
        data += size;
        n -= size;
    }
    ws_put(&out, 0, 3);
    ws_align(&out);
    return (size_t)(out.next - to);
}

#endif
