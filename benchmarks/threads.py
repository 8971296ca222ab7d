"""Compares front-ends for threads: ``python -m benchmarks.threads``; see ``front_ends``."""

from __future__ import annotations

import importlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from .front_ends import BARE, HOST, SIZE, Comparison, measure_round_trips
from .server import release_memory

# ---------------------------------------------------------------------- servers


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
    server = module.serve(echo, HOST, 0, compression=None)
    return server.socket.getsockname()[1], server.serve_forever


def serve(peer: str) -> None:
    """Run a server until standard input ends."""
    port, serve_forever = raw_server() if peer == "raw" else library_server(peer)
    print(json.dumps({"port": port}), flush=True)
    threading.Thread(target=serve_forever, daemon=True).start()
    while command := os.read(0, 1):
        if command == b"g":
            release_memory()
            print("done", flush=True)
    os._exit(0)


# ---------------------------------------------------------------------- clients


def raw_client(port: int) -> Callable[[], object]:
    """Send and receive bytes."""
    sock = socket.create_connection((HOST, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)

    def round_trip() -> None:
        sock.sendall(BARE)
        sock.recv(65536)

    return round_trip


def library_client(peer: str, port: int) -> Callable[[], object]:
    """Send and receive messages."""
    uri = f"ws://{HOST}:{port}/"
    if peer == "websocket-client":
        module = importlib.import_module("websocket")
        connection = module.create_connection(uri)
    else:
        module = importlib.import_module(f"{peer}.sync.client")
        options = {"legacy": True} if hasattr(module, "reconnect") else {}
        connection = module.connect(uri, compression=None, **options)
    text = "x" * SIZE

    def round_trip() -> None:
        connection.send(text)
        connection.recv()

    return round_trip


def talk(peer: str, port: int, seconds: float) -> None:
    """Run a client for a while; print the µs per round trip."""
    round_trip = raw_client(port) if peer == "raw" else library_client(peer, port)
    for _ in range(300):
        round_trip()
    count, begin, end = 0, time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(100):
            round_trip()
        count += 100
    measure_round_trips(count, begin)


comparison = Comparison(
    module="benchmarks.threads",
    distributions={
        "raw": None,
        "wsapi": "wsproto-fast",
        "websockets": "websockets",
        "websocket-client": "websocket-client",
    },
    servers=("raw", "wsapi", "websockets"),
    serve=serve,
    talk=talk,
    connections=50,
    idle=300,
)

if __name__ == "__main__":
    comparison.main()
