"""Tables of functions are right for what callgrind writes."""

from __future__ import annotations

from benchmarks import by_function

# `main` waits for `loop` since before the window began; `loop` calls `add` twice, which calls
# itself.
PROFILE = """\
# callgrind format
version: 1
cmd:  python
positions: line
events: Ir
summary: 1000

ob=(1) /usr/bin/python
fl=(1) main.c
fn=(1) main
cob=(2) /usr/lib/libloop.so
cfi=(2) loop.c
cfn=(2) loop
calls=0 7
15 1000

ob=(2)
fl=(2)
fn=(2)
7 100
+3 100
cfn=(3) add
calls=2 30
* 800

fn=(3)
30 500
cfn=(4) add'2
calls=2 30
-1 300

fn=(4)
30 300
"""


def test_table() -> None:
    assert by_function.total(PROFILE) == 1000
    assert by_function.total("version: 1") is None
    lines = [line.split() for line in by_function.table(PROFILE, 100, 2).splitlines()]
    assert lines == [
        ["100", "all", "of", "libloop.so"],
        ["own", "with", "calls"],
        ["80", "110", "add", "[libloop.so]"],  # with what it calls itself
        ["20", "100", "loop", "[libloop.so]"],
    ]
