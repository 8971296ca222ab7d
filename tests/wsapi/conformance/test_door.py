"""Limits at the door of a server: who is refused, with what answer, and that nothing is left."""

from __future__ import annotations

import contextlib
import random
import ssl
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Served, Ws, echo, until_closed
from tests.wsapi.conformance.raw import RawPeer, SecurePeer, parsed
from tests.wsapi.conformance.test_tls import Contexts
from tests.wsapi.helpers import logged_errors, request
from wsapi._shared import door as door_module
from wsapi.http11 import Request
from wsapi.limits import Door, Rate, forwarded_for

PROXIED = b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 443\r\n"

# With a header first, TLS is begun by this package on all front-ends.
BEFORE_TLS = [pytest.param(b"", id="plain"), pytest.param(PROXIED, id="proxied")]


def end_stream(peer: RawPeer) -> None:
    with contextlib.suppress(OSError):  # the server may have closed the connection already
        peer.write_eof()


async def emptied(driver: Driver, door: Door) -> None:
    await driver.until(lambda: door.connections == door.opening == door._refusing == 0)
    assert not door._per_address


async def test_max_connections(driver: Driver) -> None:
    door = Door(max_connections=2, retry_after=7)
    async with driver.serve(until_closed, door=door) as server:
        async with driver.connect(server), driver.connect(server):
            response = await driver.rejection(server)
            assert response.status_code == 503
            assert response.headers["Retry-After"] == "7"
            assert response.body == b"Too many connections.\n"
            assert door.connections == 2
        await emptied(driver, door)
        async with driver.connect(server):
            pass
        await emptied(driver, door)


async def test_max_opening(driver: Driver) -> None:
    door = Door(max_opening=1)
    async with driver.serve(until_closed, door=door) as server:
        async with driver.connect(server):
            await driver.until(lambda: door.opening == 0)
            async with driver.raw_client(server, b""):
                await driver.until(lambda: door.opening)
                response = await driver.rejection(server)
                assert response.status_code == 503
                assert response.body == b"Too many opening handshakes.\n"
            await driver.until(lambda: not door.opening)
            async with driver.connect(server):
                await driver.until(lambda: door.connections == 2)
        await emptied(driver, door)


async def test_max_per_address(driver: Driver) -> None:
    door = Door(max_per_address=1)
    async with driver.serve(until_closed, door=door) as server:
        async with driver.connect(server):
            connection = await server.connection()
            assert connection.client_address == "127.0.0.1"
            response = await driver.rejection(server)
            assert response.status_code == 429
            assert "Retry-After" in response.headers
        await emptied(driver, door)


async def test_address_from_a_header(driver: Driver) -> None:
    door = Door(max_per_address=1, client_address=forwarded_for())
    addresses = []

    async def handler(ws: Ws) -> None:
        addresses.append(ws.client_address)
        await ws.wait_closed()

    def forwarded(address: str) -> dict[str, Any]:
        return {"additional_headers": {"X-Forwarded-For": f"10.0.0.1, {address}"}}

    async with driver.serve(handler, door=door) as server:
        async with contextlib.AsyncExitStack() as stack:
            for options in (forwarded("192.0.2.1"), forwarded("192.0.2.2"), {}, {}):
                await stack.enter_async_context(driver.connect(server, **options))
            response = await driver.rejection(server, **forwarded("192.0.2.1"))
            assert response.status_code == 429
            await driver.until(lambda: len(addresses) == 4)
            # Without one it is the proxy itself that connects, or who knows.
            assert sorted(addresses) == ["127.0.0.1", "127.0.0.1", "192.0.2.1", "192.0.2.2"]
        await emptied(driver, door)


async def test_callable_that_fails(driver: Driver) -> None:
    def client_address(connection: object, request: Request) -> str:
        raise ZeroDivisionError

    door = Door(client_address=client_address)
    async with driver.serve(until_closed, door=door) as server:
        response = await driver.rejection(server)
        assert response.status_code == 500
        await emptied(driver, door)
    (record,) = logged_errors("client_address failed")
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


