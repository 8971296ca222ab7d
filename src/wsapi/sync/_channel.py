"""What is done on a socket before there is a WebSocket connection: it blocks, up to a deadline."""

from __future__ import annotations

import socket
import ssl
from math import inf
from time import monotonic

from wsproto_fast.drivers.tls import TLS, SecureSocket
from wsproto_fast.proxy_protocol import ProxyHeader, ProxyHeaderParser

__all__ = ["Channel", "Deadline"]

READ_SIZE = 8192


class Deadline:
    """End of a time that several steps may take together.

    Args:
        timeout: That time, in seconds; None for no limit.

    Attributes:
        time: When it ends, of ``time.monotonic``.
    """

    def __init__(self, timeout: float | None) -> None:
        self.time = inf if timeout is None else monotonic() + timeout

    def time_left(self) -> float | None:
        """Return the seconds that are left, None for no limit.

        Raises:
            TimeoutError: If there are none.
        """
        if self.time == inf:
            return None
        timeout = self.time - monotonic()
        if timeout <= 0:
            raise TimeoutError("timed out")
        return timeout


class Channel:
    """A socket on which something is agreed upon before there is a WebSocket connection.

    Args:
        sock: Connected socket.
        deadline: When whatever is going on fails.
    """

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
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
                data = self.receive_some(READ_SIZE)
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

    def read_proxy_header(self) -> ProxyHeader:
        """Receive a header of the PROXY protocol, and nothing behind it.

        Raises:
            InvalidMessage: If there isn't a valid one.
            OSError: If receiving fails.
            TimeoutError: If it lasts too long.
        """
        parser = ProxyHeaderParser()
        while parser.wanted:
            parser.receive(self.receive_some(parser.wanted))
        assert parser.header is not None
        return parser.header

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
            data = self.receive_some(READ_SIZE)
            if self.tls is None:
                return data
            if not data:
                self.tls.receive_eof()
            data = self.tls.decrypt(data)
            if data or self.tls.eof:
                return data

    def _send(self, data: bytes) -> None:
        if data:
            self.sock.settimeout(self.deadline.time_left())
            self.sock.sendall(data)

    def receive_some(self, size: int) -> bytes:
        """Receive bytes as they come, with or without TLS; nothing means the end of the stream.

        Args:
            size: How many at most.
        """
        self.sock.settimeout(self.deadline.time_left())
        return self.sock.recv(size)

    def secured(self) -> socket.socket | SecureSocket:
        """Return the socket for a connection, which knows by it whether there is TLS."""
        return self.sock if self.tls is None else SecureSocket(self.sock, self.tls)
