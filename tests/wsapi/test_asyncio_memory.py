"""A thousand peers that send bombs to an application that doesn't read: memory of the process."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import zlib

import pytest

from tests.wsapi.helpers import BINARY, frame, request

resource = pytest.importorskip("resource", reason="limits and sizes of processes are POSIX")

PEERS = int(os.environ.get("WSAPI_BOMB_PEERS", "1000"))
MIB = 2**20
# What each of them sends, which is read at once as far as it is there.
READ = 2**18

# Each connection holds one read, as it was received; all together hold what may be inflated before
# it is asked for, and one message more. The rest is what a connection takes, and the allocator.
BOUND = PEERS * (READ + 40 * 1024) + 64 * MIB + 32 * MIB

SERVER = """
import asyncio, resource, sys
from wsapi.asyncio.server import serve

MIB = 2**20
sizes = []

def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

async def main():
    asked = asyncio.Event()

    async def handler(ws):
        await asked.wait()
        sizes.append(len(await ws.recv()) + len(await ws.recv()))

    async with serve(handler, "127.0.0.1", 0, open_timeout=None, ping_interval=None) as server:
        before = peak()
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        held = peak() - before
        asked.set()
        async with asyncio.timeout(40):
            while len(sizes) < int(sys.argv[1]):
                await asyncio.sleep(0.01)
        print(held, peak() - before, set(sizes) == {2 * MIB}, flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


def limits() -> None:
    """Have a server that inflates without bound fail, and not the machine."""
    resource.setrlimit(resource.RLIMIT_AS, (8 * BOUND, 8 * BOUND))
    more_files()


def more_files() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def bombs() -> bytes:
    compressor = zlib.compressobj(9, wbits=-15)
    data = compressor.compress(bytes(MIB)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    wire = bytearray(frame(BINARY, data[:-4], masked=True))
    wire[0] |= 0x40
    return bytes(wire) * (READ // len(wire))


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < PEERS + 100, reason="too few open files allowed"
)
def test_bombs_of_many_peers() -> None:
    wire = bombs()
    offer = request(
        more="Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n"
    )
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    more_files()
    with (
        contextlib.ExitStack() as stack,
        subprocess.Popen(
            [sys.executable, "-c", SERVER, str(PEERS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=limits,
        ) as server,
    ):
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        stack.callback(server.kill)
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(server.stdout.readline())
        peers = []
        for _ in range(PEERS):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            peer.sendall(offer)
            head = b""
            while b"\r\n\r\n" not in head:
                head += peer.recv(4096)
            assert b"permessage-deflate" in head
            peers.append(peer)
        for peer in peers:
            # What isn't read stays in the socket's buffers, as far as it fits there.
            peer.setblocking(False)
            assert peer.send(wire) > 4096
        server.stdin.write(b"\n")
        server.stdin.flush()
        held, peak, whole = server.stdout.readline().split()
        server.stdin.write(b"\n")
        server.stdin.flush()
    assert whole == b"True"
    assert int(held) < BOUND
    assert int(peak) < BOUND + 16 * MIB
