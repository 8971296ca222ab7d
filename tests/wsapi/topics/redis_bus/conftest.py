"""Servers of Redis and Valkey. What starts them needs an extra, and is imported when it is used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.wsapi.topics.valkey_broker import Broker


@pytest.fixture(scope="module", params=["valkey", "redis"])
def broker(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Broker]:
    """Give a server that stays as it is."""
    from tests.wsapi.topics.redis_bus.helpers import new_broker

    started = new_broker(tmp_path_factory.mktemp("broker"), request.param).start()
    yield started
    started.kill()


@pytest.fixture(params=["valkey", "redis"])
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    """Give a server for one test, which starts it."""
    from tests.wsapi.topics.redis_bus.helpers import new_broker

    made = new_broker(tmp_path / "own", request.param)
    yield made
    made.kill()
