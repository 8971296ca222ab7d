"""A user of the engine that is compiled, too: a driver without a transport, by what is stable for drivers."""

from wsproto_fast cimport ABORT, CLOSE, HALF_CLOSE, KEEP
from wsproto_fast cimport ATTENTION, FLUSH, FRAGMENT, MESSAGE, OUTPUT
from wsproto_fast cimport OP_TEXT, Frame, PreparedMessage, Protocol


ACTIONS = (KEEP, HALF_CLOSE, CLOSE, ABORT)
BITS = (MESSAGE, FRAGMENT, OUTPUT, ATTENTION, FLUSH)


def texts_received(Protocol protocol not None, const unsigned char[::1] data not None) -> list:
    """Receive bytes; return payloads of text frames, of an engine that queues no messages."""
    cdef Frame frame
    _receive(protocol, data, 0)
    return [frame.data for frame in protocol.events_received() if frame.opcode == OP_TEXT]


cdef int _receive(Protocol protocol, const unsigned char[::1] data, double now) except -1:
    buffer = protocol.get_buffer()
    buffer[:data.shape[0]] = data
    return protocol.process_buffer(data.shape[0], now)


def receive(Protocol protocol not None, const unsigned char[::1] data not None, double now) -> int:
    return _receive(protocol, data, now)


def process_kept(Protocol protocol not None, double now) -> int:
    return protocol.process_kept(now)


def messages(Protocol protocol not None, double now) -> list:
    cdef list result = []
    while (message := protocol.pop_message(None, now)) is not None:
        result.append(message)
    return result


def fragments(Protocol protocol not None, double now) -> list:
    cdef list result = []
    while protocol.has_fragment():
        result.append(protocol.pop_fragment(None, now))
    return result


def taken_messages(Protocol protocol not None, double now) -> tuple:
    """Return all messages, and the bits of what was kept and has been processed for them."""
    cdef list result = []
    cdef int activity, bits = 0
    while (message := protocol.take_message(None, now, &activity)) is not None:
        result.append(message)
        bits |= activity
    return result, bits


def taken_fragments(Protocol protocol not None, double now) -> tuple:
    cdef list result = []
    cdef int activity, bits = 0
    while (fragment := protocol.take_fragment(None, now, &activity)) is not None:
        result.append(fragment)
        bits |= activity
    return result, bits


def send(Protocol protocol not None, message, double now) -> int:
    if isinstance(message, PreparedMessage):
        return protocol.send_prepared_message(message, None)
    if isinstance(message, bytes):
        return protocol.send_memory(OP_TEXT, <const char*>message, len(message))
    return protocol.send_message(message, None, None)


def output(Protocol protocol not None) -> bytes:
    cdef list pieces = []
    cdef Py_ssize_t size = protocol.output_left()
    while protocol.output_left():
        pieces.append(protocol.pop_output())
    assert protocol.pop_output() == b""
    assert sum([len(piece) for piece in pieces]) == size
    return b"".join(pieces)


def look(Protocol protocol not None) -> dict:
    return {
        "is_open": protocol.is_open(),
        "has_ended": protocol.has_ended(),
        "wants_reading": protocol.wants_reading(),
        "has_fragment": protocol.has_fragment(),
        "has_kept": protocol.has_kept(),
        "can_process_kept": protocol.can_process_kept(),
        "has_acknowledged_pings": protocol.has_acknowledged_pings(),
        "is_sending_fragments": protocol.is_sending_fragments(),
        "output_left": protocol.output_left(),
        "last_time": protocol.last_time(),
        "next_deadline": protocol.next_deadline(),
        "wants_network_silence": protocol.wants_network_silence(),
    }