async def test_callable_that_would_have_to_be_awaited(driver: Driver) -> None:
    async def client_address(connection: object, request: Request) -> str:
        raise AssertionError

    door = Door(client_address=client_address)  # type: ignore[arg-type]
    async with driver.serve(until_closed, door=door) as server:
        response = await driver.rejection(server)
        assert response.status_code == 500
    (record,) = logged_errors("client_address failed")
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "client_address must return a str or None, not coroutine"


async def test_no_callback_sees_the_refused(driver: Driver) -> None:
    def process_request(ws: Ws, request: Request) -> None:
        raise AssertionError

    def process_response(ws: Ws, request: Request, response: object) -> None:
        raise AssertionError

    door = Door(max_connections=0)
    callbacks = {"process_request": process_request, "process_response": process_response}
    async with driver.serve(door=door, **callbacks) as server:
        response = await driver.rejection(server)
        assert response.status_code == 503


async def test_answer_arrives_although_more_was_sent(driver: Driver) -> None:
    door = Door(max_connections=0)
    async with driver.serve(door=door) as server:
        answer = await server.ask(request() + bytes(50_000))
        assert answer.status_code == 503
        await emptied(driver, door)


async def test_request_that_does_not_come(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "REFUSAL_TIMEOUT", 0.01)
    door = Door(max_connections=0)
    async with driver.serve(door=door, open_timeout=None) as server:
        async with driver.raw_client(server, b"") as peer:
            assert await peer.read_to_end() == b""
        await emptied(driver, door)


async def test_refused_client_that_stays(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "REFUSAL_TIMEOUT", 0.05)
    door = Door(max_per_address=0)
    async with driver.serve(door=door, close_timeout=None) as server:
        async with driver.raw_client(server, b"") as peer:
            await peer.send(request())
            assert (await peer.read_head()).startswith("HTTP/1.1 429 ")
            await emptied(driver, door)


async def test_too_many_to_be_answered(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "MAX_REFUSALS", 1)
    door = Door(max_connections=0)
    async with driver.serve(door=door) as server:
        async with driver.raw_client(server, b"") as first:
            await driver.until(lambda: door._refusing)
            async with driver.raw_client(server, b"") as second:
                assert await second.read_to_end() == b""
            await first.send(request())
            assert parsed(await first.read_to_end()).status_code == 503
        await emptied(driver, door)


async def test_door_of_two_servers(driver: Driver) -> None:
    door = Door(max_connections=1)
    async with driver.serve(until_closed, door=door) as one:
        async with driver.serve(until_closed, door=door) as other:
            async with driver.connect(one):
                assert (await driver.rejection(other)).status_code == 503
            await emptied(driver, door)


@pytest.mark.parametrize("end", ["close", "lose", "reset"])
async def test_however_connections_end(driver: Driver, end: str) -> None:
    door = Door(max_connections=3, max_opening=3, max_per_address=3)
    async with driver.serve(echo, door=door) as server:
        for _ in range(5):
            async with driver.raw_client(server) as peer:
                await driver.until(lambda: door.connections)
                if end == "reset":
                    peer.reset()
                elif end == "lose":
                    (await server.connection()).lose()
                    await peer.read_to_end()
            await emptied(driver, door)


async def test_opening_handshakes_that_end_early(driver: Driver) -> None:
    door = Door(max_connections=1)
    async with driver.serve(door=door) as server:
        for data in (b"", b"GET", b"nonsense\r\n\r\n", request()[:-2]):
            async with driver.raw_client(server, b"") as peer:
                await driver.until(lambda: door.connections)
                if data:
                    await peer.send(data)
                end_stream(peer)
                await peer.read_to_end()
            await emptied(driver, door)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("proxied", BEFORE_TLS)
