"""The brokers of the torture run, and what can be done to each of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

from tests.topics_torture.judge import Loss
from tests.topics_torture.proxy import CutProxy

__all__ = ["PARTIES", "NatsParty", "Party", "RedisParty", "make_party", "missing"]

HISTORY = 1000
PATIENCE = 10.0


class Party(Protocol):
    """A broker.

    Attributes:
        url: What servers connect to.
        bus: Options of the bus.
        counts: What was done.
        version: Name and version.
    """

    url: str
    bus: dict[str, Any]
    counts: Counter[str]
    version: str

    async def start(self) -> None:
        """Start it."""

    async def stop(self) -> None:
        """End it."""

    async def cut(self, chance: random.Random) -> None:
        """End a connection that brings messages, or all of them, at once."""

    async def cut_all(self, chance: random.Random) -> None:
        """End all connections."""

    async def pause(self, seconds: float) -> None:
        """Have it do nothing for some time."""

    async def restart(self, chance: random.Random) -> None:
        """Have it begin again, with its data."""

    async def lose(self, chance: random.Random) -> None:
        """Have it begin again, without its data."""

    async def age(self, chance: random.Random) -> Loss:
        """Have it begin again, with what it had some time before."""

    async def trim(self, chance: random.Random) -> None:
        """Have it forget messages of some topics."""

    async def forget(self, chance: random.Random) -> None:
        """Have it forget what it knows of topics."""


class RedisParty:
    """A server of Valkey or Redis."""

    def __init__(self, kind: str, folder: Path) -> None:
        from tests.wsapi.topics import valkey_broker

        self.broker = valkey_broker.Broker(
            folder,
            valkey_broker.binaries()[kind],
            client_output_buffer_limit="pubsub 1mb 512kb 1",
            enable_debug_command="no",
        )
        self.url = self.broker.url
        self.bus: dict[str, Any] = {"history": HISTORY, "timeout": 2.0}
        self.counts: Counter[str] = Counter()
        self.version = kind
        self.down = 0.0  # when it ended last
        self._client: Any = None

    async def start(self) -> None:
        import redis.asyncio

        await asyncio.to_thread(self.broker.start)
        self._client = redis.asyncio.Redis.from_url(
            self.url, socket_timeout=1, socket_connect_timeout=1, retry=None, protocol=2
        )
        info = await self._client.info("server")
        name = "valkey" if "valkey_version" in info else "redis"
        self.version = f"{name} {info[f'{name}_version']}"

    async def stop(self) -> None:
        with contextlib.suppress(Exception):
            await self._client.aclose()
        await asyncio.to_thread(self.broker.kill)
        log = (self.broker.folder / "log").read_text(errors="replace")
        self.counts["overflows"] += log.count("output buffer limits")

    async def _do(self, *words: Any) -> Any:
        """Return the reply to a command, or None if there is none: the broker is busy, or away."""
        with contextlib.suppress(Exception):
            return await self._client.execute_command(*words)
        return None

    async def cut(self, chance: random.Random) -> None:
        self.counts["cuts"] += await self._do("CLIENT", "KILL", "TYPE", "pubsub") or 0

    async def cut_all(self, chance: random.Random) -> None:
        await self._do("CLIENT", "KILL", "TYPE", "pubsub")
        await self._do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def pause(self, seconds: float) -> None:
        self.broker.pause()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.broker.resume()

    async def restart(self, chance: random.Random) -> None:
        await self._do("SHUTDOWN", "SAVE")
        await self._begin_again(chance)

    async def lose(self, chance: random.Random) -> None:
        (self.broker.folder / "dump.rdb").unlink(missing_ok=True)
        await self._begin_again(chance)

    async def age(self, chance: random.Random) -> Loss:
        saved = time.monotonic()
        await self._do("SAVE")
        await asyncio.sleep(chance.uniform(0.1, 1.5))
        await self._begin_again(chance)
        return Loss(saved, self.down)

    async def _begin_again(self, chance: random.Random) -> None:
        process = self.broker.process
        assert process is not None
        for _ in range(20):  # what was told to end may be about to
            if process.poll() is not None:
                break
            await asyncio.sleep(0.005)
        await asyncio.to_thread(self.broker.kill)
        self.down = time.monotonic()
        await asyncio.sleep(chance.uniform(0, 1))
        await asyncio.to_thread(self.broker.start)

    async def trim(self, chance: random.Random) -> None:
        for key in await self._do("KEYS", "*") or ():
            if not key.endswith(b":meta") and chance.random() < 0.5:
                if chance.random() < 0.3:
                    await self._do("DEL", key)
                else:
                    await self._do("XTRIM", key, "MAXLEN", chance.randrange(0, 6))

    async def forget(self, chance: random.Random) -> None:
        if chance.random() < 0.5:
            await self._do("FLUSHALL")
            return
        for key in await self._do("KEYS", "*:meta") or ():
            if chance.random() < 0.5:
                await self._do("DEL", key)


class NatsParty:
    """A NATS server with JetStream, behind a proxy that cuts connections."""

    def __init__(self, kind: str, folder: Path) -> None:
        from tests.wsapi.topics import nats_broker

        self.server = nats_broker.NatsServer(
            # More than a page that is read at once.
            folder,
            settings='max_pending: 8388608\nwrite_deadline: "1s"',
        )
        self.folder = folder
        self.url = ""
        self.bus: dict[str, Any] = {"history": HISTORY, "timeout": 2.0, "history_bytes": 2**27}
        self.counts: Counter[str] = Counter()
        self.version = kind

    async def start(self) -> None:
        import nats

        await asyncio.to_thread(self.server.start)
        self.proxy = CutProxy(self.server.port)
        await self.proxy.__aenter__()
        self.url = f"nats://127.0.0.1:{self.proxy.port}"
        client = await nats.connect(self.server.uri)
        self.version = f"nats-server {client.connected_server_version}"
        await client.close()

    async def stop(self) -> None:
        await self.proxy.__aexit__()
        await asyncio.to_thread(self.server.stop)
        log = (self.folder / "log").read_text(errors="replace")
        self.counts["overflows"] += log.count("Slow Consumer")
        self.counts["cuts"] = self.proxy.cuts

    async def cut(self, chance: random.Random) -> None:
        self.proxy.cut(chance)

    async def cut_all(self, chance: random.Random) -> None:
        self.proxy.cut(every=True)

    async def pause(self, seconds: float) -> None:
        self.server.pause()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.server.go_on()

    async def _pause_between_writes(self) -> None:
        """Pause the server, but not while it writes settings of a stream.

        Those are two files: who is killed between them doesn't know the stream any more, then and
        at each later start, and messages are lost that were to stay.
        """
        while True:
            self.server.pause()
            files = list((self.folder / "store").rglob("streams/*/meta.inf"))
            if all(
                file.stat().st_mtime_ns <= file.with_suffix(".sum").stat().st_mtime_ns
                for file in files
                if file.with_suffix(".sum").exists()
            ):
                return
            self.server.go_on()
            await asyncio.sleep(0.02)

    async def restart(self, chance: random.Random) -> None:
        how = signal.SIGKILL if chance.random() < 0.5 else signal.SIGTERM
        if how == signal.SIGKILL:
            await self._pause_between_writes()
        await asyncio.to_thread(self.server.stop, how)
        await asyncio.sleep(chance.uniform(0, 1))
        await asyncio.to_thread(self.server.start)

    async def lose(self, chance: random.Random) -> None:
        await asyncio.to_thread(self.server.stop)
        shutil.rmtree(self.folder / "store", ignore_errors=True)
        await asyncio.sleep(chance.uniform(0, 1))
        await asyncio.to_thread(self.server.start)

    async def age(self, chance: random.Random) -> Loss:
        store, copy = self.folder / "store", self.folder / "copy"
        saved = time.monotonic()
        await asyncio.to_thread(self.server.stop, signal.SIGTERM)
        shutil.copytree(store, copy)
        await asyncio.to_thread(self.server.start)
        await asyncio.sleep(chance.uniform(0.5, 1.5))
        await asyncio.to_thread(self.server.stop)
        down = time.monotonic()
        shutil.rmtree(store)
        copy.rename(store)
        await asyncio.to_thread(self.server.start)
        return Loss(saved, down)

    async def _with_jetstream(self, do: Any) -> None:
        import nats

        async def ignore(exc: Exception) -> None:
            pass

        with contextlib.suppress(Exception):
            async with asyncio.timeout(PATIENCE):
                client = await nats.connect(
                    self.server.uri, allow_reconnect=False, connect_timeout=1, error_cb=ignore
                )
                try:
                    jetstream = client.jetstream(timeout=1)
                    for stream in await jetstream.streams_info():
                        await do(jetstream, stream.config.name)
                finally:
                    await client.close()

    async def trim(self, chance: random.Random) -> None:
        async def shorten(jetstream: Any, stream: str) -> None:
            # The stream refuses to be purged, but not to be limited.
            config = (await jetstream.stream_info(stream)).config
            for most in (chance.randrange(1, 40), -1):
                config.max_msgs = most
                await jetstream.update_stream(config)
            self.counts["trims"] += 1

        await self._with_jetstream(shorten)

    async def forget(self, chance: random.Random) -> None:
        async def delete(jetstream: Any, stream: str) -> None:
            await jetstream.delete_stream(stream)
            self.counts["deletions"] += 1

        await self._with_jetstream(delete)


PARTIES: dict[str, Any] = {"valkey": RedisParty, "redis": RedisParty, "nats": NatsParty}


def missing(kind: str) -> str:
    """Return why there is no such broker here; empty if there is one."""
    try:
        if kind == "nats":
            import nats  # noqa: F401

            from tests.wsapi.topics import nats_broker

            nats_broker.nats_server()
            from wsapi.topics import nats as bus
        else:
            from tests.wsapi.topics import valkey_broker

            if kind not in valkey_broker.binaries():
                return f"there is no {kind}-server in PATH (Debian has a package of this name)"
            from wsapi.topics import redis as bus  # type: ignore[no-redef]
    except ImportError as exc:
        return str(exc)
    except BaseException as exc:  # pytest.skip() of the fixture's module
        if isinstance(exc, (KeyboardInterrupt, SystemExit)):
            raise
        return str(exc)
    del bus
    return ""


def make_party(kind: str, folder: Path) -> Party:
    """Return a broker that isn't started yet."""
    party: Party = PARTIES[kind](kind, folder)
    return party
