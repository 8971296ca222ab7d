"""Frames on the wire (RFC 6455 section 5): headers, masking keys, and the Frame object.

Knows nothing of messages, states or roles: who must mask and what may follow what is _protocol's business.
"""

import dataclasses
import os

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

from ._free_threading cimport FREE_THREADED

from .exceptions import PayloadTooBig, ProtocolError
from . import frames
from .frames import Opcode, describe_frame


cdef int read_header(
    Header* header, const unsigned char* data, Py_ssize_t size, bint expect_mask, uint8_t allowed_rsv
) noexcept nogil:
    """Parse a frame header; return its length, NEED_MORE, or the fault as soon as a byte shows it."""
    cdef uint8_t first, second, length7
    cdef int position = 2
    cdef int i
    if size < 1:
        return NEED_MORE
    first = data[0]
    header.fin = first >> 7
    header.rsv = (first >> 4) & 7
    header.opcode = first & 0x0F
    # RFC 6455 section 5.2: reserved bits are 0 unless an extension defines them; opcodes 3 to 7 and 11 to 15 are
    # reserved.
    if header.rsv & ~allowed_rsv:
        return BAD_RSV
    if (header.opcode & 7) > 2:
        return BAD_OPCODE
    # Section 5.5: control frames aren't fragmented.
    if header.opcode & 8 and not header.fin:
        return CONTROL_FRAGMENTED
    if size < 2:
        return NEED_MORE
    second = data[1]
    # Section 5.1: clients mask all frames, servers none.
    if (second >> 7) != expect_mask:
        return BAD_MASKING
    length7 = second & 0x7F
    # Section 5.5: control frames have at most 125 bytes.
    if header.opcode & 8 and length7 > 125:
        return CONTROL_TOO_LONG
    # Section 5.2: the length has the shortest form, and its most significant bit is 0.
    if length7 < 126:
        header.length = length7
    elif length7 == 126:
        if size < 4:
            return NEED_MORE
        header.length = (<uint64_t>data[2] << 8) | data[3]
        if header.length < 126:
            return LENGTH_NOT_MINIMAL
        position = 4
    else:
        if size >= 3 and data[2] & 0x80:
            return LENGTH_TOO_LARGE
        if size < 10:
            return NEED_MORE
        header.length = 0
        for i in range(2, 10):
            header.length = (header.length << 8) | data[i]
        if header.length < 65536:
            return LENGTH_NOT_MINIMAL
        position = 10
    if expect_mask:
        if size < position + 4:
            return NEED_MORE
        memcpy(header.key, data + position, 4)
        position += 4
    else:
        memset(header.key, 0, 4)
    return position


cdef int write_header(
    unsigned char* out, int opcode, bint fin, int rsv, uint64_t length, const unsigned char* key
) noexcept nogil:
    """Write a frame header with the shortest length; `key` is NULL for frames that aren't masked."""
    cdef int position = 2
    cdef int i
    cdef uint8_t mask_bit = 0x80 if key != NULL else 0
    out[0] = <uint8_t>((fin << 7) | (rsv << 4) | opcode)
    if length < 126:
        out[1] = mask_bit | <uint8_t>length
    elif length < 65536:
        out[1] = mask_bit | 126
        out[2] = <uint8_t>(length >> 8)
        out[3] = <uint8_t>length
        position = 4
    else:
        out[1] = mask_bit | 127
        for i in range(8):
            out[2 + i] = <uint8_t>(length >> (56 - 8 * i))
        position = 10
    if key != NULL:
        memcpy(out + position, key, 4)
        position += 4
    return position


# Masking keys must be unpredictable (RFC 6455 section 10.3). One system call pays for 1,024 of them; a
# forked child must not go on with its parent's, so it starts with an empty pool.
cdef enum:
    POOL_SIZE = 4096  # bytes

cdef unsigned char[POOL_SIZE] _pool
cdef int _pool_left = 0
cdef int _forks = 0
cdef cython.pymutex _pool_lock      # of these three, where there is no global lock


cdef int next_masking_key(unsigned char* key) except -1:
    """Write a new masking key of four bytes."""
    global _pool_left
    while True:
        if FREE_THREADED:
            _pool_lock.acquire()
        if _pool_left:
            _pool_left -= 4
            memcpy(key, _pool + _pool_left, 4)
            if FREE_THREADED:
                _pool_lock.release()
            return 0
        if FREE_THREADED:
            _pool_lock.release()
        _fill_pool()


