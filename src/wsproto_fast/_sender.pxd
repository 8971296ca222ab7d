# cython: language_level=3
"""The outgoing side of a connection; see _sender.pyx."""

from libc.stdint cimport uint8_t, uint16_t

from ._deflate cimport PerMessageDeflate
from ._flag cimport flag
from ._frames cimport ws_utf8_state
from ._endpoint cimport Endpoint, Traffic
from ._output cimport OutputBuffer


# Why a message can't just be written.
cdef enum:
    FRAGMENTS = 1                   # a fragmented one is being sent
    PAUSED = 2                      # the network doesn't take what is sent
    BACKLOG = 4                     # others wait, and leave first


cdef class PreparedMessage:
    cdef int _opcode
    cdef bytes _payload
    cdef bytes _frame               # unmasked, no extension applied
    cdef bytes _compressed          # payload compressed from a fresh state; empty if that doesn't pay
    cdef bytes _compressed_frame
    cdef int _window_bits           # of the compressor that did it

    cdef int _compress(self, PerMessageDeflate deflate) except -1


cdef class Sender(Endpoint):
    # --- extensions ---
    cdef list _extensions
    cdef PerMessageDeflate _deflate  # the only extension, if it is this one
    cdef double _release_time       # when unused compression contexts are freed

    # --- output ---
    cdef Traffic _sent              # but for what the output counts
    cdef OutputBuffer _output
    cdef bytes _delayed_pong
    cdef ws_utf8_state _sending_utf8
    cdef uint8_t _sending_opcode    # of the fragmented message being sent; 0 if none
    cdef uint8_t _obstacles
    cdef flag _sending_compressed
    cdef flag _discarding           # after a failure or a Close frame nothing more is parsed
    cdef flag _writing_paused

    cdef public flag validate_text
    cdef flag _foreign_extensions   # there are others than _deflate
    cdef flag _release_armed        # _release_time has just been set
    cdef flag _deflate_used         # since the last time that this was asked
    cdef uint16_t _extensions_seen  # how many; if there are more than this can tell, they are looked at each time

    cdef int _refresh_extensions(self) except -1
    cdef int _look_at_extensions(self) except -1
    cdef int _append_output(self, bytes data) except -1
    cdef int _send_first(self, int opcode, object data, bint fin, object compress) except -1
    cdef int _write_data(self, int opcode, object data, bint fin, object compress) except -1
    cdef int _write_prepared(self, PreparedMessage message, object compress) except -1
    cdef int _write_deflated(self, int opcode, bytes payload, bint fin, object compress) except -1
    cdef int _use_deflate(self) noexcept
    cdef int _release_contexts(self, bint receiving) except -1
    cdef int _write_through_extensions(self, int opcode, bytes data, bint fin) except -1
    cdef int _write_control(self, int opcode, bytes payload) except -1
    cdef int _write_payload(self, int opcode, bint fin, int rsv, bytes payload) except -1
    cdef int _write_large(
        self, int opcode, bint fin, int rsv, object payload, const void* memory, Py_ssize_t size
    ) except -1
    cdef int _write_frame(self, int opcode, bint fin, int rsv, const void* payload, Py_ssize_t size) except -1
    cdef int _check_sent_text(self, object data, bint fin) except -1
    cdef int _pending(self) noexcept

    # --- what waits; see _pacing.pyx ---
    cdef int _send_later(self, message, text, compress) except -1
    cdef int _send_prepared_later(self, PreparedMessage message, compress) except -1
    cdef int _refill(self, bint all) except -1

    # --- for compiled drivers and programs; see __init__.pxd ---

    cdef inline Py_ssize_t output_left(self) noexcept:
        """Return the number of bytes that wait to be sent."""
        return self._output.size

    cdef inline bytes pop_output(self):
        """Return and forget a piece of what is to be sent, without a copy; nothing if nothing waits."""
        cdef bytes piece = self._output.take()
        if self._obstacles == BACKLOG and self._output.size == 0:
            self._refill(False)
        return piece

    cdef inline bint has_parts(self) noexcept:
        """Tell whether there are payloads among what is to be sent that ``pop_parts`` doesn't copy."""
        return self._output._pieces is not None and self._output.has_large()

    cdef inline list pop_parts(self):
        """Return and forget what is to be sent, without a copy: bytes and, where a payload is that, ASCII str."""
        cdef list parts = self._output.parts()
        self._forget_parts()
        return parts

    cdef inline int _forget_parts(self) except -1:
        self._output.forget_parts()
        if self._obstacles == BACKLOG:
            self._refill(False)

    cdef inline bint is_obstructed(self) noexcept:
        """Tell whether messages to many connections must be sent by ``offer_message``."""
        return self._obstacles != 0

    cdef int send_message(self, message, text, compress) except -1
    cdef int send_prepared_message(self, PreparedMessage message, compress) except -1
    cdef int send_memory(self, int opcode, const void* data, Py_ssize_t size) except -1
