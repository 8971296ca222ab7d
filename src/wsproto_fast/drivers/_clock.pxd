# cython: language_level=3
"""The clock of ``time.monotonic``, without a call of Python."""


cdef extern from *:
    """
    static double wsproto_fast_monotonic(void) {
    #if PY_VERSION_HEX >= 0x030D0000
        PyTime_t now;
        (void)PyTime_MonotonicRaw(&now);
        return PyTime_AsSecondsDouble(now);
    #else
        return _PyTime_AsSecondsDouble(_PyTime_GetMonotonicClock());
    #endif
    }
    """
    double monotonic "wsproto_fast_monotonic"() noexcept
