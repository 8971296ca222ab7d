"""Measure how many messages a server sends back, and how long each takes.

Without --rate, each connection has --window messages in flight, and sends another one for each that
comes back: this finds out how many there can be. With --rate, messages are sent when they are due,
whatever becomes of those before, and their latencies count from that time: this finds out how long
users wait.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from wsproto_fast import __version__

from ._bench_figures import duration, number
from ._bench_load import Openings, Plan, Result, new_loop, processor_time
from ._bench_processes import Local, Progress, Remote
from ._failures import explain
from ._options import (
    add_connection_arguments,
    add_uri_argument,
    connect_arguments,
    count,
    masked_uri,
    seconds,
    size,
)
from ._terminal import CommandError, Status, colours, is_terminal, optional, printable

__all__ = ["add_arguments", "bench", "plans", "run"]

PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)
BUSY: Final = 0.9  # share of a core above which the load may be what is measured
MAX_MESSAGE: Final = 64 * 2**20
MAX_IN_FLIGHT: Final = 2**30
"""Bytes of all messages in flight together."""
MAX_RATE: Final = 10_000_000.0
MAX_PROCESSES: Final = 256
ROWS: Final = 12  # of the histogram
WIDTH: Final = 40  # of its bars
SHOW: Final = 0.25  # seconds between changes of the progress
LATE: Final = 0.25  # share of the median latency above which sending late matters


# ---------------------------------------------------------------------- arguments


def sizes(text: str) -> tuple[int, int]:
    """Parse a size, or a range of sizes: ``64``, ``16k``, ``64-16k``."""
    parts = [size(part) for part in re.split("-", text, maxsplit=1)]
    low, high = parts[0], parts[-1]
    if low is None or high is None or not low <= high <= MAX_MESSAGE:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a size up to 64M, or a range like 64-16k")
    return low, high


def rate(text: str) -> float:
    """Parse a number of messages per second."""
    factor = 1000 if text.lower().endswith("k") else 1
    try:
        value = float(text[:-1] if factor > 1 else text) * factor
    except ValueError:
        value = 0.0
    if not 0 < value <= MAX_RATE:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number of messages per second")
    return value


def warmup(text: str) -> float:
    """Parse a number of seconds, 0 included."""
    if text == "0":
        return 0.0
    return seconds(text) or 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be said about a measurement."""
    parser.usage = "wsapi bench [options] URI"
    add_uri_argument(parser, optional=True)
    group = parser.add_argument_group("load")
    add = group.add_argument
    add("-c", "--connections", metavar="N", type=count, default=10, help="connections (10)")
    add("-r", "--rate", metavar="N", type=rate, help="messages per second, of all together")
    add("-w", "--window", metavar="N", type=count, help="messages in flight on each (1)")
    add("-s", "--size", metavar="BYTES", type=sizes, default=(64, 64), help="or 64-16k (64)")
    add("-d", "--duration", metavar="SECONDS", type=seconds, help="how long (10)")
    add("-n", "--messages", metavar="N", type=count, help="how many, all together")
    add("--warmup", metavar="SECONDS", type=warmup, default=1.0, help="before that (1)")
    kinds = group.add_mutually_exclusive_group()
    kinds.add_argument("--text", action="store_true", help="send text messages")
    kinds.add_argument("--binary", action="store_true", help="send binary messages (default)")
    add("--compress", action="store_true", help="compress, and send what can be compressed")
    add("--no-verify", action="store_true", help="take any message for an answer")
    add("--processes", metavar="N", type=count, default=1, help="processes that send (1)")
    add(
        "--pid",
        dest="pids",
        metavar="PID",
        type=count,
        action="append",
        default=[],
        help="process of the server, on this machine: tell its processor time; again for others",
    )
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print everything as JSON")
    group.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    add_connection_arguments(parser)


