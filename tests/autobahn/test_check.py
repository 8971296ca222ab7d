"""The checker of Autobahn reports finds what fails."""

from tests.autobahn.check import check


def report(behaviour: str, closing: str = "OK") -> dict[str, dict[str, dict[str, str]]]:
    return {"wsapi": {"1.1.1": {"behavior": behaviour, "behaviorClose": closing}}}


def test_passing() -> None:
    for verdict in ("OK", "NON-STRICT", "INFORMATIONAL"):
        assert check(report(verdict)) == []


def test_failing() -> None:
    for verdict in ("FAILED", "WRONG CODE", "UNCLEAN", "UNIMPLEMENTED"):
        assert len(check(report(verdict))) == 1
        assert len(check(report("OK", verdict))) == 1


def test_too_few_cases() -> None:
    assert check({}) == ["only 0 cases ran, of at least 1"]
    assert check(report("OK"), 2) == ["only 1 cases ran, of at least 2"]
