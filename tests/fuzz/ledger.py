"""What was fuzzed so far, over all runs: one line of JSON for each process of libFuzzer.

The repository keeps sums of them in `fuzzed.jsonl`, in lines of the same kind.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

KEPT = Path(__file__).with_name("fuzzed.jsonl")


@dataclass
class Entry:
    """One process, or the sum of several for the same target and revision.

    Attributes:
        target: Name of the target.
        revision: What was compiled, as git describes it; "-dirty" behind it if there were changes.
        began: Time in UTC, as in ISO 8601; of a sum, that of the first.
        inputs: Number of inputs that were run.
        wall: Seconds that it took.
        cpu: Seconds of processor time that it used, in user and system mode.
        edges: Edges in the compiled code that the corpus and these inputs reach.
        features: Features that they have, as libFuzzer counts them.
        findings: Names of the inputs that were found, also if they had been found before.
        status: Exit status of the process; of a sum, 0 if it is so for all.
    """

    target: str
    revision: str
    began: str
    inputs: int
    wall: float
    cpu: float
    edges: int
    features: int
    findings: list[str]
    status: int


def revision(path: Path) -> str:
    """Return what `.ci/fuzz-build` wrote down about what it compiled."""
    return path.read_text().strip() if path.exists() else "unknown"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def append(path: Path, entry: Entry) -> None:
    # In one write, so that processes may share the file.
    with open(path, "a") as file:
        file.write(json.dumps(asdict(entry)) + "\n")


def read(path: Path) -> list[Entry]:
    """Return the entries of a ledger; none if there is no such file.

    Raises:
        ValueError: If a line isn't an entry; nothing is left out of sums silently.
    """
    if not path.exists():
        return []
    entries = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            entries.append(Entry(**json.loads(line)))
        except (TypeError, ValueError) as exc:
            raise ValueError(f"{path}, line {number}: {exc}") from exc
    return entries


def sums(entries: Iterable[Entry]) -> list[Entry]:
    """Return one entry for each target and revision, with each finding once."""
    of: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        key = entry.target, entry.revision
        one = of.get(key)
        if one is None:
            of[key] = replace(entry, findings=sorted(set(entry.findings)))
            continue
        of[key] = replace(
            one,
            began=min(one.began, entry.began),
            inputs=one.inputs + entry.inputs,
            wall=round(one.wall + entry.wall, 1),
            cpu=round(one.cpu + entry.cpu, 1),
            edges=max(one.edges, entry.edges),
            features=max(one.features, entry.features),
            findings=sorted({*one.findings, *entry.findings}),
            status=one.status or entry.status,
        )
    return [of[key] for key in sorted(of)]


def keep(path: Path, kept: Path) -> None:
    """Add the sums of a ledger to those that are kept, and begin the ledger anew."""
    total = sums([*read(kept), *read(path)])
    kept.write_text("".join(json.dumps(asdict(entry)) + "\n" for entry in total))
    path.unlink(missing_ok=True)


def report(entries: Iterable[Entry]) -> str:
    """Return sums per target as a table in Markdown; a finding counts once, however often found."""
    of: dict[str, list[Entry]] = {}
    for entry in entries:
        of.setdefault(entry.target, []).append(entry)
    rows = [
        "| target | hours | CPU hours | inputs | edges | findings |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    found: set[str] = set()
    for name in sorted(of):
        findings = {finding for entry in of[name] for finding in entry.findings}
        found |= findings
        rows.append(line(name, of[name], len(findings)))
    everything = [entry for name in of for entry in of[name]]
    rows.append(line("all", everything, len(found), str(len(of)) + " targets"))
    revisions = sorted({entry.revision for entry in everything})
    rows += ["", f"Revisions: {', '.join(revisions) or 'none'}"]
    return "\n".join(rows)


def line(name: str, entries: list[Entry], findings: int, edges: str | None = None) -> str:
    hours = sum(entry.wall for entry in entries) / 3600
    busy = sum(entry.cpu for entry in entries) / 3600
    inputs = sum(entry.inputs for entry in entries)
    reached = edges or str(max(entry.edges for entry in entries))
    return f"| {name} | {hours:.2f} | {busy:.2f} | {inputs:,} | {reached} | {findings} |"
