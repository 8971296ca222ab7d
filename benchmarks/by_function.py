"""What of callgrind's figures is in which functions, for `instructions`.

``callgrind_annotate`` counts what was called before a window began as if it were all inside those
who wait for it, which hides everything else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# Names stand for themselves once, and later for their numbers: "fn=(7) main", "fn=(7)".
NAME: Final = re.compile(r"(c?(?:fn|ob))=\((\d+)\)(?: (.*))?")
COST: Final = re.compile(r"(?:\d|[+*-])\S* (\d+)")


def total(profile: str) -> int | None:
    """Return the instructions of a profile; None if it doesn't say."""
    found = re.search(r"^(?:summary|totals): (\d+)", profile, re.MULTILINE)
    return int(found[1]) if found else None


def costs(profile: str) -> Iterator[tuple[str, str, int, int]]:
    """Return file, function, its own instructions, and those of a call that it makes, of each line.

    A call that had begun before is none.
    """
    names: dict[tuple[str, str], str] = {}
    now = {"ob": "", "fn": ""}
    calls = ""
    for line in profile.splitlines():
        if match := NAME.match(line):
            kind, number, name = match.groups()
            key = (kind[-2:], number)
            names.setdefault(key, name or "")
            if not kind.startswith("c"):
                now[kind] = names[key]
        elif line.startswith("calls="):
            calls = line[6:].split()[0]
        elif match := COST.match(line):
            cost = int(match[1])
            own, called = (0, cost if calls != "0" else 0) if calls else (cost, 0)
            calls = ""
            # Behind ' is how deep the recursion is.
            yield Path(now["ob"]).name, now["fn"].partition("'")[0], own, called


def table(profile: str, figure: float, count: int) -> str:
    """Return what each file has taken, and the functions that have taken the most, of a figure.

    Args:
        profile: What callgrind wrote.
        figure: Instructions per message.
        count: Number of functions.
    """
    share = figure / (total(profile) or 1)
    of_file: Counter[str] = Counter()
    of_function: Counter[str] = Counter()
    with_calls: Counter[str] = Counter()
    for file, function, own, called in costs(profile):
        name = f"{function} [{file}]"
        of_file[file] += own
        of_function[name] += own
        with_calls[name] += own + called
    lines = [
        f"    {round(cost * share):>8,}  all of {file}"
        for file, cost in of_file.most_common()
        if cost * share >= 1
    ]
    lines.append("         own   with calls")
    lines += [
        f"    {round(cost * share):>8,} {round(with_calls[name] * share):>8,}  {name}"
        for name, cost in of_function.most_common(count)
    ]
    return "\n".join(lines)
