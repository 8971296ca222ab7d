"""The testing kit for threads: pairs and servers without a network."""

from __future__ import annotations

import math
import queue
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from wsapi.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    InvalidStatus,
    NegotiationError,
)
from wsapi.sync.client import ClientConnection
from wsapi.sync.server import ServerConnection
from wsapi.testing._sockets import Listener, Network
from wsapi.testing._time import Time
from wsapi.testing.sync import Clock, Wire, link, pair, serving
from wsproto_fast.frames import State


def echo(connection: Any) -> None:
    for message in connection:
        connection.send(message)


def test_a_pair_exchanges_messages() -> None:
    with pair(subprotocols=["chat"]) as (client, server):
        assert client.subprotocol == server.subprotocol == "chat"
        client.send("question")
        assert server.recv() == "question"
        server.send(b"answer")
        assert client.recv() == b"answer"
    assert (client.state, server.state) == (State.CLOSED, State.CLOSED)
    assert client.close_code == server.close_code == 1000


def test_a_pair_opens_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "__init__", refuse)
    with pair() as (client, server):
        assert client.local_address == server.remote_address
        client.send("message")
        assert server.recv() == "message"


def test_options_of_a_pair() -> None:
    with pair(
        "ws://example.com/path",
        client={"additional_headers": {"X-Test": "1"}, "create_connection": ClientConnection},
        server={"server_header": "kit"},
        compression=None,
    ) as (client, server):
        assert server.request is not None
        assert (server.request.path, server.request.headers["X-Test"]) == ("/path", "1")
        assert client.response is not None
        assert client.response.headers["Server"] == "kit"


def test_a_pair_whose_handshake_fails() -> None:
    with pytest.raises(InvalidStatus, match="403"):
        with pair(client={"origin": "http://a"}, server={"origins": ["http://b"]}):
            raise AssertionError


def choose_another_subprotocol(connection: Any, request: Any, response: Any) -> None:
    """Have a server accept a request so that the client doesn't take it."""
    response.headers["Sec-WebSocket-Protocol"] = "another"


def test_a_pair_whose_client_does_not_take_the_response() -> None:
    begin = time.monotonic()
    with pytest.raises(NegotiationError):
        with pair(server={"process_response": choose_another_subprotocol}):
            raise AssertionError
    with pytest.raises(TimeoutError):
        with pair(client={"incoming": Wire(delay=0.5), "open_timeout": 0.1}):
            raise AssertionError
    assert time.monotonic() < begin + 0.9


def test_a_pair_whose_block_fails() -> None:
    with pytest.raises(ZeroDivisionError):
        with pair() as (client, server):
            raise ZeroDivisionError
    assert (client.state, server.state) == (State.CLOSED, State.CLOSED)


def test_serving_a_handler() -> None:
    with serving(echo) as place:
        with place.connect() as first, place.connect() as second:
            first.send("1")
            second.send("2")
            assert (first.recv(), second.recv()) == ("1", "2")
        third = place.connect(legacy=True)
    with pytest.raises(ConnectionClosed):
        third.recv()
    assert third.close_code == 1001
    with pytest.raises(ConnectionRefusedError):
        place.connect()


def test_nothing_is_left() -> None:
    before = set(threading.enumerate())
    with serving(echo) as place, place.connect() as connection:
        connection.send("message")
    assert set(threading.enumerate()) <= before


def test_who_does_not_answer_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapi.testing._common.GRACE", 0.05)

    def handler(connection: Any) -> None:
        connection.wait_closed()

    with serving(handler, close_timeout=None) as place:
        connection = place.connect(max_queue=1, legacy=True)
        for each in place.server.connections:
            for _ in range(5):
                each.send("message")
    assert connection.state is not State.CONNECTING


@pytest.mark.parametrize("option", ["host", "port", "sock", "ssl", "path"])
def test_options_of_sockets_have_no_use(option: str) -> None:
    with pytest.raises(ValueError, match=f"no use for {option}"):
        serving(echo, **{option: None})


