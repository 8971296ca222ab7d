"""One connection of the client: what is shown of it, and what isn't any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.wsapi.cli.helpers import deaf_server
from tests.wsapi.helpers import TEXT, frame
from wsapi.cli._output import LineFormat, PayloadFormat
from wsapi.cli._session import Ending, Session
from wsapi.cli._terminal import Status
from wsapi.http11 import Request
from wsapi.server import ServerProtocol


def test_messages_that_come_before_the_answer_to_a_close() -> None:
    """No more are shown than were wanted; the rest is taken, since the Close frame is behind it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = ServerProtocol()
        protocol.receive_data(await reader.readuntil(b"\r\n\r\n"))
        [request] = protocol.events_received()
        assert isinstance(request, Request)
        protocol.send_response(protocol.accept(request))
        writer.writelines([*protocol.data_to_send(), frame(TEXT, b"1")])
        protocol.receive_data(await reader.read(65536))  # a Close frame
        messages = [frame(TEXT, b"%d" % number) for number in range(2, 100)]
        # Without the empty piece behind it, the end of the stream: asyncio would write it for ever.
        answer, _ = protocol.data_to_send()
        writer.writelines([*messages, answer])
        writer.close()

    async def main() -> list[str | bytes]:
        shown: list[str | bytes] = []
        first = asyncio.Event()

        async def write(text: str | bytes) -> None:
            if text:
                shown.append(text)
                first.set()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            arguments = {"max_queue": 2, "compression": None}
            format = PayloadFormat(None, raw=False, terminal=False)
            uri = f"ws://127.0.0.1:{port}/"
            session = Session(uri, arguments, format, write, Ending(count=3))
            await session.open()
            receiving = asyncio.ensure_future(session.receive())
            await first.wait()
            await session.close()
            await receiving
            assert await session.finish() == 0
        return shown

    shown = asyncio.run(main())
    assert [str(text).strip() for text in shown] == ["1", "2", "3"]


@pytest.mark.parametrize("compatible", [False, True])
def test_interrupted(compatible: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wants to be rid of a server isn't kept by it, whatever exit status there is."""
    monkeypatch.setattr("wsapi.cli._session.PATIENCE", 0.01)

    async def main() -> Status:
        opened = asyncio.Event()

        async def write(text: str | bytes) -> None:
            opened.set()

        async def messages() -> AsyncIterator[str]:
            await asyncio.get_running_loop().create_future()
            yield ""

        with deaf_server() as port:
            session = Session(
                f"ws://127.0.0.1:{port}/",
                {"close_timeout": None},
                LineFormat(),
                write,
                Ending(),
                compatible=compatible,
            )
            running = asyncio.ensure_future(session.run(messages()))
            await opened.wait()
            running.cancel()
            return await asyncio.wait_for(running, 20)

    assert asyncio.run(main()) == (Status.OK if compatible else Status.INTERRUPTED)