def plans(options: argparse.Namespace) -> list[Plan]:
    """Return what each process does.

    Raises:
        CommandError: If arguments don't fit together.
    """
    if options.rate is not None and options.window is not None:
        raise CommandError(
            Status.USAGE,
            "--rate and --window exclude each other",
            "messages at a rate are sent whatever is in flight",
        )
    if options.compress and options.no_compression:
        raise CommandError(Status.USAGE, "--compress and --no-compression exclude each other")
    if options.processes > min(options.connections, MAX_PROCESSES):
        raise CommandError(
            Status.USAGE,
            f"--processes {options.processes} is more than there can be",
            f"at most one for each connection, and {MAX_PROCESSES}",
        )
    window = options.window or 1
    if window * options.connections * options.size[1] > MAX_IN_FLIGHT:
        raise CommandError(
            Status.USAGE,
            "there would be more than 1 GiB in flight",
            "less of --connections, --window, or --size",
        )
    for pid in options.pids:
        try:
            processor_time([pid])
        except (OSError, AttributeError) as exc:  # Windows has no such clocks
            reason = "there is no such process" if sys.platform == "linux" else "only on Linux"
            raise CommandError(Status.USAGE, f"--pid {pid}: {reason}") from exc
    length, messages = options.duration, options.messages
    if options.rate is not None and messages is not None:
        if length is not None:
            raise CommandError(Status.USAGE, "--rate, --duration and --messages are one too many")
        length, messages = messages / options.rate, None
    if length is None and messages is None:
        length = 10.0
    plan = Plan(
        connections=options.connections,
        window=window,
        rate=options.rate,
        sizes=options.size,
        text=options.text,
        words=options.compress,
        verify=not options.no_verify,
        warmup=options.warmup,
        seconds=length,
        messages=messages,
        pids=tuple(options.pids),
    )
    total = options.processes
    return [
        replace(
            plan,
            connections=part,
            rate=None if plan.rate is None else plan.rate * part / options.connections,
            messages=None
            if messages is None
            else max(1, messages * (index + 1) // total - messages * index // total),
        )
        for index, part in enumerate(shares(options.connections, total))
    ]


def shares(whole: int, parts: int) -> list[int]:
    """Divide a number into parts that are equal, or nearly so."""
    return [whole * (index + 1) // parts - whole * index // parts for index in range(parts)]


def run(options: argparse.Namespace) -> int:
    """Measure, and print the result."""
    if options.uri is None and options.unix is None:
        raise CommandError(Status.USAGE, "there is no URI", "see wsapi bench --help")
    arguments = connect_arguments(options)
    arguments["compression"] = "deflate" if options.compress else None
    if options.max_size is not None:
        arguments["max_size"] = max(options.max_size, options.size[1])
    planned = plans(options)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        openings, result = runner.run(bench(options, arguments, planned))
    if options.json:
        print(json.dumps(as_json(options, planned, openings, result), indent=1))
    else:
        report(options, planned, openings, result)
    if result.stalled:
        raise CommandError(
            Status.TIMEOUT,
            f"{masked_uri(options.uri)} doesn't answer any more"
            if result.latencies.total
            else f"{masked_uri(options.uri)} doesn't answer",
            "it has to send back what it is sent",
        )
    if result.wrong is not None:
        raise CommandError(
            Status.FAILURE,
            f"{masked_uri(options.uri)} didn't send back what it was sent: {result.wrong}",
            "--no-verify takes any message for an answer",
        )
    if result.interrupted:
        return Status.INTERRUPTED
    return Status.FAILURE if result.errors or openings.errors else Status.OK


# ---------------------------------------------------------------------- measuring


async def bench(
    options: argparse.Namespace, arguments: dict[str, Any], planned: Sequence[Plan]
) -> tuple[Openings, Result]:
    """Open the connections, send messages, and return what came of both.

    Args:
        options: What was parsed.
        arguments: Arguments of ``connect``.
        planned: What each process does.

    Raises:
        CommandError: If no connection can be opened.
    """
    loads: list[Local | Remote]
    if len(planned) == 1:
        loads = [Local(options.uri, arguments, planned[0])]
    else:
        loads = [Remote(options.uri, arguments, plan, options) for plan in planned]

    openings, result = Openings(), Result()

    def stop() -> None:
        result.interrupted = True
        for load in loads:
            load.stop()

    with interrupted(stop), shown(options) as show:
        try:
            for part in await asyncio.gather(*(load.open() for load in loads)):
                openings.add(part)
            if not openings.opened:
                cause = KeyboardInterrupt() if result.interrupted else openings.exception
                assert cause is not None
                raise explain(cause, options.uri)
            progress = [(0.0, 0)] * len(loads)

            def note(index: int) -> Progress:
                def update(share: float, messages: int) -> None:
                    progress[index] = share, messages
                    show(min(s for s, _ in progress), sum(n for _, n in progress))

                return update

            runs = (load.run(note(index)) for index, load in enumerate(loads))
            for found in await asyncio.gather(*runs):
                result.add(found)
        finally:
            await asyncio.gather(*(load.close() for load in loads))
    return openings, result


@contextlib.contextmanager
def interrupted(stop: Callable[[], None]) -> Iterator[None]:
    """Have Ctrl-C end the measurement; a second one ends the program."""
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGINT)

    def handler(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        loop.call_soon_threadsafe(stop)

    try:
        signal.signal(signal.SIGINT, handler)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# ---------------------------------------------------------------------- progress


@contextlib.contextmanager
def shown(options: argparse.Namespace) -> Iterator[Progress]:
    """Show at a terminal how far it is; give what is called with that."""
    if options.quiet or not is_terminal(sys.stderr):
        yield lambda share, messages: None
    elif optional("rich") and colours(sys.stderr):
        with _bar() as show:
            yield show
    else:
        with _line() as show:
            yield show


@contextlib.contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[messages]} messages"),
    )
    # It has no thread: that would take time from the load.
    bar = Bar(*columns, console=Console(stderr=True), auto_refresh=False, transient=True)
    last = 0.0
    with bar:
        task = bar.add_task("warm-up", total=1.0, messages="0")

        def show(share: float, messages: int) -> None:
            nonlocal last
            if (now := time.monotonic()) - last >= SHOW:
                last = now
                description = "bench" if messages else "warm-up"
                told = number(messages)
                bar.update(task, completed=share, description=description, messages=told)
                bar.refresh()

        yield show


