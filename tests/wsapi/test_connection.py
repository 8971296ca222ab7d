"""Connections as all front-ends have them: attributes, fragmented messages, broadcasts."""

import gc
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any
from unittest import mock

import pytest

from wsapi._shared.client import ClientSide
from wsapi._shared.connection import (
    BaseConnection,
    FragmentedMessage,
    SkippedBroadcasts,
    concurrent_receiver,
    forget_frames,
)
from wsapi._shared.server import finish
from wsapi.exceptions import ConcurrencyError, ConnectionClosedError, InvalidState
from wsapi.uri import parse_uri
from wsproto_fast import ClientProtocol, Protocol, Request, ServerProtocol, Side, State

URI = "ws://example.org/"


def test_forget_frames() -> None:
    def raised(exc: BaseException) -> BaseException:
        try:
            raise exc
        except BaseException:
            return exc

    members = raised(OSError(1)), raised(OSError(2))
    members[1].__cause__ = cause = raised(ValueError())
    cause.__context__ = KeyError()
    group = raised(BaseExceptionGroup("all", members))
    forget_frames(group)
    everything = group, *members, cause
    assert [exc.__traceback__ for exc in everything] == [None] * 4
    assert [exc.__context__ for exc in everything] == [None] * 4
    assert members[1].__cause__ is cause


