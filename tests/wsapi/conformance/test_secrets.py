"""What logs and texts of exceptions don't show, at any level: passwords, tokens, and cookies."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import pytest

from tests.wsapi.conformance.driver import HOST, Driver, Ws, echo
from tests.wsapi.conformance.proxy import proxying
from wsapi.exceptions import InvalidHandshake, InvalidProxy, InvalidURI
from wsapi.http11 import Request, Response
from wsproto_fast import redaction

SECRET = "hunter2"


def gives_cookie(connection: Ws, request: Request, response: Response) -> None:
    response.headers["Set-Cookie"] = f"session={SECRET}; HttpOnly"


@pytest.fixture(autouse=True)
def _level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


async def test_headers(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    async with driver.serve(echo, process_response=gives_cookie) as server:
        uri = server.uri(user=f"user:{SECRET}@")
        async with driver.connect(uri, additional_headers={"Cookie": f"a={SECRET}"}) as ws:
            assert SECRET in ws.request.headers["Cookie"]
            assert SECRET in ws.response.headers["Set-Cookie"]
    lines = messages(caplog)
    assert SECRET not in caplog.text
    for direction in "<>":
        assert f"{direction} Authorization: Basic ***" in lines
        assert f"{direction} Cookie: ***" in lines
        assert f"{direction} Set-Cookie: ***" in lines


async def test_shown_if_asked_for(
    driver: Driver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redaction, "LOG_SECRETS", True)
    async with driver.serve(echo) as server:
        await driver.attempt(server, additional_headers={"Cookie": f"a={SECRET}"})
    lines = messages(caplog)
    assert f"> Cookie: a={SECRET}" in lines
    assert f"< Cookie: a={SECRET}" in lines


@pytest.mark.parametrize("scheme", ["http", "socks5"])
@pytest.mark.parametrize("right", [True, False])
async def test_proxies(
    driver: Driver, caplog: pytest.LogCaptureFixture, scheme: str, right: bool
) -> None:
    with proxying(None, f"user:{SECRET if right else 'other'}") as proxy:
        async with driver.serve(echo) as server:
            url = proxy.url(scheme, f"user:{SECRET}@")
            if right:
                await driver.attempt(server, proxy=url)
            else:
                with pytest.raises(InvalidHandshake) as caught:
                    await driver.attempt(server, proxy=url)
                # Lines of sources, which are in tracebacks, don't hold values.
                assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "uri, options",
    [
        (f"http://user:{SECRET}@h/", {}),
        (f"ws://user:{SECRET}@h:port/", {}),
        (f"ws://{SECRET}@h/", {}),
        ("ws://h/", {"proxy": f"ftp://user:{SECRET}@h"}),
        ("ws://h/", {"proxy": f"http://user:{SECRET}@h:port"}),
        ("ws://h/", {"proxy": f"http://user:{SECRET}@h/path"}),
        ("ws://h/", {"proxy": f"user:{SECRET}@h:80"}),
        ("ws://h/", {"additional_headers": {"Authorization": f"Bearer {SECRET}\n"}}),
    ],
)
def test_bad_arguments(driver: Driver, uri: str, options: dict[str, Any]) -> None:
    with pytest.raises((InvalidURI, InvalidProxy, InvalidHandshake, ValueError)) as caught:
        driver.connector_class(uri, **options)
    exc: BaseException | None = caught.value
    assert SECRET not in repr(exc)
    while exc is not None:
        assert SECRET not in str(exc)
        exc = exc.__cause__


async def test_redirects(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    def process_request(connection: Ws, request: Request) -> Response:
        response = connection.respond(302, "")
        response.headers["Location"] = f"http://user:{SECRET}@{HOST}/"
        return response

    async with driver.serve(echo, process_request=process_request) as server:
        with pytest.raises(InvalidURI) as caught:
            await driver.attempt(server)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in caplog.text
    assert f"> Location: http://user:***@{HOST}/" in messages(caplog)


async def test_reconnecting(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    """What is said of a failed attempt."""
    refusals = []

    def process_request(connection: Ws, request: Request) -> Response | None:
        refusals.append(request)
        return connection.respond(503, "later") if len(refusals) == 1 else None

    async with driver.serve(echo, process_request=process_request) as server:
        uri = server.uri(user=f"user:{SECRET}@")
        async with driver.reconnecting(uri, reconnect_delays=lambda: iter([0])) as connections:
            async for ws in connections:
                await ws.close()
                break
    assert any("reconnecting" in line for line in messages(caplog))
    assert SECRET not in caplog.text
