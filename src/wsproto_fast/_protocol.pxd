# cython: language_level=3
"""The state machine of one connection; see _protocol.pyx."""

from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ._frames cimport Header, ws_utf8_state
from ._output cimport OutputBuffer
from ._queue cimport MessageQueue


# The values of frames.State.
cdef enum:
    CONNECTING = 0
    OPEN = 1
    CLOSING = 2
    CLOSED = 3


# What the driver owes its transport; the values of activity.py.
cdef enum:
    KEEP = 0
    HALF_CLOSE = 1
    CLOSE = 2
    ABORT = 3


cdef class PreparedMessage:
    cdef int _opcode
    cdef bytes _payload
    cdef bytes _frame               # unmasked, no extension applied


cdef class Protocol:
    # --- role, state, and what programs read ---
    cdef readonly object side
    cdef bint _is_client
    cdef int _state
    cdef object _id
    cdef object _logger
    cdef dict _logger_cache
    cdef public object handshake_exc
    cdef public object parser_exc
    cdef public object close_rcvd
    cdef public object close_sent
    cdef public object close_rcvd_then_sent
    cdef public object subprotocol
    cdef list _extensions
    cdef readonly double latency

    # --- the frame being read ---
    cdef Header _header
    cdef unsigned char _header_bytes[14]
    cdef uint8_t _header_size
    cdef bint _in_frame
    cdef bint _reading_direct       # the read buffer handed out is the end of _partial
    cdef uint64_t _frame_left
    cdef PyObject* _partial         # growing bytes object: payload of a frame that isn't whole yet
    cdef Py_ssize_t _partial_size
    cdef object _read_buffer
    cdef unsigned char* _read_memory
    cdef Py_ssize_t _read_capacity
    cdef Py_ssize_t _handed_out     # room in the buffer of the last get_buffer()

    # --- the message being read ---
    cdef uint8_t _message_opcode    # 0 between messages
    cdef uint32_t _message_frames
    cdef uint64_t _message_size
    cdef ws_utf8_state _utf8
    cdef bint _closing_started      # the clock of the closing handshake runs
    cdef bint _discarding           # after a failure or a Close frame nothing more is parsed
    cdef bint _eof_received
    cdef bytearray _early           # bytes that came before the opening handshake was answered

    # --- limits, in bytes and frames ---
    cdef uint64_t _max_message_size
    cdef uint64_t _max_fragment_size
    cdef uint32_t _max_fragments

    # --- sinks: a queue of messages or a list of events ---
    cdef MessageQueue _queue
    cdef list _events

    # --- output ---
    cdef OutputBuffer _output
    cdef uint8_t _sending_opcode    # of the fragmented message being sent; 0 if none
    cdef bint _eof_queued
    cdef bint _eof_sent
    cdef bint _writing_paused
    cdef bytes _delayed_pong

    # --- pings and time, in seconds ---
    cdef dict _pings                # payload -> (time sent, waiter)
    cdef list _acknowledged
    cdef bytes _keepalive_payload
    cdef double _now
    cdef double _ping_interval
    cdef double _ping_timeout
    cdef double _close_timeout
    cdef double _last_received
    cdef double _keepalive_sent
    cdef double _ping_time
    cdef double _pong_deadline
    cdef double _open_deadline
    cdef double _close_deadline
    cdef readonly int transport_action
    cdef int _activity

    # --- for the opening handshake, which subclasses add ---
    cdef Py_ssize_t _receive_handshake(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int _receive_handshake_eof(self) except -1
    cdef int _opening_timed_out(self) except -1
    cdef int _append_output(self, bytes data) except -1
    cdef int _send_eof(self) except -1
    cdef int _set_open(self) except -1
    cdef int _set_handshake_failed(self, exc) except -1
    cdef bint _debug(self) except -1

    # --- receiving ---
    cdef int _buffer_updated(self, Py_ssize_t size, double now) except -1
    cdef int _receive_direct(self, Py_ssize_t size) except -1
    cdef object _next_message(self, object decode)
    cdef int _require_queue(self) except -1
    cdef int _receive(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int _receive_frames(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int _start_frame(self) except -1
    cdef int _whole_frame(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int _reserve_partial(self, Py_ssize_t extra) except -1
    cdef int _store_partial(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef int _extended_partial(self, unsigned char* data, Py_ssize_t size) except -1
    cdef int _finish_partial(self) except -1
    cdef bint _check_text(self, const unsigned char* data, Py_ssize_t size, Py_ssize_t offset, bint fin) except -1
    cdef int _drop_partial(self) except -1
    cdef int _parser_failed(self, exc) except -1
    cdef int _data_payload(self, bytes payload, bint checked) except -1
    cdef int _control_payload(self, bytes payload) except -1
    cdef int _received_close(self, bytes payload) except -1
    cdef int _received_pong(self, bytes payload) except -1
    cdef int _fail_receiving(self, int code, str reason, exc) except -1
    cdef int _fail_text(self, exc) except -1
    cdef int _fail_header(self, int fault) except -1

    # --- sending ---
    cdef int _send(self, message, text) except -1
    cdef int _pending(self) noexcept
    cdef int _require_state(self, bint closing_too) except -1
    cdef int _write_data(self, int opcode, object data, bint fin) except -1
    cdef int _write_frame(self, int opcode, bint fin, int rsv, const void* payload, Py_ssize_t size) except -1
    cdef int _write_control(self, int opcode, bytes payload) except -1
    cdef int _fail(self, int code, str reason) except -1
    cdef int _start_closing(self) except -1
    cdef int _set_closed(self) except -1
