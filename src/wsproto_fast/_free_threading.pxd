# cython: language_level=3
"""What is done otherwise where Python has no global lock. There, two threads may be in the same function."""


cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
        #define WSPROTO_FAST_FREE_THREADED 1
        #ifdef _MSC_VER
            #include <intrin.h>
            #define wsproto_fast_enter(busy) (!_InterlockedExchange8((busy), 1))
            #define wsproto_fast_leave(busy) ((void)_InterlockedExchange8((busy), 0))
        #else
            #define wsproto_fast_enter(busy) (!__atomic_exchange_n((busy), 1, __ATOMIC_ACQUIRE))
            #define wsproto_fast_leave(busy) __atomic_store_n((busy), 0, __ATOMIC_RELEASE)
        #endif
    #else
        #define WSPROTO_FAST_FREE_THREADED 0
        #define wsproto_fast_enter(busy) (*(busy) ? 0 : (*(busy) = 1))
        #define wsproto_fast_leave(busy) ((void)(*(busy) = 0))
    #endif
    """
    # A constant: of what depends on it, only one branch is compiled.
    bint FREE_THREADED "WSPROTO_FAST_FREE_THREADED"
    # Set a flag, or return False if it is set: something is being used. Clear it.
    bint enter "wsproto_fast_enter"(char* busy)
    void leave "wsproto_fast_leave"(char* busy)