def test_a_handler_is_a_callable() -> None:
    handler: Any = 5
    with pytest.raises(TypeError, match="handler"):
        serving(handler)


def test_mistakes_leave_no_socket_open() -> None:
    """Else there would be a ResourceWarning."""
    with pytest.raises(TypeError):
        serving(echo, colour="blue")
    with serving(echo) as place:
        with pytest.raises(ValueError, match="no use for timeout"):
            place.connect(timeout=1)
        with pytest.raises(TypeError):
            place.connect(colour="blue")


def test_too_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket stays open: else there would be a ResourceWarning."""

    def fail(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    with serving(echo) as place:
        monkeypatch.setattr(place.server, "_start", fail)
        with pytest.raises(RuntimeError, match="thread"):
            place.connect()


# ---------------------------------------------------------------------- in other threads


class Doing:
    """Something that another thread does."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._outcome: list[Any] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome.append(self._function())
        except Exception as exc:
            self._outcome.append(exc)

    @property
    def done(self) -> bool:
        return bool(self._outcome)

    def result(self) -> Any:
        self._thread.join(20)
        return self._outcome[0]


# ---------------------------------------------------------------------- time


def test_time_stands_still_until_it_is_advanced() -> None:
    happened = []
    with Clock() as clock:
        begin = clock.time()

        def program() -> None:
            for pause in (10, 5, 10):
                clock.sleep(pause)
                happened.append(clock.time() - begin)

        doing = Doing(program)
        clock.advance(9.5)
        assert happened == []
        clock.advance(0.5)
        assert happened == [10]
        clock.advance(100)
        assert happened == pytest.approx([10, 15, 25])
        assert clock.time() == pytest.approx(begin + 110)
        doing.result()
        clock.sleep(0)


def test_keepalive_in_fake_time() -> None:
    with Clock() as clock:
        with pair(client={"ping_interval": 20}, server={"ping_interval": None}) as (client, server):
            link(client).outgoing.delay = 0.25
            clock.advance(19.9)
            assert client.stats().pings_sent == 0
            clock.advance(0.2)
            assert client.stats().pings_sent == 1
            clock.advance(0.5)
            assert client.latency == pytest.approx(0.25)
            link(client).cut()
            clock.advance(39.2)  # until shortly before 60
            assert client.state is State.OPEN
            clock.advance(0.4)
            assert client.state is State.CLOSING
            clock.advance(10.1)
            assert client.state is State.CLOSED
            with pytest.raises(ConnectionClosedError, match="keepalive"):
                client.recv()
            assert server.state is State.OPEN


def test_a_timeout_of_recv_in_fake_time() -> None:
    with Clock() as clock, pair() as (client, server):
        receiving = Doing(lambda: client.recv(timeout=3600))
        clock.advance(3599)
        assert not receiving.done
        server.send("just in time")
        assert receiving.result() == "just in time"
        receiving = Doing(lambda: client.recv(timeout=5))
        clock.advance(5)
        assert isinstance(receiving.result(), TimeoutError)
        waiting = Doing(lambda: client.wait_closed(timeout=5))
        clock.advance(5)
        assert waiting.result() is False


def test_the_closing_handshake_times_out() -> None:
    with Clock() as clock, pair(client={"close_timeout": 7}) as (client, _):
        link(client).cut()
        closing = Doing(client.close)
        clock.advance(6.9)
        assert not closing.done
        clock.advance(0.2)
        assert closing.result() is None
        assert client.close_code == 1006


def test_the_opening_handshake_times_out() -> None:
    with Clock() as clock, serving(echo, open_timeout=30) as place:
        connecting = Doing(lambda: place.connect(incoming=Wire(drop=True), open_timeout=5))
        clock.advance(4.9)
        assert not connecting.done
        clock.advance(0.2)
        assert isinstance(connecting.result(), TimeoutError)


