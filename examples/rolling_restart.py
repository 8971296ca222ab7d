"""Restart servers one after the other while clients use them, and lose nothing.

Two restarts: a new process begins to listen on the same port, then the old one gets SIGTERM and
drains. Clients connect again when they are closed or refused, and send again what the application
hasn't acknowledged: a message that is on its way when a connection ends may have arrived or not.

Usage: rolling_restart.py [CLIENTS [SECONDS]]

SECONDS is in how many a server closes its connections.
"""

import asyncio
import collections
import signal
import socket
import sys
import time

from wsapi.asyncio.client import connect, process_exception
from wsapi.asyncio.server import ServerConnection, serve
from wsapi.client import backoff
from wsapi.exceptions import ConnectionClosed, InvalidStatus
from wsapi.health import readiness

HOST = "127.0.0.1"
PAUSE = 0.05  # of a client between messages, in seconds
STEADY = 1.0  # seconds between restarts
SLOT = 0.25  # of the table that shows when clients came back, in seconds


# ---------------------------------------------------------------------- servers


async def acknowledge(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def run_server(port: int, spread: float) -> None:
    ready = readiness("/healthz")
    async with serve(acknowledge, HOST, port, reuse_port=True, process_request=ready) as server:
        server.drain_on_signal(signal.SIGTERM, timeout=spread + 5, spread=spread)
        print("ready")
        await server.wait_closed()


async def start_server(port: int, spread: float) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", __file__, "--serve", str(port), str(spread)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process


async def end_server(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGTERM)
    await process.communicate()


# ---------------------------------------------------------------------- clients


class Account:
    """What clients have done."""

    def __init__(self) -> None:
        self.messages = 0
        self.sent = 0  # again those that were sent again
        self.acknowledged = 0
        self.refused = 0
        self.start = time.monotonic()
        self.returns: list[float] = []  # when a client was connected again

    def failed(self, exc: Exception) -> Exception | None:
        if isinstance(exc, InvalidStatus) and exc.response.status_code == 503:
            self.refused += 1
        return process_exception(exc)

    def print(self) -> None:
        print(f"acknowledged:    {self.acknowledged} messages")
        print(f"sent again:      {self.sent - self.acknowledged}")
        print(f"lost:            {self.messages - self.acknowledged}")
        print(f"refused:         {self.refused} times, by servers that were draining")
        print(f"connected again: {len(self.returns)} times")
        slots = collections.Counter(int(moment / SLOT) for moment in self.returns)
        for slot in sorted(slots):
            print(f"{slot * SLOT:8.2f} s {slots[slot]:5} {'#' * min(slots[slot], 60)}")


async def run_client(uri: str, account: Account, enough: asyncio.Event) -> None:
    message = ""  # what isn't acknowledged
    before = False
    async for connection in connect(
        uri,
        process_exception=account.failed,
        reconnect_delays=lambda: backoff(0.5, 0.5, 2),
    ):
        if before:
            account.returns.append(time.monotonic() - account.start)
        before = True
        try:
            while message or not enough.is_set():
                if not message:
                    account.messages += 1
                    message = str(account.messages)
                await connection.send(message)
                account.sent += 1
                if await connection.recv() == message:
                    account.acknowledged += 1
                    message = ""
                await asyncio.sleep(PAUSE)
            break
        except ConnectionClosed:
            pass


async def main(clients: int = 200, spread: float = 2.0) -> None:
    account, enough = Account(), asyncio.Event()
    # It keeps the port, and doesn't listen.
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind((HOST, 0))
        port = reserved.getsockname()[1]
        server = await start_server(port, spread)
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(clients):
                    tasks.create_task(run_client(f"ws://{HOST}:{port}", account, enough))
                for _ in range(2):
                    await asyncio.sleep(STEADY)
                    old, server = server, await start_server(port, spread)
                    await end_server(old)
                await asyncio.sleep(STEADY)
                enough.set()
        finally:
            await end_server(server)
    account.print()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        asyncio.run(run_server(int(sys.argv[2]), float(sys.argv[3])))
    else:
        asyncio.run(main(*map(int, sys.argv[1:2]), *map(float, sys.argv[2:3])))