cdef int _fill_pool() except -1:
    # No lock is held meanwhile: other threads run, and may fork; so do signal handlers, which may
    # send something themselves.
    global _pool_left
    cdef int forks = _forks
    cdef bytes fresh = os.urandom(POOL_SIZE)
    if FREE_THREADED:
        _pool_lock.acquire()
    # What was begun before a fork may be in the other process, too.
    if forks == _forks and _pool_left == 0:
        memcpy(_pool, PyBytes_AS_STRING(fresh), POOL_SIZE)
        _pool_left = POOL_SIZE
    if FREE_THREADED:
        _pool_lock.release()


def _hold_pool():
    _pool_lock.acquire()


def _release_pool():
    _pool_lock.release()


def _empty_pool():
    global _pool_left, _forks
    _pool_left = 0
    _forks += 1
    if FREE_THREADED:
        _pool_lock.release()


if hasattr(os, "register_at_fork"):
    if FREE_THREADED:
        # No other thread has the lock when it is copied to a child, where nobody would release it.
        os.register_at_fork(before=_hold_pool, after_in_parent=_release_pool)
    os.register_at_fork(after_in_child=_empty_pool)


def apply_mask(data, mask) -> bytes:
    """Mask or unmask data (RFC 6455 section 5.3).

    Args:
        data: Bytes-like object.
        mask: The masking key, four bytes.

    Raises:
        ValueError: If the mask doesn't have four bytes.
        TypeError, BufferError: If one of them isn't a contiguous bytes-like object.
    """
    cdef const unsigned char[::1] source = data
    cdef const unsigned char[::1] key = mask
    if key.shape[0] != 4:
        raise ValueError("mask must have 4 bytes")
    cdef bytes result = PyBytes_FromStringAndSize(NULL, source.shape[0])
    if source.shape[0]:
        ws_mask_copy(<unsigned char*>PyBytes_AS_STRING(result), &source[0], source.shape[0], &key[0], 0)
    return result


cdef list _opcodes = [None] * 16
for _member in Opcode:
    _opcodes[_member] = _member


# What functions of dataclasses and pprint look for.
_Dataclass = dataclasses.make_dataclass(
    "Frame",
    [
        ("opcode", Opcode),
        ("data", "bytes | bytearray | memoryview"),
        ("fin", bool, True),
        ("rsv1", bool, False),
        ("rsv2", bool, False),
        ("rsv3", bool, False),
    ],
)


class _LogSize:
    """Tells the setting, which the name of what programs use may change."""

    def __get__(self, frame, owner):
        return frames.MAX_LOG_SIZE

    def __set__(self, frame, value):
        # That there is this method makes it an attribute, for tools that look.
        raise AttributeError("MAX_LOG_SIZE is a setting of the environment")


