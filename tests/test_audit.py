"""What the audit of dependencies makes of answers, and of none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import audit

PACKAGES = {"one": "1.0", "other-name": "2.0"}
VULNERABLE = {"id": "X-1", "aliases": ["Y-2"], "fix_versions": ["1.1"], "description": "bad"}

# What stands for pip-audit. What it is told of a package is in `ANSWERS`.
STUB = """
import json, sys, time
options = dict(option.partition("=")[::2] for option in sys.argv[1:])
service = options["--vulnerability-service"]
answers = {answers!r}[service]
if answers == "wait":
    time.sleep(600)
if answers == "fail":
    sys.exit("ERROR: refused by " + service)
lines = open(options["--requirement"]).read().split()
names = dict(line.split("==") for line in lines)
told = [
    {{"name": name, "version": version, "vulns": answers.get(name, [])}}
    for name, version in names.items() if answers.get(name) != "unknown"
]
told += [
    {{"name": name, "skip_reason": "not found"}} for name in names if answers.get(name) == "unknown"
]
with open(options["--output"], "w") as file:
    json.dump({{"dependencies": told, "fixes": []}}, file)
sys.exit(any(one.get("vulns") for one in told))
"""


@pytest.mark.parametrize(
    "pypi, osv, status, text",
    [
        ({}, "fail", 0, "2 packages, of which 0 have known vulnerabilities"),
        ("fail", {}, 0, "2 packages, of which 0 have known vulnerabilities"),
        (
            {"one": [VULNERABLE]},
            {},
            1,
            "one 1.0: X-1, Y-2; mended in 1.1\n2 packages, of which 1 have known vulnerabilities",
        ),
        (
            "fail",
            {"other-name": "unknown"},
            audit.NOT_AUDITED,
            "not audited: no answer from pypi: ERROR: refused by pypi; "
            "no answer from osv: of other-name; not found",
        ),
    ],
)
def test_answers(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    pypi: object,
    osv: object,
    status: int,
    text: str,
) -> None:
    stub = tmp_path / "stub.py"
    stub.write_text(STUB.format(answers={"pypi": pypi, "osv": osv}))
    assert audit.audit([sys.executable, str(stub)], PACKAGES, first_timeout=60) == status
    out, err = capsys.readouterr()
    assert (out + err).strip() == text


def test_no_answer_in_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stub = tmp_path / "stub.py"
    stub.write_text(STUB.format(answers={"pypi": "wait", "osv": "wait"}))
    assert audit.audit([sys.executable, str(stub)], PACKAGES, 1) == audit.NOT_AUDITED
    assert capsys.readouterr().err == (
        "not audited: no answer from pypi: within 1 s; no answer from osv: within 1 s\n"
    )


def test_what_is_installed() -> None:
    packages = audit.installed()
    assert "pytest" in packages
    assert audit.PROJECT not in packages
    assert "pytest" not in audit.not_installed(packages)
    assert "pytest" in audit.not_installed({})
