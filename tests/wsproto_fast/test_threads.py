"""What threads share without knowing of each other: pools, messages to many, statistics.

Each connection is used by one thread. On Python with the global interpreter lock these tests pass
easily; without it they are what they are for. WSAPI_STRESS_SECONDS makes each last longer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import threading
import time
import zlib
from collections.abc import Callable

import pytest

from wsproto_fast import (
    Backpressure,
    Extension,
    PreparedMessage,
    Protocol,
    ServerProtocol,
    Side,
    Slow,
    State,
    Totals,
)
from wsproto_fast.backends import get_backend

from .deflate_helpers import TAIL, extension
from .helpers import BINARY, TEXT, frame, header, output, parse

SECONDS = float(os.environ.get("WSAPI_STRESS_SECONDS", "0.2"))
THREADS = 4


def connection(side: Side, deflate: Extension | None = None) -> Protocol:
    """Return one end of an open connection, which queues two frames."""
    protocol = Protocol(side)
    protocol.queue_messages(2, 1)
    protocol.extensions = [] if deflate is None else [deflate]
    return protocol


def at_once(*functions: Callable[[], None]) -> None:
    """Call functions again and again, each in a thread, for a while; raise what they raise."""
    until = time.monotonic() + SECONDS
    barrier = threading.Barrier(len(functions))
    failures: list[BaseException] = []

    def repeat(function: Callable[[], None]) -> None:
        try:
            barrier.wait(30)
            function()
            while time.monotonic() < until and not failures:
                function()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=repeat, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_compiled_modules_need_no_global_lock() -> None:
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("this Python always has its global lock")
    code = (
        "import sys, wsproto_fast, wsproto_fast.wsproto\n"
        "from wsproto_fast.drivers import asyncio, clocked, coroutines, schedule, threads, tls\n"
        "print(sys._is_gil_enabled())"
    )
    environment = {**os.environ}
    environment.pop("PYTHON_GIL", None)
    # Importing a module that needs it switches it on, with a warning.
    shown = subprocess.check_output(
        [sys.executable, "-W", "error", "-c", code], env=environment, text=True
    )
    assert shown == "False\n"


def test_masking_keys_differ() -> None:
    found: list[list[bytes]] = []

    def take() -> None:
        protocol = Protocol(Side.CLIENT)
        for _ in range(200):
            protocol.send(b"")
        data = output(protocol)
        found.append([data[place + 2 : place + 6] for place in range(0, len(data), 6)])

    at_once(*[take] * THREADS)
    # Of each thread's first ones, since equal ones among very many are no surprise.
    keys = [key for some in found[: 2 * THREADS] for key in some]
    assert len(keys) - len(set(keys)) < 5


def test_a_message_to_connections_of_many_threads() -> None:
    """All use the same message; who has the smallest window can read it, too."""
    payloads = [os.urandom(4) * 500 + bytes(300) for _ in range(8)]
    messages = [PreparedMessage(payload) for payload in payloads]

    def sending(bits: int) -> Callable[[], None]:
        def send() -> None:
            # Each round begins with messages that nobody has compressed.
            if bits == 15:
                messages[:] = [PreparedMessage(payload) for payload in payloads]
            protocol = connection(Side.SERVER, extension(local_max_window_bits=bits))
            inflater = zlib.decompressobj(wbits=-bits)
            for payload, message in zip(payloads, messages.copy(), strict=True):
                protocol.send_prepared(message)
                [wire] = parse(output(protocol))
                assert wire.rsv == 4
                assert inflater.decompress(wire.payload + TAIL) == payload

        return send

    at_once(*map(sending, (15, 9, 10, 12)))


def test_compressors_are_shared() -> None:
    def compress() -> None:
        deflate = extension(local_no_context_takeover=True)
        protocol = connection(Side.SERVER, deflate)
        for number in range(50):
            text = f"message {number} of many, " * 20
            protocol.send(text)
            [wire] = parse(output(protocol))
            inflated = zlib.decompressobj(wbits=-15).decompress(wire.payload + TAIL)
            assert inflated.decode() == text

    at_once(*[compress] * THREADS)


def test_a_compressor_is_used_by_one_thread_at_a_time() -> None:
    """The others are told, and nobody writes where another one does."""
    compressor = get_backend("native").new_compressor(15, {})
    large, small = os.urandom(1 << 16) * 8, b"small " * 100
    told: list[str] = []

    def using(payload: bytes) -> Callable[[], None]:
        def use() -> None:
            try:
                compressor.compress(payload)
                compressor.flush(zlib.Z_FULL_FLUSH)
            except RuntimeError as exc:
                told.append(str(exc))

        return use

    at_once(*map(using, (large, small, large, small)))
    assert set(told) <= {"another thread compresses with this"}
    compressor.flush(zlib.Z_FULL_FLUSH)
    compressed = compressor.compress(small)
    assert zlib.decompressobj(wbits=-15).decompress(compressed) == small


def test_the_date_of_responses() -> None:
    def answer() -> None:
        for _ in range(20):
            server = ServerProtocol()
            server.server_header = f"Server/{threading.get_ident()}"
            response = server.reject(404, "")
            assert response.headers["Date"].endswith(" GMT")
            assert response.headers["Server"] == server.server_header

    at_once(*[answer] * THREADS)


def test_statistics_of_what_another_thread_receives() -> None:
    """What waits comes and goes while it is counted."""
    limit = 1 << 22
    current: list[Protocol] = [connection(Side.SERVER, extension())]
    small, large = b"a" * 20000, b"b" * 70000
    peer = connection(Side.CLIENT, extension())
    for _ in range(6):
        peer.send(small, compress=True)
    compressed = output(peer)
    whole = frame(Side.SERVER, BINARY, large)

    def receive() -> None:
        protocol = connection(Side.SERVER, extension())
        current[0] = protocol
        for place in range(0, len(whole), 9000):
            protocol.receive_data(whole[place : place + 9000])
        assert protocol.next_message() == large
        # More than the queue holds: kept as it came.
        protocol.receive_data(compressed)
        for _ in range(6):
            assert protocol.next_message() == small
            protocol.receive_kept()
        protocol.receive_data(header(BINARY, 50000, key=b"abcd") + bytes(30000))
        protocol.connection_lost()
        assert protocol.state == State.CLOSED

    def read() -> None:
        protocol = current[0]
        for _ in range(20):
            assert 0 <= protocol.buffered_bytes() < limit
            stats = protocol.stats()
            assert 0 <= stats.queued_bytes < limit
            assert stats.messages_received <= 7
            totals = Totals()
            totals.add(protocol)
            assert totals.open + totals.closing == 1

    at_once(receive, *[read] * (THREADS - 1))


def test_statistics_of_what_another_thread_sends() -> None:
    limit = 1 << 20
    current: list[Protocol] = [connection(Side.SERVER)]
    terms = Backpressure(Slow.DROP_OLDEST, 20000)

    def send() -> None:
        protocol = connection(Side.SERVER)
        current[0] = protocol
        message = PreparedMessage("c" * 3000)
        protocol.pause_writing(100)
        for _ in range(20):
            protocol.offer(message, terms, unsent=100)
        protocol.resume_writing()
        sent = parse(output(protocol))
        assert {(wire.opcode, wire.payload) for wire in sent} == {(TEXT, b"c" * 3000)}
        assert len(sent) + sum(protocol.dropped.values()) == 20

    def read() -> None:
        protocol = current[0]
        for _ in range(20):
            assert 0 <= protocol.buffered_bytes(7) < limit
            assert 0 <= protocol.stats(unsent=5).write_buffer_bytes < limit
            assert sum(protocol.dropped.values()) <= 20

    at_once(send, *[read] * (THREADS - 1))
