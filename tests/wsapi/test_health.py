"""What load balancers ask: arguments; what is answered is tested on all front-ends."""

from __future__ import annotations

from typing import Any

import pytest

from wsapi.health import readiness


@pytest.mark.parametrize(
    "arguments, error",
    [
        ((b"/healthz",), TypeError),
        (("healthz",), ValueError),
        (("",), ValueError),
        (("/healthz", "callback"), TypeError),
    ],
)
def test_wrong_arguments(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        readiness(*arguments)
