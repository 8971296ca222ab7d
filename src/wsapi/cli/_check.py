"""Check a running WebSocket server: whether it does what RFC 6455 and RFC 7692 say.

Each check has a connection of its own, on which bytes are sent that no client would send.
Servers that echo what they are sent can be checked best.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fnmatch
import json
import os
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from wsproto_fast.datastructures import Headers
from wsproto_fast.exceptions import InvalidStatus
from wsproto_fast.headers import build_authorization_basic
from wsproto_fast.http11 import USER_AGENT, Response
from wsproto_fast.uri import parse_uri

from . import _check_messages, _check_opening, _check_rest  # noqa: F401 - they have the checks
from ._check_base import (
    CHECKS,
    GROUPS,
    OFFER,
    Check,
    Info,
    Known,
    Outcome,
    Probe,
    Skip,
    Verdict,
)
from ._check_wire import TEXT, Deflate, Ended, Failure, Head, Observations, Place, Silence, frame
from ._failures import explain
from ._options import (
    add_connection_arguments,
    add_uri_argument,
    connect_arguments,
    count,
    masked_uri,
    seconds,
)
from ._terminal import CommandError, Status, colours, printable

__all__ = ["add_arguments", "run"]

WAIT_FOR_ECHO: Final = 1.0  # seconds in which a server that echoes has done so
MAX_UNASKED: Final = 16
"""Messages that a server sends without being asked, which are remembered."""
MADE_HERE: Final = frozenset(
    {
        "host",
        "upgrade",
        "connection",
        "sec-websocket-key",
        "sec-websocket-version",
        "sec-websocket-extensions",
    }
)
"""Headers of a request that the checker writes itself."""
COLOURS: Final = {
    Verdict.PASS: "\x1b[32m",
    Verdict.FAIL: "\x1b[1;31m",
    Verdict.INFO: "\x1b[33m",
    Verdict.SKIPPED: "\x1b[2m",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be said about a check."""
    parser.usage = "wsapi check [options] URI"
    add_uri_argument(parser, optional=True)
    group = parser.add_argument_group("checks")
    add = group.add_argument
    add(
        "--only",
        metavar="NAME",
        action="append",
        default=[],
        help="a group, a check, or a pattern such as 'close/code-*'; again for others",
    )
    add("--list", action="store_true", help="list the checks, and make none")
    add("--echo", action="store_true", help="the server has to echo: else checks fail for it")
    add("--wait", metavar="SECONDS", type=seconds, default=3, help="for an answer (3)")
    add("--timeout", metavar="SECONDS", type=seconds, default=60, help="for all of it (60)")
    add("--concurrency", metavar="N", type=count, default=20, help="checks at a time (20)")
    add("-v", "--verbose", action="store_true", help="tell of each check what was sent and came")
    add("--json", action="store_true", help="print everything as JSON")
    add_connection_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Make the checks, and print the report."""
    checks = selected(options.only)
    if options.list:
        print_list(checks)
        return Status.OK
    if options.uri is None and options.unix is None:
        raise CommandError(Status.USAGE, "there is no URI", "see wsapi check --help")
    if options.wait is None:
        raise CommandError(Status.USAGE, "--wait none: checks would wait for ever")
    arguments = connect_arguments(options)
    begin = time.perf_counter()
    known, outcomes = asyncio.run(examine(options, arguments, checks))
    took = time.perf_counter() - begin
    if options.json:
        print(json.dumps(as_json(options, known, outcomes, took), indent=1))
    else:
        Report(options.verbose).show(masked_uri(options.uri), known, outcomes, took)
    verdicts = {outcome.verdict for outcome in outcomes}
    if Verdict.FAIL in verdicts:
        return Status.FAILURE
    return Status.OK if len(outcomes) == len(checks) else Status.TIMEOUT


def selected(patterns: Sequence[str]) -> list[Check]:
    """Return the checks that are wanted.

    Raises:
        CommandError: If a pattern fits none.
    """
    found: set[str] = set()
    for pattern in patterns:
        names = [
            check.name
            for check in CHECKS.values()
            if check.group == pattern or fnmatch.fnmatchcase(check.name, pattern)
        ]
        if not names:
            raise CommandError(
                Status.USAGE,
                f"--only: there is no check {pattern}",
                f"groups are {', '.join(GROUPS)}; --list lists all",
            )
        found.update(names)
    wanted = [check for name, check in CHECKS.items() if name in found or not patterns]
    return sorted(wanted, key=lambda check: list(GROUPS).index(check.group))


# ---------------------------------------------------------------------- making them


async def examine(
    options: argparse.Namespace, arguments: dict[str, Any], checks: Sequence[Check]
) -> tuple[Known, list[Outcome]]:
    """Make checks.

    Args:
        options: What was parsed.
        arguments: Arguments of ``connect``.
        checks: The checks.

    Returns:
        What is known of the server, and the outcomes, in order, of those that there was time for.

    Raises:
        CommandError: If there is no WebSocket server.
    """
    # What closing connections leaves for the event loop to say is no news here.
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    outcomes: dict[str, Outcome] = {}
    known = Known()
    try:
        async with asyncio.timeout(options.timeout):
            try:
                place = await find(options.uri, arguments)
                await explore(place, known, options)
            except Exception as exc:
                raise explain(exc, options.uri) from exc
            await _make_all(place, known, options, checks, outcomes)
    except TimeoutError:
        if not outcomes:
            raise CommandError(
                Status.TIMEOUT,
                f"{masked_uri(options.uri)} didn't answer in time",
                "--timeout gives it longer",
            ) from None
    return known, [outcomes[check.name] for check in checks if check.name in outcomes]


async def _make_all(
    place: Place,
    known: Known,
    options: argparse.Namespace,
    checks: Sequence[Check],
    outcomes: dict[str, Outcome],
) -> None:
    observed = Observations()
    neighbour = Probe(place, known, observed, options.wait)
    slots = asyncio.Semaphore(options.concurrency)

    async def make(check: Check) -> None:
        async with slots:
            probe = Probe(place, known, observed, options.wait)
            outcomes[check.name] = await make_check(check, probe, options)

    with contextlib.suppress(Failure):
        known.neighbour = await neighbour.open()
    for late in (False, True):
        async with asyncio.TaskGroup() as group:
            for check in checks:
                if check.late is late:
                    group.create_task(make(check))
    await neighbour.leave()


async def make_check(check: Check, probe: Probe, options: argparse.Namespace) -> Outcome:
    """Make one check, which always has an outcome."""
    begin = time.perf_counter()
    known = probe.known
    verdict, came = Verdict.SKIPPED, ""
    if check.echo and not known.echo:
        verdict = Verdict.FAIL if options.echo else Verdict.SKIPPED
        came = known.why_no_echo
    elif check.deflate and not known.deflate:
        came = "--no-compression" if options.no_compression else "no permessage-deflate"
    else:
        try:
            # Each wait in it has a deadline; this is for what a check does without end.
            async with asyncio.timeout(4 * options.wait + 5):
                came = await check.run(probe)
            verdict = Verdict.PASS
        except Skip as exc:
            came = str(exc)
        except Info as exc:
            verdict, came = Verdict.INFO, str(exc)
        except Silence as exc:
            verdict, came = Verdict.FAIL, f"{exc} within {options.wait:g} s"
        except Failure as exc:
            verdict, came = Verdict.FAIL, str(exc)
        except TimeoutError:
            verdict, came = Verdict.FAIL, "no end of it"
        finally:
            took = time.perf_counter() - begin
            sent = tuple(text for wire in probe.wires for text in wire.sent)
            await probe.leave()
        return Outcome(check, verdict, sent, probe.expected, came, took)
    return Outcome(check, verdict, (), "", came, 0.0)


# ---------------------------------------------------------------------- before them


async def find(uri: str, arguments: dict[str, Any]) -> Place:
    """Return where to connect to: redirects and challenges are followed as ``connect`` does.

    Args:
        uri: URI of the server.
        arguments: Arguments of ``connect``.

    Raises:
        OSError, InvalidHandshake, TimeoutError: As ``connect`` does.
        CommandError: If what answers doesn't speak HTTP.
    """
    parsed = parse_uri(uri)
    headers = Headers(arguments["additional_headers"])
    if "User-Agent" not in headers and USER_AGENT:
        headers["User-Agent"] = USER_AGENT
    if parsed.user_info is not None and "Authorization" not in headers:
        headers["Authorization"] = build_authorization_basic(*parsed.user_info)
    if arguments["origin"] is not None:
        headers["Origin"] = arguments["origin"]
    if arguments["subprotocols"]:
        headers["Sec-WebSocket-Protocol"] = ", ".join(arguments["subprotocols"])
    requests = ("additional_headers", "origin", "subprotocols", "compression")
    transport = {name: value for name, value in arguments.items() if name not in requests}
    transport["ping_interval"] = None
    place = Place(parsed, headers, transport)
    wire = await place.open()
    try:
        wire.deadline = asyncio.get_running_loop().time() + (arguments["open_timeout"] or 60)
        wire.write(place.request())
        head = await wire.read_head()
    except Silence as exc:
        raise TimeoutError from exc
    finally:
        wire.transport.abort()
    if head.status == 101:
        return place
    if head.status is None:
        raise CommandError(
            Status.PROTOCOL,
            f"{masked_uri(uri)} doesn't answer as HTTP does: {head}",
            None,
            "handshake",
        )
    if head.status == 401 or 300 <= head.status < 400:
        return await _elsewhere(uri, arguments, transport)
    raise InvalidStatus(Response(head.status, head.reason, head.headers, b""))


async def _elsewhere(uri: str, arguments: dict[str, Any], transport: dict[str, Any]) -> Place:
    from ..asyncio.client import connect

    async with connect(uri, **arguments) as connection:
        assert connection.request is not None
        headers = Headers(
            [
                (name, value)
                for name, value in connection.request.headers.raw_items()
                if name.lower() not in MADE_HERE
            ]
        )
        return Place(connection.protocol.uri, headers, transport)


async def explore(place: Place, known: Known, options: argparse.Namespace) -> None:
    """Find out what decides which checks can be made."""
    observed = Observations()
    probe = Probe(place, known, observed, max(WAIT_FOR_ECHO, options.wait))
    try:
        await _listen_for_echo(probe)
        if not options.no_compression:
            head = await probe.ask(place.request(more=[("Sec-WebSocket-Extensions", OFFER)]))
            known.deflate = bool(_deflate(head))
    except Failure as exc:
        # Checks will tell what is wrong.
        known.why_no_echo = known.why_no_echo or f"no echo: {exc}"
    finally:
        await probe.leave()


def _deflate(head: Head) -> bool:
    given = ", ".join(head.headers.get_all("Sec-WebSocket-Extensions"))
    try:
        return bool(given) and bool(Deflate(given))
    except ValueError:
        return "permessage-deflate" in given


async def _listen_for_echo(probe: Probe) -> None:
    known = probe.known
    wire = await probe.open()
    assert wire.head is not None
    known.server = ", ".join(wire.head.headers.get_all("Server"))
    message = b"wsapi check %s" % os.urandom(4).hex().encode()
    wire.write(frame(TEXT, message))
    until = asyncio.get_running_loop().time() + WAIT_FOR_ECHO
    came = None
    while True:
        try:
            event = await wire.event(until)
        except Silence:
            told = f"it answered with {came}" if came else "a text message wasn't answered"
            known.why_no_echo = f"the server doesn't echo: {told}"
            return
        if isinstance(event, Ended) or event.opcode >= 8:
            known.why_no_echo = f"the server doesn't echo: {event}"
            return
        if (event.opcode, event.payload) == (TEXT, message):
            known.echo = True
            return
        known.chatty = True
        if len(known.unasked) < MAX_UNASKED:
            known.unasked.add(event.payload)
        came = came or event


# ---------------------------------------------------------------------- telling


def print_list(checks: Sequence[Check]) -> None:
    """Print names and titles."""
    width = max(len(check.name) for check in checks)
    group = ""
    for check in checks:
        if check.group != group:
            group = check.group
            print(GROUPS[group])
        needs = ", needs an echo" if check.echo else ""
        print(f"  {check.name:{width}}  {check.title} ({check.section}{needs})")


def as_json(
    options: argparse.Namespace, known: Known, outcomes: Sequence[Outcome], took: float
) -> dict[str, Any]:
    """Return everything that was found out."""
    counts = Counter(outcome.verdict for outcome in outcomes)
    return {
        "uri": masked_uri(options.uri),
        "server": known.server,
        "echo": known.echo,
        "permessage_deflate": known.deflate,
        "seconds": round(took, 3),
        "counts": {verdict.lower(): counts[verdict] for verdict in Verdict},
        "checks": [
            {
                "name": outcome.check.name,
                "group": outcome.check.group,
                "title": outcome.check.title,
                "section": outcome.check.section,
                "verdict": outcome.verdict,
                "sent": outcome.sent,
                "expected": outcome.expected,
                "came": outcome.came,
                "seconds": round(outcome.seconds, 4),
            }
            for outcome in outcomes
        ],
    }


class Report:
    """Prints what was found out.

    Args:
        verbose: Tell everything of each check.
    """

    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose
        self.colours = colours(sys.stdout)

    def show(self, uri: str, known: Known, outcomes: Sequence[Outcome], took: float) -> None:
        """Print the report."""
        facts = [known.server] if known.server else []
        facts.append("echoes" if known.echo else "doesn't echo")
        facts.append("permessage-deflate" if known.deflate else "no permessage-deflate")
        print(printable(f"{uri}: {', '.join(facts)}"))
        for group, title in GROUPS.items():
            found = [outcome for outcome in outcomes if outcome.check.group == group]
            if found:
                print(f"\n{title}: {summary(found)}")
                self._group(found)
        print(f"\n{summary(outcomes)}; {took:.1f} s")

    def _group(self, outcomes: Sequence[Outcome]) -> None:
        if self.verbose:
            for outcome in outcomes:
                self._check(outcome)
            return
        # What many checks say is said once.
        remarks: dict[tuple[Verdict, str], list[Outcome]] = {}
        for outcome in outcomes:
            if outcome.verdict is Verdict.FAIL:
                self._check(outcome)
            elif outcome.verdict is not Verdict.PASS:
                remarks.setdefault((outcome.verdict, outcome.came), []).append(outcome)
        for (verdict, came), found in remarks.items():
            if len(found) == 1 and verdict is Verdict.INFO:
                self._check(found[0])
                continue
            came = printable(shortened(came))
            print(f"  {self._word(verdict)}  {len(found)} check{'s' * (len(found) > 1)}: {came}")
            if verdict is Verdict.INFO:
                names = " ".join(outcome.check.name.partition("/")[2] for outcome in found)
                print(textwrap.indent(textwrap.fill(names, 85, break_on_hyphens=False), " " * 11))

    def _check(self, outcome: Outcome) -> None:
        check = outcome.check
        word = self._word(outcome.verdict)
        print(f"  {word}  {check.name}: {check.title} ({check.section})")
        if outcome.verdict is Verdict.SKIPPED:
            print(printable(f"           {outcome.came}"))
            return
        if self.verbose or outcome.verdict is Verdict.FAIL:
            sent = ", ".join(outcome.sent[:4]) + (", ..." if len(outcome.sent) > 4 else "")
            print(printable(f"           sent      {shortened(sent)}"))
            print(printable(f"           expected  {shortened(outcome.expected)}"))
        print(printable(f"           came      {shortened(outcome.came)}"))

    def _word(self, verdict: Verdict) -> str:
        word = f"{verdict:7}"
        return f"{COLOURS[verdict]}{word}\x1b[0m" if self.colours else word


def shortened(text: str, most: int = 200) -> str:
    """Return the beginning of a text that may be long."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def summary(outcomes: Sequence[Outcome]) -> str:
    """Count verdicts."""
    counts = Counter(outcome.verdict for outcome in outcomes)
    words = {
        Verdict.PASS: "passed",
        Verdict.FAIL: "failed",
        Verdict.INFO: "info",
        Verdict.SKIPPED: "skipped",
    }
    return ", ".join(f"{counts[v]} {word}" for v, word in words.items() if counts[v]) or "nothing"
