"""Servers and clients in threads, and ``raw``, which does the same with bare sockets."""

from __future__ import annotations

import importlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from . import HOST, KEEPALIVE


def raw_server() -> tuple[int, Callable[[], None]]:
    """Echo bytes, with a thread per connection."""
    listening = socket.create_server((HOST, 0), backlog=1000)

    def echo(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        try:
            while received := sock.recv(65536):
                sock.sendall(received)
        except ConnectionError:
            pass

    def serve() -> None:
        while True:
            sock, _ = listening.accept()
            threading.Thread(target=echo, args=(sock,)).start()

    return listening.getsockname()[1], serve


def library_server(package: str) -> tuple[int, Callable[[], None]]:
    """Echo messages with a library that has the interface of ``websockets``."""

    def echo(connection: Any) -> None:
        try:
            for message in connection:
                connection.send(message)
        except Exception:
            pass  # the load generator doesn't say good-bye

    module = importlib.import_module(f"{package}.sync.server")
    server = module.serve(echo, HOST, 0, compression=None, **KEEPALIVE)
    return server.socket.getsockname()[1], server.serve_forever


def serve(peer: str, listening: Callable[[int], None], obey: Callable[[], bool]) -> None:
    """Run a server, and commands in this thread, until they end."""
    port, serve_forever = raw_server() if peer == "raw" else library_server(peer)
    listening(port)
    threading.Thread(target=serve_forever, daemon=True).start()
    while obey():
        pass


def raw_client(port: int, size: int) -> Callable[[], object]:
    """Send and receive bytes."""
    sock = socket.create_connection((HOST, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    sent = b"x" * (size + 6)  # as long as a masked frame

    def round_trip() -> None:
        sock.sendall(sent)
        sock.recv(65536)

    return round_trip


def library_client(peer: str, port: int, size: int) -> Callable[[], object]:
    """Send and receive messages."""
    uri = f"ws://{HOST}:{port}/"
    if peer == "websocket_client":
        connection = importlib.import_module("websocket").create_connection(uri)
    else:
        module = importlib.import_module(f"{peer}.sync.client")
        options = {"legacy": True} if hasattr(module, "reconnect") else {}
        connection = module.connect(uri, compression=None, **options)
    text = "x" * size

    def round_trip() -> None:
        connection.send(text)
        connection.recv()

    return round_trip


def talk(peer: str, port: int, size: int, seconds: float) -> float:
    """Run a client for a while; return the µs of processor time per round trip."""
    round_trip = raw_client(port, size) if peer == "raw" else library_client(peer, port, size)
    for _ in range(300):
        round_trip()
    count, begin, end = 0, time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(100):
            round_trip()
        count += 100
    return (time.process_time() - begin) / count * 1e6
