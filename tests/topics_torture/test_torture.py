"""The torture run for a moment; ``make topics-torture`` is the long one."""

import sys

import pytest

from tests.topics_torture.parties import missing
from tests.topics_torture.run import Options, run

pytestmark = [
    pytest.mark.timeout(150),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, stops and kills processes"),
]


def torture(broker, tmp_path, **options):
    if why := missing(broker):
        pytest.skip(why)
    options = {"seconds": 0.0, "chaos": 4.0, "clients": 20, "publishers": 2, **options}
    return run(Options(broker=broker, folder=tmp_path, **options))


@pytest.mark.parametrize("broker", ["valkey", "nats"])
def test_nothing_is_lost_without_a_word(broker, tmp_path):
    report = torture(broker, tmp_path, seed="5")
    assert not report.failures
    assert report.rounds == 1
    assert report.counts["acknowledged"] > 100
    assert report.counts["recovered"] > 0
    if broker == "valkey":
        # The control: what plain Pub/Sub makes of the same. On NATS that takes longer to show.
        assert report.counts["plain lost"] > 0


def test_mistake_is_found(tmp_path):
    report = torture(
        "valkey", tmp_path, seed="5", chaos=2.0, plant="ignore-previous", kinds=frozenset()
    )
    assert any("missing between" in failure for failure in report.failures)
