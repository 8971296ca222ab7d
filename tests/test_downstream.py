"""The lists of `make downstream`, which itself isn't run here."""

from __future__ import annotations

import tomllib

from tests.downstream.__main__ import HERE, Project


def test_lists_are_well_formed() -> None:
    projects = [
        Project(**item) for item in tomllib.loads((HERE / "projects.toml").read_text())["project"]
    ]
    names = [project.name for project in projects]
    assert len(set(names)) == len(names)
    for reason in tomllib.loads((HERE / "reasons.toml").read_text())["reason"]:
        assert reason.keys() == {"project", "tests", "reason"}
        assert reason["project"] in names