cdef class Frame:
    """Frame(opcode, data, fin=True, rsv1=False, rsv2=False, rsv3=False)

    A WebSocket frame.

    Args:
        opcode: Opcode; what the frame is.
        data: Payload, a bytes-like object.
        fin: Whether this is the last frame of a message.
        rsv1: The first reserved bit, for extensions (RFC 6455 section 5.2).
        rsv2: The second one.
        rsv3: The third one.

    Behaves like a dataclass: equality, ``repr``, ``dataclasses.fields`` and ``dataclasses.replace``.
    """

    def __init__(
        self,
        opcode: Opcode,
        data: bytes | bytearray | memoryview,
        fin: bool = True,
        rsv1: bool = False,
        rsv2: bool = False,
        rsv3: bool = False,
    ):
        self.opcode = opcode
        self.data = data
        self.fin = fin
        self.rsv1 = rsv1
        self.rsv2 = rsv2
        self.rsv3 = rsv3

    @staticmethod
    cdef Frame make(int opcode, object data, bint fin, int rsv):
        cdef Frame frame = Frame.__new__(Frame)
        frame.opcode = _opcodes[opcode]
        frame.data = data
        frame.fin = fin
        frame.rsv1 = rsv & 4
        frame.rsv2 = rsv & 2
        frame.rsv3 = rsv & 1
        return frame

    cdef tuple _values(self):
        return (self.opcode, self.data, self.fin, self.rsv1, self.rsv2, self.rsv3)

    def __eq__(self, other):
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == (<Frame>other)._values()

    __hash__ = None

    def __repr__(self) -> str:
        return (
            f"{type(self).__qualname__}(opcode={self.opcode!r}, data={self.data!r}, fin={self.fin!r}, "
            f"rsv1={self.rsv1!r}, rsv2={self.rsv2!r}, rsv3={self.rsv3!r})"
        )

    def __str__(self) -> str:
        return describe_frame(self.opcode, self.data, self.fin, self.rsv1, self.rsv2, self.rsv3)

    def __reduce__(self):
        return type(self), self._values()

    @classmethod
    def parse(cls, read_exact, *, mask, max_size=None, extensions=None):
        """Parse a frame that arrives piecemeal; a generator that returns it.

        Args:
            read_exact: Generator function that returns as many bytes as it is told.
            mask: Whether the frame must be masked.
            max_size: Limit on the size of the payload, in bytes; None for no limit.
            extensions: Extensions, which decode it in reverse order.

        Raises:
            ProtocolError: If the frame isn't valid.
            PayloadTooBig: If the payload is too big.
        """
        first, second = yield from read_exact(2)
        try:
            opcode = Opcode(first & 0x0F)
        except ValueError as exc:
            raise ProtocolError("invalid opcode") from exc
        if bool(second & 0x80) != mask:
            raise ProtocolError("incorrect masking")
        length = second & 0x7F
        if length > 125:
            size, minimum = (2, 126) if length == 126 else (8, 65536)
            length = int.from_bytes((yield from read_exact(size)), "big")
            if length < minimum:
                raise ProtocolError("payload length isn't minimal")
        if max_size is not None and length > max_size:
            raise PayloadTooBig(length, max_size)
        key = (yield from read_exact(4)) if mask else None
        data = yield from read_exact(length)
        if mask:
            data = apply_mask(data, key)
        frame = cls(
            opcode, data, bool(first & 0x80), bool(first & 0x40), bool(first & 0x20), bool(first & 0x10)
        )
        for extension in reversed(extensions or ()):
            frame = extension.decode(frame, max_size=max_size)
        frame.check()
        return frame

    def serialize(self, *, mask, extensions=None) -> bytes:
        """Return the frame as it is sent.

        Args:
            mask: Whether to mask it.
            extensions: Extensions, which encode it in order.

        Raises:
            ProtocolError: If the frame isn't valid.
        """
        cdef unsigned char header[14]
        cdef unsigned char key[4]
        cdef int size
        self.check()
        frame = self
        for extension in extensions or ():
            frame = extension.encode(frame)
        payload = bytes(frame.data)
        if mask:
            next_masking_key(key)
            payload = apply_mask(payload, (<char*>key)[:4])
        size = write_header(
            header, frame.opcode, frame.fin, frame.rsv1 << 2 | frame.rsv2 << 1 | frame.rsv3,
            len(payload), key if mask else NULL,
        )
        return (<char*>header)[:size] + payload

    def check(self) -> None:
        """Check that the frame is valid without extensions (RFC 6455 section 5.2 and 5.5).

        Raises:
            ProtocolError: If it isn't.
        """
        if self.rsv1 or self.rsv2 or self.rsv3:
            raise ProtocolError("reserved bits must be 0")
        if self.opcode & 8:
            if len(self.data) > 125:
                raise ProtocolError("control frame too long")
            if not self.fin:
                raise ProtocolError("fragmented control frame")

    def __replace__(self, /, **changes):
        return dataclasses.replace(self, **changes)

    MAX_LOG_SIZE = _LogSize()
    # Whether payloads are text, as far as opcodes tell.
    DEFAULT_IS_TEXT = {opcode: {Opcode.TEXT: True, Opcode.BINARY: False}.get(opcode) for opcode in Opcode}

    @property
    def __dict__(self):
        # What vars() returns of a dataclass; a copy, unlike there.
        return dict(zip(self.__match_args__, self._values()))

    __match_args__ = ("opcode", "data", "fin", "rsv1", "rsv2", "rsv3")
    __dataclass_params__ = _Dataclass.__dataclass_params__
    __dataclass_fields__ = {field.name: field for field in dataclasses.fields(_Dataclass)}