@contextlib.contextmanager
def _line() -> Iterator[Progress]:
    last = 0.0

    def show(share: float, messages: int) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= SHOW:
            last = now
            print(f"\r{share:4.0%}  {messages:,} messages ", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if last:
            print("\r" + " " * 40, end="\r", file=sys.stderr, flush=True)


# ---------------------------------------------------------------------- telling


def describe(options: argparse.Namespace, plan: Plan) -> str:
    """Say in one line what was done."""
    low, high = plan.sizes
    bytes_ = f"{low:,} bytes" if low == high else f"{low:,} to {high:,} bytes"
    kind = "text" if plan.text else "binary"
    packed = ", compressed" if options.compress else ""
    if options.rate is None:
        way = f"{plan.window} in flight on each connection"
    else:
        way = f"{number(options.rate)} per second"
    return f"{kind} messages of {bytes_}{packed}, {way}"


def report(
    options: argparse.Namespace, planned: Sequence[Plan], openings: Openings, result: Result
) -> None:
    """Print the result for people."""
    uri = masked_uri(options.uri)
    total = openings.opened
    print(printable(f"{uri}: {total:,} connection{'s' * (total != 1)}"))
    print(f"{describe(options, planned[0])}; {result.seconds:.1f} s\n")
    times = openings.times
    print(
        f"opening     p50 {duration(times.percentile(50))}, max {duration(times.percentile(100))}; "
        f"{number(total / max(openings.seconds, 1e-9))}/s"
    )
    answered = result.answered
    elapsed = max(result.seconds, 1e-9)
    print(f"messages    {answered:,}, {number(answered / elapsed)}/s")
    print(f"data        {number(result.payload / elapsed / 1e6)} MB/s each way")
    latencies = result.latencies
    words = [f"p{percent:g} {duration(latencies.percentile(percent))}" for percent in PERCENTILES]
    since = "since they were sent" if options.rate is None else "since they were due"
    print(f"latency     {', '.join(words)}, max {duration(latencies.percentile(100))}; {since}")
    _print_histogram(result)
    _print_troubles(options, openings, result)


def _print_histogram(result: Result) -> None:
    rows = result.latencies.rows(ROWS)
    most = max((found for _, _, found in rows), default=0)
    encoding = sys.stdout.encoding or "ascii"
    block = "█"
    try:
        block.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        block = "#"
    for low, high, found in rows:
        bar = block * round(found / most * WIDTH)
        if found and not bar:
            bar = "."
        print(f"  {duration(low):>8} to {duration(high):>8}  {found:>11,}  {bar}".rstrip())


def _print_troubles(options: argparse.Namespace, openings: Openings, result: Result) -> None:
    share = result.cpu / max(result.seconds, 1e-9)
    each = " each, at most" if options.processes > 1 else ""
    if options.pids:
        busy = result.server_cpu / max(result.seconds, 1e-9)
        each_message = result.server_cpu / max(result.answered, 1)
        print(f"server      {busy:.0%} of a core, {duration(each_message)} per message")
    print(f"this side   {share:.0%} of a core{each}")
    if share > BUSY:
        print(
            "            it is as busy as it can be, and may be what was measured: "
            f"--processes {options.processes + 1}"
        )
    median, late = result.latencies.percentile(50), result.late.percentile(99)
    if options.rate is not None and late > LATE * median:
        print(f"            it sent messages late: p99 {duration(late)} of these latencies")
    if result.unsent or (result.due and result.unanswered):
        print(
            f"behind      of {result.due:,} messages {result.unsent:,} weren't sent in time, and "
            f"{result.unanswered:,} weren't answered; their latencies are what they had waited"
        )
    for what, errors in (("not opened", openings.errors), ("lost", result.errors)):
        for text, times in errors.most_common(5):
            print(printable(f"{what:10}  {times:,}: {text}"))


def as_json(
    options: argparse.Namespace, planned: Sequence[Plan], openings: Openings, result: Result
) -> dict[str, Any]:
    """Return everything that is known of a run."""
    elapsed = max(result.seconds, 1e-9)
    answered = result.answered
    latencies = result.latencies

    def spread(of: Any) -> dict[str, float]:
        names = {f"p{percent:g}": of.percentile(percent) for percent in PERCENTILES}
        return {"mean": of.mean(), **names, "max": of.percentile(100)}

    plan = planned[0]
    return {
        "uri": masked_uri(options.uri),
        "settings": {
            "connections": options.connections,
            "window": None if options.rate else plan.window,
            "rate": options.rate,
            "size": list(plan.sizes),
            "text": plan.text,
            "compress": options.compress,
            "verify": plan.verify,
            "warmup": plan.warmup,
            "processes": options.processes,
        },
        "connections": openings.opened,
        "opening_seconds": {**spread(openings.times), "all": openings.seconds},
        "seconds": result.seconds,
        "messages": answered,
        "messages_per_second": answered / elapsed,
        "bytes_per_second": result.payload / elapsed,
        "latency_seconds": spread(latencies),
        "late_seconds": spread(result.late) if options.rate else None,
        "due": result.due if options.rate else None,
        "unsent": result.unsent,
        "unanswered": result.unanswered,
        "errors": {"opening": dict(openings.errors), "lost": dict(result.errors)},
        "wrong": result.wrong,
        "stalled": result.stalled,
        "cpu_share": result.cpu / elapsed,
        "server_cpu_share": result.server_cpu / elapsed if options.pids else None,
        "server_cpu_seconds_per_message": (
            result.server_cpu / max(answered, 1) if options.pids else None
        ),
        "histogram": latencies.as_json(),
        "machine": {
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "wsapi": __version__,
        },
    }
