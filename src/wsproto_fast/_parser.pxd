# cython: language_level=3
"""Received bytes into frames; see _parser.pyx."""

from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ._endpoint cimport Traffic
from ._flag cimport flag
from ._frames cimport Header, ws_utf8_state
from ._rates cimport RateLimiter
from ._sender cimport Sender


# Bytes accepted while the opening handshake isn't answered yet.
cdef enum:
    MAX_EARLY = 65536


cdef class Parser(Sender):
    # --- the frame being read ---
    cdef Header _header
    cdef unsigned char _header_bytes[14]
    cdef uint8_t _header_size
    cdef flag _in_frame
    cdef uint64_t _frame_left
    cdef PyObject* _partial         # growing bytes, or str for text: payload of a frame that isn't whole yet
    cdef Py_ssize_t _partial_size
    cdef object _read_buffer        # memoryview
    cdef void* _vectorcall          # what calling this object does: get_buffer()
    cdef Py_ssize_t _handed_out     # room in the buffer of the last get_buffer()

    # --- the message being read ---
    cdef uint64_t _message_size
    cdef bytes _kept                # received and not parsed yet, since the sink paused; None if nothing
    cdef Py_ssize_t _kept_size      # how much of it, at its end, isn't parsed yet
    cdef bytearray _early           # bytes that came before the opening handshake was answered
    cdef double _last_received
    cdef Traffic _received

    # --- limits, in bytes and frames ---
    cdef uint64_t _max_message_size
    cdef uint64_t _max_fragment_size
    cdef RateLimiter _rates         # None without limits
    cdef uint32_t _max_fragments

    # --- small parts of the above ---
    cdef uint32_t _message_frames
    cdef ws_utf8_state _utf8
    cdef uint8_t _message_opcode    # 0 between messages
    cdef flag _message_compressed
    cdef flag _frame_spared         # the peer is given time because of this frame
    cdef flag _answer_spared        # or because of the rest of a frame; see _keepalive.pyx
    cdef flag _close_deadline_due   # it begins when the time is told; see _pacing.pyx
    cdef flag _reading_direct       # the read buffer handed out is the end of _partial
    cdef flag _eof_received
    cdef flag _paused               # set by a sink that has no room for the next frame
    cdef flag _late                 # what was kept is being parsed, and nothing follows it any more

    # --- for sinks ---
    cdef flag _calling              # a callback runs
    cdef flag _unmask_in_place      # the bytes being parsed may be written to
    cdef const unsigned char* _rest  # what follows the frame being processed
    cdef Py_ssize_t _rest_size

    # --- for compiled drivers; see __init__.pxd ---
    cdef int process_buffer(self, Py_ssize_t size, double now) except -1

    cdef inline bint peer_has_to_wait(self) noexcept:
        """Tell whether the limits on rates let no other frame in for now."""
        return self._rates is not None and self._rates_block()

    cdef object _get_buffer(self)
    cdef int _set_max_size(self, max_size) except -1
    cdef int _receive_direct(self, Py_ssize_t size) except -1
    cdef int _receive(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef Py_ssize_t _receive_frames(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int _receive_kept(self) except -1
    cdef int _start_frame(self) except -1
    cdef int _charge(self, double messages) except -1
    cdef bint _rates_block(self) noexcept
    cdef int _reserve_partial(self, Py_ssize_t extra) except -1
    cdef int _store_partial(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int _extended_partial(self, unsigned char* data, Py_ssize_t size, bint wide) except -1
    cdef int _finish_partial(self) except -1
    cdef int _drop_partial(self) except -1
    cdef int _parser_failed(self, exc) except -1
    cdef bint _check_text(self, const unsigned char* data, Py_ssize_t size, Py_ssize_t offset, bint fin) except -1
    cdef int _fail_text(self, exc) except -1
    cdef int _fail_header(self, int fault) except -1

    # --- for the layers above ---
    cdef int _whole_frame(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef bint _becomes_text(self) except -1
    cdef int _text_payload(self, str text) except -1
    cdef int _data_payload(self, bytes payload, bint checked) except -1
    cdef int _control_payload(self, bytes payload) except -1
    cdef Py_ssize_t _receive_handshake(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int _set_early_data_refused(self) except -1
    cdef bint _is_full(self) noexcept
    cdef bint _has_room(self) noexcept
    cdef int _keep(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int _fail_receiving(self, int code, str reason, exc) except -1
