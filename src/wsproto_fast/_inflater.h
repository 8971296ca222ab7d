/* The C functions of zlib and zlib-ng that decompress, as they are found in a library that is loaded already.
 *
 * Both declare the same stream but for its last two members, which only they use.
 */
#ifndef WSPROTO_FAST_INFLATER_H
#define WSPROTO_FAST_INFLATER_H

#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    WS_STREAM_END = 1,      /* Z_STREAM_END, and so on */
    WS_MEMORY_ERROR = -4,
    WS_BUFFER_ERROR = -5,   /* nothing to do; no error */
    WS_SYNC_FLUSH = 2,
    WS_BETWEEN_BLOCKS = 128 /* data_type behind the end of a block, with no bit of the next one taken */
};

/* zlib's z_stream. That of zlib-ng has an adler of four bytes in the end. */
typedef struct {
    const unsigned char *next_in;
    unsigned int avail_in;
    unsigned long total_in;
    unsigned char *next_out;
    unsigned int avail_out;
    unsigned long total_out;
    const char *msg;
    void *state;
    void *(*zalloc)(void *opaque, unsigned int count, unsigned int size);
    void (*zfree)(void *opaque, void *memory);
    void *opaque;
    int data_type;
    unsigned long adler, reserved;
} ws_stream;

typedef struct {
    int (*init)(ws_stream *stream, int window_bits, const char *version, int stream_size);
    int (*init_ng)(ws_stream *stream, int window_bits);
    int (*inflate)(ws_stream *stream, int flush);
    int (*end)(ws_stream *stream);
    int (*set_dictionary)(ws_stream *stream, const unsigned char *data, unsigned int size);
    int (*get_dictionary)(ws_stream *stream, unsigned char *data, unsigned int *size);
} ws_inflating;

/* Memory that tracemalloc sees. */
static inline void *ws_inflater_allocate(void *opaque, unsigned int count, unsigned int size)
{
    (void)opaque;
    return PyMem_RawMalloc((size_t)count * size);
}

static inline void ws_inflater_free(void *opaque, void *memory)
{
    (void)opaque;
    PyMem_RawFree(memory);
}

static inline int ws_inflater_init(const ws_inflating *library, ws_stream *stream, int window_bits)
{
    memset(stream, 0, sizeof *stream);
    stream->zalloc = ws_inflater_allocate;
    stream->zfree = ws_inflater_free;
    if (library->init_ng)
        return library->init_ng(stream, window_bits);
    return library->init(stream, window_bits, "1", (int)sizeof *stream);
}

#if defined(_WIN32)

static inline int ws_find_library(ws_inflating *library, const char *path, int ng)
{
    (void)library;
    (void)path;
    (void)ng;
    return 0;
}

#else

#include <dlfcn.h>

/* Returns whether all functions belong to one library. Names are looked for in all that it needs, and if it is a part
 * of the program in all that is loaded: of a library that exports some of them, the others would be found elsewhere. */
static inline int ws_of_one_library(const ws_inflating *library)
{
    void *const functions[] = {
        library->init_ng ? *(void *const *)&library->init_ng : *(void *const *)&library->init,
        *(void *const *)&library->inflate,
        *(void *const *)&library->end,
        *(void *const *)&library->set_dictionary,
        *(void *const *)&library->get_dictionary,
    };
    const void *base = NULL;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        Dl_info info;
        if (functions[i] == NULL || !dladdr(functions[i], &info) || (base && info.dli_fbase != base))
            return 0;
        base = info.dli_fbase;
    }
    return 1;
}

static inline int ws_find_functions(ws_inflating *library, void *handle, int ng)
{
    /* ISO C has no conversion from an object's address to a function's. */
    *(void **)&library->init = ng ? NULL : dlsym(handle, "inflateInit2_");
    *(void **)&library->init_ng = ng ? dlsym(handle, "zng_inflateInit2") : NULL;
    *(void **)&library->inflate = dlsym(handle, ng ? "zng_inflate" : "inflate");
    *(void **)&library->end = dlsym(handle, ng ? "zng_inflateEnd" : "inflateEnd");
    *(void **)&library->set_dictionary = dlsym(handle, ng ? "zng_inflateSetDictionary" : "inflateSetDictionary");
    *(void **)&library->get_dictionary = dlsym(handle, ng ? "zng_inflateGetDictionary" : "inflateGetDictionary");
    return ws_of_one_library(library);
}

/* Returns 0 if it isn't there, or hides its functions. `path` is NULL if it is a part of the program. */
static inline int ws_find_library(ws_inflating *library, const char *path, int ng)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    Dl_info info;
    memset(library, 0, sizeof *library);
    if (handle == NULL)
        return 0;
    if (ws_find_functions(library, handle, ng))
        return 1;
    /* Of what a program with fixed addresses calls itself, on s390x, places in the program are found that lead to the
     * library. It calls no function for the dictionary: where that is, the others are, too. */
    if (library->get_dictionary == NULL || !dladdr(*(void *const *)&library->get_dictionary, &info))
        return 0;
    handle = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    return handle != NULL && ws_find_functions(library, handle, ng);
}

#endif

#endif
