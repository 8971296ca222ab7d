"""A small proxy for tests: CONNECT, SOCKS4, SOCKS4a and SOCKS5, with TLS and credentials."""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Iterator


class Proxy:
    """Tunnels of threads. What was asked for is recorded.

    Args:
        context: Context of the TLS between client and proxy, if any.
        credentials: User name and password, joined by a colon, that are required, if any.
    """

    def __init__(self, context: ssl.SSLContext | None = None, credentials: str = "") -> None:
        self.context = context
        self.credentials = credentials
        self.closing = False
        self.targets: list[tuple[str, int]] = []
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.sock.getsockname()[1]
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def url(self, scheme: str, user: str = "") -> str:
        return f"{scheme}://{user}127.0.0.1:{self.port}"

    def accept(self) -> None:
        while True:
            client, _ = self.sock.accept()
            if self.closing:
                client.close()
                return
            thread = threading.Thread(target=self.serve, args=(client,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def serve(self, client: socket.socket) -> None:
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(client)
                client.settimeout(15)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self.context is not None:
                    client = self.context.wrap_socket(client, server_side=True)
                    stack.enter_context(client)
                first = read(client, 1)
                greet = {b"\x04": self.socks4, b"\x05": self.socks5}.get(first, self.http)
                server = greet(client, stack)
                if server is not None:
                    tunnel(client, server)
        except (OSError, EOFError):
            pass

    def open(self, host: str, port: int, stack: contextlib.ExitStack) -> socket.socket | None:
        self.targets.append((host, port))
        try:
            # Names for tests are all here.
            server = socket.create_connection(("127.0.0.1", port), timeout=15)
        except OSError:
            return None
        stack.enter_context(server)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return server

    def http(self, client: socket.socket, stack: contextlib.ExitStack) -> socket.socket | None:
        head = read_until(client, b"\r\n\r\n").decode()
        authorization = base64.b64encode(self.credentials.encode()).decode()
        if self.credentials and f"Proxy-Authorization: Basic {authorization}\r\n" not in head:
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return None
        host, _, port = head.split(" ")[1].rpartition(":")
        server = self.open(host.strip("[]"), int(port), stack)
        status = b"502 Bad Gateway" if server is None else b"200 Connected"
        client.sendall(b"HTTP/1.1 " + status + b"\r\nVia: test\r\n\r\n")
        return server

    def socks4(self, client: socket.socket, stack: contextlib.ExitStack) -> socket.socket | None:
        _, port, address = struct.unpack("!BH4s", read(client, 7))
        read_until(client, b"\0")
        host = socket.inet_ntoa(address)
        if host.startswith("0.0.0."):
            host = read_until(client, b"\0")[:-1].decode()
        server = self.open(host, port, stack)
        client.sendall(b"\0" + (b"\x5b" if server is None else b"\x5a") + bytes(6))
        return server

    def socks5(self, client: socket.socket, stack: contextlib.ExitStack) -> socket.socket | None:
        methods = read(client, read(client, 1)[0])
        method = 2 if self.credentials else 0
        if method not in methods:
            client.sendall(b"\x05\xff")
            return None
        client.sendall(bytes([5, method]))
        if self.credentials:
            read(client, 1)
            user = read(client, read(client, 1)[0])
            password = read(client, read(client, 1)[0])
            right = f"{user.decode()}:{password.decode()}" == self.credentials
            client.sendall(bytes([1, not right]))
            if not right:
                return None
        kind = read(client, 4)[3]
        if kind == 1:
            host = socket.inet_ntoa(read(client, 4))
        elif kind == 3:
            host = read(client, read(client, 1)[0]).decode()
        else:
            host = socket.inet_ntop(socket.AF_INET6, read(client, 16))
        (port,) = struct.unpack("!H", read(client, 2))
        server = self.open(host, port, stack)
        client.sendall(bytes([5, 5 if server is None else 0, 0, 1]) + bytes(6))
        return server

    def close(self) -> None:
        self.closing = True
        socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        self.threads[0].join()
        self.sock.close()
        for thread in self.threads[1:]:
            thread.join(20)


@contextlib.contextmanager
def proxying(context: ssl.SSLContext | None = None, credentials: str = "") -> Iterator[Proxy]:
    proxy = Proxy(context, credentials)
    try:
        yield proxy
    finally:
        proxy.close()


def read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (more := sock.recv(size - len(data))):
            raise EOFError
        data += more
    return data


def read_until(sock: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        data += read(sock, 1)
    return data


def tunnel(client: socket.socket, server: socket.socket) -> None:
    """Copy in both directions until one of them ends."""
    other = {client: server, server: client}
    while True:
        # What TLS has decrypted already is no event any more.
        readable = [s for s in other if isinstance(s, ssl.SSLSocket) and s.pending()]
        for source in readable or select.select(list(other), [], [], 15)[0]:
            if not (data := source.recv(65536)):
                return
            other[source].sendall(data)
