# cython: language_level=3
"""The state machine of one connection; see _protocol.pyx."""

from ._receiver cimport Receiver
from ._sender cimport PreparedMessage


cdef class Protocol(Receiver):
    # --- what programs read ---
    cdef object _id
    cdef public object handshake_exc
    cdef public object parser_exc
    cdef public object close_rcvd
    cdef public object close_sent
    cdef public object close_rcvd_then_sent
    cdef public object subprotocol
    cdef public double latency

    # --- pings and time, in seconds ---
    cdef dict _pings                # payload -> (time sent, waiter)
    cdef list _acknowledged
    cdef bytes _keepalive_payload
    cdef double _ping_interval
    cdef double _ping_timeout
    cdef double _close_timeout
    cdef double _keepalive_sent     # the last time
    cdef double _answer_deadline    # from then on, only the Pong is a sign of life
    cdef bint _answer_spared        # or the rest of a frame
    cdef double _ping_time
    cdef double _pong_deadline
    cdef double _open_deadline
    cdef double _close_deadline
    cdef bint _message_cut          # a message ended before its last frame, or wasn't valid after the end
    cdef bint _closing_started      # the clock of the closing handshake runs

    # --- for programs that are compiled: stable ---
    cdef int send_memory(self, int opcode, const void* data, Py_ssize_t size) except -1

    # --- for the opening handshake, which subclasses add ---
    cdef int _receive_handshake_eof(self) except -1
    cdef int _opening_timed_out(self) except -1
    cdef int _set_open(self) except -1
    cdef int _set_handshake_failed(self, exc) except -1

    cdef double _next_deadline(self) noexcept
    cdef int _handle_timeout(self, double now, double silence) except -1
    cdef bint _network_silence_wanted(self) noexcept
    cdef int _keepalive_began(self) except -1
    cdef int _look_for_life(self) noexcept
    cdef int _received_close(self, bytes payload) except -1
    cdef int _received_pong(self, bytes payload) except -1
    cdef int _send(self, message, text, compress) except -1
    cdef int _send_prepared(self, PreparedMessage message, compress) except -1
    cdef int _pending(self) noexcept
    cdef int _require_state(self, bint closing_too) except -1
    cdef int _fail(self, int code, str reason) except -1
    cdef int _start_closing(self) except -1
    cdef int _set_closed(self) except -1
    cdef int _deliver_kept(self, bint lost) except -1
    cdef int _drop_kept(self) except -1
