"""What is particular about clients on trio: contexts, cancellation, iterators that are left."""

from __future__ import annotations

import contextlib
import gc
import socket
import ssl
import threading
import weakref
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from tests.wsapi.conformance.raw import RESET
from tests.wsapi.helpers import collecting, logged_errors
from tests.wsapi.trio_helpers import serving, trio_test, until
from wsapi.exceptions import ConnectionClosed, ConnectionClosedOK
from wsapi.trio.client import _turn, connect, unix_connect
from wsapi.trio.server import ServerConnection
from wsproto_fast import State


class Codes(list[int]):
    """A handler that notes with which codes connections are closed."""

    async def __call__(self, connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                await connection.send(message)
        await connection.wait_closed()
        assert connection.close_code is not None
        self.append(connection.close_code)


class TestContext:
    @trio_test
    async def test_exceptions_stay_as_they_are(self) -> None:
        async with serving(codes := Codes()) as (_server, uri):
            with pytest.raises(ZeroDivisionError):
                async with connect(uri):
                    raise ZeroDivisionError
            with pytest.raises(ExceptionGroup) as caught:
                async with connect(uri):
                    raise ExceptionGroup("mine", [ZeroDivisionError()])
            assert caught.value.message == "mine"
            await until(lambda: codes == [1011, 1011])

    @trio_test
    async def test_failure_to_connect(self) -> None:
        with pytest.raises(OSError):
            async with connect("ws://127.0.0.1:1/"):
                raise AssertionError

    @trio_test
    async def test_connection_of_the_context(self) -> None:
        async with serving() as (server, uri):
            context = connect(uri)
            with pytest.raises(AttributeError, match="before the context is entered"):
                context.connection  # noqa: B018 # it raises
            async with context as connection:
                assert context.connection is connection
            with pytest.raises(AttributeError):
                context.connection  # noqa: B018 # it raises
            assert server.closing is False
        assert server.closing is True

    @trio_test
    async def test_iterator_that_is_closed(self) -> None:
        async with serving(Codes()) as (_server, uri):
            async with connect(uri) as connection:
                async with contextlib.aclosing(aiter(connection)) as messages:  # type: ignore[type-var] # it has aclose()
                    await connection.send("x")
                    assert await anext(messages) == "x"

    @trio_test
    async def test_not_reentrant(self) -> None:
        async with serving() as (_server, uri):
            manager = connect(uri)
            for _ in range(2):
                async with manager as connection:
                    with pytest.raises(RuntimeError, match="reentrant"):
                        await manager.__aenter__()
                    await connection.send("x")
                    assert await connection.recv() == "x"

    @trio_test
    async def test_cancelled(self) -> None:
        async with serving(codes := Codes()) as (server, uri):
            with trio.CancelScope() as scope:
                async with connect(uri) as connection:
                    scope.deadline = trio.current_time() + 0.01
                    await connection.recv()
            assert scope.cancelled_caught
            assert connection.state is State.CLOSED
            # The server was told so, though nobody waited for its answer.
            await until(lambda: codes == [1011])
            await until(lambda: not server._connections)

    @trio_test
    async def test_cancelled_while_connecting(self) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        with trio.move_on_after(0.05) as scope:
            async with connect(f"ws://127.0.0.1:{port}"):
                raise AssertionError
        assert scope.cancelled_caught
        async with await listeners[0].accept() as stream:
            while await stream.receive_some():
                pass
        await listeners[0].aclose()

    @trio_test
    async def test_open_timeout(self) -> None:
        one, other = trio.testing.memory_stream_pair()
        with pytest.raises(TimeoutError, match="timed out during opening handshake"):
            async with connect("ws://localhost", stream=one, open_timeout=0.02):
                raise AssertionError
        with pytest.raises(trio.ClosedResourceError):
            await one.receive_some()
        await other.aclose()

    @trio_test
    async def test_nested(self) -> None:
        async with serving() as (_server, uri):
            async with connect(uri) as one, connect(uri) as other:
                for connection in (other, one):
                    await connection.send("x")
                    assert await connection.recv() == "x"

    @trio_test
    async def test_is_not_awaitable(self) -> None:
        assert not hasattr(connect("ws://localhost"), "__await__")

    def test_path_and_stream(self) -> None:
        one, _other = trio.testing.memory_stream_pair()
        with pytest.raises(ValueError, match="missing path"):
            unix_connect()
        with pytest.raises(ValueError, match="incompatible"):
            unix_connect("path", stream=one)

    @pytest.mark.parametrize("secure", [False, True])
    @trio_test
    async def test_cancelled_client_says_goodbye(
        self, tls: tuple[ssl.SSLContext, ssl.SSLContext], secure: bool
    ) -> None:
        options: Any = {"ssl": tls[0]} if secure else {}
        async with serving(codes := Codes(), **options) as (_server, uri):
            with trio.CancelScope() as scope:
                async with connect(uri, **({"ssl": tls[1]} if secure else {})) as connection:
                    scope.cancel()
                    await connection.recv()
            assert scope.cancelled_caught
            assert connection.state is State.CLOSED
            await until(lambda: codes == [1011])

    @trio_test
    async def test_tls_fails(self) -> None:
        """It is an OSError, as on the other front-ends, and what streams of trio raise."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trustme.CA().issue_cert("localhost").configure_cert(context)
        async with serving(ssl=context) as (_server, uri):
            for kind in (ssl.SSLCertVerificationError, trio.BrokenResourceError):
                with pytest.raises(kind, match="CERTIFICATE_VERIFY_FAILED") as caught:
                    async with connect(uri):
                        raise AssertionError
                assert isinstance(caught.value, OSError)
                assert type(caught.value).__name__ == "SSLCertVerificationError"
                assert getattr(caught.value, "verify_code") > 0  # noqa: B009 # no type has it
        async with serving() as (_server, uri):
            for other in (OSError, trio.BrokenResourceError):
                with pytest.raises(other):
                    async with connect(uri.replace("ws:", "wss:")):
                        raise AssertionError


class TestFreed:
    """Nothing of a connection waits for the cyclic collector, however the connection ended."""

    async def end(self, how: str, uri: str) -> None:
        with contextlib.suppress(ConnectionClosed), trio.CancelScope() as scope:
            async with connect(uri) as connection:
                await connection.send("hello")
                await connection.recv()
                if how == "cancelled":
                    scope.cancel()
                elif how == "socket closed":
                    connection.stream.socket.close()
                elif how != "clean":
                    await connection.send(how)
                    if how == "reset while sending":
                        for _ in range(100):
                            await connection.send("a" * 100_000)
                    await connection.recv()

    @trio_test
    async def test_last_one(self) -> None:
        """What looks after connections keeps none, not even the one it served last."""
        async with serving() as (server, uri):
            references = []
            async with connect(uri) as connection:
                # More than one in a turn, so that it is the housekeeper who sends.
                for _ in range(3):
                    await connection.send("hello")
                await trio.testing.wait_all_tasks_blocked(0.002)
                references += map(weakref.ref, [connection, *server.connections])
            del connection
            await until(lambda: not any(reference() for reference in references))
            assert len(references) == 2

    @pytest.mark.parametrize(
        "how", ["clean", "cancelled", "socket closed", "reset", "reset while sending"]
    )
    @trio_test
    async def test_end(self, how: str) -> None:
        async def handler(connection: ServerConnection) -> None:
            async for message in connection:
                if str(message).startswith("reset"):
                    sock = connection.stream.socket
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    sock.close()
                    return
                await connection.send(message)

        async with serving(handler) as (server, uri):
            await self.end(how, uri)
            await until(lambda: not server._connections)
            with collecting() as found:
                for _ in range(3):
                    await self.end(how, uri)
                await until(lambda: not server._connections)
                await trio.testing.wait_all_tasks_blocked(0.002)
            assert found == []


class TestIterator:
    @trio_test
    async def test_break(self) -> None:
        async with serving(codes := Codes()) as (_server, uri):
            async for connection in connect(uri):
                await connection.send("x")
                assert await connection.recv() == "x"
                break
            await connection.wait_closed()
            await until(lambda: codes == [1000])

    @trio_test
    async def test_iterators_are_iterable(self) -> None:
        async with serving(codes := Codes()) as (_server, uri):
            connections = aiter(connect(uri))
            assert aiter(connections) is connections
            connection = await anext(connections)
            await connection.send("x")
            messages = aiter(connection)
            assert aiter(messages) is messages
            assert await anext(messages) == "x"
            await connection.aclose()
            assert [message async for message in messages] == []
            await until(lambda: codes == [1000])

    @trio_test
    async def test_continue(self) -> None:
        async with serving(codes := Codes()) as (_server, uri):
            number = 0
            async for connection in connect(uri):
                number += 1
                assert len(codes) == number - 1
                if number == 3:
                    break
                if number == 2:
                    await connection.aclose()
                    with pytest.raises(ConnectionClosedOK):
                        await connection.recv()
            await until(lambda: codes == [1000, 1000, 1000])

    @trio_test
    async def test_exception_in_the_body(self) -> None:
        async with serving(codes := Codes()) as (_server, uri):
            with pytest.raises(ZeroDivisionError):
                async for _ in connect(uri):
                    raise ZeroDivisionError
            gc.collect()
            await until(lambda: codes == [1000])

    @trio_test
    async def test_cancelled(self) -> None:
        async with serving(codes := Codes()) as (_server, uri):
            with trio.CancelScope() as scope:
                async for connection in connect(uri):
                    scope.deadline = trio.current_time() + 0.01
                    await connection.recv()
            assert scope.cancelled_caught
            del connection
            gc.collect()
            await until(lambda: codes == [1000])

    @trio_test
    async def test_aclosing(self) -> None:
        async with serving(codes := Codes()) as (_server, uri):
            async with contextlib.aclosing(aiter(connect(uri))) as connections:
                connection = await anext(connections)
                assert connection.state is State.OPEN
            assert connection.state is State.CLOSED
            await until(lambda: codes == [1000])
            # Without a connection there is nothing to close.
            async with contextlib.aclosing(aiter(connect(uri))):
                pass

    @trio_test
    async def test_cancelled_aclose(self) -> None:
        async with serving() as (_server, uri):
            connections: Any = aiter(connect(uri))
            connection = await anext(connections)
            with trio.CancelScope() as scope:
                scope.cancel()
                await connections.aclose()
            assert scope.cancelled_caught
            assert connection.state is State.CLOSED

    @trio_test
    async def test_dropped_by_another_thread(self) -> None:
        async with serving(codes := Codes()) as (_server, uri):
            connections = [aiter(connect(uri))]
            connection = await anext(connections[0])
            thread = threading.Thread(target=connections.clear)
            thread.start()
            thread.join()
            await connection.wait_closed()
            await until(lambda: codes == [1000])

    def test_left_at_the_end_of_the_run(self) -> None:
        codes = Codes()
        kept: list[Any] = []

        async def client(uri: str) -> None:
            async for connection in connect(uri):
                await connection.send("x")
                assert await connection.recv() == "x"
                break
            kept.append(aiter(connect(uri)))
            await anext(kept[0])

        @trio_test
        async def server() -> None:
            async with serving(codes) as (_server, uri):
                # The client's run ends before the closing handshake, and before its iterator.
                await trio.to_thread.run_sync(trio.run, client, uri)
                kept.clear()
                await until(lambda: codes == [1000, 1000])

        server()

    @trio_test
    async def test_fault_while_closing(self) -> None:
        from wsapi.trio.client import ClientConnection

        class Faulty(ClientConnection):
            async def aclose(self, code: int = 1000, reason: str = "") -> None:
                await trio.lowlevel.checkpoint()
                raise ZeroDivisionError

        async with serving(codes := Codes()) as (_server, uri):
            connections = aiter(connect(uri, create_connection=Faulty))
            connection = await anext(connections)
            del connections
            await connection.wait_closed()
            await until(lambda: codes == [1000])
        logged_errors("closing failed")

    @trio_test
    async def test_reconnects(self) -> None:
        async with serving() as (server, _uri):
            listener = server.listeners[0]
            port = listener.socket.getsockname()[1]
        attempts = 0

        def process_exception(exc: Exception) -> Exception | None:
            nonlocal attempts
            attempts += 1
            assert isinstance(exc, OSError)
            return None if attempts < 3 else exc

        with pytest.raises(OSError):
            async for _ in connect(
                f"ws://127.0.0.1:{port}",
                process_exception=process_exception,
                reconnect_delays=lambda: iter([0.001, 0.001, 0.001]),
            ):
                raise AssertionError
        assert attempts == 3


@trio_test
async def test_waiting_for_its_turn_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(_event: trio.Event) -> None:
        raise KeyboardInterrupt  # as trio does it, in the main task, whatever that waits for

    async with _turn("here"):
        with monkeypatch.context() as patched:
            patched.setattr(trio.Event, "wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                async with _turn("here"):
                    raise AssertionError
    with trio.fail_after(5):
        async with _turn("here"):
            pass
