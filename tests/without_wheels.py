"""A plugin for pytest where not all that tests need can be installed: skips what imports it.

For Pythons that few packages have wheels for: ``pytest -p tests.without_wheels``.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest


def missing(exc: BaseException | None) -> str | None:
    """Return the name of the module that an exception is about, if it is missing and not ours."""
    while exc is not None:
        if isinstance(exc, ModuleNotFoundError) and exc.name is not None:
            name = exc.name.partition(".")[0]
            return None if name in ("wsapi", "wsproto_fast", "tests") else name
        exc = exc.__cause__ or exc.__context__
    return None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    call = getattr(report, "call", None)
    if report.failed and call is not None and call.excinfo is not None:
        name = missing(call.excinfo.value)
        if name is not None:
            report.outcome = "skipped"
            report.longrepr = (str(collector.path), 0, f"Skipped: {name} isn't installed")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    exc = None if call.excinfo is None else call.excinfo.value
    if report.failed and isinstance(exc, ImportError) and missing(exc) is not None:
        name = missing(exc)
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, f"Skipped: {name} isn't installed")
    return report
