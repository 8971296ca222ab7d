"""Redirects of the opening handshake: which are followed, and what is told to whom."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.helpers import echo, port_of, serving
from wsapi._target import Target
from wsapi.asyncio.client import connect, unix_connect
from wsapi.asyncio.server import ServerConnection, unix_serve
from wsapi.datastructures import Headers
from wsapi.exceptions import InvalidStatus, InvalidURI, SecurityError
from wsapi.http11 import Request, Response

SECRET = {"Authorization": "Bearer x", "cookie": "a=b", "PROXY-Authorization": "y", "X-Other": "z"}


def refusal(status: int, *locations: str) -> InvalidStatus:
    return InvalidStatus(Response(status, "", Headers([("Location", to) for to in locations])))


def names(target: Target) -> list[str]:
    headers = target.request()[1]
    return [] if headers is None else [name for name, _ in Headers(headers).raw_items()]


# ---------------------------------------------------------------------- without I/O


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "uri, location, followed",
    [
        ("ws://h/a/b?c", "/d", "ws://h/d"),
        ("ws://h/a/b?c", "d?e", "ws://h/a/d?e"),
        ("ws://h/a", "//other/d", "ws://other/d"),
        ("ws://h/a", "ws://h:81/", "ws://h:81/"),
        ("ws://h/a", "wss://h/", "wss://h/"),
        ("wss://h/a", "wss://other/", "wss://other/"),
    ],
)
def test_followed(status: int, uri: str, location: str, followed: str) -> None:
    target = Target(uri)
    target.process_response(refusal(status, location))
    assert target.uri == followed


@pytest.mark.parametrize(
    "uri, status, locations, options, exception",
    [
        ("ws://h/", 304, ["/d"], {}, InvalidStatus),
        ("ws://h/", 305, ["/d"], {}, InvalidStatus),
        ("ws://h/", 200, ["/d"], {}, InvalidStatus),
        ("ws://h/", 404, ["/d"], {}, InvalidStatus),
        ("ws://h/", 302, [], {}, InvalidStatus),
        ("ws://h/", 302, ["/d", "/e"], {}, InvalidStatus),
        ("ws://h/", 302, ["http://h/"], {}, InvalidURI),
        ("ws://h/", 302, ["ws://h/#f"], {}, InvalidURI),
        ("ws://h/", 302, ["ws://h:99999/"], {}, InvalidURI),
        ("ws://h/", 302, ["ws://[::1/"], {}, InvalidURI),
        ("wss://h/", 302, ["ws://h/"], {}, SecurityError),
        ("ws://h/", 302, ["/d"], {"socket": True}, ValueError),
        ("ws://h/", 302, ["ws://o/"], {"fixed": "a Unix socket"}, ValueError),
        ("ws://h/", 302, ["ws://h:81/"], {"fixed": "an explicit host or port"}, ValueError),
    ],
)
def test_not_followed(
    uri: str, status: int, locations: list[str], options: Any, exception: type[Exception]
) -> None:
    target = Target(uri, **options)
    exc = refusal(status, *locations)
    with pytest.raises(exception) as info:
        target.process_response(exc)
    assert info.value is exc or info.value.__cause__ is exc
    assert target.uri == uri


def test_fixed_place_same_origin() -> None:
    target = Target("ws://h/", fixed="a Unix socket")
    target.process_response(refusal(302, "/d"))
    assert target.uri == "ws://h/d"


def test_number_of_requests() -> None:
    target = Target("ws://h/")
    for _ in range(2):  # each attempt has its own
        target.begin()
        for _ in range(9):
            target.process_response(refusal(302, "/"))
        with pytest.raises(SecurityError, match=r"^more than 10 redirects$"):
            target.process_response(refusal(302, "/"))


@pytest.mark.parametrize("variable", ["WSAPI_MAX_REDIRECTS", "WEBSOCKETS_MAX_REDIRECTS"])
def test_number_of_requests_from_environment(variable: str) -> None:
    code = "from wsapi._target import MAX_REDIRECTS; print(MAX_REDIRECTS)"
    environment = os.environ | {variable: "1_3"}
    output = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert output == "13\n"


@pytest.mark.parametrize("headers", [SECRET, Headers(SECRET), list(SECRET.items())])
def test_credentials(headers: Any) -> None:
    target = Target("ws://h/", headers)
    target.process_response(refusal(302, "/d"))
    target.process_response(refusal(302, "ws://H:80/e"))
    assert names(target) == list(SECRET)
    target.process_response(refusal(302, "ws://other/"))
    assert names(target) == ["X-Other"]
    # Nor are they told when it leads back.
    target.process_response(refusal(302, "ws://h/"))
    assert names(target) == ["X-Other"]
    assert len(list(headers)) == 4


@pytest.mark.parametrize(
    "location, user_info",
    [
        ("/d", ("u", "p")),
        ("ws://h/d", ("u", "p")),
        ("ws://u2:p2@h/d", ("u2", "p2")),
        ("ws://other/", None),
        ("ws://u2:p2@other/", ("u2", "p2")),
        ("wss://h/", None),
    ],
)
def test_user_info(location: str, user_info: tuple[str, str] | None) -> None:
    target = Target("ws://u:p@h/")
    target.process_response(refusal(302, location))
    assert target.request()[0].user_info == user_info


def test_headers_of_the_caller() -> None:
    headers = Headers({"X": "1"})
    target = Target("ws://h/", headers)
    headers["Y"] = "2"  # for the next connection
    assert names(target) == ["X", "Y"]
    target = Target("ws://h/", iter([("X", "1")]))
    assert names(target) == names(target) == ["X"]


# ---------------------------------------------------------------------- connections


def redirecting(location: str, status: int = 302) -> Any:
    def process_request(connection: ServerConnection, request: Request) -> Response | None:
        if request.path != "/":
            return None
        response = connection.respond(status, "there\n")
        response.headers["Location"] = location
        return response

    return process_request


async def test_same_origin() -> None:
    async with serving(process_request=redirecting("/there")) as server:
        connector = connect(
            f"ws://u:p@127.0.0.1:{port_of(server)}/", additional_headers={"Cookie": "a=b"}
        )
        for _ in range(2):  # the new URI is kept
            async with connector as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"
                assert ws.request is not None
                assert ws.request.path == "/there"
                assert ws.request.headers["Cookie"] == "a=b"
                assert ws.request.headers["Authorization"] == "Basic dTpw"


async def test_other_origin() -> None:
    async with serving() as other:
        location = f"ws://127.0.0.1:{port_of(other)}/there"
        async with serving(process_request=redirecting(location, 308)) as server:
            async with connect(
                f"ws://u:p@127.0.0.1:{port_of(server)}/", additional_headers=SECRET
            ) as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"
                assert ws.request is not None
                assert ws.request.headers["Host"] == f"127.0.0.1:{port_of(other)}"
                assert ws.request.headers["X-Other"] == "z"
                assert not set(ws.request.headers) & {"Authorization", "Cookie"}


async def test_for_ever() -> None:
    requests = []

    def process_request(connection: ServerConnection, request: Request) -> Response:
        requests.append(request)
        response = connection.respond(302, "there\n")
        response.headers["Location"] = "/"
        return response

    async with serving(process_request=process_request) as server:
        with pytest.raises(SecurityError, match="more than 10 redirects"):
            await connect(f"ws://127.0.0.1:{port_of(server)}/")
    assert len(requests) == 10


async def test_ready_made_socket() -> None:
    async with serving(process_request=redirecting("/there")) as server:
        sock = socket.create_connection(("127.0.0.1", port_of(server)))
        with pytest.raises(ValueError, match="preexisting socket") as info:
            await connect("ws://h.test/", sock=sock)
        assert isinstance(info.value.__cause__, InvalidStatus)
        assert sock.fileno() == -1


async def test_explicit_host_and_port() -> None:
    async with serving(process_request=redirecting("ws://other.test/")) as server:
        with pytest.raises(ValueError, match="cross-origin redirect"):
            await connect("ws://h.test/", host="127.0.0.1", port=port_of(server))
    async with serving(process_request=redirecting("/there")) as server:
        async with connect("ws://h.test/", host="127.0.0.1", port=port_of(server)):
            pass


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets")
async def test_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with unix_serve(echo, path, process_request=redirecting("/there")):
        async with unix_connect(path):
            pass
    path = str(tmp_path / "other")
    async with unix_serve(echo, path, process_request=redirecting("ws://other.test/")):
        with pytest.raises(ValueError, match="cross-origin redirect"):
            await unix_connect(path)
