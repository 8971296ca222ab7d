"""Which transports of event loops can be written past, with a system call on their socket."""

from wsproto_fast._free_threading cimport FREE_THREADED


# The last class of transports that was found to be one of these.
cdef object _found = None


cdef int writable_descriptor(transport) except -2:
    """Return the descriptor to which the transport would write unchanged what it is given, or -1.

    As long as their loop runs, these transports keep it open until connection_lost() has returned.
    """
    global _found
    cls = type(transport)
    if cls is _found or (cls.__module__, cls.__qualname__) in (
        ("asyncio.selector_events", "_SelectorSocketTransport"),
        ("uvloop.loop", "TCPTransport"),
        ("uvloop.loop", "UnixTransport"),
    ):
        if not FREE_THREADED:
            _found = cls
        return transport.get_extra_info("socket").fileno()
    return -1


cdef int lines_of(transport) except -1:
    """Tell what ``writelines()`` of the transport is good for.

    Returns:
        ENCRYPTED_LINES if it encrypts each piece where it is, PLAIN_LINES if it doesn't copy them either, and all leave
        together; or NO_LINES.
    """
    cls = type(transport)
    name = cls.__module__, cls.__qualname__
    if name in (
        ("asyncio.sslproto", "_SSLProtocolTransport"),
        ("uvloop.loop", "_SSLProtocolTransport"),
        ("aiofastnet.ssl_transport", "SSLTransport_Socket"),
        ("aiofastnet.ssl_transport", "SSLTransport_Transport"),
    ):
        return ENCRYPTED_LINES
    return PLAIN_LINES if name == ("aiofastnet.selector_transport", "SelectorSocketTransport") else NO_LINES
