"""Checks of the opening handshake (RFC 6455 §4)."""

from __future__ import annotations

import asyncio

from ._check_base import MOMENT, Info, Probe, Skip, check, tokens, with_headers
from ._check_wire import TEXT, Failure, accept_key, frame, new_key, raw

# ---------------------------------------------------------------------- what is accepted


@check("opening", "accept", "Sec-WebSocket-Accept answers the key", "RFC 6455 §4.2.2")
async def accept(probe: Probe) -> str:
    for key in (new_key(), "dGhlIHNhbXBsZSBub25jZQ=="):
        probe.expected = f"101, Sec-WebSocket-Accept: {accept_key(key)}"
        head = await probe.ask(probe.place.request(key=key))
        came = ", ".join(head.headers.get_all("Sec-WebSocket-Accept")) or "none"
        if head.status != 101:
            raise Failure(str(head))
        if came != accept_key(key):
            raise Failure(f"101, Sec-WebSocket-Accept: {came}")
    return "the right one"


def response_check(name: str, title: str, section: str, note: str, expected: str) -> None:
    """Make a check of what all responses with status 101 have in common."""

    @check("opening", name, title, section, late=True)
    async def run(probe: Probe) -> str:
        probe.expected = expected
        if not probe.observed.responses:
            await probe.open()
        if note in probe.observed.faults:
            raise Failure(probe.observed.faults[note])
        return f"in {probe.observed.responses} responses"


response_check(
    *("response-version", "the response is HTTP/1.1", "RFC 6455 §4.2.2"),
    *("response-version", "HTTP/1.1 101"),
)
response_check(
    *("response-upgrade", "the response has Upgrade: websocket", "RFC 6455 §4.2.2"),
    *("response-upgrade", "Upgrade: websocket"),
)
response_check(
    *("response-connection", "the response has Connection: Upgrade", "RFC 6455 §4.2.2"),
    *("response-connection", "Connection: Upgrade"),
)
response_check(
    *("response-no-body", "the response announces no body", "RFC 9110 §8.6"),
    *("response-no-body", "no Content-Length and no Transfer-Encoding"),
)
response_check(
    *("subprotocol-offered", "a subprotocol is one of those offered", "RFC 6455 §4.2.2"),
    *("subprotocol-offered", "one that was offered, or none"),
)
response_check(
    *("extensions-offered", "no extension where none is offered", "RFC 6455 §9.1"),
    *("extensions-offered", "no Sec-WebSocket-Extensions"),
)


def accepted(name: str, title: str, section: str, strict: bool = True, **replaced: str) -> None:
    """Make a check of a request that has to be accepted."""

    @check("opening", name, title, section)
    async def run(probe: Probe) -> str:
        probe.expected = "101"
        head = await probe.ask(probe.place.request(replaced=with_headers(**replaced)))
        if head.status != 101:
            raise (Failure if strict else Info)(str(head))
        return str(head)


accepted("upgrade-case", "Upgrade: WebSocket, in any case", "RFC 6455 §4.2.1", Upgrade="WEBSocket")
accepted(
    *("connection-list", "Connection: keep-alive, UPGRADE", "RFC 6455 §4.2.1"),
    Connection="keep-alive, UPGRADE",
)
accepted(
    *("upgrade-list", "Upgrade: h2c, websocket", "RFC 9110 §7.8", False), Upgrade="h2c, websocket"
)


@check("opening", "names-case", "names of headers in any case", "RFC 9110 §5.1")
async def names_case(probe: Probe) -> str:
    probe.expected = "101"
    for change in (bytes.lower, bytes.upper):
        lines = probe.place.request().data.split(b"\r\n")
        changed = [b":".join([change(n), *v]) for n, *v in (x.split(b":") for x in lines[1:])]
        data = b"\r\n".join([lines[0], *changed])
        head = await probe.ask(raw(data, f"a request with names in {change.__name__} case"))
        if head.status != 101:
            raise Failure(str(head))
    return str(head)


@check("opening", "spaces", "spaces around values of headers", "RFC 9112 §5")
async def spaces(probe: Probe) -> str:
    probe.expected = "101"
    data = probe.place.request().data.replace(b": websocket\r\n", b":   websocket \t\r\n")
    head = await probe.ask(raw(data, "Upgrade:   websocket \\t"))
    if head.status != 101:
        raise Failure(str(head))
    return str(head)


@check("opening", "split", "a request in many pieces", "RFC 6455 §4.2")
async def split(probe: Probe) -> str:
    probe.expected = "101"
    wire = await probe.connect()
    await wire.trickle(probe.place.request(), size=7)
    head = await wire.read_head()
    if head.status != 101:
        raise Failure(str(head))
    return str(head)


@check("opening", "pipelined", "a frame right behind the request", "RFC 6455 §4.1", echo=True)
async def pipelined(probe: Probe) -> str:
    # Clients have to wait for the response, so that servers needn't care.
    try:
        wire = await probe.open(frame(TEXT, b"early"))
        wire.deadline = min(wire.deadline, asyncio.get_running_loop().time() + 2 * MOMENT)
        return await probe.echoed(wire, (TEXT, b"early"))
    except Failure as exc:
        raise Info(str(exc)) from None