def test_a_server_times_out_requests() -> None:
    with Clock() as clock, serving(echo, open_timeout=3) as place:
        connecting = Doing(lambda: place.connect(outgoing=Wire(hold=True), open_timeout=None))
        clock.advance(2.9)
        assert not connecting.done
        clock.advance(0.2)
        assert isinstance(connecting.result(), Exception)


def test_limits_on_rates_in_fake_time() -> None:
    with Clock() as clock, pair(server={"message_rate": 1}) as (client, server):
        for number in range(6):
            client.send(str(number))
        received: list[object] = []

        def receive() -> None:
            for message in server:
                received.append(message)

        receiving = Doing(receive)
        clock.settle()
        at_once = len(received)
        assert 0 < at_once < 6
        clock.advance(6 - at_once + 0.1)
        assert received == list("012345")
    receiving.result()


def test_two_pairs_on_one_clock() -> None:
    with Clock() as clock:
        with pair(ping_interval=7) as (one, _), pair(ping_interval=5) as (other, _):
            link(other).cut()
            clock.advance(21.5)
            assert (one.stats().pings_sent, other.stats().pings_sent) == (3, 1)
            clock.advance(20)
            assert (one.state, other.state) == (State.OPEN, State.CLOSED)


def test_reconnecting_in_memory() -> None:
    greetings = []
    with Clock(autojump=True) as clock:
        begin = clock.time()
        with serving(lambda connection: connection.send("hello")) as place:
            for connection in place.reconnect(reconnect_delays=lambda: iter([5.0] * 9)):
                greetings.append(connection.recv())
                if len(greetings) == 3:
                    break
                link(connection).reset()
        assert greetings == ["hello"] * 3
        assert clock.time() - begin < 30


def test_attempts_to_connect_in_fake_time() -> None:
    attempts = []
    with Clock(autojump=True) as clock:

        def refuse(connection: ServerConnection, request: Any) -> Any:
            attempts.append(clock.time())
            return connection.respond(503, "later") if len(attempts) < 3 else None

        with serving(echo, process_request=refuse) as place:
            for connection in place.reconnect(reconnect_delays=lambda: iter([60.0] * 9)):
                connection.send("message")
                assert connection.recv() == "message"
                break
    first, second, third = attempts
    assert (second - first, third - second) == pytest.approx((60, 60))


def test_time_jumps_while_the_test_waits() -> None:
    with Clock(autojump=True) as clock:
        begin = clock.time()

        def handler(connection: ServerConnection) -> None:
            clock.sleep(3600)
            connection.send("after an hour")

        with serving(handler, ping_interval=None) as place:
            with place.connect(ping_interval=None) as connection:
                assert connection.recv() == "after an hour"
        assert clock.time() - begin == pytest.approx(3600)


def test_a_thread_that_does_not_run_yet_is_about_to_do_something() -> None:
    with Clock() as clock:
        assert not clock._are_still([threading.Thread()])


def test_time_jumps_although_a_thread_waits_for_something_else() -> None:
    orders = queue.SimpleQueue[str]()
    with Clock(autojump=True) as clock:
        with serving(lambda connection: connection.send(orders.get())) as place:
            with place.connect(ping_interval=None) as connection:
                begin = clock.time()
                with pytest.raises(TimeoutError):
                    connection.recv(timeout=60)
                assert clock.time() - begin == pytest.approx(60)
                orders.put("order")
                assert connection.recv() == "order"


def test_a_thread_that_waits_for_something_else_is_let_alone() -> None:
    orders = queue.SimpleQueue[str]()
    with Clock() as clock, serving(lambda connection: connection.send(orders.get())) as place:
        with place.connect() as connection:
            clock.advance(100)
            assert connection.stats().pings_sent == 5
            orders.put("order")
            assert connection.recv() == "order"


