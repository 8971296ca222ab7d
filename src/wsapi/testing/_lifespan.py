"""The lifespan of an ASGI application: what it does before the first connection, and at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ..asgi import ASGIApplication, Event

__all__ = ["Lifespan"]


class Lifespan:
    """Runs it; applications that have none are left alone.

    Args:
        app: ASGI application.

    Attributes:
        state: What the application leaves for its connections.
    """

    def __init__(self, app: ASGIApplication) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._answers: asyncio.Queue[Event | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Have the application start.

        Raises:
            RuntimeError: If it says that it can't.
        """
        self._task = task = asyncio.ensure_future(self._run())
        async with _cancelling(task):
            answer = await self._ask("startup")
        if answer is None:
            await self.end()

    async def end(self) -> None:
        """Have the application end, if it has started.

        Raises:
            RuntimeError: If it says that it failed.
        """
        task, self._task = self._task, None
        if task is None:
            return
        async with _cancelling(task):
            if not task.done():
                await self._ask("shutdown")
            await task

    async def _ask(self, what: str) -> Event | None:
        self._events.put_nowait({"type": f"lifespan.{what}"})
        answer = await self._answers.get()
        if answer is not None and answer["type"] == f"lifespan.{what}.failed":
            raise RuntimeError(f"{what} of the application failed: {answer.get('message', '')}")
        return answer

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._events.get, self._send)
        except Exception:
            # One that has no lifespan raises, says the specification; so does one that failed,
            # when it has said so.
            pass
        finally:
            self._answers.put_nowait(None)

    async def _send(self, event: Event) -> None:
        self._answers.put_nowait(event)


@asynccontextmanager
async def _cancelling(task: asyncio.Task[None]) -> AsyncIterator[None]:
    """Have a task end if the block fails, or is cancelled."""
    try:
        yield
    except BaseException:
        task.cancel()
        await asyncio.wait([task])
        raise
