"""Tests of app.py, without a server, without sockets, and without waiting: pytest test_app.py"""

import json

import pytest
from app import QUIET, app

from wsapi import ConnectionClosedOK
from wsapi.testing import Clock, link, serving_asgi

pytestmark = pytest.mark.anyio  # comes with FastAPI


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


AUCTION = "ws://localhost/auction"


async def test_all_are_told_of_a_bid() -> None:
    async with serving_asgi(app) as server:
        async with server.connect(AUCTION) as alice, server.connect(AUCTION) as bob:
            assert json.loads(await alice.recv()) == {"price": 0}
            assert json.loads(await bob.recv()) == {"price": 0}
            await alice.send("5")
            assert json.loads(await alice.recv()) == {"price": 5}
            assert json.loads(await bob.recv()) == {"price": 5}
            await bob.send("5")
            assert json.loads(await bob.recv()) == {"refused": 5}


async def test_ten_quiet_seconds_end_it() -> None:
    async with Clock() as clock, serving_asgi(app) as server:
        async with server.connect(AUCTION) as alice:
            await alice.send("5")
            await clock.advance(QUIET - 1)
            await alice.send("6")
            await clock.advance(QUIET - 1)
            prices = [json.loads(await alice.recv())["price"] for _ in range(3)]
            assert prices == [0, 5, 6]
            await clock.advance(1)
            with pytest.raises(ConnectionClosedOK, match="sold for 6"):
                await alice.recv()


async def test_who_is_cut_off_does_not_keep_others_from_bidding() -> None:
    async with Clock() as clock, serving_asgi(app) as server:
        gone = await server.connect(AUCTION)
        link(gone).cut()
        async with server.connect(AUCTION) as bob:
            await bob.send("7")
            await clock.advance(60)  # keepalive finds out
            assert len(app.state.auction.bidders) == 0
            with pytest.raises(ConnectionClosedOK, match="sold for 7"):
                while True:
                    await bob.recv()