def test_a_handler_that_sleeps_ends_with_its_server() -> None:
    ends = []
    with Clock() as clock:

        def handler(connection: ServerConnection) -> None:
            try:
                clock.sleep(3600)
            finally:
                ends.append(connection.state)

        before = set(threading.enumerate())
        with serving(handler) as place, place.connect(max_queue=1):
            clock.settle()
        assert set(threading.enumerate()) <= before
    assert ends == [State.CLOSED]


def test_who_does_not_read_is_aborted_at_once() -> None:
    with Clock():
        with pair(max_queue=1) as (client, server):
            for _ in range(10):
                client.send("message")
        assert (client.state, server.state) == (State.CLOSED, State.CLOSED)


def test_a_pair_ends_although_the_cable_is_cut() -> None:
    before = set(threading.enumerate())
    with Clock():
        with pair() as (client, server):
            link(client).cut()
        assert (client.close_code, server.close_code) == (1006, 1006)
    assert set(threading.enumerate()) <= before


def test_a_pair_ends_in_the_middle_of_a_delay() -> None:
    before = set(threading.enumerate())
    with Clock():
        with pair() as (client, server):
            link(client).outgoing.delay = 60
            client.send("late")
            assert link(client).outgoing.bytes_under_way > 4
        assert (client.state, server.state) == (State.CLOSED, State.CLOSED)
    with pytest.raises(ZeroDivisionError):
        with Clock(), pair() as (client, _):
            link(client).incoming.hold = True
            raise ZeroDivisionError
    assert set(threading.enumerate()) <= before


def test_misuse_of_clocks() -> None:
    clock = Clock()
    for misuse in (clock.settle, lambda: clock.advance(1), lambda: clock.sleep(1)):
        with pytest.raises(RuntimeError, match="isn't in use"):
            misuse()
    with clock:
        for seconds in (-1, math.inf, math.nan):
            with pytest.raises(ValueError, match="seconds"):
                clock.advance(seconds)
        for other in (clock, Clock()):
            with pytest.raises(RuntimeError, match="already"):
                with other:
                    raise AssertionError


def test_two_threads_advance() -> None:
    with Clock() as clock:
        advancing = Doing(lambda: clock.advance(1))
        clock._moving.acquire()
        assert advancing.result() is None or isinstance(advancing.result(), RuntimeError)
        with pytest.raises(RuntimeError, match="another thread"):
            clock.advance(1)
        clock._moving.release()


def test_a_thread_that_never_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapi.testing._time.PATIENCE", 0.05)
    stop = threading.Event()

    def restless() -> None:
        while not stop.is_set():
            pass

    with Clock() as clock:
        doing = Doing(restless)
        with pytest.raises(RuntimeError, match="rest: Thread"):
            clock.settle()
        stop.set()
        doing.result()


def test_waiting_for_a_time_that_nobody_advances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsapi.testing._time.SIGNAL_INTERVAL", 0.01)
    with Clock() as clock, pair() as (client, _):
        with pytest.raises(RuntimeError, match="advance it"):
            client.recv()
        clock.advance(30)
        assert client.state is State.OPEN