async def test_nothing_is_left_of_many(
    driver: Driver, tls: Contexts, proxied: bytes, secure: bool
) -> None:
    """Connections that begin and end in many ways, until the server is closed among them."""
    choice = random.Random(7)
    door = Door(max_connections=6, max_opening=5, max_per_address=5, proxy_protocol=bool(proxied))
    rates = {"message_rate": Rate(200, burst=2), "byte_rate": Rate(5000, burst=10)}

    async def handler(ws: Ws) -> None:
        async for message in ws:
            if message == "close":
                await ws.close(1001)
            if message == "lose":
                with contextlib.suppress(OSError):  # it may be lost already
                    ws.lose()
            await ws.send(message)

    async def client(seed: int) -> None:
        choice = random.Random(seed)
        data = proxied + request()
        if choice.random() < 0.3:
            data = data[: choice.randint(0, len(data) - 1)]
        if choice.random() < 0.1:
            data += b"nonsense\r\n\r\n"
        sock = await driver.sock_connect(("127.0.0.1", server.port))
        peer = SecurePeer(driver, sock, True, tls[1]) if secure else RawPeer(driver, sock, True)
        with contextlib.suppress(OSError, EOFError, ssl.SSLError):
            if isinstance(peer, SecurePeer):
                await RawPeer.send(peer, data[: len(proxied)])
                if choice.random() < 0.9:
                    await peer.start_tls()
            await (peer.send(data[len(proxied) :]) if secure else peer.send(data))
            if choice.random() < 0.8:
                await peer.read_head()
                texts = [b"0", b"1", b"2", b"3", b"close", b"lose"]
                for text in choice.sample(texts, choice.randint(0, 6)):
                    await peer.write(1, text)
            if choice.random() < 0.2:
                await peer.write(8, b"\x03\xe8")
            end = choice.random()
            if end < 0.3:
                peer.reset()
            elif end < 0.6:
                peer.write_eof()
                await peer.read_to_end()
        peer.close()

    async with driver.serve(
        handler,
        ssl=tls[0] if secure else None,
        door=door,
        open_timeout=0.3,
        close_timeout=0.3,
        **rates,
    ) as server:
        tasks = [driver.spawn(client(choice.getrandbits(32))) for _ in range(60)]
        for task in tasks[:50]:
            await task.ended()
        await server.close()
        for task in tasks[50:]:
            await task.ended()
        await emptied(driver, door)


