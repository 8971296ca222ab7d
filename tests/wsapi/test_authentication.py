"""Credentials of URIs: Basic, and Digest after a challenge (RFC 7616)."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tests.wsapi.helpers import port_of
from wsapi._shared.authentication import Challenge, Digest, parse_challenges
from wsapi.asyncio.client import connect
from wsapi.exceptions import InvalidHeaderFormat, InvalidStatus

# ---------------------------------------------------------------------- challenges


@pytest.mark.parametrize(
    "header, challenges",
    [
        ("", []),
        (" , ", []),
        ("Negotiate", [Challenge("negotiate")]),
        ("NTLM TlRMTVNTUAAC==", [Challenge("ntlm", token68="TlRMTVNTUAAC==")]),
        ('Basic realm="a, b=c"', [Challenge("basic", {"realm": "a, b=c"})]),
        (r'Basic realm="a\"b\\c"', [Challenge("basic", {"realm": 'a"b\\c'})]),
        ("Basic realm=", [Challenge("basic", token68="realm=")]),
        (
            'Negotiate, Basic realm=x , charset = "UTF-8",Digest Realm="y",nonce=n',
            [
                Challenge("negotiate"),
                Challenge("basic", {"realm": "x", "charset": "UTF-8"}),
                Challenge("digest", {"realm": "y", "nonce": "n"}),
            ],
        ),
        ("A t68, B x=y", [Challenge("a", token68="t68"), Challenge("b", {"x": "y"})]),
    ],
)
def test_parse_challenges(header: str, challenges: list[Challenge]) -> None:
    assert parse_challenges(header) == challenges


@pytest.mark.parametrize(
    "header",
    [
        "realm=x",
        "@",
        "A/b",
        'Basic realm="x',
        "Basic realm=@",
        'Basic a="b"c=d',
        "Basic a=b, a=c",
        "A t68==, x=y",
    ],
)
def test_parse_challenges_refuses(header: str) -> None:
    with pytest.raises(InvalidHeaderFormat):
        parse_challenges(header)


# ---------------------------------------------------------------------- answers

RFC = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={}, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", '
    'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)


@pytest.mark.parametrize(
    "algorithm, response",
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_examples_of_the_rfc(algorithm: str, response: str) -> None:
    """RFC 7616 §3.9.1."""
    digest = Digest.from_headers([RFC.format(algorithm)], "Mufasa", "Circle of Life")
    assert digest is not None
    assert digest.authorization(
        "GET", "/dir/index.html", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    ) == (
        'Digest username="Mufasa", realm="http-auth@example.org", uri="/dir/index.html", '
        f'algorithm={algorithm}, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", '
        'nc=00000001, cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", qop=auth, '
        f'response="{response}", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    )
    assert "nc=00000002" in digest.authorization("GET", "/")


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def answer(header: str, username: str = "u", password: str = "p") -> str:
    digest = Digest.from_headers([header], username, password)
    assert digest is not None
    return digest.authorization("GET", "/", "c")


def test_without_qop() -> None:
    """RFC 2069: neither qop nor a count."""
    header = answer('Digest realm="r", nonce="n"')
    expected = md5(f"{md5('u:r:p')}:n:{md5('GET:/')}")
    assert header == (f'Digest username="u", realm="r", uri="/", nonce="n", response="{expected}"')


@pytest.mark.parametrize("name, hash_", [("MD5-sess", md5), ("SHA-256-sess", sha256)])
def test_session(name: str, hash_: Any) -> None:
    header = answer(f'Digest realm="r", nonce="n", qop=auth, algorithm={name}')
    secret = hash_(f"{hash_('u:r:p')}:n:c")
    expected = hash_(f"{secret}:n:00000001:c:auth:{hash_('GET:/')}")
    assert f'response="{expected}"' in header
    assert f"algorithm={name}, " in header


def test_userhash() -> None:
    header = answer('Digest realm="r", nonce="n", qop="auth", userhash=true')
    assert header.startswith(f'Digest username="{md5("u:r")}", ')
    assert header.endswith(", userhash=true")


def test_names_of_all_kinds() -> None:
    header = answer('Digest realm="r", nonce="n", qop="auth"', "Jäsøn Doe")
    assert header.startswith("Digest username*=UTF-8''J%C3%A4s%C3%B8n%20Doe, ")
    expected = md5(f"{md5('Jäsøn Doe:r:p')}:n:00000001:c:auth:{md5('GET:/')}")
    assert f'response="{expected}"' in header
    assert answer('Digest realm="r", nonce="n"', 'a"b\\').startswith(r'Digest username="a\"b\\", ')
    # The realm goes back byte by byte.
    realm = "é".encode().decode("latin-1")
    header = answer(f'Digest realm="{realm}", nonce="n"')
    assert f'realm="{realm}"' in header
    assert md5(f"{md5('u:é:p')}:n:{md5('GET:/')}") in header


@pytest.mark.parametrize(
    "header",
    [
        "Basic realm=r",
        "Digest realm=r",
        "Digest nonce=n",
        "Digest realm=r, nonce=n, algorithm=SHA-512-256",
        "Digest realm=r, nonce=n, qop=auth-int",
        "Digest realm=r, nonce=n, algorithm=MD5-sess",
        'Digest realm="r',
    ],
)
def test_unsupported_challenges(header: str) -> None:
    assert Digest.from_headers([header], "u", "p") is None
    # The next one may be fine.
    for headers in ([header, "Digest realm=r2, nonce=n"], ["Digest realm=r2, nonce=n", header]):
        digest = Digest.from_headers(headers, "u", "p")
        assert digest is not None
        assert 'realm="r2"' in digest.authorization("GET", "/")


# ---------------------------------------------------------------------- another server


async def test_basic_and_redirect_with_websockets() -> None:
    peer = pytest.importorskip("websockets.asyncio.server")
    requests = []

    async def handler(ws: Any) -> None:
        async for received in ws:
            await ws.send(received)

    check = peer.basic_auth("realm", credentials=("user", "p:a@s s"))

    async def process_request(connection: Any, request: Any) -> Any:
        requests.append(request.path)
        if refusal := await check(connection, request):
            return refusal
        if request.path == "/":
            response = connection.respond(307, "there\n")
            response.headers["Location"] = "there"
            return response
        return None

    async with peer.serve(handler, "127.0.0.1", 0, process_request=process_request) as server:
        uri = f"ws://user:p%3Aa%40s%20s@127.0.0.1:{port_of(server)}/"
        async with connect(uri) as ws:
            await ws.send("hello")
            assert await ws.recv() == "hello"
        assert requests == ["/", "/there"]
        with pytest.raises(InvalidStatus, match="401"):
            await connect(uri.replace("user:", "other:"))
