"""How the compressor chooses the sizes of codes, which no message shows."""

from libc.stdint cimport uint8_t, uint32_t


cdef extern from "_compressor.h":
    void ws_fit_codes(const uint32_t* counts, uint8_t* sizes, unsigned n, unsigned longest)


def code_sizes(counts: list, longest: int) -> list:
    cdef uint32_t numbers[286]
    cdef uint8_t sizes[286]
    for i, count in enumerate(counts):
        numbers[i] = count
    ws_fit_codes(numbers, sizes, len(counts), longest)
    return [sizes[i] for i in range(len(counts))]
