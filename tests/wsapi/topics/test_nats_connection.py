"""Connections of the bus on NATS: how they are made, refused, lost, and made again."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import ssl
from pathlib import Path

import pytest

pytest.importorskip("nats", reason="nats-py isn't installed")


from tests.wsapi.helpers import until
from tests.wsapi.topics.nats_broker import NatsServer, Start, nats, start_nats
from tests.wsapi.topics.nats_helpers import (
    Receiver,
    admin,
    api,
    chained,
    held,
    opened,
    own,
    publish_until,
    stream_config,
)
from wsapi.topics.bus import Message
from wsapi.topics.exceptions import BusUnavailable, PublishUncertain
from wsapi.topics.nats import NatsBus
from wsapi.topics.positions import Position

__all__ = ["nats", "start_nats"]

# ---------------------------------------------------------------------- lost connections


async def all_messages(
    bus: NatsBus, receiver: Receiver, topic: str, since: Position
) -> list[Message]:
    """Return what was noticed and what can be read, as a reader puts it together."""
    found: dict[int, Message] = {}
    while True:
        try:
            page = await bus.read(topic, since, 50)
        except BusUnavailable:
            await asyncio.sleep(0.01)
            continue
        assert page.reaches
        found.update({notice.position.offset: notice.message for notice in page.notices})
        if not page.notices:
            break
        since = page.notices[-1].position
    for notice in receiver.notices:
        if notice.topic == topic:
            assert found[notice.position.offset] == notice.message
    return [found[offset] for offset in sorted(found)]


async def test_connection_that_is_lost_again_and_again(nats: NatsServer) -> None:
    options = {**own(), "history": 100_000}
    async with opened(nats, **options) as (bus, receiver), opened(nats, **options) as (other, _):
        for number in range(50):
            await bus.follow(f"other {number}")
        start = await bus.follow("a")
        published: list[str] = []
        done = asyncio.Event()

        async def publish() -> None:
            while not done.is_set():
                await other.publish("a", str(len(published)))
                published.append(str(len(published)))
                await asyncio.sleep(0.001)

        publishing = asyncio.create_task(publish())
        for number in range(1, 31):
            bus._keeper.connection._transport._io_writer.transport.abort()
            await until(lambda: receiver.resumptions == number)  # noqa: B023
            count = len(receiver.notices)
            await until(lambda: len(receiver.notices) > count + 5)  # noqa: B023
        done.set()
        await publishing
        await until(lambda: receiver.notices[-1].message == published[-1])
        assert await all_messages(bus, receiver, "a", start) == published
        assert len(receiver.reasons) == 30


async def test_client_that_reads_no_more(nats: NatsServer) -> None:
    """nats-py stops so after some errors, and says nothing."""
    async with opened(nats, **own()) as (bus, receiver):
        await bus.follow("a")
        bus._keeper.connection._reading_task.cancel()
        await until(lambda: receiver.resumptions)
        await bus.publish("a", "1")
        await until(lambda: receiver.notices)


@pytest.mark.parametrize("error", [ConnectionResetError(), RuntimeError("closed")])
@pytest.mark.parametrize("history", [10, None])
async def test_transport_that_fails(
    nats: NatsServer, history: int | None, error: Exception
) -> None:
    """What was being published may be: the error comes after a part was written."""
    async with opened(nats, **own(), history=history) as (bus, receiver):
        await bus.follow("a")

        async def fail(*args: object, **options: object) -> None:
            raise error

        for number, call in enumerate((bus.publish, bus.follow), 1):
            bus._keeper.connection._send_command = fail
            with pytest.raises(PublishUncertain if call == bus.publish else BusUnavailable):
                await call(*("b", "x")[: 3 - number])
            await until(lambda: receiver.resumptions == number)  # noqa: B023
        bus._keeper.connection._send_command = fail
        await bus.unfollow("a")
        await until(lambda: receiver.resumptions == 3)


async def test_process_that_does_not_keep_up(start_nats: Start) -> None:
    """The server ends its connection: it is told, and reads what it missed."""
    server = start_nats(settings="max_pending: 2000000")
    log = server.directory / "log"
    async with opened(server, history=1000) as (bus, receiver), opened(server) as (other, _):
        start = await bus.follow("a")
        transport = bus._keeper.connection._transport._io_writer.transport
        transport.pause_reading()
        published: list[str] = []
        while "Slow Consumer" not in log.read_text():
            message = f"{len(published):09}" * 9000  # bytes: 81,000
            await other.publish("a", message)
            published.append(message)
        transport.resume_reading()
        await until(lambda: receiver.resumptions)
        assert await all_messages(bus, receiver, "a", start) == published
        assert len(receiver.notices) < len(published)


async def test_publisher_whose_connection_is_lost(nats: NatsServer) -> None:
    """What raised nothing was published once, what raised PublishUncertain once at most."""
    options = {**own(), "history": 100_000}
    async with opened(nats, **options) as (bus, receiver), opened(nats, **options) as (other, got):
        start = await other.follow("a")
        sure: set[str] = set()
        unsure: set[str] = set()
        refused: set[str] = set()

        async def publish(message: str) -> None:
            try:
                await bus.publish("a", message)
                sure.add(message)
            except PublishUncertain:
                unsure.add(message)
            except BusUnavailable:
                refused.add(message)

        for number in range(1, 21):
            publishing = [asyncio.create_task(publish(f"{number} {i}")) for i in range(20 * number)]
            await asyncio.wait(publishing, return_when=asyncio.FIRST_COMPLETED)
            bus._keeper.connection._transport._io_writer.transport.abort()
            await asyncio.gather(*publishing)
            await publish(f"{number} again")
            await until(lambda: receiver.resumptions == number)  # noqa: B023
        await bus.publish("a", "end")
        await until(lambda: got.notices and got.notices[-1].message == "end")
        messages = await all_messages(other, got, "a", start)
        assert len(set(messages)) == len(messages)
        assert sure <= set(messages)
        assert not refused & set(messages)
        assert set(messages) <= sure | unsure | {"end"}
        assert sure
        assert unsure


async def test_server_that_starts_again_with_its_files(start_nats: Start) -> None:
    server = start_nats()
    async with opened(server) as (bus, receiver):
        await bus.follow("a")
        first = await bus.publish("a", "1")
        for how in (signal.SIGKILL, signal.SIGTERM):
            count = receiver.resumptions
            await asyncio.to_thread(server.restart, how)
            await until(lambda: receiver.resumptions > count)  # noqa: B023
        assert (await bus.read("a", first, 10)).reaches
        second = await bus.publish("a", "2")
        assert second.epoch == first.epoch
        await until(lambda: len(receiver.notices) == 2)
        assert chained(receiver.notices, receiver.notices[0].previous)


async def test_server_that_starts_again_without_what_it_had(start_nats: Start) -> None:
    """The stream is made again by whoever comes first."""
    server = start_nats()
    async with contextlib.AsyncExitStack() as stack:
        opening = [stack.enter_async_context(opened(server, storage="memory")) for _ in range(8)]
        buses = [await one for one in opening]
        cursors = [await bus.follow("a") for bus, _ in buses]
        first = await buses[0][0].publish("a", "1")
        await asyncio.to_thread(server.restart)
        for _, receiver in buses:
            await until(lambda: receiver.resumptions)  # noqa: B023
        second = await buses[1][0].publish("a", "2")
        assert second.epoch != first.epoch
        for (bus, receiver), cursor in zip(buses, cursors, strict=True):
            await until(lambda: receiver.messages()[-1:] == ["2"])  # noqa: B023
            assert receiver.notices[-1].position == second
            assert await bus.read("a", cursor, 10) == ([], False, second)


@pytest.mark.parametrize("others", [0, 1, 5])
async def test_server_that_has_forgotten_the_last_messages(start_nats: Start, others: int) -> None:
    """Numbers that were given twice are never mixed: a new epoch begins."""
    server = start_nats()
    backup = server.directory / "backup"
    async with opened(server) as (bus, receiver), opened(server) as (other, _):
        await bus.follow("a")
        first = await bus.publish("a", "1")
        await asyncio.to_thread(server.stop, signal.SIGTERM)
        shutil.copytree(server.directory / "store", backup)
        await asyncio.to_thread(server.start)
        for number in range(3):
            await publish_until(bus, "a", f"lost {number}")
        cursor = receiver.notices[-1].position
        async with held(bus):
            await asyncio.to_thread(server.stop)
            shutil.rmtree(server.directory / "store")
            shutil.copytree(backup, server.directory / "store")
            await asyncio.to_thread(server.start)
            for number in range(others):
                await publish_until(other, "a", f"other {number}")
        latest = await publish_until(bus, "a", "2")
        await until(lambda: receiver.messages()[-1:] == ["2"])
        assert latest.epoch != cursor.epoch == first.epoch
        page = await bus.read("a", cursor, 10)
        assert not page.reaches
        assert page.latest == latest
        assert (await publish_until(other, "a", "3")).epoch == latest.epoch


async def test_server_that_stops_for_a_while(start_nats: Start) -> None:
    server = start_nats()
    async with opened(server, timeout=0.3) as (bus, receiver):
        start = await bus.follow("a")
        server.pause()
        try:
            calls = [bus.publish("a", "1"), bus.follow("b"), bus.position("a"), bus.unfollow("x")]
            uncertain, *others, done = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(uncertain, PublishUncertain)
            assert all(isinstance(error, BusUnavailable) for error in others)
            assert done is None
            bus.reconnect()
            with pytest.raises(BusUnavailable):
                await bus.publish("a", "2")
        finally:
            server.go_on()
        await until(lambda: receiver.resumptions)
        await publish_until(bus, "a", "3")
        await until(lambda: receiver.messages()[-1:] == ["3"])
        messages = await all_messages(bus, receiver, "a", start)
        assert messages in (["1", "3"], ["3"])


async def test_server_that_nobody_notices_to_be_dead(
    start_nats: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsapi.topics._nats_keeper.BEAT_INTERVAL", 0.1)
    server = start_nats()
    async with (
        opened(server, timeout=0.3) as (_, receiver),
        opened(server, timeout=0.3, history=None) as (_, core),
    ):
        server.pause()
        try:
            await until(lambda: receiver.reasons and core.reasons)
        finally:
            server.go_on()
        await until(lambda: receiver.resumptions and core.resumptions)


@pytest.mark.parametrize("history", [100, None])
async def test_close_while_the_server_stands(start_nats: Start, history: int | None) -> None:
    server = start_nats()
    bus = NatsBus(server.uri, history=history, timeout=0.5)
    await bus.open(Receiver())
    server.pause()
    try:
        calls = [asyncio.create_task(bus.publish("a", "x" * 500_000)) for _ in range(50)]
        calls.append(asyncio.create_task(bus.follow("a")))
        await asyncio.sleep(0.01)
        await bus.close()
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, (BusUnavailable, PublishUncertain))
        await bus.close()
        with pytest.raises(BusUnavailable, match="closed"):
            await bus.publish("a", "x")
    finally:
        server.go_on()


async def test_cancelled_calls(nats: NatsServer) -> None:
    async with opened(nats, **own()) as (bus, receiver):
        for turns in range(12):
            calls = [
                asyncio.create_task(call)
                for call in (
                    bus.publish("a", "x"),
                    bus.follow("a"),
                    bus.position("a"),
                    bus.read("a", Position(bus._known.epoch, 0), 5),
                )
            ]
            for _ in range(turns):
                await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await bus.unfollow("a")
        await bus.follow("a")
        await bus.publish("a", "1")
        await until(lambda: receiver.messages()[-1:] == ["1"])


# ---------------------------------------------------------------------- what servers refuse


async def test_no_jetstream(start_nats: Start) -> None:
    server = start_nats(jetstream=False)
    with pytest.raises(BusUnavailable, match=r"JetStream isn't enabled .* history=None"):
        async with opened(server):
            pass


async def test_no_server(start_nats: Start) -> None:
    server = start_nats()
    server.stop()
    bus = NatsBus(f"nats://user:secret@127.0.0.1:{server.port}")
    for _ in range(2):
        with pytest.raises(BusUnavailable, match=f"127.0.0.1:{server.port}") as caught:
            await bus.open(Receiver())
        assert "secret" not in str(caught.value)
    server.start()
    await bus.open(Receiver())
    with pytest.raises(RuntimeError, match="the bus is open"):
        await bus.open(Receiver())
    await bus.close()
    await bus.open(Receiver())
    assert await bus.publish("a", "1")
    await bus.close()


async def test_second_server(start_nats: Start) -> None:
    """Any of those that are named will do, also later."""
    servers = [start_nats(), start_nats()]
    async with opened([server.uri for server in servers]) as (bus, receiver):
        for number in range(1, 5):
            here = bus._keeper.connection.connected_url.port
            (server,) = [server for server in servers if server.port == here]
            await asyncio.to_thread(server.stop)
            await until(lambda: receiver.resumptions == number)  # noqa: B023
            assert bus._keeper.connection.connected_url.port != here
            await asyncio.to_thread(server.start)


async def test_message_that_is_too_large(start_nats: Start) -> None:
    server = start_nats(settings="max_payload: 1000")
    async with opened(server) as (bus, receiver), opened(server, history=None) as (core, _):
        await bus.follow("a")
        for one in (bus, core):
            with pytest.raises(ValueError, match="has 1000 bytes, and the NATS server takes 999"):
                await one.publish("a", b"x" * 1000)
            await one.publish("a", b"x" * 999)
        assert not receiver.reasons
        assert receiver.messages()[:1] == [b"x" * 999]


async def test_too_much_that_waits(start_nats: Start) -> None:
    server = start_nats()
    async with opened(server, max_pending_bytes=10_000, timeout=1) as (bus, _):
        server.pause()
        try:
            calls = [asyncio.create_task(bus.publish("a", "x" * 999)) for _ in range(11)]
            results = await asyncio.gather(*calls, return_exceptions=True)
        finally:
            server.go_on()
        assert [type(result) for result in results] == [PublishUncertain] * 10 + [BusUnavailable]
        assert "max_pending_bytes" in str(results[-1])
        await publish_until(bus, "a", "x" * 100_000)


async def test_stream_that_takes_no_more(nats: NatsServer) -> None:
    options = own()
    async with opened(nats, **options) as (bus, _), admin(nats) as client:
        config = await stream_config(client, options["stream"])
        config["max_msg_size"] = 100
        await api(client, f"STREAM.UPDATE.{options['stream']}", config)
        with pytest.raises(BusUnavailable, match="message size exceeds"):
            await bus.publish("a", "x" * 200)
        assert await bus.publish("a", "x")


PERMISSIONS = """
authorization {{ users: [
  {{ user: all, password: secret }}
  {{ user: some, password: secret, permissions: {{
    publish: {{ allow: ["wsapi.>", "$JS.API.>"], deny: [{publish}] }}
    subscribe: {{ allow: ["wsapi.>"], deny: [{subscribe}] }}
  }} }}
] }}
"""


async def test_permissions(start_nats: Start) -> None:
    server = start_nats(
        settings=PERMISSIONS.format(
            publish='"wsapi.p.*.Secret", "wsapi.l.Secret"', subscribe='"wsapi.l.Secret"'
        )
    )
    access = {"user": "some", "password": "secret"}
    with pytest.raises(BusUnavailable, match=r"(?i)authorization violation"):
        async with opened(server):
            pass
    for history in (10, None):
        async with opened(server, **access, history=history) as (bus, receiver):
            for _ in range(2):
                with pytest.raises(BusUnavailable, match=r"permit publish on wsapi\..*\.Secret"):
                    await bus.publish("Secret", "x")
                with pytest.raises(BusUnavailable, match=r"permit subscription on wsapi\.l\.Sec"):
                    await bus.follow("Secret")
            await bus.follow("a")
            await bus.publish("a", "x")
            await until(lambda: receiver.notices)
            assert not receiver.reasons


@pytest.mark.parametrize(
    "publish, subscribe, match",
    [
        ('"$JS.API.>"', "", r"permit publish on \$JS\.API\.STREAM\.INFO"),
        ("", '"wsapi.r.>"', r"permit subscription on wsapi\.r\."),
        ('"wsapi.r.>"', "", r"permit publish on wsapi\.r\."),
        ("", '"wsapi.l.>"', r"permit subscription on wsapi\.l\."),
    ],
)
async def test_permissions_of_the_bus_itself(
    start_nats: Start, publish: str, subscribe: str, match: str
) -> None:
    server = start_nats(settings=PERMISSIONS.format(publish=publish, subscribe=subscribe))
    with pytest.raises(BusUnavailable, match=match):
        async with opened(server, user="some", password="secret"):
            pass


async def test_permissions_that_are_withdrawn(start_nats: Start) -> None:
    users = 'authorization {{ users: [ {{ user: me, password: "{}" }} ] }}'
    server = start_nats(settings=users.format("first"))
    async with opened(server, user="me", password="first") as (bus, receiver):
        server.reload(users.format("second"))
        await until(lambda: receiver.reasons)
        with pytest.raises(BusUnavailable):
            await bus.publish("a", "x")
        server.reload(users.format("first"))
        await until(lambda: receiver.resumptions)
        assert await bus.publish("a", "x")


async def test_tls(
    start_nats: Start, tmp_path: Path, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    server = start_nats(
        settings=f'tls {{ cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem" }}'
    )
    uri = server.uri.replace("nats", "tls")
    async with opened(uri, tls=context) as (bus, receiver):
        await bus.follow("a")
        await bus.publish("a", "1")
        bus.reconnect()
        await until(lambda: receiver.resumptions)
        assert await bus.publish("a", "2")
    with pytest.raises(BusUnavailable, match=r"(?i)certificate"):
        async with opened(uri):
            pass


@pytest.mark.filterwarnings("ignore:parameter .timeout. of type:DeprecationWarning")
async def test_websocket(start_nats: Start) -> None:
    pytest.importorskip("aiohttp")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    start_nats(settings=f'websocket {{ listen: "127.0.0.1:{port}", no_tls: true }}')
    async with opened(f"ws://127.0.0.1:{port}") as (bus, receiver):
        start = await bus.follow("a")
        for number in range(1, 4):
            await bus.publish("a", "x" * 10_000)
            await until(lambda: len(receiver.notices) == number)  # noqa: B023
            bus.reconnect()
            await until(lambda: receiver.resumptions == number)  # noqa: B023
        assert chained(receiver.notices, start.offset)


async def test_no_tls_where_it_is_asked_for(start_nats: Start) -> None:
    """No password leaves in the clear."""
    server = start_nats(settings="authorization { user: me, password: secret }")
    options = {"user": "me", "password": "secret"}
    for uri, tls in (
        (server.uri.replace("nats", "tls"), None),
        (server.uri, ssl.create_default_context()),
    ):
        with pytest.raises(BusUnavailable, match="SecureConn"):
            async with opened(uri, tls=tls, **options):
                pass
    log = (server.directory / "log").read_text()
    assert "authentication error" not in log.lower()
    async with opened(server, **options) as (bus, _):
        assert await bus.publish("a", "x")


# ---------------------------------------------------------------------- clusters


CLUSTER = """
server_name: {name}
cluster {{ name: c, listen: "127.0.0.1:{port}", routes: [{routes}] }}
"""


@pytest.mark.timeout(180)
def test_cluster(start_nats: Start) -> None:
    """A server ends, and nothing that was acknowledged is lost; elections take their time."""
    ports = []
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0)) as sock:
            ports.append(sock.getsockname()[1])
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    servers = [
        start_nats(settings=CLUSTER.format(name=f"n{number}", port=port, routes=routes))
        for number, port in enumerate(ports)
    ]

    async def follow_and_publish() -> None:
        # The others are found.
        bus, receiver = NatsBus(servers[0].uri, replicas=3, history=1000), Receiver()
        while True:
            try:
                await bus.open(receiver)
                break
            except BusUnavailable:
                await asyncio.sleep(0.1)  # the cluster is forming
        try:
            start = await bus.follow("a")
            published: list[str] = []
            for number in range(2):
                for message in range(50):
                    try:
                        await publish_until(bus, "a", f"{number} {message}")
                        published.append(f"{number} {message}")
                    except PublishUncertain:
                        pass
                if number == 0:
                    await asyncio.to_thread(servers[0].stop)
            await until(lambda: receiver.resumptions)
            messages = await all_messages(bus, receiver, "a", start)
            assert set(published) <= set(messages)
            assert len(set(messages)) == len(messages)
            assert len(published) > 80
            assert receiver.notices
        finally:
            await bus.close()

    async def bounded() -> None:
        async with asyncio.timeout(120):
            await follow_and_publish()

    asyncio.run(bounded())