# ---------------------------------------------------------------------- what is refused


@check("opening", "version", "another version of the protocol", "RFC 6455 §4.4")
async def version(probe: Probe) -> str:
    replaced = with_headers(Sec_WebSocket_Version="12")
    return await probe.refused(probe.place.request(replaced=replaced), 426)


@check("opening", "version-named", "the answer to that names the version", "RFC 6455 §4.4")
async def version_named(probe: Probe) -> str:
    probe.expected = "Sec-WebSocket-Version: 13"
    replaced = with_headers(Sec_WebSocket_Version="12")
    head = await probe.ask(probe.place.request(replaced=replaced))
    named = tokens(head.headers.get_all("Sec-WebSocket-Version"))
    if head.status == 101:
        raise Skip("it accepts any version")
    if "13" not in named:
        raise Failure(f"{head}, Sec-WebSocket-Version: {', '.join(named) or 'none'}")
    return f"{head}, Sec-WebSocket-Version: {', '.join(named)}"


def refused(
    name: str,
    title: str,
    section: str,
    *statuses: int,
    strict: bool = True,
    method: str = "GET",
    http: str = "HTTP/1.1",
    more: tuple[tuple[str, str], ...] = (),
    **replaced: str | None,
) -> None:
    """Make a check of a request that has to be refused."""

    @check("opening", name, title, section)
    async def run(probe: Probe) -> str:
        request = probe.place.request(
            method=method, version=http, replaced=with_headers(**replaced), more=more
        )
        return await probe.refused(request, *statuses, strict=strict)


refused(
    *("version-missing", "no Sec-WebSocket-Version", "RFC 6455 §4.2.1", 400, 426),
    Sec_WebSocket_Version=None,
)
refused("key-missing", "no Sec-WebSocket-Key", "RFC 6455 §4.2.1", 400, Sec_WebSocket_Key=None)
refused(
    *("key-short", "a key that isn't 16 bytes in base64", "RFC 6455 §4.2.1", 400),
    strict=False,
    Sec_WebSocket_Key="c2hvcnQ=",
)
refused(
    *("key-twice", "two keys", "RFC 6455 §11.3.1", 400),
    strict=False,
    more=(("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),),
)
refused("method", "another method than GET", "RFC 6455 §4.2.1", 405, 400, 426, method="POST")
refused("http10", "HTTP/1.0", "RFC 6455 §4.2.1", 400, 426, 505, http="HTTP/1.0")
refused("upgrade-missing", "no Upgrade", "RFC 6455 §4.2.1", 426, 400, Upgrade=None)
refused("upgrade-other", "Upgrade: h2c", "RFC 6455 §4.2.1", 426, 400, Upgrade="h2c")
refused("connection-missing", "no Connection", "RFC 6455 §4.2.1", 426, 400, Connection=None)
refused(*("connection-close", "Connection: close", "RFC 6455 §4.2.1", 426, 400), Connection="close")
refused("host-missing", "no Host", "RFC 9112 §3.2", 400, strict=False, Host=None)
refused(
    *("name-invalid", "a header whose name has a space", "RFC 9112 §5.1", 400),
    strict=False,
    more=(("X-A B", "1"),),
)


# ---------------------------------------------------------------------- what is negotiated


@check("opening", "extension-unknown", "an unknown extension is declined", "RFC 6455 §9.1")
async def extension_unknown(probe: Probe) -> str:
    probe.expected = "101, without that extension"
    head = await probe.ask(
        probe.place.request(more=[("Sec-WebSocket-Extensions", "x-wsapi-check; level=1")])
    )
    if head.status != 101:
        raise Failure(str(head))
    given = ", ".join(head.headers.get_all("Sec-WebSocket-Extensions"))
    if given:
        raise Failure(f"101, Sec-WebSocket-Extensions: {given}")
    return "101 without extensions"


@check("opening", "subprotocol-unknown", "an unknown subprotocol", "RFC 6455 §4.2.2")
async def subprotocol_unknown(probe: Probe) -> str:
    if "Sec-WebSocket-Protocol" in probe.place.headers:
        raise Skip("there is --subprotocol")
    probe.expected = "101 without a subprotocol, or 4xx"
    head = await probe.ask(
        probe.place.request(more=[("Sec-WebSocket-Protocol", "x-wsapi-check, x-other")])
    )
    given = ", ".join(head.headers.get_all("Sec-WebSocket-Protocol"))
    if head.status is None or head.status >= 500:
        raise Failure(str(head))
    if given in ("x-wsapi-check", "x-other"):
        raise Info(f"{head}: {given!r}, which nobody knows, was selected")
    if given:
        raise Failure(f"{head}, Sec-WebSocket-Protocol: {given}")
    return str(head)


@check("opening", "concurrent", "several opening handshakes at once", "RFC 6455 §4.1")
async def concurrent(probe: Probe) -> str:
    probe.expected = "5 times 101"
    wires = [await probe.connect() for _ in range(5)]
    await asyncio.gather(*map(probe.upgrade, wires))
    return "5 connections"
