"""Headers that a client adds, what a server sees, and Headers as a container."""

import asyncio

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.datastructures import Headers, MultipleValuesError
from websockets.exceptions import InvalidStatus


async def tell(websocket):
    headers = websocket.request.headers
    await websocket.send(
        f"{headers.get('user-agent')} {headers.get('ORIGIN')} {headers.get_all('x-tag')} "
        f"{headers.get('X-Number')} {sorted(name.lower() for name, _ in headers.raw_items())}"
    )


async def main():
    async with serve(tell, "127.0.0.1", 0, origins=[None, "http://a.example"]) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for options in (
            {"user_agent_header": "tester/1.0", "origin": "http://a.example"},
            {"user_agent_header": None, "additional_headers": {"X-Tag": "one", "X-Number": 7}},
            {"user_agent_header": "t", "additional_headers": [("X-Tag", "a"), ("X-Tag", "b")]},
            {"user_agent_header": "t", "compression": None, "additional_headers": Headers()},
        ):
            async with connect(uri, **options) as websocket:
                print(await websocket.recv())
        try:
            await connect(uri, origin="http://b.example")
        except InvalidStatus as exc:
            print(exc, bytes(exc.response.body))
    headers = Headers([("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")], Server="s")
    headers["X-One"] = "1"
    headers.setdefault("x-one", "2")
    headers.update({"X-Two": "2"})
    print(len(headers), list(headers), "SET-COOKIE" in headers, headers["x-one"])
    print(repr(headers), str(headers).split("\r\n"))
    try:
        headers["set-cookie"]
    except MultipleValuesError as exc:
        print(type(exc).__name__, exc)
    try:
        headers["missing"]
    except KeyError as exc:
        print(type(exc).__name__, str(exc).lower())
    del headers["set-cookie"]
    print(dict(headers), headers == Headers(server="s", x_one="1"), headers.copy() == headers)
    print(headers.serialize())


asyncio.run(main())
