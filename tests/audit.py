"""Ask for known vulnerabilities of what is installed for development: ``make audit``.

pip-audit asks its services for each package. Where none of them answers, or not for all packages,
nothing is known: that fails, too, and says so.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

PROJECT = "wsproto-fast"
SERVICES = ("pypi", "osv")
# Seconds for the first package, which shows whether a service answers, and for all of them.
FIRST_TIMEOUT = 60.0
TIMEOUT = 900.0

NOT_AUDITED = 2
MOST_TEXT = 200  # characters of what a service, or the way to it, has said


def normalized(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """Return the versions of what is installed here, but for the project."""
    found = {normalized(dist.metadata["Name"]): dist.version for dist in metadata.distributions()}
    found.pop(PROJECT, None)
    return dict(sorted(found.items()))


def not_installed(have: dict[str, str]) -> list[str]:
    """Return what the project's extras ask for on this platform and isn't here."""
    extras = metadata.metadata(PROJECT).get_all("Provides-Extra") or []
    wanted = set()
    for text in metadata.requires(PROJECT) or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            wanted.add(normalized(requirement.name))
    return sorted(wanted - have.keys() - {PROJECT})


class NoAnswer(Exception):
    """Raised when a service doesn't tell."""


def ask(
    command: list[str], service: str, packages: dict[str, str], timeout: float
) -> dict[str, list[dict[str, Any]]]:
    """Return the known vulnerabilities of each package.

    Raises:
        NoAnswer: If that isn't told for all of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        requirements, answer = Path(folder, "requirements.txt"), Path(folder, "answer.json")
        requirements.write_text("".join(f"{name}=={packages[name]}\n" for name in packages))
        options = ["--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json"]
        options += [f"--vulnerability-service={service}", f"--requirement={requirements}"]
        try:
            result = subprocess.run(
                [*command, *options, f"--output={answer}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise NoAnswer(f"within {timeout:.0f} s") from None
        if not answer.exists():
            said = result.stdout.strip().splitlines()
            raise NoAnswer(
                said[-1][:MOST_TEXT] if said else f"pip-audit ended with {result.returncode}"
            )
        told = json.loads(answer.read_text())["dependencies"]
    answers = {normalized(one["name"]): one["vulns"] for one in told if "skip_reason" not in one}
    missing = sorted(packages.keys() - answers.keys())
    if missing:
        reasons = [one["skip_reason"] for one in told if "skip_reason" in one]
        raise NoAnswer("; ".join([f"of {', '.join(missing)}", *reasons[:1]]))
    return answers


def audit(command: list[str], packages: dict[str, str], first_timeout: float) -> int:
    """Ask one service after the other until one tells; return an exit status."""
    failures = []
    for service in SERVICES:
        try:
            name = next(iter(packages))
            ask(command, service, {name: packages[name]}, first_timeout)
            answers = ask(command, service, packages, TIMEOUT)
        except NoAnswer as exc:
            failures.append(f"no answer from {service}: {exc}")
            continue
        vulnerable = {name: found for name, found in answers.items() if found}
        for name, found in vulnerable.items():
            for one in found:
                known_as = ", ".join([one["id"], *one.get("aliases", [])])
                fixed = ", ".join(one.get("fix_versions", [])) or "no version"
                print(f"{name} {packages[name]}: {known_as}; mended in {fixed}")
        print(f"{len(packages)} packages, of which {len(vulnerable)} have known vulnerabilities")
        return 1 if vulnerable else 0
    print("not audited: " + "; ".join(failures), file=sys.stderr)
    return NOT_AUDITED


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m tests.audit", description=__doc__)
    parser.add_argument("--first-timeout", type=float, default=FIRST_TIMEOUT, metavar="SECONDS")
    parser.add_argument("command", nargs="+", help="pip-audit")
    options = parser.parse_args(arguments)
    packages = installed()
    if left_out := not_installed(packages):
        print(f"not installed here, so not audited: {', '.join(left_out)}")
    return audit(options.command, packages, options.first_timeout)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