class TestConnection:
    def test_attributes(self) -> None:
        protocol = Protocol(Side.CLIENT)
        connection = BaseConnection(protocol, max_queue=(None, 2), close_timeout=3)
        assert connection.protocol is protocol
        assert connection.id == protocol.id
        assert connection.state is State.OPEN
        assert connection.latency == 0
        assert (connection.subprotocol, connection.close_code, connection.close_reason) == (
            None,
        ) * 3
        assert (connection.request, connection.response) == (None, None)
        assert (connection.ping_interval, connection.close_timeout) == (20, 3)
        assert (
            repr(connection) == f"<wsapi._shared.connection.BaseConnection OPEN id={protocol.id}>"
        )

    def test_doubles_by_specification(self) -> None:
        """They look attributes up in the class, those among them that are computed."""
        double = mock.Mock(spec=BaseConnection)
        for name in ("ping_interval", "ping_timeout", "close_timeout"):
            assert hasattr(BaseConnection, name)
            setattr(double, name, 5)
            assert getattr(double, name) == 5

    def test_stats_when_what_moves_bytes_is_gone(self) -> None:
        class Lost(BaseConnection):
            def _unsent(self) -> int:
                raise AttributeError("the transport is None")

        connection = Lost(Protocol(Side.CLIENT))
        connection.protocol.send_text("a")
        stats = connection.stats()
        assert (stats.messages_sent, stats.write_buffer_bytes) == (1, 7)  # which wait in the engine

    def test_stats_where_there_is_no_clock(self) -> None:
        """As in threads without trio; what is measured in seconds isn't known then."""

        class Elsewhere(BaseConnection):
            def _now(self) -> float:
                raise RuntimeError("must be called from async context")

        connection = Elsewhere(Protocol(Side.CLIENT))
        connection.protocol.send_text("a")
        assert connection.stats().messages_sent == 1

    def test_logger_is_made_when_it_is_used(self, caplog: pytest.LogCaptureFixture) -> None:
        connection = BaseConnection(Protocol(Side.CLIENT))
        gc.collect()
        before = [adapter for adapter in gc.get_objects() if type(adapter) is logging.LoggerAdapter]
        logger = connection.logger
        assert not any(logger is adapter for adapter in before)
        assert connection.logger is logger is connection.protocol.logger
        logger.warning("once")
        (record,) = caplog.records
        assert record.name == "wsapi.client"
        assert record.__dict__["websocket"].id == connection.id

    def test_engine_logs_about_the_connection(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        connection = BaseConnection(Protocol(Side.CLIENT))
        connection.protocol.send_text("a")
        first, record = caplog.records
        assert first.getMessage() == "= connection is OPEN"
        assert record.getMessage() == "> TEXT 'a' [1 byte]"
        assert record.__dict__["websocket"].id == connection.id

    def test_logger_of_ones_own(self, caplog: pytest.LogCaptureFixture) -> None:
        connection = BaseConnection(Protocol(Side.CLIENT))
        connection.logger = logging.getLogger("mine")
        assert connection.logger is connection.protocol.logger is logging.getLogger("mine")

    def test_logger_does_not_keep_the_connection(self) -> None:
        connection = BaseConnection(Protocol(Side.CLIENT))
        protocol = connection.protocol
        del connection
        gc.collect()
        assert protocol.logger is logging.getLogger("wsapi.client")

    @pytest.mark.parametrize("kind", ["coroutine", "thread"])
    def test_concurrent_receiver(self, kind: str) -> None:
        assert str(concurrent_receiver("recv", "recv_streaming", kind)) == (
            f"cannot call recv while another {kind} is already running recv_streaming"
        )


class TestClientSide:
    def test_handshake(self) -> None:
        connection = ClientSide(ClientProtocol(parse_uri(URI)))
        connection._send_request({"X-A": "b"}, "agent", 0)
        assert connection.request is not None
        assert connection.request.headers["X-A"] == "b"
        assert connection.request.headers["User-Agent"] == "agent"
        server = ServerProtocol()
        server.receive_data(connection.protocol.take_output())
        (request,) = server.events_received()
        assert isinstance(request, Request)
        assert not connection._receive_response()
        server.send_response(server.accept(request))
        connection.protocol.receive_data(server.take_output())
        assert connection._receive_response()
        assert connection.response is not None
        assert connection.response.status_code == 101

    def test_own_user_agent(self) -> None:
        connection = ClientSide(ClientProtocol(parse_uri(URI)))
        connection._send_request([("user-agent", "mine")], "agent", 0)
        assert connection.request is not None
        assert connection.request.headers.get_all("User-Agent") == ["mine"]

    def test_failure(self) -> None:
        connection = ClientSide(ClientProtocol(parse_uri(URI)))
        connection._send_request(None, None, 0)
        connection.protocol.receive_data(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        assert connection._receive_response()
        assert connection.response is not None
        assert connection.protocol.handshake_exc is not None


def fragmented(message: Any, text: bool | None = None, **options: Any) -> FragmentedMessage:
    protocol = options.pop("protocol", None) or Protocol(Side.SERVER)
    return FragmentedMessage(protocol, message, text, None, asynchronous=True, **options)


async def letters() -> AsyncIterator[str]:
    for letter in "ab":
        yield letter


class TestFragments:
    @pytest.mark.parametrize("make", [lambda: ["a", "b"], letters])
    def test_frames(self, make: Callable[[], Any]) -> None:
        protocol = Protocol(Side.SERVER)
        message = fragmented(make(), protocol=protocol)

        async def send() -> None:
            async for item in message.items():
                message.send(item)
            message.finish()

        finish(send())
        assert protocol.take_output() == b"\x01\x01a\x00\x01b\x80\x00"

    @pytest.mark.parametrize("text, first", [(None, b"\x02"), (True, b"\x01"), (False, b"\x02")])
    def test_opcode(self, text: bool | None, first: bytes) -> None:
        protocol = Protocol(Side.SERVER)
        fragmented([b"a"], text, protocol=protocol).send(b"a")
        assert protocol.take_output()[:1] == first

    def test_nothing(self) -> None:
        protocol = Protocol(Side.SERVER)
        message = fragmented([], protocol=protocol)
        message.finish()
        assert protocol.take_output() == b""

    @pytest.mark.parametrize("message, text", [({}, "dict-like"), (1, "or async iterable")])
    def test_wrong_messages(self, message: Any, text: str) -> None:
        with pytest.raises(TypeError, match=text):
            fragmented(message)

    def test_asynchronous_where_it_is_not_fine(self) -> None:
        with pytest.raises(TypeError, match="data must be str, bytes, or iterable"):
            FragmentedMessage(Protocol(Side.SERVER), letters(), None, None, asynchronous=False)

    @pytest.mark.parametrize(
        "items, text",
        [
            ([1], "iterable must contain bytes or str"),
            (["a", b"b"], "iterable must contain uniform types"),
            ([b"a", 2], "iterable must contain uniform types"),
        ],
    )
    def test_wrong_items(self, items: list[Any], text: str) -> None:
        message = fragmented(items)
        with pytest.raises(TypeError, match=f"^{text}"):
            for item in items:
                message.send(item)

    def test_abandoned(self) -> None:
        protocol = Protocol(Side.SERVER)
        message = fragmented(["a"], protocol=protocol)
        message.abandon(ValueError(), 0)
        assert protocol.state is State.OPEN  # nothing was sent
        message.send("a")
        message.abandon(ValueError(), 0)
        assert protocol.close_sent is not None
        assert (protocol.close_sent.code, protocol.close_sent.reason) == (
            1011,
            "error in fragmented message",
        )

    def test_closed_meanwhile(self) -> None:
        protocol = Protocol(Side.SERVER)
        message = fragmented(["a"], protocol=protocol)
        message.send("a")
        protocol.connection_lost()
        with pytest.raises(InvalidState):
            message.send("a")
        message.abandon(protocol.close_exc, 0)
        assert isinstance(protocol.close_exc, ConnectionClosedError)
        assert protocol.close_sent is None


class TestSkippedBroadcasts:
    def test_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        connection = BaseConnection(Protocol(Side.CLIENT))
        skipped = SkippedBroadcasts(False)
        skipped.add(connection, ConcurrencyError("sending a fragmented message"))
        skipped.add(connection, OSError("gone"))
        skipped.finish()
        assert [record.getMessage() for record in caplog.records] == [
            "skipped broadcast: sending a fragmented message",
            "skipped broadcast: failed to write message",
        ]

    def test_raised(self) -> None:
        connection = BaseConnection(Protocol(Side.CLIENT))
        skipped = SkippedBroadcasts(True)
        first, second = ConcurrencyError("busy"), OSError("gone")
        skipped.add(connection, first)
        skipped.add(connection, second)
        with pytest.raises(ExceptionGroup, match="skipped broadcast") as caught:
            skipped.finish()
        assert caught.value.exceptions[0] is first
        assert caught.value.exceptions[1].__cause__ is second
        assert str(caught.value.exceptions[1]) == "failed to write message"


class TestForeignOverrides:
    """What programs override or change in `websockets`, and nothing here would call or read."""

    @pytest.mark.parametrize("name", ["keepalive", "process_event", "send_data"])
    def test_of_connections(self, name: str) -> None:
        for base in (BaseConnection, ClientSide):
            with pytest.raises(TypeError, match=rf"Mine\.{name}\(\) isn't called"):
                type("Mine", (base,), {name: lambda *args: None})
