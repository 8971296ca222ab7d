# cython: binding=False
"""TLS between a connection and its socket.

OpenSSL objects mustn't be used by two threads at once, and a thread that is blocked in reading uses
one all the time. So the socket knows nothing of TLS here: what it brings and takes passes through
memory, under the lock of the connection. Layers can lie on top of each other, for a server behind
an ``https`` proxy.

Being compiled, and calling OpenSSL's objects without the wrapper that ``ssl`` has around them, it
leaves signal handlers no time to run in the middle of it, but for one: right after OpenSSL has
encrypted or decrypted something. What was encrypted isn't lost then.
"""

import ssl

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE


# Plaintext taken from OpenSSL at most with one call, in bytes.
cdef Py_ssize_t READ_SIZE = 65536

cdef object WANT_READ = ssl.SSLWantReadError
# Peers that just close the TCP connection are common; frames have lengths.
cdef tuple ENDS = (ssl.SSLEOFError, ssl.SSLZeroReturnError)


@cython.final
cdef class TLS:
    """One layer of TLS, without I/O.

    Args:
        context: Configuration.
        server_side: Role.
        server_hostname: Name of the server, for clients.
        below: Layer that carries this one, if it isn't the socket.

    Attributes:
        object: What tells about certificates and ciphers.
        eof: Whether the peer said that it sends nothing more.
        closed: Whether this side said so.
        blocked: Whether nothing can be encrypted until something is received: the peer has begun a
            new handshake (RFC 5246 section 7.4.1.1).
        error: What made decrypting fail, after what ``decrypt`` has returned.
    """

    def __init__(self, context, *, server_side=False, server_hostname=None, TLS below=None):
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._below = below
        self.object = context.wrap_bio(
            self._incoming, self._outgoing, server_side, server_hostname=server_hostname
        )
        self._session = self.object._sslobj

    def receive(self, data) -> None:
        """Take what was received.

        Args:
            data: Encrypted bytes.

        Raises:
            ssl.SSLError: If they aren't sound.
        """
        if self._below is not None:
            data = self._below.decrypt(data)
            if self._below.eof:
                self._incoming.write(data)
                self._incoming.write_eof()
                return
        self._incoming.write(data)

    cpdef object receive_eof(self):
        """Take the end of the stream."""
        if self._below is not None:
            self._below.receive_eof()
        self._incoming.write_eof()

    def handshake(self) -> bool:
        """Go on with the TLS handshake; return whether it is complete.

        Raises:
            ssl.SSLError: If it fails.
        """
        try:
            self._session.do_handshake()
        except WANT_READ:
            return False
        return True

    cpdef bytes decrypt(self, data):
        """Return what the peer sent.

        Args:
            data: Encrypted bytes that were received.

        Raises:
            ssl.SSLError: If they aren't sound. What comes before is returned first; see ``error``.
        """
        cdef list chunks = []
        if self.error is not None:
            raise self.error
        if data:
            self.receive(data)
        while not self.eof and (
            self._incoming.pending or self._incoming.eof or self._session.pending()
        ):
            try:
                chunk = self._read()
            except WANT_READ:
                break
            except ENDS:
                chunk = b""
            except OSError as exc:
                if not chunks:
                    raise
                self.error = exc
                break
            if not chunk:
                self.eof = True
                break
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    cdef object _read(self):
        """Return what OpenSSL has decrypted."""
        try:
            return self._session.read(READ_SIZE)
        except WANT_READ:
            raise
        except ENDS:
            raise
        except OSError:
            # Perhaps of another connection. Errors wait in a queue of the thread: when the peer answers
            # close_notify by a fatal alert, SSL_shutdown() leaves one there although it succeeds, and
            # ssl takes that for one of the next connection with nothing to read. Now it is empty.
            try:
                chunk = self._session.read(READ_SIZE)
            except WANT_READ:
                raise
            except OSError:
                chunk = b""
            if not chunk:
                raise
            return chunk

    cpdef object encrypt(self, bytes data):
        """Encrypt what is to be sent; ``take_output`` has it then, unless this is ``blocked``.

        Args:
            data: Bytes to send.

        Raises:
            ssl.SSLError: If nothing can be sent any more.
            TypeError: If ``data`` isn't bytes.
        """
        if data is None:
            raise TypeError("data must be bytes, not None")
        if self._waiting is not None:
            data = self._waiting + data
        if PyBytes_GET_SIZE(data) == 0:
            return
        self._waiting = data
        before = self._outgoing.pending
        try:
            self._session.write(data)
        except WANT_READ:
            self.blocked = True
            return
        except OSError:
            self._waiting = None
            raise
        except BaseException:
            # An exception of a signal handler.
            if self._outgoing.pending > before:
                self._waiting = None
            raise
        self._waiting = None
        self.blocked = False

    cpdef object close(self):
        """Say that nothing more is going to be sent."""
        if not self.closed:
            self.closed = True
            try:
                self._session.shutdown()
            except (OSError, ValueError):
                pass  # the peer's answer isn't there; nor is it waited for

    cpdef bytes take_output(self):
        """Return and forget the encrypted bytes to send."""
        cdef bytes data = self._outgoing.read()
        if self._below is None:
            return data
        if PyBytes_GET_SIZE(data):
            self._below.encrypt(data)
        return self._below.take_output()


class SecureSocket:
    """A socket with TLS, as far as programs look at it: certificates, ciphers, addresses.

    Args:
        sock: The socket.
        tls: The layer next to the application.
    """

    def __init__(self, sock, tls):
        self.sock = sock
        self.tls = tls

    def __getattr__(self, name):
        if name in ("sock", "tls"):  # before __init__, as in copies
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        for target in (self.tls.object, self.sock):
            if hasattr(target, name):
                return getattr(target, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
