"""An auction on FastAPI: who bids more than the others is told to all; ten quiet seconds end it.

uvicorn --ws wsapi.uvicorn:WebSocketProtocol app:app
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

QUIET = 10.0


class Auction:
    """The highest bid so far, and who is there."""

    def __init__(self) -> None:
        self.price = 0
        self.bidders: set[WebSocket] = set()
        self.timer: asyncio.TimerHandle | None = None
        self.sold = asyncio.Event()

    async def bid(self, price: int) -> bool:
        if price <= self.price or self.sold.is_set():
            return False
        self.price = price
        if self.timer is not None:
            self.timer.cancel()
        self.timer = asyncio.get_running_loop().call_later(QUIET, self.sold.set)
        for bidder in list(self.bidders):
            await bidder.send_json({"price": price})
        return True


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.auction = Auction()
    yield
    if app.state.auction.timer is not None:
        app.state.auction.timer.cancel()


app = FastAPI(lifespan=lifespan)


@app.websocket("/auction")
async def auction(websocket: WebSocket) -> None:
    room: Auction = websocket.app.state.auction
    await websocket.accept()
    await websocket.send_json({"price": room.price})
    room.bidders.add(websocket)
    end = asyncio.create_task(tell_the_end(websocket, room))
    try:
        while True:
            if not await room.bid(int(await websocket.receive_text())):
                await websocket.send_json({"refused": room.price})
    except WebSocketDisconnect:
        pass
    finally:
        room.bidders.discard(websocket)
        end.cancel()


async def tell_the_end(websocket: WebSocket, room: Auction) -> None:
    await room.sold.wait()
    await websocket.close(1000, f"sold for {room.price}")
