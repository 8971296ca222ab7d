"""Redirects of the opening handshake: which are followed, and what is told to whom."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.wsapi.conformance.driver import HOST, Driver, Ws, echo
from wsapi.exceptions import InvalidStatus, SecurityError
from wsapi.http11 import Request, Response

SECRET = {"Authorization": "Bearer x", "cookie": "a=b", "PROXY-Authorization": "y", "X-Other": "z"}


def redirecting(location: str, status: int = 302) -> Any:
    def process_request(connection: Ws, request: Request) -> Response | None:
        if request.path != "/":
            return None
        response = connection.respond(status, "there\n")
        response.headers["Location"] = location
        return response

    return process_request


async def test_same_origin(driver: Driver) -> None:
    async with driver.serve(process_request=redirecting("/there")) as server:
        uri = server.uri(user="u:p@")
        connector = driver.connector(uri, additional_headers={"Cookie": "a=b"})
        for _ in range(2):  # the new URI is kept
            async with driver.connected_by(connector) as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"
                assert ws.request is not None
                assert ws.request.path == "/there"
                assert ws.request.headers["Cookie"] == "a=b"
                assert ws.request.headers["Authorization"] == "Basic dTpw"


async def test_other_origin(driver: Driver) -> None:
    async with driver.serve() as other:
        location = other.uri("/there")
        async with driver.serve(process_request=redirecting(location, 308)) as server:
            uri = server.uri(user="u:p@")
            async with driver.connect(uri, additional_headers=SECRET) as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"
                assert ws.request is not None
                assert ws.request.headers["Host"] == f"127.0.0.1:{other.port}"
                assert ws.request.headers["X-Other"] == "z"
                assert not set(ws.request.headers) & {"Authorization", "Cookie"}


async def test_for_ever(driver: Driver) -> None:
    requests = []

    def process_request(connection: Ws, request: Request) -> Response:
        requests.append(request)
        response = connection.respond(302, "there\n")
        response.headers["Location"] = "/"
        return response

    async with driver.serve(process_request=process_request) as server:
        with pytest.raises(SecurityError, match="more than 10 redirects"):
            await driver.attempt(server)
    assert len(requests) == 10


def subclass(driver: Driver, process_redirect: Any) -> Any:
    """Return a class of connectors with another ``process_redirect``."""
    return type("Connector", (driver.connector_class,), {"process_redirect": process_redirect})


class TestHook:
    """``process_redirect`` of a subclass."""

    async def test_refuses(self, driver: Driver) -> None:
        contacted = []
        async with driver.serve(process_request=lambda *args: contacted.append(args)) as other:
            location = other.uri("/there")
            async with driver.serve(process_request=redirecting(location)) as server:
                seen = []

                def process_redirect(connector: Any, exc: Exception) -> Exception:
                    seen.append((exc, connector.uri, connector.ws_uri.port))
                    return exc

                connector = subclass(driver, process_redirect)(
                    server.uri(), additional_headers=SECRET
                )
                for _ in range(2):
                    with pytest.raises(InvalidStatus) as info:
                        async with driver.connected_by(connector):
                            pass
                    assert seen.pop() == (info.value, server.uri(), server.port)
                assert connector.additional_headers == SECRET
        assert not contacted

    async def test_refuses_what_the_default_follows(self, driver: Driver) -> None:
        async with driver.serve(process_request=redirecting("ws://other.test/")) as server:

            def process_redirect(connector: Any, exc: Exception) -> Exception:
                assert driver.connector_class.process_redirect(connector, exc) == "ws://other.test/"
                return KeyError("other.test")

            connector = subclass(driver, process_redirect)(server.uri(), additional_headers=SECRET)
            with pytest.raises(KeyError) as info:
                async with driver.connected_by(connector):
                    pass
            assert isinstance(info.value.__cause__, InvalidStatus)
            assert connector.additional_headers == SECRET
            assert connector.uri == server.uri()

    async def test_goes_elsewhere(self, driver: Driver) -> None:
        def process_request(connection: Ws, request: Request) -> Response | None:
            if request.headers.get("Authorization") == "Bearer new":
                return None
            return connection.respond(403, "no\n")

        async with driver.serve(process_request=process_request) as server:

            def process_redirect(connector: Any, exc: Exception) -> str:
                assert isinstance(exc, InvalidStatus)
                connector.additional_headers = {"Authorization": "Bearer new"}
                return connector.uri + "there"

            connector = subclass(driver, process_redirect)(server.uri(), additional_headers=SECRET)
            async with driver.connected_by(connector) as ws:
                assert ws.request is not None
                assert ws.request.path == "/there"

    async def test_result_of_a_wrong_type(self, driver: Driver) -> None:
        async with driver.serve(process_request=redirecting("/there")) as server:
            connector = subclass(driver, lambda *args: None)(server.uri())
            with pytest.raises(TypeError, match="process_redirect must return"):
                async with driver.connected_by(connector):
                    pass

    async def test_for_ever(self, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
        requests = []

        def process_request(connection: Ws, request: Request) -> Response:
            requests.append(request)
            return connection.respond(403, "no\n")

        monkeypatch.setattr(driver.client, "MAX_REDIRECTS", 3)
        async with driver.serve(process_request=process_request) as server:
            connector = subclass(driver, lambda self, exc: self.uri)(server.uri())
            with pytest.raises(SecurityError, match="more than 3 redirects"):
                async with driver.connected_by(connector):
                    pass
        assert len(requests) == 3


async def test_target_is_changed_between_attempts(driver: Driver) -> None:
    async with driver.serve() as server, driver.serve() as other:
        connector = driver.connector(server)
        async with driver.connected_by(connector):
            pass
        connector.uri = other.uri("/there")
        connector.additional_headers = [("X-Other", "z")]
        async with driver.connected_by(connector) as ws:
            assert ws.request is not None
            assert ws.request.path == "/there"
            assert ws.request.headers["Host"] == f"127.0.0.1:{other.port}"
            assert ws.request.headers["X-Other"] == "z"


async def test_ready_made_socket(driver: Driver) -> None:
    async with driver.serve(process_request=redirecting("/there")) as server:
        sock = socket.create_connection(("127.0.0.1", server.port))
        with pytest.raises(ValueError, match="preexisting") as info:
            await driver.attempt("ws://h.test/", ready_made=sock)
        assert isinstance(info.value.__cause__, InvalidStatus)
        assert sock.fileno() == -1


async def test_explicit_host_and_port(driver: Driver) -> None:
    async with driver.serve(process_request=redirecting("ws://other.test/")) as server:
        with pytest.raises(ValueError, match="cross-origin redirect"):
            await driver.attempt("ws://h.test/", address=(HOST, server.port))
    async with driver.serve(process_request=redirecting("/there")) as server:
        await driver.attempt("ws://h.test/", address=(HOST, server.port))


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets")
async def test_unix_socket(driver: Driver, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with driver.unix_serve(echo, path, process_request=redirecting("/there")):
        async with driver.unix_connect(path):
            pass
    path = str(tmp_path / "other")
    async with driver.unix_serve(echo, path, process_request=redirecting("ws://other.test/")):
        with pytest.raises(ValueError, match="cross-origin redirect"):
            async with driver.unix_connect(path):
                pass
