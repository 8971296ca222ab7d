"""The parts of a connection are counted; what they are is in tests/wsapi/test_asyncio_idle.py."""

from __future__ import annotations

import asyncio
import sys

import pytest

from benchmarks import anatomy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_parts_of_a_connection(capsys: pytest.CaptureFixture[str]) -> None:
    found = asyncio.run(anatomy.measure(10))
    numbers = {part.name: part.number for part in found.parts}
    assert numbers["ServerConnection"] == numbers["ServerProtocol"] == numbers["Task"] == 1
    assert "MessageQueue" in numbers
    anatomy.show(found)
    assert "known to the collector" in capsys.readouterr().out


def test_what_is_not_there_for_each_connection() -> None:
    things = [object() for _ in range(10)]
    [part] = anatomy.count([*things, [], ()], 10)
    assert (part.name, part.tracked, part.number) == ("object", False, 1)
    assert part.size == sys.getsizeof(things[0])
