"""A user of the engine that is compiled, too: it calls what Python cannot see."""

from wsproto_fast cimport Frame, Protocol
from wsproto_fast._frames cimport OP_TEXT


def texts_received(Protocol protocol not None, const unsigned char[::1] data not None) -> list:
    cdef Frame frame
    protocol._receive(&data[0], data.shape[0])
    return [frame.data for frame in protocol.events_received() if frame.opcode == OP_TEXT]


def output_size(Protocol protocol not None) -> int:
    return protocol._output.size
