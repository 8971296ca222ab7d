"""TLS between a connection and its socket.

OpenSSL objects mustn't be used by two threads at once, and a thread that is blocked in reading uses
one all the time. So the socket knows nothing of TLS here: what it brings and takes passes through
memory, under the lock of the connection. Layers can lie on top of each other, for a server behind
an ``https`` proxy.
"""

from __future__ import annotations

import socket
import ssl
from time import monotonic
from typing import Any

__all__ = ["TLS", "Channel", "SecureSocket"]

# Plaintext taken from OpenSSL at most with one call, in bytes.
READ_SIZE = 65536


class TLS:
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
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        below: TLS | None = None,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._below = below
        self.object = context.wrap_bio(
            self._incoming, self._outgoing, server_side, server_hostname=server_hostname
        )
        self.eof = False
        self.closed = False

    def receive(self, data: bytes | memoryview) -> None:
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

    def receive_eof(self) -> None:
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
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def decrypt(self, data: bytes | memoryview) -> bytes:
        """Return what the peer sent.

        Args:
            data: Encrypted bytes that were received.

        Raises:
            ssl.SSLError: If they aren't sound.
        """
        if data:
            self.receive(data)
        chunks = []
        while not self.eof and (
            self._incoming.pending or self._incoming.eof or self.object.pending()
        ):
            try:
                chunk = self.object.read(READ_SIZE)
            except ssl.SSLWantReadError:
                break
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                # Peers that just close the TCP connection are common; frames have lengths.
                chunk = b""
            if not chunk:
                self.eof = True
                break
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def encrypt(self, data: bytes) -> None:
        """Encrypt what is to be sent; ``take_output`` has it then.

        Args:
            data: Bytes to send.
        """
        self.object.write(data)

    def close(self) -> None:
        """Say that nothing more is going to be sent."""
        if not self.closed:
            self.closed = True
            try:
                self.object.unwrap()
            except (OSError, ValueError):
                pass  # the peer's answer isn't there; nor is it waited for

    def take_output(self) -> bytes:
        """Return and forget the encrypted bytes to send."""
        data = self._outgoing.read()
        if self._below is None:
            return data
        if data:
            self._below.encrypt(data)
        return self._below.take_output()


class SecureSocket:
    """A socket with TLS, as far as programs look at it: certificates, ciphers, addresses.

    Args:
        sock: The socket.
        tls: The layer next to the application.
    """

    def __init__(self, sock: socket.socket, tls: TLS) -> None:
        self.sock = sock
        self.tls = tls

    def __getattr__(self, name: str) -> Any:
        for target in (self.tls.object, self.sock):
            if hasattr(target, name):
                return getattr(target, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class Channel:
    """A socket on which something is agreed upon before there is a WebSocket connection.

    Args:
        sock: Connected socket.
        deadline: Time at which whatever is going on fails, of ``time.monotonic``; None for never.
    """

    def __init__(self, sock: socket.socket, deadline: float | None) -> None:
        self.sock = sock
        self.deadline = deadline
        self.tls: TLS | None = None

    def start_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        """Put a layer of TLS on top.

        Args:
            context: Configuration.
            server_side: Role.
            server_hostname: Name of the server, for clients.

        Raises:
            OSError: If the handshake fails.
            TimeoutError: If it lasts too long.
        """
        tls = TLS(context, server_side=server_side, server_hostname=server_hostname, below=self.tls)
        try:
            while not tls.handshake():
                self._send(tls.take_output())
                data = self._recv()
                if data:
                    tls.receive(data)
                else:
                    tls.receive_eof()
        finally:
            # An alert tells the peer what is wrong.
            output = tls.take_output()
            if output:
                self._send(output)
        self.tls = tls

    def send(self, data: bytes) -> None:
        """Send all of ``data``.

        Args:
            data: The data.
        """
        if self.tls is not None:
            self.tls.encrypt(data)
            data = self.tls.take_output()
        self._send(data)

    def recv(self) -> bytes:
        """Receive something; nothing means the end of the stream."""
        while True:
            data = self._recv()
            if self.tls is None:
                return data
            if not data:
                self.tls.receive_eof()
            data = self.tls.decrypt(data)
            if data or self.tls.eof:
                return data

    def _send(self, data: bytes) -> None:
        if data:
            self.sock.settimeout(self.time_left())
            self.sock.sendall(data)

    def _recv(self) -> bytes:
        self.sock.settimeout(self.time_left())
        return self.sock.recv(8192)

    def time_left(self) -> float | None:
        """Return the seconds that are left, None for no limit.

        Raises:
            TimeoutError: If there are none.
        """
        if self.deadline is None:
            return None
        timeout = self.deadline - monotonic()
        if timeout <= 0:
            raise TimeoutError("timed out")
        return timeout

    def secured(self) -> socket.socket | SecureSocket:
        """Return the socket for a connection, which knows by it whether there is TLS."""
        return self.sock if self.tls is None else SecureSocket(self.sock, self.tls)
