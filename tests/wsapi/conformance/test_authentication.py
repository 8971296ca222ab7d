"""Credentials: Basic of URIs and servers' checks, Digest after a challenge (RFC 7616)."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import pytest

from tests.wsapi.conformance.driver import Driver, Ws
from wsapi.exceptions import InvalidStatus
from wsapi.http11 import Request, Response

# ---------------------------------------------------------------------- Digest


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Guard:
    """A server's check of Digest authorizations; counts requests."""

    def __init__(self, nonces: list[str], password: str = "pass") -> None:
        self.nonces = nonces
        self.password = password
        self.seen: list[str | None] = []

    def __call__(self, connection: Ws, request: Request) -> Response | None:
        authorization = request.headers.get("Authorization")
        self.seen.append(authorization)
        nonce = self.nonces[0]
        if authorization is not None and authorization.startswith("Digest "):
            if len(self.nonces) > 1:
                del self.nonces[0]
            fields = dict(re.findall(r'(\w+)="?([^",]*)"?', authorization))
            secret = sha256(f"user:realm:{self.password}")
            right = sha256(
                f"{secret}:{nonce}:{fields['nc']}:{fields['cnonce']}:auth:"
                + sha256(f"GET:{request.path}")
            )
            if fields["response"] == right:
                return None
        response = connection.respond(401, "no\n")
        response.headers["WWW-Authenticate"] = 'Basic realm="realm", charset="UTF-8"'
        response.headers["WWW-Authenticate"] = (
            f'Digest realm="realm", nonce="{nonce}", qop="auth", algorithm=SHA-256'
        )
        return response


async def test_digest(driver: Driver) -> None:
    guard = Guard(["n"])
    async with driver.serve(process_request=guard) as server:
        connector = driver.connector(server.uri("/path?query", user="user:pass@"))
        for _ in range(2):
            async with driver.connected_by(connector) as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"
    basic, first, second = guard.seen
    assert basic == "Basic dXNlcjpwYXNz"
    assert first is not None
    assert 'uri="/path?query"' in first
    # The challenge holds for the next connection; a nonce is counted.
    assert second is not None
    assert "nc=00000002" in second


async def test_digest_beside_other_headers(driver: Driver) -> None:
    guard = Guard(["n"])
    seen = []

    def check(connection: Ws, request: Request) -> Response | None:
        seen.append(request.headers.get_all("X-Own"))
        return guard(connection, request)

    async with driver.serve(process_request=check) as server:
        uri = server.uri(user="user:pass@")
        async with driver.connect(uri, additional_headers=[("X-Own", "1"), ("X-Own", "2")]):
            pass
    assert seen == [["1", "2"]] * 2


async def test_digest_with_a_new_nonce(driver: Driver) -> None:
    guard = Guard(["n1", "n2", "n2"])
    async with driver.serve(process_request=guard) as server:
        connector = driver.connector(server.uri(user="user:pass@"))
        for _ in range(2):
            async with driver.connected_by(connector):
                pass
    assert len(guard.seen) == 4


async def test_digest_is_refused(driver: Driver) -> None:
    guard = Guard(["n"], password="other")
    async with driver.serve(process_request=guard) as server:
        with pytest.raises(InvalidStatus, match="401"):
            await driver.attempt(server.uri(user="user:pass@"))
    assert len(guard.seen) == 2


@pytest.mark.parametrize(
    "user_info, headers",
    [
        ("", None),
        ("", {"Authorization": "Bearer x"}),
        ("user:pass@", {"authorization": "Bearer x"}),
    ],
)
async def test_no_digest_without_credentials_to_use(
    driver: Driver, user_info: str, headers: Any
) -> None:
    async with driver.serve(process_request=challenge) as server:
        with pytest.raises(InvalidStatus, match="401"):
            await driver.attempt(server.uri(user=user_info), additional_headers=headers)


def challenge(connection: Ws, request: Request) -> Response:
    response = connection.respond(401, "no\n")
    response.headers["WWW-Authenticate"] = 'Digest realm="realm", nonce="n", qop="auth"'
    return response


async def test_no_digest_for_another_origin(driver: Driver) -> None:
    guard = Guard(["n"])

    async with driver.serve(process_request=guard) as other:

        def redirect(connection: Ws, request: Request) -> Response:
            response = connection.respond(302, "there\n")
            response.headers["Location"] = other.uri()
            return response

        async with driver.serve(process_request=redirect) as server:
            with pytest.raises(InvalidStatus, match="401"):
                await driver.attempt(server.uri(user="user:pass@"))
    assert guard.seen == [None]


# ---------------------------------------------------------------------- Basic

PAIR = ("alice", "pass:wörd")
PAIRS = [PAIR, ("bob", ""), ("", "nobody")]
MISSING, INVALID = b"Missing credentials\n", b"Invalid credentials\n"


async def who(ws: Ws) -> None:
    await ws.send(ws.username)


def header(username: str, password: str) -> dict[str, Any]:
    credentials = base64.b64encode(f"{username}:{password}".encode()).decode()
    return {"additional_headers": {"Authorization": f"Basic {credentials}"}}


async def test_basic_auth(driver: Driver) -> None:
    auth = driver.server.basic_auth("x", credentials=PAIRS)
    async with driver.serve(who, process_request=auth) as server:
        for username, password in PAIRS:
            async with driver.connect(server, **header(username, password)) as ws:
                assert await ws.recv() == username
        response = await driver.rejection(server, **header("alice", "wrong"))
        assert (response.status_code, response.body) == (401, INVALID)
        assert response.headers["WWW-Authenticate"] == 'Basic realm="x", charset="UTF-8"'
        # One Server header, as in every other answer.
        assert len(response.headers.get_all("Server")) == 1
        assert (await driver.rejection(server)).body == MISSING


async def test_basic_auth_with_credentials_of_the_uri(driver: Driver) -> None:
    auth = driver.server.basic_auth(credentials=PAIR)
    async with driver.serve(who, process_request=auth) as server:
        async with driver.connect(server.uri(user="alice:pass%3Aw%C3%B6rd@")) as ws:
            assert await ws.recv() == "alice"


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_check_credentials(driver: Driver, asynchronous: bool) -> None:
    def check(username: str, password: str) -> bool:
        return (username, password) == PAIR

    async def check_later(username: str, password: str) -> bool:
        await driver.sleep(0)
        return check(username, password)

    checker = driver.function(check_later) if asynchronous else check
    auth = driver.server.basic_auth(check_credentials=checker)
    async with driver.serve(who, process_request=auth) as server:
        async with driver.connect(server, **header(*PAIR)) as ws:
            assert await ws.recv() == "alice"
        assert (await driver.rejection(server, **header("alice", "wrong"))).body == INVALID


@pytest.mark.parametrize(
    "arguments, error, text",
    [
        ({}, ValueError, "exactly one of credentials and check_credentials must be given"),
        ({"credentials": ["alice", 5]}, TypeError, "credentials must be a pair"),
        ({"check_credentials": "secret"}, TypeError, "check_credentials must be a callable"),
        ({"realm": 42, "credentials": PAIR}, TypeError, "realm must be a str, not int"),
    ],
)
def test_bad_arguments(driver: Driver, arguments: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        driver.server.basic_auth(**arguments)