def test_waiting_while_an_executor_has_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its threads don't wait for the kit, but won't do anything either."""
    monkeypatch.setattr("wsapi.testing._time.SIGNAL_INTERVAL", 0.01)
    with Clock(), pair() as (client, _), ThreadPoolExecutor(1) as executor:
        assert executor.submit(int).result() == 0
        with pytest.raises(RuntimeError, match="advance it"):
            client.recv()


# ---------------------------------------------------------------------- faults


def test_single_bytes() -> None:
    with serving(echo) as place:
        with place.connect(incoming=Wire(split=1), outgoing=Wire(split=1)) as connection:
            connection.send("message" * 100)
            assert connection.recv() == "message" * 100


def test_bytes_that_are_held() -> None:
    with Clock() as clock, pair() as (client, server):
        link(client).outgoing.hold = True
        client.send("message")
        receiving = Doing(server.recv)
        clock.advance(15)
        assert not receiving.done
        link(client).outgoing.hold = False
        assert receiving.result() == "message"


def test_a_delay_in_real_time() -> None:
    with pair() as (client, server):
        link(client).outgoing.delay = 0.01
        client.send("message")
        assert server.recv(timeout=10) == "message"


def test_a_narrow_wire() -> None:
    with Clock() as clock, pair(compression=None, ping_interval=None) as (client, server):
        link(client).outgoing.bandwidth = 1000
        client.send(bytes(10_000))
        receiving = Doing(server.recv)
        clock.advance(9.9)
        assert not receiving.done
        clock.advance(0.2)
        assert receiving.result() == bytes(10_000)


def test_who_sends_waits_for_who_receives() -> None:
    message = bytes(10_000_000)
    with Clock() as clock, pair(compression=None, max_size=None) as (client, server):
        sending = Doing(lambda: client.send(message))
        link(client).incoming.hold = True
        assert server.recv() == message
        assert sending.result() is None
        link(client).outgoing.hold = True
        sending = Doing(lambda: client.send(message))
        clock.advance(30)
        assert not sending.done
        link(client).outgoing.hold = False
        assert server.recv() == message
        assert sending.result() is None


def test_a_reset() -> None:
    with pair() as (client, server):
        receiving = Doing(server.recv)
        client.send("lost?")
        assert receiving.result() == "lost?"
        receiving = Doing(server.recv)
        link(client).reset()
        assert isinstance(receiving.result(), ConnectionClosedError)
        with pytest.raises(ConnectionClosedError) as info:
            client.recv()
        assert isinstance(info.value.__cause__, ConnectionResetError)
        with pytest.raises(ConnectionClosedError):
            client.send("message")
        with pytest.raises(OSError, match=r"[Bb]ad file"):
            client.local_address  # noqa: B018


def test_what_stands_for_sockets() -> None:
    network = Network(Time())
    left, right = network.connected(Wire(), Wire())
    room = memoryview(bytearray(10))
    assert left.fileno() == -1
    assert left.getpeername() == right.getsockname()
    with pytest.raises(OSError, match="available"):
        left.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert left.send_now(memoryview(b"abc")) == 3
    left.wait_writable()
    assert right.receive(room, math.inf) == 3
    assert right.receive(room, -math.inf) is None
    left.shutdown(socket.SHUT_WR)
    left.shutdown(socket.SHUT_WR)
    assert right.receive(room, math.inf) == right.receive(room, math.inf) == 0
    right.shutdown(socket.SHUT_RD)
    for _ in range(2):
        right.close()
    for data in (b"", b"abc"):
        with pytest.raises(BrokenPipeError):
            left.send_now(memoryview(data))
    with pytest.raises(OSError, match="descriptor"):
        right.shutdown(socket.SHUT_RDWR)
    left, right = network.connected(Wire(), Wire())
    right.close()
    with pytest.raises(BrokenPipeError):
        left.send_now(memoryview(b"abc"))
    left._reset()
    with pytest.raises(ConnectionResetError):
        left.send_now(memoryview(b"abc"))
    left.close()
    assert "memory" in repr(Listener())


def test_who_is_released_before_it_waits() -> None:
    waiter = Time().waiter()
    waiter.release()
    assert waiter.wait(math.inf)


def test_a_connection_on_a_socket_has_no_link() -> None:
    with pytest.raises(TypeError, match="in memory"):
        link(object())


def test_a_wire_is_good_for_one_connection() -> None:
    wire = Wire()
    with serving(echo) as place:
        with place.connect(outgoing=wire):
            with pytest.raises(ValueError, match="Wire of its own"):
                place.connect(incoming=wire)


def test_creation_of_connections_goes_by_the_options() -> None:
    class Server(ServerConnection):
        pass

    with Clock(), pair(server={"create_connection": Server}) as (_, server):
        assert type(server) is Server
