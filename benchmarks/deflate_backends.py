"""Compare implementations of DEFLATE: ``python -m benchmarks.deflate_backends``.

What a server spends on permessage-deflate, without the server: processor time to compress and to
inflate a message, and how large it is compressed as a fraction of its size, without frame header.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from wsproto_fast.backends import Backend, available_backends, get_backend

from . import data, process

# What is compressed: messages of a connection, together longer than any window.
PAYLOADS: Final[dict[str, Callable[[], list[bytes]]]] = {
    "json-200": lambda: data.json_payloads(400, 200),
    "json-1k": lambda: data.json_payloads(128, 1024),
    "json-16k": lambda: data.json_payloads(16, 16384),
    "random-4k": lambda: data.binary_payloads(32, 4096, 1.0),
    "half-random-4k": lambda: data.binary_payloads(32, 4096, 0.5),
}
# Between messages: kept, kept by many connections that take turns, or none.
CONTEXTS: Final = ("kept", "turns", "fresh")
CONNECTIONS: Final = 50  # that take turns; what they keep doesn't fit into the processor's caches
# None: the settings that the backend has here by default.
LEVELS: Final = (None, 1, 2, 3, 6)


class WrongData(Exception):
    """A backend didn't give back what was compressed."""


@dataclass(frozen=True)
class Result:
    """What one backend needs for one kind of message."""

    payload: str
    context: str
    backend: str
    level: int | None
    size: int  # bytes, of a message
    compress: float  # µs per message
    inflate: float
    ratio: float  # compressed bytes per byte


def streams(payload: str, context: str) -> list[list[bytes]]:
    """Return the messages of each connection.

    At any moment they differ: processors learn to predict the branches of what they do again.
    """
    payloads = PAYLOADS[payload]()
    count = CONNECTIONS if context == "turns" else 1
    return [payloads[k % len(payloads) :] + payloads[: k % len(payloads)] for k in range(count)]


def settings(level: int | None) -> dict[str, Any]:
    """Return settings with the memory that the backends have here by default."""
    return {} if level is None else {"level": level, "memLevel": 5}


def compress_all(
    messages: list[list[bytes]], backend: Backend, level: int | None, bits: int, context: str
) -> list[list[bytes]]:
    """Compress the messages of each connection."""
    pieces: list[list[bytes]] = [[] for _ in messages]
    compressors = [backend.new_compressor(bits, settings(level)) for _ in messages]
    for turn in range(len(messages[0])):
        for stream, compressor, done in zip(messages, compressors, pieces, strict=True):
            data = compressor.compress(stream[turn])
            done.append(data + compressor.flush(zlib.Z_SYNC_FLUSH))
        if context == "fresh":
            compressors = [backend.new_compressor(bits, settings(level))]
    return pieces


def inflate_all(
    pieces: list[list[bytes]], backend: Backend, bits: int, context: str
) -> list[list[bytes]]:
    """Inflate the messages of each connection."""
    messages: list[list[bytes]] = [[] for _ in pieces]
    decompressors = [backend.new_decompressor(bits, b"") for _ in pieces]
    for turn in range(len(pieces[0])):
        for stream, decompressor, done in zip(pieces, decompressors, messages, strict=True):
            done.append(decompressor.decompress(stream[turn]))
        if context == "fresh":
            decompressors = [backend.new_decompressor(bits, b"")]
    return messages


def cheapest(work: Callable[[], object], count: int, seconds: float) -> float:
    """Repeat `work`, which does `count` messages; return the best µs per message."""
    best = float("inf")
    end = time.perf_counter() + seconds
    while True:
        begin = time.process_time_ns()
        work()
        best = min(best, (time.process_time_ns() - begin) / 1e3)
        if time.perf_counter() >= end:
            return best / count


def measure(
    payload: str, context: str, backend: Backend, level: int | None, bits: int, seconds: float
) -> Result:
    """Check that a backend is right, both ways beside the standard library, then time it.

    Raises:
        WrongData: it isn't.

    """
    messages = streams(payload, context)
    count = len(messages) * len(messages[0])
    standard = get_backend("zlib")
    pieces = compress_all(messages, backend, level, bits, context)
    reference = compress_all(messages, standard, None, bits, context)
    if (
        inflate_all(pieces, standard, bits, context) != messages
        or inflate_all(pieces, backend, bits, context) != messages
        or inflate_all(reference, backend, bits, context) != messages
    ):
        raise WrongData(f"{backend.name}, level {level}, {payload}, context {context}")
    total = sum(len(message) for stream in messages for message in stream)
    sizes = sum(len(piece) - len(data.TAIL) for stream in pieces for piece in stream)
    return Result(
        payload,
        context,
        backend.name,
        level,
        len(messages[0][0]),
        cheapest(lambda: compress_all(messages, backend, level, bits, context), count, seconds),
        # The same bytes for all backends.
        cheapest(lambda: inflate_all(reference, backend, bits, context), count, seconds),
        sizes / total,
    )


def table(results: list[Result]) -> str:
    """Format the results."""
    lines = [f"{'':22} {'compress':>9} {'inflate':>9} {'ratio':>7}"]
    heading = ""
    for result in results:
        title = f"{result.payload}, context {result.context}; CPU µs per message"
        if title != heading:
            lines += ["", title]
            heading = title
        level = "default" if result.level is None else f"level {result.level}"
        lines.append(
            f"  {result.backend:10} {level:9} {result.compress:9.2f} {result.inflate:9.2f} "
            f"{result.ratio:7.3f}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, measure, print the table, and write the JSON file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.deflate_backends", description=__doc__
    )
    backends = available_backends()
    parser.add_argument("--backend", action="append", choices=backends, help="default: all here")
    parser.add_argument("--payload", action="append", choices=PAYLOADS, help="default: all")
    parser.add_argument("--context", action="append", choices=CONTEXTS, help="default: all")
    parser.add_argument(
        "--level",
        action="append",
        type=int,
        help="levels beside the default one of a backend; those that it doesn't have are left out",
    )
    parser.add_argument("--window-bits", type=int, default=12, choices=range(9, 16))
    parser.add_argument("--seconds", type=float, default=0.3, help="time for one figure")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args(arguments)

    levels = LEVELS if options.level is None else (None, *options.level)
    results = []
    for payload in options.payload or PAYLOADS:
        for context in options.context or CONTEXTS:
            for name in options.backend or backends:
                backend = get_backend(name)
                unusable: tuple[type[Exception], ...] = (TypeError, ValueError, *backend.errors)
                for level in levels:
                    try:
                        backend.new_compressor(options.window_bits, settings(level))
                    except unusable:
                        continue
                    try:
                        results.append(
                            measure(
                                payload,
                                context,
                                backend,
                                level,
                                options.window_bits,
                                options.seconds,
                            )
                        )
                    except WrongData as exc:
                        print(f"benchmark aborted: wrong data: {exc}", file=sys.stderr)
                        return 1
    print(table(results))
    if options.json:
        report = {
            "machine": process.machine(),
            "window_bits": options.window_bits,
            "results": [asdict(result) for result in results],
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
