"""The engine has its own name here, whatever package that uses it the other tests have imported."""

import pytest

from wsproto_fast import environment


@pytest.fixture(autouse=True)
def _own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "name", "wsproto_fast")
    monkeypatch.setattr(environment, "package", "wsproto_fast")
    monkeypatch.setattr(environment, "_followers", [])
