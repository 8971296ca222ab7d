"""A session in a cookie: read from the request, set in the response."""

import asyncio
import http
import http.cookies

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus


async def process_request(connection, request):
    cookies = http.cookies.SimpleCookie()
    for value in request.headers.get_all("Cookie"):
        cookies.load(value)
    if "session" not in cookies:
        response = connection.respond(http.HTTPStatus.FORBIDDEN, "No session\n")
        response.headers["Set-Cookie"] = "session=new; HttpOnly"
        return response
    connection.session = cookies["session"].value


async def process_response(connection, request, response):
    if response.status_code == 101:
        response.headers["Set-Cookie"] = f"last={connection.session}"
        response.headers["Set-Cookie"] = "seen=1"


async def handler(websocket):
    await websocket.send(websocket.session)


async def main():
    async with serve(
        handler, "127.0.0.1", 0, process_request=process_request, process_response=process_response
    ) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        try:
            await connect(uri)
        except InvalidStatus as exc:
            headers = exc.response.headers
            print(exc, headers["Set-Cookie"], sorted(name for name, _ in headers.raw_items()))
        async with connect(uri, additional_headers=Headers(Cookie="a=b; session=42")) as websocket:
            print(await websocket.recv(), websocket.response.headers.get_all("set-cookie"))


asyncio.run(main())