class TestTLS:
    async def test_max_connections(self, driver: Driver, tls: Contexts) -> None:
        door = Door(max_connections=1)
        async with driver.serve(echo, ssl=tls[0], door=door) as server:
            uri = server.uri(host="localhost", tls=True)
            async with driver.connect(uri, ssl=tls[1]) as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"
                response = await driver.rejection(uri, ssl=tls[1])
                assert response.status_code == 503
            await emptied(driver, door)

    @pytest.mark.parametrize("proxied", BEFORE_TLS)
    async def test_answer_arrives_although_more_was_sent(
        self, driver: Driver, tls: Contexts, proxied: bytes
    ) -> None:
        door = Door(max_connections=0, proxy_protocol=bool(proxied))
        async with driver.serve(ssl=tls[0], door=door) as server:
            for _ in range(3):
                peer = await held_handshake(driver, server, tls, proxied)
                peer.tls.write(request() + bytes(50_000))
                await peer._flush()
                assert (await peer.read_head()).startswith("HTTP/1.1 503 ")
                peer.close()
            await emptied(driver, door)

    @pytest.mark.parametrize("proxied", BEFORE_TLS)
    async def test_request_right_behind_the_handshake(
        self, driver: Driver, tls: Contexts, proxied: bytes
    ) -> None:
        door = Door(proxy_protocol=bool(proxied))
        async with driver.serve(echo, ssl=tls[0], door=door) as server:
            for _ in range(10):
                # The end of the handshake and the request in one piece.
                peer = await held_handshake(driver, server, tls, proxied)
                peer.tls.write(request())
                await peer._flush()
                assert (await peer.read_head()).startswith("HTTP/1.1 101 ")
                peer.close()
            await emptied(driver, door)

    @pytest.mark.parametrize("proxied", BEFORE_TLS)
    @pytest.mark.parametrize("data", [b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"])
    async def test_handshake_that_fails(
        self, driver: Driver, tls: Contexts, data: bytes, proxied: bytes
    ) -> None:
        if not proxied and driver.package == "asyncio":
            return  # the event loop does the TLS handshake, before there is anything to count
        door = Door(max_opening=1, proxy_protocol=bool(proxied))
        async with driver.serve(echo, ssl=tls[0], door=door) as server:
            for _ in range(3):
                async with driver.raw_client(server, b"") as peer:
                    await driver.until(lambda: door.opening)
                    if proxied + data:
                        await peer.send(proxied + data)
                    end_stream(peer)
                    await peer.read_to_end()
                await emptied(driver, door)

    @pytest.mark.parametrize("proxied", BEFORE_TLS)
    async def test_handshake_that_is_reset(
        self, driver: Driver, tls: Contexts, proxied: bytes
    ) -> None:
        door = Door(max_opening=1, proxy_protocol=bool(proxied))
        async with driver.serve(echo, ssl=tls[0], door=door) as server:
            for _ in range(5):
                peer = await held_handshake(driver, server, tls, proxied)
                await peer._flush()
                peer.reset()
                await emptied(driver, door)
                await driver.until(lambda: not server.accepted)

    @pytest.mark.parametrize("proxied", BEFORE_TLS)
    async def test_server_closes_meanwhile(
        self, driver: Driver, tls: Contexts, proxied: bytes
    ) -> None:
        door = Door(max_opening=1, proxy_protocol=bool(proxied))
        async with driver.serve(echo, ssl=tls[0], door=door, open_timeout=1) as server:
            async with driver.raw_client(server, b"") as peer:
                if proxied or driver.package != "asyncio":
                    await driver.until(lambda: door.opening)
                if proxied:
                    await peer.send(proxied)
                    await driver.settle()
                await server.close()
                assert await peer.read_to_end() == b""
            await emptied(driver, door)

    @pytest.mark.parametrize("proxied", BEFORE_TLS)
    async def test_handshake_that_takes_too_long(
        self, driver: Driver, tls: Contexts, proxied: bytes
    ) -> None:
        door = Door(max_opening=1, proxy_protocol=bool(proxied))
        async with driver.serve(echo, ssl=tls[0], door=door, open_timeout=0.02) as server:
            async with driver.raw_client(server, b"") as peer:
                if proxied:
                    await peer.send(proxied)
                assert await peer.read_to_end() == b""
            await emptied(driver, door)


async def held_handshake(
    driver: Driver, server: Served, tls: Contexts, proxied: bytes = b""
) -> SecurePeer:
    """Do all of a TLS handshake but send the last part."""
    sock = await driver.sock_connect(("127.0.0.1", server.port))
    peer = SecurePeer(driver, sock, masked=True, tls=tls[1])
    if proxied:
        await RawPeer.send(peer, proxied)
    while True:
        try:
            peer.tls.do_handshake()
            return peer
        except ssl.SSLWantReadError:
            await peer._flush()
            peer.incoming.write(await driver.sock_recv(sock, 65536))


class TestProxyProtocol:
    async def test_address(self, driver: Driver) -> None:
        door = Door(proxy_protocol=True, max_per_address=1)
        async with driver.serve(until_closed, door=door) as server:
            async with driver.raw_client(server, b"") as peer:
                await peer.send(PROXIED + request())
                assert (await peer.read_head()).startswith("HTTP/1.1 101 ")
                connection = await server.connection()
                assert connection.client_address == "192.0.2.1"
                assert connection.remote_address[0] == "127.0.0.1"
                answer = await server.ask(PROXIED + request())
                assert answer.status_code == 429
                answer = await server.ask(b"PROXY UNKNOWN\r\n" + request("GET / HTTP/1.0"))
                assert answer.status_code != 429
            await emptied(driver, door)

    async def test_byte_by_byte(self, driver: Driver) -> None:
        door = Door(proxy_protocol=True)
        async with driver.serve(echo, door=door) as server:
            async with driver.raw_client(server, b"") as peer:
                for byte in PROXIED + request():
                    await peer.send(bytes([byte]))
                assert (await peer.read_head()).startswith("HTTP/1.1 101 ")
                await peer.write(1, b"hello")
                assert await peer.read_message() == (1, b"hello")
        await emptied(driver, door)

    async def test_before_tls(self, driver: Driver, tls: Contexts) -> None:
        door = Door(proxy_protocol=True)
        async with driver.serve(echo, ssl=tls[0], door=door) as server:
            sock = await driver.sock_connect(("127.0.0.1", server.port))
            peer = SecurePeer(driver, sock, masked=True, tls=tls[1])
            with contextlib.suppress(ssl.SSLWantReadError):
                peer.tls.do_handshake()
            # The header and the first message of TLS in one piece.
            await RawPeer.send(peer, PROXIED + peer.outgoing.read())
            await peer.start_tls()
            await peer.send(request())
            assert (await peer.read_head()).startswith("HTTP/1.1 101 ")
            connection = await server.connection()
            assert connection.client_address == "192.0.2.1"
            await peer.write(1, b"hello")
            assert await peer.read_message() == (1, b"hello")
            peer.close()
            await emptied(driver, door)

    @pytest.mark.parametrize(
        "data", [b"", request(), PROXIED[:10], b"PROXY TCP4 x\r\n" + request()]
    )
    async def test_no_header(self, driver: Driver, data: bytes) -> None:
        door = Door(proxy_protocol=True)
        async with driver.serve(echo, door=door) as server:
            async with driver.raw_client(server, b"") as peer:
                if data:
                    await peer.send(data)
                end_stream(peer)
                assert await peer.read_to_end() == b""
            await emptied(driver, door)

    async def test_second_header(self, driver: Driver) -> None:
        door = Door(proxy_protocol=True)
        async with driver.serve(echo, door=door) as server:
            # The second one isn't a request.
            assert await server.ask_bytes(2 * PROXIED + request()) == b""
            await emptied(driver, door)

    async def test_header_behind_the_beginning_of_tls(self, driver: Driver, tls: Contexts) -> None:
        door = Door(proxy_protocol=True)
        async with driver.serve(echo, ssl=tls[0], door=door) as server:
            sock = await driver.sock_connect(("127.0.0.1", server.port))
            peer = SecurePeer(driver, sock, masked=True, tls=tls[1])
            with contextlib.suppress(ssl.SSLWantReadError):
                peer.tls.do_handshake()
            await RawPeer.send(peer, peer.outgoing.read() + PROXIED)
            with contextlib.suppress(ConnectionError):
                assert await RawPeer.read_to_end(peer) == b""
            peer.close()
            await emptied(driver, door)

    async def test_header_that_takes_too_long(self, driver: Driver) -> None:
        door = Door(proxy_protocol=True)
        async with driver.serve(echo, door=door, open_timeout=0.02) as server:
            async with driver.raw_client(server, b"") as peer:
                await peer.send(PROXIED[:10])
                assert await peer.read_to_end() == b""
            await emptied(driver, door)

    async def test_server_closes_meanwhile(self, driver: Driver) -> None:
        door = Door(proxy_protocol=True)
        async with driver.serve(echo, door=door, open_timeout=None) as server:
            async with driver.raw_client(server, b"") as peer:
                await driver.until(lambda: door.opening)
                await server.close()
                assert await peer.read_to_end() == b""
            await emptied(driver, door)

    async def test_header_and_request_tell(self, driver: Driver) -> None:
        door = Door(proxy_protocol=True, client_address=forwarded_for(), max_per_address=1)
        async with driver.serve(until_closed, door=door) as server:
            async with driver.raw_client(server, b"") as peer:
                await peer.send(PROXIED + request(X_Forwarded_For="192.0.2.7"))
                assert (await peer.read_head()).startswith("HTTP/1.1 101 ")
                assert (await server.connection()).client_address == "192.0.2.7"
                answer = await server.ask(PROXIED + request(X_Forwarded_For="192.0.2.7"))
                assert answer.status_code == 429
            await emptied(driver, door)


async def test_argument(driver: Driver) -> None:
    with pytest.raises(TypeError, match="door must be a Door or None, not int"):
        async with driver.serve(door=1):
            pass
